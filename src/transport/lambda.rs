//! The service as an AWS Lambda function.
//!
//! ```text
//! event ─┬─ HTTP (function URL, HTTP API, REST API, ALB) → request → the App's router → response ─┐
//!        ├─ S3 (ObjectCreated under incoming/) → direct::verify::Verifier::promote ───────────────┼→ answer
//!        └─ any other: an error of the invocation ───────────────────────────────────────────────┘
//! ```
//!
//! The process is frozen once it has answered, so whatever a request has started is over before that. lambda_http is not
//! used: it holds a body three times, panics on a wrong base64 and puts a REST API's stage before the path.

use axum::Router;
use lambda_runtime::{Context, Diagnostic, LambdaEvent, Runtime, service_fn};
use serde::Serialize;
use std::env;
use std::future::Future;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use self::event::Event;
use self::objects::Promoted;
use self::request::HttpEvent;
use self::response::HttpAnswer;
use super::Invocation;
use crate::app::App;
use crate::config::Config;
use crate::error::BoxError;

pub mod body;
pub mod event;
pub mod objects;
pub mod request;
pub mod response;

/// What is still running this long before the invocation's deadline is aborted.
const RESERVE: Duration = Duration::from_secs(2);
/// Of that, what the answer itself may take.
const ANSWER_TIME: Duration = Duration::from_millis(200);
/// A PutObject whose request was given up may still take this long. On a server it may take as long as it likes.
const PATIENCE: Duration = Duration::from_millis(300);
/// The longest an invocation may take.
const LONGEST: Duration = Duration::from_secs(900);
/// Lambda kills the process 500 ms after SIGTERM.
const SHUTDOWN_TIME: Duration = Duration::from_millis(400);

/// What the runtime's client needs beside [`RUNTIME_API`], and panics without.
const NEEDED: [&str; 3] =
    ["AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION"];
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";

/// Whether this process was started by Lambda, or by something that looks like it.
pub fn is_function() -> bool {
    env::var_os(RUNTIME_API).is_some_and(|address| !address.is_empty())
}

/// Checks what a function needs, and changes the settings that are other ones there.
///
/// # Errors
/// One line for each thing that is missing.
pub fn prepare(config: &mut Config) -> Result<(), Vec<String>> {
    let mut problems: Vec<String> = Vec::new();
    let missing = NEEDED.iter().filter(|name| env::var_os(name).is_none());
    problems.extend(missing.map(|name| format!("{name}: is needed where {RUNTIME_API} is set")));
    if env::var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").is_ok_and(|size| size.parse::<i32>().is_err()) {
        problems.push("AWS_LAMBDA_FUNCTION_MEMORY_SIZE: is not a number".to_owned());
    }
    if config.store.bucket.is_none() {
        problems.push("S3_BUCKET: is needed on Lambda, where nothing on disk stays".to_owned());
    }
    config.sink.patience = Some(PATIENCE);
    config.sink.spill_budget = 0;
    if let Some(quarter) = memory_size().map(|bytes| bytes / 4) {
        config.sink.memory_budget = config.sink.memory_budget.min(quarter).max(config.sink.least_memory());
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The function's memory, in bytes.
fn memory_size() -> Option<u64> {
    env::var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").ok()?.parse::<u64>().ok().map(|mebibytes| mebibytes << 20)
}

/// Answers invocations until the environment is shut down.
///
/// # Errors
/// Where the Runtime API cannot be reached any more.
pub async fn serve(app: App) -> Result<(), BoxError> {
    let stop = CancellationToken::new();
    shut_down_gracefully(app.clone(), stop.clone()).await;
    let function = Function { router: app.router(), app, stop };
    Runtime::new(service_fn(move |event: LambdaEvent<Event>| {
        let function = function.clone();
        async move { function.answer(event.payload, event.context).await }
    }))
    .run()
    .await
}

/// Lambda sends SIGTERM only where an extension is registered; without one the process is just killed.
async fn shut_down_gracefully(app: App, stop: CancellationToken) {
    let hook = move || async move {
        app.start_draining();
        app.metrics.start_cutting_off();
        stop.cancel();
        if timeout(SHUTDOWN_TIME, app.uploads.finished()).await.is_err() {
            tracing::error!(uploads = app.uploads.open(), "uploads could not be cleaned up in time");
        }
    };
    // On a task of its own: it panics where the extension cannot be registered, and the function works without.
    let registered = tokio::spawn(lambda_runtime::spawn_graceful_shutdown_handler(hook)).await;
    if registered.is_err() {
        tracing::warn!("no extension could be registered: SIGTERM will not be seen");
    }
}

/// What the runtime sends back.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Http(HttpAnswer),
    Objects(Promoted),
}

