//! The entry point: sets up the configuration, the log and the store, then runs the command.

use std::process::ExitCode;
use std::time::Duration;

use image_store::cli::{self, Cli, Command};
use image_store::commands::backend::Backend;
use image_store::commands::{self, Outcome, sweep};
use image_store::config::{Config, Settings};
use image_store::store::Store;
use image_store::telemetry::log;
use image_store::transport;
use image_store::upload::spill::Unusable;

fn main() -> ExitCode {
    let (cli, matches) = Cli::read();
    let settings = &cli.settings;
    let task = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve if transport::lambda::is_function() => Task::Function,
        Command::Serve => Task::Serve,
        Command::Sweep { older_than } => Task::Sweep { age: older_than },
        #[cfg(feature = "doctor")]
        Command::Doctor { json } => Task::Doctor { json },
        Command::Healthcheck => return exit(healthcheck(settings), false),
        Command::Config { json } => {
            return match Config::new(settings) {
                Ok(config) => exit(commands::config::config(&cli::command(), &matches, &config, json), false),
                Err(problems) => misconfigured(&problems, false),
            };
        }
        // The other commands use none of the settings.
        Command::Grant(options) => return exit(commands::grant::grant(&options), false),
        #[cfg(feature = "client")]
        Command::Upload(options) => return exit(upload(&options), false),
        #[cfg(feature = "manual")]
        Command::Completions { shell } => {
            return exit(commands::manual::completions(cli::command(), shell), false);
        }
        #[cfg(feature = "manual")]
        Command::Man { command } => {
            return exit(commands::manual::man(cli::command(), command.as_deref()), false);
        }
    };
    let config = match configure(settings, &task) {
        Ok(config) => config,
        Err(problems) => return misconfigured(&problems, settings.logs_json()),
    };
    let json = config.log_json;
    log::init(json);
    // Dropped at the end, when it sends the last spans.
    #[cfg(feature = "otlp")]
    let _exporting = match image_store::telemetry::otlp::start() {
        Ok(exporting) => exporting,
        Err(problem) => return misconfigured(&[problem], json),
    };
    exit(run(config, task), json)
}

/// Prints the error of a command. If its log is `json`, the error is a line of the log.
fn exit(outcome: Outcome, json: bool) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        if error.is::<Unusable>() {
            return misconfigured(&[error.to_string()], json);
        }
        if json {
            eprintln!("{}", log::json_line("ERROR", &error.to_string()));
        } else {
            eprintln!("image-store: {error}");
        }
        ExitCode::FAILURE
    })
}

fn misconfigured(problems: &[String], json: bool) -> ExitCode {
    if json {
        for problem in problems {
            eprintln!("{}", log::json_line("ERROR", &format!("invalid configuration: {problem}")));
        }
    } else {
        eprintln!("image-store: invalid configuration:\n  {}", problems.join("\n  "));
    }
    ExitCode::from(2)
}

/// A command that uses the store.
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

fn configure(settings: &Settings, task: &Task) -> Result<Config, Vec<String>> {
    let mut config = Config::new(settings)?;
    if matches!(task, Task::Function) {
        transport::lambda::prepare(&mut config)?;
    }
    Ok(config)
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
    let outcome = runtime.block_on(commands::upload::upload(options, stop));
    // A thread may still be waiting for the standard input.
    runtime.shutdown_background();
    Ok(outcome.unwrap_or_else(|usage_error| {
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
