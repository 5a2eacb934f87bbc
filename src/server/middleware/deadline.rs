//! When a request is ended, however steadily it goes on.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::Duration;
use tokio::time::Instant;

use crate::error::Error;
use crate::server::request::Invocation;
use crate::upload::timer::DeadlineFlag;

/// No request takes longer, whatever the settings say, so that its end can be computed.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a handler that has waited for something still needs to build its answer and hand it on.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// In a request's extensions: when the request is ended and answered 503 `deadline`.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// How long a handler may wait for something, `limit` at most, and still answer the request itself.
    pub fn wait(deadline: Option<Deadline>, limit: Duration) -> Duration {
        let left = |Deadline(ends)| ends.saturating_duration_since(Instant::now()).saturating_sub(ANSWER_TIME);
        deadline.map_or(limit, |deadline| limit.min(left(deadline)))
    }
}

/// Ends a request that takes too long in all, however steadily it goes on; on Lambda also while there is time to undo it.
pub async fn deadline(State(limit): State<Duration>, mut request: Request, next: Next) -> Response {
    let ends = Instant::now() + limit.min(LONGEST);
    let invocation = request.extensions().get().map(|invocation: &Invocation| invocation.ends);
    let ends = invocation.map_or(ends, |invocation| invocation.min(ends));
    let timed_out = DeadlineFlag::default();
    request.extensions_mut().insert(timed_out.clone());
    request.extensions_mut().insert(Deadline(ends));
    let mut answer = std::pin::pin!(next.run(request));
    match tokio::time::timeout_at(ends, &mut answer).await {
        Ok(response) => response,
        Err(_) => {
            timed_out.set();
            Error::Deadline.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_handler_waits_no_longer_than_it_can_still_answer() {
        let (second, ends) = (Duration::from_secs(1), Deadline(Instant::now() + Duration::from_secs(1)));
        assert_eq!(Deadline::wait(None, second), second);
        assert_eq!(Deadline::wait(Some(ends), second), second - ANSWER_TIME);
        assert_eq!(Deadline::wait(Some(ends), second / 2), second / 2);
        tokio::time::advance(2 * second).await;
        assert_eq!(Deadline::wait(Some(ends), second), Duration::ZERO);
    }
}
