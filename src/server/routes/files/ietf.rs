//! The request headers of the IETF's resumable uploads (draft-ietf-httpbis-resumable-upload, interop version 8).
//!
//! They are structured fields (RFC 9651). A field with another type than the draft defines is ignored.

use http::{HeaderMap, HeaderName};

use super::creation::{Creation, DeclaredFile};
use super::headers::{UPLOAD_LENGTH, UPLOAD_OFFSET, body_length, media_type, single};
use crate::error::{Error, Result};
use crate::ingest::file_name;
use crate::resumable::Append;

pub const INTEROP_VERSION: &str = "8";
/// The media type of a body that is appended to an upload.
pub const BODY_TYPE: &str = "application/partial-upload";

pub const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
pub const UPLOAD_DRAFT_INTEROP_VERSION: HeaderName = HeaderName::from_static("upload-draft-interop-version");

/// Reads a request that creates an upload. Its headers describe the file.
///
/// # Errors
/// Returns [`Error::InvalidRequest`] (400 `invalid_request`) or [`Error::InconsistentLength`] (400
/// `inconsistent_length`).
pub fn creation(headers: &HeaderMap) -> Result<Creation> {
    let is_whole = boolean(headers, &UPLOAD_COMPLETE).ok_or_else(|| {
        Error::InvalidRequest(
            "Send Tus-Resumable: 1.0.0 with the headers of tus, or Upload-Complete: ?0 or ?1 with those of the IETF's \
             resumable uploads"
                .to_owned(),
        )
    })?;
    let length = length(headers, 0, is_whole)?;
    let file = DeclaredFile { name: file_name(headers), content_type: media_type(headers) };
    Ok(Creation { length, is_whole, file, tus_metadata: None })
}

/// Reads a request that appends bytes to an upload.
///
/// # Errors
/// The same as those of [`creation`], and [`Error::NotPartialUpload`] (415 `unsupported_media_type`).
pub fn append(headers: &HeaderMap) -> Result<Append> {
    if media_type(headers).is_none_or(|essence| essence != BODY_TYPE) {
        return Err(Error::NotPartialUpload { accepted: BODY_TYPE });
    }
    let (offset, is_last) = (integer(headers, &UPLOAD_OFFSET), boolean(headers, &UPLOAD_COMPLETE));
    let (Some(offset), Some(is_last)) = (offset, is_last) else {
        return Err(Error::InvalidRequest(
            "Send Upload-Offset with the offset of the first byte in the body, and Upload-Complete: ?1 if the file ends \
             with the body, otherwise ?0"
                .to_owned(),
        ));
    };
    length(headers, offset, is_last)?;
    let (length, content_length) = (integer(headers, &UPLOAD_LENGTH), body_length(headers));
    Ok(Append { offset, length, content_length, completes: is_last })
}

/// Rejects headers that a request for the offset must not have.
///
/// # Errors
/// Returns [`Error::InvalidRequest`] (400 `invalid_request`).
pub fn check_retrieval(headers: &HeaderMap) -> Result<()> {
    let unexpected = [UPLOAD_OFFSET, UPLOAD_COMPLETE].into_iter().find(|name| headers.contains_key(name));
    unexpected.map_or(Ok(()), |name| Err(Error::InvalidRequest(format!("Send this request without {name}"))))
}

/// Returns the length of the file, if the request tells it: as `Upload-Length`, or as the end of its last body.
fn length(headers: &HeaderMap, offset: u64, is_last: bool) -> Result<Option<u64>> {
    let stated = integer(headers, &UPLOAD_LENGTH);
    let end = body_length(headers).filter(|_| is_last).map(|length| offset.saturating_add(length));
    match (stated, end) {
        (Some(stated), Some(end)) if stated != end => Err(Error::InconsistentLength { length: stated }),
        (stated, end) => Ok(stated.or(end)),
    }
}

/// Returns a Boolean item (RFC 9651, 3.3.6).
fn boolean(headers: &HeaderMap, name: &HeaderName) -> Option<bool> {
    match item(headers, name)? {
        "?0" => Some(false),
        "?1" => Some(true),
        _ => None,
    }
}

