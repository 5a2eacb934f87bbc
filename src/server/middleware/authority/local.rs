//! Decides whether a request comes from this machine.

use axum::extract::Request;
use http::{HeaderName, header};

use crate::server::request::Peer;

/// Headers that show that a proxy passed the request on, or that a web page sent it. So does every `x-forwarded-…`.
const FROM_ELSEWHERE: [HeaderName; 4] =
    [header::FORWARDED, header::VIA, header::ORIGIN, HeaderName::from_static("x-real-ip")];

/// Returns whether the client is on this machine. Only the socket's address can prove it. Headers can only disprove it.
pub(super) fn is_local(request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>();
    peer.is_some_and(|peer| peer.is_loopback()) && !request.headers().keys().any(is_from_elsewhere)
}

fn is_from_elsewhere(name: &HeaderName) -> bool {
    FROM_ELSEWHERE.contains(name) || name.as_str().starts_with("x-forwarded-")
}
