//! Checks of the head of an HTTP/1 request, before the request is processed (RFC 9110, RFC 9112).
//!
//! hyper has already parsed the head and checked the framing of the body. It rejects different values of
//! Content-Length, a transfer coding in HTTP/1.0, and a transfer coding that does not end in `chunked`. If there are
//! both a Content-Length and a Transfer-Encoding, hyper uses the latter and closes the connection after the answer (RFC
//! 9112, section 6.3). So a proxy that uses the former cannot be tricked into request smuggling.

use http::{HeaderMap, HeaderValue, Version, header, request::Parts};

use crate::error::{Error, Result};
use crate::server::request::host;

/// Maximum size of a head in bytes. It fits into the smallest buffer of a connection.
pub(super) const MAX_HEAD: usize = 32 << 10;

/// Checks the head of a request.
///
/// # Errors
/// Returns an error with status 400, 431 or 501. The connection must be closed after the answer, because the framing of
/// the following bytes is uncertain.
pub(super) fn check(head: &Parts) -> Result<()> {
    if length(head) > MAX_HEAD {
        return Err(Error::HeadTooLarge { limit: MAX_HEAD });
    }
    check_host(&head.headers, head.version)?;
    check_transfer_encoding(&head.headers)
}

/// Returns Content-Length in bytes. hyper removes the header if there is a Transfer-Encoding.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Requires exactly one valid Host, which is optional in HTTP/1.0 (RFC 9112, section 3.2).
fn check_host(headers: &HeaderMap, version: Version) -> Result<()> {
    let invalid = |problem: &str| Err(Error::InvalidRequest(format!("The request {problem}")));
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => invalid("has no Host header"),
        (Some(_), Some(_)) => invalid("has more than one Host header"),
        (Some(host), None) if host.to_str().is_ok_and(host::is_valid) => Ok(()),
        (Some(_), None) => invalid("has a Host header that is not a host name or address with an optional port"),
    }
}

/// Rejects transfer codings other than a single `chunked` (RFC 9112, section 6.1).
fn check_transfer_encoding(headers: &HeaderMap) -> Result<()> {
    let values: Vec<&HeaderValue> = headers.get_all(header::TRANSFER_ENCODING).iter().collect();
    match values[..] {
        [] => Ok(()),
        [one] if one.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Error::TransferEncoding),
    }
}

/// Returns the size of a head in bytes, without the bytes that are the same in all heads.
fn length(head: &Parts) -> usize {
    let (method, uri) = (head.method.as_str(), &head.uri);
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    // Each header also has ": " and CRLF.
    let headers = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    method.len() + authority + path + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn status(version: Version, headers: &[(&str, &str)]) -> Option<u16> {
        let request = headers.iter().fold(Request::get("/").version(version), |request, (name, value)| {
            request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        check(&request.body(()).unwrap().into_parts().0).err().map(|error| error.status().as_u16())
    }

    #[test]
    fn exactly_one_valid_host_is_required() {
        for good in ["a.example", "a.example:8080", "127.0.0.1:80", "[::1]:80", "[2001:db8::7]", "a_b", "x%41"] {
            assert_eq!(status(Version::HTTP_11, &[("host", good)]), None, "{good}");
        }
        for bad in
            ["", " ", "a b", "a/b", "user@a", "a:port", "a:99999", "[::1", "::1", "[1.2.3.4]", "a,b:1:2", "é", "%4"]
        {
            assert_eq!(status(Version::HTTP_11, &[("host", bad)]), Some(400), "{bad}");
        }
        assert_eq!(status(Version::HTTP_11, &[]), Some(400));
        assert_eq!(status(Version::HTTP_11, &[("host", "a"), ("host", "a")]), Some(400));
        assert_eq!(status(Version::HTTP_10, &[]), None);
        assert_eq!(status(Version::HTTP_10, &[("host", "a"), ("host", "b")]), Some(400));
    }

    #[test]
    fn only_single_chunked_transfer_coding_is_accepted() {
        let with = |values: &[&'static str]| {
            let mut headers = vec![("host", "a")];
            headers.extend(values.iter().map(|value| ("transfer-encoding", *value)));
            status(Version::HTTP_11, &headers)
        };
        for good in ["chunked", "Chunked", " chunked "] {
            assert_eq!(with(&[good]), None, "{good}");
        }
        for bad in ["gzip, chunked", "chunked, chunked", "chunked;a=b", "identity", "", "chunked,"] {
            assert_eq!(with(&[bad]), Some(501), "{bad}");
        }
        assert_eq!(with(&["chunked", "chunked"]), Some(501));
        assert_eq!(with(&["gzip", "chunked"]), Some(501));
    }
}
