//! The deadline of a request: when it is ended, even if data is still being transferred.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::Duration;
use tokio::time::Instant;

use crate::error::Error;
use crate::server::request::Invocation;
use crate::upload::timer::DeadlineFlag;

/// Upper bound of the request timeout, so that adding it to the current time does not overflow.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a handler needs to build and return its response after it has waited for something.
const RESPONSE_TIME: Duration = Duration::from_millis(200);

/// A request extension: when the request is ended with 503 `deadline`.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// Returns how long a handler may wait for something, at most `limit`, so that it can still respond before the
    /// deadline.
    pub fn wait(deadline: Option<Deadline>, limit: Duration) -> Duration {
        let left = |Deadline(ends)| ends.saturating_duration_since(Instant::now()).saturating_sub(RESPONSE_TIME);
        deadline.map_or(limit, |deadline| limit.min(left(deadline)))
    }
}

/// Ends a request whose total time exceeds `limit`, even if data is still being transferred. On Lambda the request also
/// ends early enough for its clean-up to finish within the invocation.
pub async fn deadline(State(limit): State<Duration>, mut request: Request, next: Next) -> Response {
    let ends = Instant::now() + limit.min(MAX_TIMEOUT);
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
    async fn handlers_stop_waiting_before_the_deadline() {
        let (second, ends) = (Duration::from_secs(1), Deadline(Instant::now() + Duration::from_secs(1)));
        assert_eq!(Deadline::wait(None, second), second);
        assert_eq!(Deadline::wait(Some(ends), second), second - RESPONSE_TIME);
        assert_eq!(Deadline::wait(Some(ends), second / 2), second / 2);
        tokio::time::advance(2 * second).await;
        assert_eq!(Deadline::wait(Some(ends), second), Duration::ZERO);
    }
}
