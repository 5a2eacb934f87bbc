//! Wiring only: configuration, logs, store, then the command.

use clap::Parser;
use futures::future::OptionFuture;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

use image_store::app::App;
use image_store::backend::Backend;
use image_store::config::{self, Cli, Command, Config, Settings};
use image_store::probe::Probe;
use image_store::sink::spill::{Spill, Unusable};
use image_store::store::Store;
use image_store::{sweep, telemetry, transport};

type Outcome = Result<ExitCode, Box<dyn Error>>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let task = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve if transport::lambda::is_function() => Ok(Task::Function),
        Command::Serve => Ok(Task::Serve),
        Command::Sweep { older_than } => sweep_task(&older_than),
        #[cfg(feature = "doctor")]
        Command::Doctor { json } => Ok(Task::Doctor { json }),
        Command::Healthcheck => return exit(healthcheck(&cli.settings)),
        // None of the settings is the client's.
        #[cfg(feature = "client")]
        Command::Upload(options) => return exit(upload(&options)),
    };
    let (config, task) = match configure(&cli.settings, task) {
        Ok(ready) => ready,
        Err(problems) => {
            return misconfigured(&problems.join("\n  "));
        }
    };
    telemetry::init(config.log_json);
    exit(run(config, task))
}

fn exit(outcome: Outcome) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        if error.is::<Unusable>() {
            return misconfigured(&error.to_string());
        }
        eprintln!("image-store: {error}");
        ExitCode::FAILURE
    })
}

fn misconfigured(problems: &str) -> ExitCode {
    eprintln!("image-store: the configuration is wrong:\n  {problems}");
    ExitCode::from(2)
}

/// A command with its own arguments checked.
enum Task {
    Serve,
    /// Serve as a Lambda function.
    Function,
    Sweep {
        age: Duration,
    },
    #[cfg(feature = "doctor")]
    Doctor {
        json: bool,
    },
}

fn configure(settings: &Settings, task: Result<Task, Vec<String>>) -> Result<(Config, Task), Vec<String>> {
    let mut config = Config::new(settings)?;
    let task = task?;
    if matches!(task, Task::Function) {
        transport::lambda::prepare(&mut config)?;
    }
    Ok((config, task))
}

fn sweep_task(older_than: &str) -> Result<Task, Vec<String>> {
    let age = image_store::config::duration(older_than);
    age.map(|age| Task::Sweep { age }).map_err(|problem| vec![format!("--older-than: {problem}")])
}

fn healthcheck(settings: &Settings) -> Outcome {
    let server = Config::new(settings).map_err(|problems| problems.join("; "))?.server;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(image_store::healthcheck::check((server.host, server.port).into()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "client")]
fn upload(options: &image_store::client::UploadOptions) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let stop = runtime.block_on(async { stop_signal() })?;
    Ok(runtime.block_on(image_store::client::upload(options, stop)).unwrap_or_else(|wrong_usage| {
        eprintln!("image-store: {wrong_usage}");
        ExitCode::from(2)
    }))
}

fn run(config: Config, task: Task) -> Outcome {
    let runtime = runtime(&task).enable_all().build()?;
    runtime.block_on(async {
        let backend = Backend::open(&config).await?;
        let code = match task {
            Task::Serve => serve(config, &backend).await?,
            Task::Function => function(config, &backend).await?,
            Task::Sweep { age } => clean(backend.store.as_ref(), age, config.direct.url_ttl).await,
            #[cfg(feature = "doctor")]
            Task::Doctor { json } => image_store::doctor::doctor(&config, &backend, json, stop_signal()?).await?,
        };
        backend.close();
        Ok(code)
    })
}

/// Threads for blocking work, which is mostly copying to and from the page cache. Each has a stack, and memory the allocator
/// keeps for it.
const BLOCKING_THREADS: usize = 32;