/// Returns a non-negative Integer item (RFC 9651, 3.3.1).
fn integer(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = item(headers, name)?;
    let is_integer = (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_integer { text.parse().ok() } else { None }
}

/// Returns the bare item of a field, without its parameters.
fn item<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    single(headers, name)?.split(';').next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn code<T>(read: Result<T>) -> &'static str {
        read.map_or_else(|error| error.code(), |_| "accepted")
    }

    #[test]
    fn fields_of_other_types_are_ignored() {
        let complete = |value| boolean(&headers(&[("upload-complete", value)]), &UPLOAD_COMPLETE);
        assert_eq!((complete("?1"), complete("?0;a=b"), complete("?1 ")), (Some(true), Some(false), Some(true)));
        for other in ["true", "1", "?2", "", "?1, ?1", "\"?1\""] {
            assert_eq!(complete(other), None, "{other}");
        }
        let offset = |value| integer(&headers(&[("upload-offset", value)]), &UPLOAD_OFFSET);
        assert_eq!((offset("0"), offset("999999999999999")), (Some(0), Some(999_999_999_999_999)));
        for other in ["-1", "+1", "1.0", "abc", "", "?1", "1000000000000000", "1, 1"] {
            assert_eq!(offset(other), None, "{other}");
        }
    }

    #[test]
    fn length_is_stated_or_follows_from_the_last_body() {
        let read = |lines: &[(&'static str, &str)]| creation(&headers(lines)).map(|read| (read.length, read.is_whole));
        let [whole, part] = ["?1", "?0"].map(|value| ("upload-complete", value));
        assert_eq!(read(&[whole, ("content-length", "7")]).unwrap(), (Some(7), true));
        assert_eq!(read(&[whole, ("content-length", "7"), ("upload-length", "7")]).unwrap(), (Some(7), true));
        assert_eq!(read(&[whole, ("transfer-encoding", "chunked")]).unwrap(), (None, true));
        assert_eq!(read(&[part, ("content-length", "7")]).unwrap(), (None, false));
        assert_eq!(read(&[part, ("upload-length", "9")]).unwrap(), (Some(9), false));
        assert_eq!(code(read(&[whole, ("content-length", "7"), ("upload-length", "8")])), "inconsistent_length");
        assert_eq!(code(read(&[("upload-complete", "true")])), "invalid_request");
    }

    #[test]
    fn file_is_read_from_the_headers() {
        let lines = [
            ("upload-complete", "?0"),
            ("content-type", "Image/PNG; a=b"),
            ("content-disposition", "inline; filename=\"a b.png\""),
        ];
        let file = creation(&headers(&lines)).unwrap().file;
        assert_eq!((file.name.as_deref(), file.content_type.as_deref()), (Some("a b.png"), Some("image/png")));
        let file = creation(&headers(&lines[..1])).unwrap().file;
        assert_eq!((file.name, file.content_type), (None, None));
    }

    #[test]
    fn append_requires_type_offset_and_completeness() {
        let lines = [("content-type", BODY_TYPE), ("upload-offset", "5"), ("upload-complete", "?1")];
        let read = append(&headers(&lines)).unwrap();
        assert_eq!((read.offset, read.length, read.completes), (5, None, true));
        assert_eq!(code(append(&headers(&lines[..2]))), "invalid_request");
        assert_eq!(code(append(&headers(&[lines[0], lines[2]]))), "invalid_request");
        assert_eq!(code(append(&headers(&lines[1..]))), "unsupported_media_type");
        let other = [lines[0], lines[1], lines[2], ("content-length", "4"), ("upload-length", "10")];
        assert_eq!(code(append(&headers(&other))), "inconsistent_length");
        assert_eq!(code(check_retrieval(&headers(&lines[..1]))), "accepted");
        assert_eq!(code(check_retrieval(&headers(&lines))), "invalid_request");
    }
}
