//! The entry point: sets up the configuration, the log and the store, then runs the command.

use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;

use image_store::cli::{Cli, Command};
use image_store::commands::backend::Backend;
use image_store::commands::{self, Outcome, sweep};
use image_store::config::{Config, Settings};
use image_store::store::Store;
use image_store::upload::spill::Unusable;
use image_store::{telemetry, transport};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let task = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve if transport::lambda::is_function() => Ok(Task::Function),
        Command::Serve => Ok(Task::Serve),
        Command::Sweep { older_than } => sweep_task(older_than.as_deref()),
        #[cfg(feature = "doctor")]
        Command::Doctor { json } => Ok(Task::Doctor { json }),
        Command::Healthcheck => return exit(healthcheck(&cli.settings)),
        // These two use none of the settings.
        Command::Grant(options) => return exit(commands::grant::grant(&options)),
        #[cfg(feature = "client")]
        Command::Upload(options) => return exit(upload(&options)),
    };
    let (config, task) = match configure(&cli.settings, task) {
        Ok(ready) => ready,
        Err(problems) => return misconfigured(&problems.join("\n  ")),
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
    eprintln!("image-store: invalid configuration:\n  {problems}");
    ExitCode::from(2)
}

/// A command with its own arguments checked.
enum Task {
    Serve,
    /// Serve as a Lambda function.
    Function,
    Sweep {
        /// The default depends on the settings.
        age: Option<Duration>,
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

fn sweep_task(older_than: Option<&str>) -> Result<Task, Vec<String>> {
    let age = older_than.map(image_store::config::duration).transpose();
    age.map(|age| Task::Sweep { age }).map_err(|problem| vec![format!("--older-than: {problem}")])
}

fn healthcheck(settings: &Settings) -> Outcome {
    let server = Config::new(settings).map_err(|problems| problems.join("; "))?.server;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(commands::healthcheck::check((server.host, server.port).into()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "client")]
fn upload(options: &commands::upload::UploadOptions) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let stop = runtime.block_on(async { commands::stop_signal() })?;
    Ok(runtime.block_on(commands::upload::upload(options, stop)).unwrap_or_else(|usage_error| {
        eprintln!("image-store: {usage_error}");
        ExitCode::from(2)
    }))
}

fn run(config: Config, task: Task) -> Outcome {
    let runtime = runtime(&task).enable_all().build()?;
    runtime.block_on(async {
        let backend = Backend::open(&config).await?;
        let code = match task {
            Task::Serve => commands::serve::serve(config, &backend).await?,
            Task::Function => commands::serve::function(config, &backend).await?,
            Task::Sweep { age } => {
                let age = age.unwrap_or_else(|| sweep::safe_age(config.server.request_timeout));
                clean(backend.store.as_ref(), age, config.direct.url_ttl).await
            }
            #[cfg(feature = "doctor")]
            Task::Doctor { json } => {
                commands::doctor::doctor(&config, &backend, json, commands::stop_signal()?).await?
            }
        };
        backend.close();
        Ok(code)
    })
}

/// Threads for blocking work, which is mostly copying to and from the page cache. Each thread costs its stack and the
/// memory that the allocator caches for it.
const BLOCKING_THREADS: usize = 32;

/// Returns a runtime with one thread for a function that handles one request at a time, because threads take time to
/// start.
fn runtime(task: &Task) -> tokio::runtime::Builder {
    let mut builder = match task {
        Task::Function if !transport::lambda::is_concurrent() => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.max_blocking_threads(BLOCKING_THREADS);
    builder
}

async fn clean(store: &dyn Store, age: Duration, url_ttl: Duration) -> ExitCode {
    let swept = sweep::sweep(store, age, url_ttl).await;
    println!("{swept}");
    if swept.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
