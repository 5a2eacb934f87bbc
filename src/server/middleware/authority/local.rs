//! Decides whether a request comes from this machine.

use axum::extract::Request;
use http::{HeaderName, header};
use std::net::{IpAddr, Ipv6Addr};

use crate::server::request::{Peer, RequestFacts};

/// Headers that show that a proxy passed the request on, or that a web page sent it. So does every `x-forwarded-…`.
const FROM_ELSEWHERE: [HeaderName; 5] = [
    header::FORWARDED,
    header::VIA,
    header::ORIGIN,
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("x-real-ip"),
];

/// Returns whether the client is on this machine. Only the socket's address can prove it. Headers can only disprove it.
pub(super) fn is_local(request: &Request) -> bool {
    let (peer, facts) = (request.extensions().get::<Peer>(), request.extensions().get::<RequestFacts>());
    peer.is_some_and(|peer| peer.is_loopback())
        && !request.headers().keys().any(is_from_elsewhere)
        && facts.and_then(RequestFacts::host).is_none_or(is_not_in_public_dns)
}

/// Whether a host is an address or a name without a dot. The owner of any other name can make it resolve to this machine, so
/// that its browsers send requests of the owner's pages here (DNS rebinding), some of them without any header of a page.
fn is_not_in_public_dns(host: &str) -> bool {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    literal.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
        || host.parse::<IpAddr>().is_ok()
        || !host.trim_end_matches('.').contains('.')
}

fn is_from_elsewhere(name: &HeaderName) -> bool {
    FROM_ELSEWHERE.contains(name) || name.as_str().starts_with("x-forwarded-")
}
