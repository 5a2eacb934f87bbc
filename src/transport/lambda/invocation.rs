//! One invocation: handles its event, and waits until everything that it has started is completed or aborted.

use axum::Router;
use lambda_runtime::{Context, Diagnostic};
use serde::Serialize;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::event::Event;
use super::objects::{self, Promoted};
use super::request::HttpEvent;
use super::response::HttpAnswer;
use super::{Invocation, failure};
use crate::server::App;
use crate::tasks::Scope;

/// Requests that are still running are aborted this long before the invocation's deadline.
const RESERVE: Duration = Duration::from_secs(2);
/// The part of [`RESERVE`] that is reserved for sending the answer.
const ANSWER_TIME: Duration = Duration::from_millis(200);
/// Maximum duration of an invocation.
const MAX_DURATION: Duration = Duration::from_secs(900);

/// The answer that the runtime sends.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Answer {
    Http(HttpAnswer),
    Objects(Promoted),
}

/// The state that all invocations share. Cheap to clone.
#[derive(Clone)]
pub struct Function {
    app: App,
    router: Router,
    running: TaskTracker,
    stop: CancellationToken,
}

impl Function {
    pub fn new(app: App) -> Self {
        Function { router: app.router(), app, running: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Ends every invocation with an error, and waits until all uploads are completed or aborted.
    pub async fn shut_down(&self) {
        self.app.start_draining();
        self.app.metrics.start_cutting_off();
        self.app.promotions.cut_off();
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
        self.app.uploads.finished().await;
    }

    /// Handles an event. Returns when the uploads that it has started are completed or aborted.
    ///
    /// A promotion that was answered with 202 continues in the background. If it is interrupted because the process is
    /// frozen, the S3 event for the object finishes it.
    pub async fn answer(self, event: Event, context: Context) -> Result<Answer, Diagnostic> {
        let running = self.running.clone();
        let invocation = async move {
            let deadline = Instant::now() + time_left(context.deadline(), SystemTime::now());
            let scope = Scope::default();
            let answer = scope.run(self.answer_or_stop(event, context.request_id, deadline)).await;
            clean_up(&scope, deadline).await;
            self.app.metrics.upkeep();
            answer
        };
        running.track_future(invocation).await
    }

    async fn answer_or_stop(&self, event: Event, id: String, deadline: Instant) -> Result<Answer, Diagnostic> {
        let ends = deadline.checked_sub(RESERVE).unwrap_or(deadline);
        let answer = async {
            match event {
                Event::Http(event) => self.http(*event, id, ends).await.map(Answer::Http),
                Event::Objects(created) => objects::promote_all(&self.app, created, ends).await.map(Answer::Objects),
                Event::Unknown(reason) => Err(failure("UnknownEvent", reason)),
            }
        };
        tokio::select! {
            answer = answer => answer,
            () = self.stop.cancelled() => Err(failure("Stopping", "the function is shutting down".to_owned())),
        }
    }

    async fn http(&self, event: HttpEvent, request_id: String, ends: Instant) -> Result<HttpAnswer, Diagnostic> {
        let shape = event.shape;
        let head = event.request.method() == http::Method::HEAD;
        let (mut parts, body) = event.request.into_parts();
        let mut received = self.app.metrics.received();
        received.add(body.len().unwrap_or(0));
        parts.extensions.insert(received.total());
        let max_stream = shape.max_stream();
        parts.extensions.insert(Invocation { request_id, ends, max_stream, as_text: body.is_text() });
        let request = http::Request::from_parts(parts, axum::body::Body::new(body));
        let response = async {
            let Ok(response) = self.router.clone().oneshot(request).await;
            HttpAnswer::of(response, shape, head).await
        };
        // The router itself ends the request at `ends`. This timeout is for a response whose body does not end. It is
        // in the future even if `ends` had passed before the invocation began, so that the router's response is used
        // then too.
        let too_late = ends.max(Instant::now()) + ANSWER_TIME;
        match timeout_at(too_late, response).await {
            Ok(answer) => answer.map_err(|error| failure("BrokenAnswer", error.to_string())),
            Err(_) => Err(failure("Deadline", "the response body did not end in time".to_owned())),
        }
    }
}

/// Waits until the uploads that one invocation has started are completed or aborted, at most until its deadline.
async fn clean_up(scope: &Scope, deadline: Instant) {
    let until = deadline.checked_sub(ANSWER_TIME).unwrap_or(deadline);
    if timeout_at(until, scope.finished()).await.is_err() {
        let uploads = scope.len();
        tracing::error!(uploads, "uploads could not be cleaned up before the deadline; sweep will remove them");
    }
}

/// Returns the time until a deadline.
///
/// A deadline that passed before the invocation can have begun is ignored: cargo-lambda's is 600,000 ms after 1970.
fn time_left(deadline: SystemTime, now: SystemTime) -> Duration {
    let if_past = |past: Duration| if past > MAX_DURATION { MAX_DURATION } else { Duration::ZERO };
    deadline.duration_since(now).unwrap_or_else(|error| if_past(error.duration()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_long_past_is_ignored() {
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        assert_eq!(time_left(now + second, now), second);
        assert_eq!(time_left(now - second, now), Duration::ZERO);
        assert_eq!(time_left(SystemTime::UNIX_EPOCH + Duration::from_millis(600_000), now), MAX_DURATION);
    }
}
