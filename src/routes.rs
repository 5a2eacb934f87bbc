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

use crate::app::App;

/// Where the client reaches the service, without a trailing slash: `PUBLIC_URL`, else the host of the request.
///
/// The latter is the client's own word: it goes into what this client is answered, and nowhere else.
fn service_base(app: &App, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    app.config.public_url.clone().or_else(|| request_origin(uri, headers))
}

/// From HTTP/2's authority or HTTP/1's Host header.
fn request_origin(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let from_header = || headers.get(header::HOST)?.to_str().ok()?.parse::<Authority>().ok();
    let authority = uri.authority().cloned().or_else(from_header)?;
    let plain = !authority.host().is_empty() && !authority.as_str().contains('@');
    plain.then(|| format!("http://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_is_the_host_and_port_of_the_request() {
        let of = |host: &str| {
            let headers = [(header::HOST, host.parse().unwrap())].into_iter().collect();
            request_origin(&"/images".parse().unwrap(), &headers)
        };
        assert_eq!(of("box.local:8080").as_deref(), Some("http://box.local:8080"));
        assert_eq!(of("[::1]:8080").as_deref(), Some("http://[::1]:8080"));
        for host in ["", "a b", "user@evil", "a/b", ":80"] {
            assert_eq!(of(host), None, "{host}");
        }
        let http2 = "http://box.local/images".parse().unwrap();
        assert_eq!(request_origin(&http2, &HeaderMap::new()).as_deref(), Some("http://box.local"));
        assert_eq!(request_origin(&"/".parse().unwrap(), &HeaderMap::new()), None);
    }
}