#[derive(Clone)]
struct Function {
    app: App,
    router: Router,
    stop: CancellationToken,
}

impl Function {
    async fn answer(self, event: Event, context: Context) -> Result<Answer, Diagnostic> {
        let deadline = Instant::now() + time_left(context.deadline(), SystemTime::now());
        let ends = deadline.checked_sub(RESERVE).unwrap_or(deadline);
        let answer = match event {
            Event::Http(event) => self.http(*event, context.request_id, ends).await.map(Answer::Http),
            Event::Objects(created) => objects::promote_all(&self.app, &created, ends).await.map(Answer::Objects),
            Event::Unknown(reason) => Err(failure("UnknownEvent", reason)),
        };
        self.clean_up(deadline).await;
        self.app.metrics.upkeep();
        answer
    }

    async fn http(&self, event: HttpEvent, request_id: String, ends: Instant) -> Result<HttpAnswer, Diagnostic> {
        let shape = event.shape;
        let head = event.request.method() == http::Method::HEAD;
        let (mut parts, body) = event.request.into_parts();
        self.app.metrics.received().add(body.len().unwrap_or(0));
        let max_stream = shape.max_stream();
        parts.extensions.insert(Invocation { request_id, ends, max_stream, as_text: body.is_text() });
        let request = http::Request::from_parts(parts, axum::body::Body::new(body));
        // The router ends the request at `ends` itself; this is for SIGTERM, and should a response's body not end.
        let response = async {
            let Ok(response) = self.router.clone().oneshot(request).await;
            HttpAnswer::of(response, shape, head).await
        };
        // Also where `ends` was over before it began: the answer is the router's.
        let too_late = ends.max(Instant::now()) + ANSWER_TIME;
        tokio::select! {
            answer = response => answer.map_err(|error| failure("BrokenAnswer", error.to_string())),
            () = self.stop.cancelled() => Err(failure("Stopping", "the function is being shut down".to_owned())),
            () = sleep_until(too_late) => Err(failure("Deadline", "the answer did not end".to_owned())),
        }
    }

    /// Waits until what this invocation started is completed or aborted, for as long as there is time.
    async fn clean_up(&self, deadline: Instant) {
        let until = deadline.checked_sub(ANSWER_TIME).unwrap_or(deadline);
        if timeout_at(until, self.app.uploads.finished()).await.is_err() {
            let uploads = self.app.uploads.open();
            tracing::error!(uploads, "uploads could not be cleaned up before the deadline; sweep removes them");
        }
    }
}

/// The time until a deadline. One that passed before an invocation could have begun is none: cargo-lambda's is 600,000 ms
/// after 1970.
fn time_left(deadline: SystemTime, now: SystemTime) -> Duration {
    deadline.duration_since(now).unwrap_or_else(|past| if past.duration() > LONGEST { LONGEST } else { Duration::ZERO })
}

/// An error of the invocation; the runtime logs it.
fn failure(kind: &str, message: String) -> Diagnostic {
    Diagnostic { error_type: kind.to_owned(), error_message: message }
}

/// Ends what takes longer than the invocation may.
async fn within<T>(ends: Instant, work: impl Future<Output = T>) -> Option<T> {
    timeout_at(ends, work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_long_past_is_none() {
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        assert_eq!(time_left(now + second, now), second);
        assert_eq!(time_left(now - second, now), Duration::ZERO);
        assert_eq!(time_left(SystemTime::UNIX_EPOCH + Duration::from_millis(600_000), now), LONGEST);
    }
}