/// Threads take time to start, and a function that has one request at a time needs no others.
fn runtime(task: &Task) -> tokio::runtime::Builder {
    let mut builder = match task {
        Task::Function if !transport::lambda::is_concurrent() => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.max_blocking_threads(BLOCKING_THREADS);
    builder
}

/// At the end, what calls whose answers were lost may have done is looked for once more, for this long.
const LAST_LOOKS: Duration = Duration::from_secs(5);

/// A function's first invocation has the little processor time there is for itself. Its probe writes nothing: there would be
/// a trial at every cold start, and the function may be frozen in the middle of it.
const PROBE_DELAY: Duration = Duration::from_secs(1);

async fn function(config: Config, backend: &Backend) -> Outcome {
    image_store::probe::look(Arc::clone(&backend.s3), PROBE_DELAY);
    let app = App::new(config, Arc::clone(&backend.store), None);
    transport::lambda::serve(app).await.map_err(|error| -> Box<dyn Error> { error })?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(mut config: Config, backend: &Backend) -> Outcome {
    if let Some(warning) = config.keep_to_descriptors(raise_file_limit()) {
        tracing::warn!("{warning}");
    }
    let server = config.server.clone();
    let spill = open_spill(&config.sink)?;
    let listener = transport::server::listen((server.host, server.port).into())
        .map_err(|error| format!("cannot listen on {}:{}: {error}", server.host, server.port))?;
    let address = listener.local_addr()?;
    println!("image-store listens on http://{address}, images go to {}", backend.place);
    if backend.is_embedded() {
        let sample = "tests/fixtures/plain.jpg";
        let file = if Path::new(sample).exists() { sample } else { "photo.jpg" };
        println!("try it:  curl -F file=@{file} http://{address}/upload-image");
    }
    if config.auth.keys.is_empty() && !address.ip().is_loopback() {
        tracing::warn!("anybody who reaches this address may upload, read and delete: set API_KEYS or API_KEYS_FILE");
    }
    let probe = (!backend.is_embedded()).then(|| image_store::probe::start(Arc::clone(&backend.s3)));
    let app = App::new(config, Arc::clone(&backend.store), spill).with_store_routes(backend.client_routes());
    let clean = transport::server::serve(listener, app.clone(), server, stop_signal()?).await;
    // Not a reason to call the end unclean: nothing says that anything is there.
    let last_looks = tokio::time::timeout(LAST_LOOKS, app.uploads.reconciler().conclude());
    let _ = tokio::join!(last_looks, OptionFuture::from(probe.map(Probe::end)));
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Raises the soft limit of open files to the hard one, and returns it. The usual soft limit of 1,024 is for programs that use
/// select(2).
fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            before.unwrap_or(u64::MAX)
        }
    }
}

/// None where nothing is to spill, or nothing can and nobody asked for it.
fn open_spill(config: &config::Sink) -> Result<Option<Spill>, Unusable> {
    match Spill::configured(config.spill_budget, &config.spill_dir) {
        Err(unusable) if !config.spill_chosen => {
            tracing::warn!("uploads that find no memory are told 503: {unusable}");
            Ok(None)
        }
        opened => opened,
    }
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

async fn clean(store: &dyn Store, age: Duration, url_ttl: Duration) -> ExitCode {
    let swept = sweep::sweep(store, age, url_ttl).await;
    println!("{swept}");
    if swept.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(flags: &[&str], folder: &Path) -> Result<Option<Spill>, Unusable> {
        let all = ["image-store", "--s3-bucket=b"].into_iter().chain(flags.iter().copied());
        let mut sink = Config::new(&Cli::parse_from(all).settings).unwrap().sink;
        sink.spill_dir = folder.to_owned();
        open_spill(&sink)
    }

    #[test]
    fn where_nothing_can_spill_only_those_who_asked_for_it_are_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(opened(&[], folder.path()).unwrap().is_some());
        assert!(opened(&[], &file).unwrap().is_none());
        assert!(opened(&["--spill-budget=0"], &file).unwrap().is_none());
        for chosen in ["--spill-budget=1GiB", "--spill-dir=anywhere"] {
            let told = opened(&[chosen], &file).unwrap_err().to_string();
            assert!(told.starts_with("SPILL_DIR: ") && told.contains("SPILL_BUDGET=0"), "{told}");
        }
        let memory = Path::new("/dev/shm");
        if memory.exists() {
            assert!(opened(&[], memory).unwrap().is_none());
            assert!(opened(&["--spill-budget=1GiB"], memory).unwrap_err().why.contains("tmpfs"));
        }
    }
}
