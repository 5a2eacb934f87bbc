//! One invocation: from its event to its answer, and until nothing that it started is left.

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

/// What is still running this long before the invocation's deadline is aborted.
const RESERVE: Duration = Duration::from_secs(2);
/// Of that, what the answer itself may take.
const ANSWER_TIME: Duration = Duration::from_millis(200);
/// The longest an invocation may take.
const LONGEST: Duration = Duration::from_secs(900);

/// What the runtime sends back.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Answer {
    Http(HttpAnswer),
    Objects(Promoted),
}

/// What all invocations share. Cheap to clone.
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

    /// Ends every invocation with an error, and waits until everything is undone or finished.
    pub async fn shut_down(&self) {
        self.app.start_draining();
        self.app.metrics.start_cutting_off();
        self.app.promotions.cut_off();
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
        self.app.uploads.finished().await;
    }

    /// Answers an event, and returns when what it has started is completed or aborted. A promotion that was answered 202
    /// goes on by itself: S3's event finishes what is cut off when the process is frozen.
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
            () = self.stop.cancelled() => Err(failure("Stopping", "the function is being shut down".to_owned())),
        }
    }

    async fn http(&self, event: HttpEvent, request_id: String, ends: Instant) -> Result<HttpAnswer, Diagnostic> {
        let shape = event.shape;
        let head = event.request.method() == http::Method::HEAD;
        let (mut parts, body) = event.request.into_parts();
        self.app.metrics.received().add(body.len().unwrap_or(0));
        let max_stream = shape.max_stream();
        parts.extensions.insert(Invocation { request_id, ends, max_stream, as_text: body.is_text() });
        let request = http::Request::from_parts(parts, axum::body::Body::new(body));
        let response = async {
            let Ok(response) = self.router.clone().oneshot(request).await;
            HttpAnswer::of(response, shape, head).await
        };
        // The router ends the request at `ends` itself; this is for a response whose body does not end. It is later than
        // now also if `ends` was over before the invocation began: the answer is the router's then, too.
        let too_late = ends.max(Instant::now()) + ANSWER_TIME;
        match timeout_at(too_late, response).await {
            Ok(answer) => answer.map_err(|error| failure("BrokenAnswer", error.to_string())),
            Err(_) => Err(failure("Deadline", "the answer did not end".to_owned())),
        }
    }
}

/// Waits until what one invocation has started is completed or aborted, for as long as there is time.
async fn clean_up(scope: &Scope, deadline: Instant) {
    let until = deadline.checked_sub(ANSWER_TIME).unwrap_or(deadline);
    if timeout_at(until, scope.finished()).await.is_err() {
        let uploads = scope.len();
        tracing::error!(uploads, "uploads could not be cleaned up before the deadline; sweep removes them");
    }
}

/// The time until a deadline. One that passed before an invocation could have begun is none: cargo-lambda's is 600,000 ms
/// after 1970.
fn time_left(deadline: SystemTime, now: SystemTime) -> Duration {
    deadline.duration_since(now).unwrap_or_else(|past| if past.duration() > LONGEST { LONGEST } else { Duration::ZERO })
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
