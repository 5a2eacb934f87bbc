//! Wiring only: configuration, logs, store, then the command.

use clap::Parser;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

use image_store::app::App;
use image_store::backend::Backend;
use image_store::config::{Cli, Command, Config};
use image_store::store::Store;
use image_store::{sweep, telemetry, transport};

type Outcome = Result<ExitCode, Box<dyn Error>>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::new(&cli.settings).and_then(|config| Ok((config, command(cli.command)?))) {
        Ok(ready) => ready,
        Err(problems) => {
            eprintln!("image-store: the configuration is wrong:\n  {}", problems.join("\n  "));
            return ExitCode::from(2);
        }
    };
    telemetry::init(config.0.log_json);
    match run(config.0, config.1) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("image-store: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A command with its own arguments checked.
enum Task {
    Serve,
    Sweep { age: std::time::Duration },
}

fn command(command: Option<Command>) -> Result<Task, Vec<String>> {
    match command.unwrap_or(Command::Serve) {
        Command::Serve => Ok(Task::Serve),
        Command::Sweep { older_than } => image_store::config::duration(&older_than)
            .map(|age| Task::Sweep { age })
            .map_err(|problem| vec![format!("--older-than: {problem}")]),
    }
}

fn run(config: Config, task: Task) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let backend = Backend::open(&config).await?;
        let code = match task {
            Task::Serve => serve(config, &backend).await?,
            Task::Sweep { age } => clean(backend.store.as_ref(), age).await?,
        };
        backend.close().await;
        Ok(code)
    })
}

async fn serve(config: Config, backend: &Backend) -> Outcome {
    let server = config.server.clone();
    let listener = transport::server::listen((server.host, server.port).into())
        .map_err(|error| format!("cannot listen on {}:{}: {error}", server.host, server.port))?;
    let address = listener.local_addr()?;
    println!("image-store listens on http://{address}, images go to {}", backend.place);
    if backend.is_embedded() {
        let sample = "tests/fixtures/plain.jpg";
        let file = if Path::new(sample).exists() { sample } else { "photo.jpg" };
        println!("try it:  curl -F file=@{file} http://{address}/upload-image");
    }
    let app = App::new(config, Arc::clone(&backend.store));
    transport::server::serve(listener, app, server, stop_signal()?).await;
    Ok(ExitCode::SUCCESS)
}

/// Resolves at SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

async fn clean(store: &dyn Store, age: std::time::Duration) -> Outcome {
    let swept = sweep::sweep(store, age).await?;
    println!("aborted {} unfinished uploads, deleted {} unverified objects", swept.uploads, swept.objects);
    Ok(if swept.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
