//! The service as an AWS Lambda function.
//!
//! ```text
//! event ─┬─ HTTP (function URL, HTTP API, REST API, ALB) → request → the App's router → response ─┐
//!        ├─ S3 (ObjectCreated under incoming/) → direct::verify::Verifier::promote ───────────────┼→ answer
//!        └─ any other event → invocation error ──────────────────────────────────────────────────┘
//! ```
//!
//! Lambda may freeze the process after an answer. An invocation therefore ends only when the uploads that it has
//! started are completed or aborted (`invocation`). On Managed Instances the process is never frozen and handles
//! several invocations at once, which share one [`App`] and its memory budget.
//!
//! lambda_http is not used, because it holds a body three times in memory, panics on invalid base64 and puts a REST
//! API's stage before the path.

use lambda_runtime::{Diagnostic, LambdaEvent, Runtime, service_fn};
use std::env;
use std::time::Duration;
use tokio::time::timeout;

use self::event::Event;
use self::invocation::Function;
use crate::config::Config;
use crate::error::BoxError;
use crate::server::App;
use crate::server::request::Invocation;

pub mod body;
pub mod event;
mod invocation;
pub mod objects;
mod path;
mod payload;
pub mod request;
pub mod response;

/// How long a PutObject may continue after its request was dropped. On a server there is no such limit.
const PATIENCE: Duration = Duration::from_millis(300);
/// Lambda kills the process 500 ms after SIGTERM.
const SHUTDOWN_TIME: Duration = Duration::from_millis(400);

/// Variables that the runtime's client requires in addition to [`RUNTIME_API`]. It panics if one is missing.
const REQUIRED: [&str; 3] = ["AWS_LAMBDA_FUNCTION_NAME", MEMORY_SIZE, "AWS_LAMBDA_FUNCTION_VERSION"];
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";
/// The function's memory in MiB.
const MEMORY_SIZE: &str = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE";
/// Set on Managed Instances: the number of invocations that one environment may handle at once.
const MAX_CONCURRENCY: &str = "AWS_LAMBDA_MAX_CONCURRENCY";

/// Whether this process was started by Lambda or by an emulator of it.
pub fn is_function() -> bool {
    env::var_os(RUNTIME_API).is_some_and(|address| !address.is_empty())
}

/// Whether this environment may handle several invocations at once.
pub fn is_concurrent() -> bool {
    number(MAX_CONCURRENCY).is_some_and(|limit| limit > 1)
}

/// Checks the environment of a function, and changes the settings that differ on Lambda.
///
/// # Errors
/// Returns one line for each problem.
pub fn prepare(config: &mut Config) -> Result<(), Vec<String>> {
    let mut problems: Vec<String> = Vec::new();
    let missing = REQUIRED.iter().filter(|name| env::var_os(name).is_none());
    problems.extend(missing.map(|name| format!("{name}: is required if {RUNTIME_API} is set")));
    let set = [MEMORY_SIZE, MAX_CONCURRENCY].into_iter().filter(|name| env::var_os(name).is_some());
    problems.extend(set.filter(|name| number(name).is_none()).map(|name| format!("{name}: must be a positive number")));
    if config.store.bucket.is_none() {
        problems.push("S3_BUCKET: is required on Lambda, because its disk is not persistent".to_owned());
    }
    config.upload.patience = Some(PATIENCE);
    config.upload.spill_budget = 0;
    if let Some(quarter) = number(MEMORY_SIZE).map(|mebibytes| (u64::from(mebibytes) << 20) / 4) {
        config.upload.memory_budget = config.upload.memory_budget.min(quarter).max(config.upload.min_memory_budget());
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Reads a positive number from the environment, within the range that the runtime's client accepts.
fn number(name: &str) -> Option<u32> {
    env::var(name).ok()?.parse::<i32>().ok().filter(|number| *number > 0).map(i32::unsigned_abs)
}

/// Handles invocations until the environment is shut down: several at once if [`is_concurrent`], otherwise one after
/// another.
///
/// # Errors
/// Returns an error if the Runtime API cannot be reached any more.
pub async fn serve(app: App) -> Result<(), BoxError> {
    let function = Function::new(app);
    shut_down_gracefully(function.clone()).await;
    Runtime::new(service_fn(move |event: LambdaEvent<Event>| function.clone().answer(event.payload, event.context)))
        .run_concurrent()
        .await
}

/// Registers an internal extension. Lambda sends SIGTERM only if an extension is registered; otherwise it kills the
/// process without notice.
async fn shut_down_gracefully(function: Function) {
    let hook = move || async move {
        if timeout(SHUTDOWN_TIME, function.shut_down()).await.is_err() {
            tracing::error!("uploads could not be completed or aborted in time; sweep and S3 events will do it");
        }
    };
    // On a task of its own, because it panics if the extension cannot be registered. The function works without it.
    let registered = tokio::spawn(lambda_runtime::spawn_graceful_shutdown_handler(hook)).await;
    if registered.is_err() {
        tracing::warn!("Lambda extension could not be registered; the process will not receive SIGTERM");
    }
}

/// Returns an invocation error. The runtime logs it.
fn failure(kind: &str, message: String) -> Diagnostic {
    Diagnostic { error_type: kind.to_owned(), error_message: message }
}
