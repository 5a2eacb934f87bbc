//! How requests reach the [`crate::app::App`], and how the process ends.

use std::net::IpAddr;
use std::sync::Arc;
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
