//! The HTTP contract, one file a resource.

mod asset;
pub mod description;
pub mod direct;
pub mod docs;
pub mod images;
pub mod json;
pub mod page;
pub mod system;
pub mod upload;

use http::{HeaderMap, Uri, header, uri::Authority};

/// The host name the client asked for, without its port: HTTP/2's authority or HTTP/1's Host header.
///
/// Not to be trusted: it goes into links of the embedded store only (see [`crate::store::PresignOptions`]).
fn request_host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let from_header = || headers.get(header::HOST)?.to_str().ok()?.parse::<Authority>().ok();
    uri.authority().cloned().or_else(from_header).map(|authority| authority.host().to_owned())
}
