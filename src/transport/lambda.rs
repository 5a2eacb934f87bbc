//! The service as an AWS Lambda function.
//!
//! ```text
//! event ─┬─ HTTP (function URL, HTTP API, REST API, ALB) → request → the App's router → response ─┐
//!        ├─ S3 (ObjectCreated under incoming/) → direct::verify::Verifier::promote ───────────────┼→ answer
//!        └─ any other: an error of the invocation ───────────────────────────────────────────────┘
//! ```
//!
//! Lambda may freeze the process after an answer, so an invocation ends only when the uploads that it has started are
//! completed or aborted (`invocation`). On Managed Instances the process is never frozen and has several invocations at
//! once, which share one [`App`] and so one memory budget. lambda_http is not used: it holds a body three times, panics on invalid base64 and puts
//! a REST API's stage before the path.

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

/// A PutObject whose request was given up may still take this long. On a server it may take as long as it likes.
const PATIENCE: Duration = Duration::from_millis(300);
/// Lambda kills the process 500 ms after SIGTERM.
const SHUTDOWN_TIME: Duration = Duration::from_millis(400);

/// What the runtime's client needs beside [`RUNTIME_API`], and panics without.
const NEEDED: [&str; 3] = ["AWS_LAMBDA_FUNCTION_NAME", MEMORY_SIZE, "AWS_LAMBDA_FUNCTION_VERSION"];
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";
/// In MiB.
const MEMORY_SIZE: &str = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE";
/// Set on Managed Instances: how many invocations one environment may have at once.
const MAX_CONCURRENCY: &str = "AWS_LAMBDA_MAX_CONCURRENCY";

/// Whether this process was started by Lambda, or by something that looks like it.
pub fn is_function() -> bool {
    env::var_os(RUNTIME_API).is_some_and(|address| !address.is_empty())
}

/// Whether this environment may have several invocations at once.
pub fn is_concurrent() -> bool {
    number(MAX_CONCURRENCY).is_some_and(|limit| limit > 1)
}

/// Checks what a function needs, and changes the settings that are other ones there.
///
/// # Errors
/// One line for each thing that is missing.
pub fn prepare(config: &mut Config) -> Result<(), Vec<String>> {
    let mut problems: Vec<String> = Vec::new();
    let missing = NEEDED.iter().filter(|name| env::var_os(name).is_none());
    problems.extend(missing.map(|name| format!("{name}: is needed where {RUNTIME_API} is set")));
    let wrong = [MEMORY_SIZE, MAX_CONCURRENCY].into_iter().filter(|name| env::var_os(name).is_some());
    problems
        .extend(wrong.filter(|name| number(name).is_none()).map(|name| format!("{name}: is not a positive number")));
    if config.store.bucket.is_none() {
        problems.push("S3_BUCKET: is needed on Lambda, where nothing on disk stays".to_owned());
    }
    config.upload.patience = Some(PATIENCE);
    config.upload.spill_budget = 0;
    if let Some(quarter) = number(MEMORY_SIZE).map(|mebibytes| (u64::from(mebibytes) << 20) / 4) {
        config.upload.memory_budget = config.upload.memory_budget.min(quarter).max(config.upload.min_memory_budget());
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// A positive number of the environment, within what the runtime's client can read.
fn number(name: &str) -> Option<u32> {
    env::var(name).ok()?.parse::<i32>().ok().filter(|number| *number > 0).map(i32::unsigned_abs)
}

/// Answers invocations until the environment is shut down: one after another, or, where [`is_concurrent`], several at once.
///
/// # Errors
/// Where the Runtime API cannot be reached any more.
pub async fn serve(app: App) -> Result<(), BoxError> {
    let function = Function::new(app);
    shut_down_gracefully(function.clone()).await;
    Runtime::new(service_fn(move |event: LambdaEvent<Event>| function.clone().answer(event.payload, event.context)))
        .run_concurrent()
        .await
}

/// Lambda sends SIGTERM only where an extension is registered; without one the process is just killed.
async fn shut_down_gracefully(function: Function) {
    let hook = move || async move {
        if timeout(SHUTDOWN_TIME, function.shut_down()).await.is_err() {
            tracing::error!("what was under way could not be undone or finished in time; sweep and S3's events do it");
        }
    };
    // On a task of its own: it panics where the extension cannot be registered, and the function works without.
    let registered = tokio::spawn(lambda_runtime::spawn_graceful_shutdown_handler(hook)).await;
    if registered.is_err() {
        tracing::warn!("no extension could be registered: SIGTERM will not be seen");
    }
}

/// An error of the invocation; the runtime logs it.
fn failure(kind: &str, message: String) -> Diagnostic {
    Diagnostic { error_type: kind.to_owned(), error_message: message }
}
