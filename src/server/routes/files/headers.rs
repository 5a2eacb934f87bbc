//! The headers that tus and the IETF's resumable uploads have in common, and how they are read.

use http::{HeaderMap, HeaderName, header};

pub use crate::server::response::UPLOAD_OFFSET;

pub const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub const UPLOAD_LIMIT: HeaderName = HeaderName::from_static("upload-limit");
pub const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");

/// Returns the value of a header that may occur once. `None` if it is absent, repeated, or not ASCII text.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim();
    values.next().is_none().then_some(value)
}

/// Returns the media type of the request's body in lower case, without parameters.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = single(headers, &header::CONTENT_TYPE)?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()).filter(|essence| !essence.is_empty())
}

/// Returns the length of the request's body in bytes. `None` if the body is chunked.
pub fn body_length(headers: &HeaderMap) -> Option<u64> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    single(headers, &header::CONTENT_LENGTH).map_or(Some(0), |length| length.parse().ok())
}

/// Returns whether the client names JSON as a type that it accepts. `*/*` does not: tus clients do not expect a body.
pub fn accepts_json(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|range| {
        let mut parameters = range.split(';').map(str::trim);
        let is_json = parameters.next().is_some_and(|range| range.eq_ignore_ascii_case("application/json"));
        let weight = parameters.find_map(|parameter| parameter.strip_prefix("q=")).and_then(|q| q.parse::<f32>().ok());
        is_json && weight.is_none_or(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn json_must_be_accepted_by_name() {
        for accept in ["application/json", "text/html, Application/JSON;q=0.5", "application/json; charset=utf-8"] {
            assert!(accepts_json(&headers(&[(header::ACCEPT, accept)])), "{accept}");
        }
        for accept in ["*/*", "application/*", "application/json;q=0", "application/jsonx", ""] {
            assert!(!accepts_json(&headers(&[(header::ACCEPT, accept)])), "{accept}");
        }
        assert!(accepts_json(&headers(&[(header::ACCEPT, "text/plain"), (header::ACCEPT, "application/json")])));
        assert!(!accepts_json(&HeaderMap::new()));
    }

    #[test]
    fn body_without_headers_is_empty_and_chunked_body_has_no_length() {
        assert_eq!(body_length(&HeaderMap::new()), Some(0));
        assert_eq!(body_length(&headers(&[(header::CONTENT_LENGTH, "7")])), Some(7));
        assert_eq!(body_length(&headers(&[(header::TRANSFER_ENCODING, "chunked")])), None);
    }

    #[test]
    fn repeated_headers_have_no_value() {
        assert_eq!(single(&headers(&[(UPLOAD_OFFSET, " 7 ")]), &UPLOAD_OFFSET), Some("7"));
        assert_eq!(single(&headers(&[(UPLOAD_OFFSET, "7"), (UPLOAD_OFFSET, "7")]), &UPLOAD_OFFSET), None);
        assert_eq!(media_type(&headers(&[(header::CONTENT_TYPE, "Image/PNG; a=b")])).as_deref(), Some("image/png"));
        assert_eq!(media_type(&headers(&[(header::CONTENT_TYPE, "")])), None);
    }
}
