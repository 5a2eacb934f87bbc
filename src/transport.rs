//! How requests reach the [`crate::app::App`], and how the process ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use crate::error::Error;
use crate::policy::Policy;

mod authority;
pub mod body;
mod connection;
mod head;
pub mod lambda;
mod limiter;
mod malformed;
mod pace;
pub mod request;
pub mod server;
mod socket;

pub use pace::PaceLimits;

/// In a request's extensions: the other end of its connection, as the accepted socket has it. None on Lambda.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// Whether it is on this machine: in the same network namespace, that is, so that a container is a machine of its own.
    pub fn is_loopback(self) -> bool {
        self.0.to_canonical().is_loopback()
    }
}

/// In the extensions of a request whose head is not to be looked at any further: what it is answered.
#[derive(Clone, Debug)]
pub struct Rejected(pub Arc<Error>);

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

/// In a request's extensions where it came as a Lambda event: what the event says that a plain HTTP request does not.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Lambda's own id of the invocation, for the log.
    pub request_id: String,
    /// What is not answered by then is undone: the rest of the invocation's time is for that.
    pub ends: Instant,
    /// The largest image such an event can carry, in bytes.
    pub max_stream: u64,
    /// The body came as text, so whatever carried it may have replaced bytes.
    pub as_text: bool,
}

impl Invocation {
    /// The policy for an image inside such an event.
    pub fn policy(invocation: Option<&Invocation>, policy: &Arc<Policy>) -> Arc<Policy> {
        match invocation {
            Some(invocation) if invocation.max_stream < policy.max_upload_size => {
                Arc::new(Policy { max_upload_size: invocation.max_stream, ..Policy::clone(policy) })
            }
            _ => Arc::clone(policy),
        }
    }

    /// What an error reading the body really means.
    pub fn explain(invocation: Option<&Invocation>, error: Error) -> Error {
        match error {
            Error::MalformedForm(_) | Error::TruncatedBody(_)
                if invocation.is_some_and(|invocation| invocation.as_text) =>
            {
                Error::MangledBody
            }
            error => error,
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
