//! The request headers of tus 1.0 (<https://tus.io/protocols/resumable-upload>).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName};

use super::creation::{Creation, DeclaredFile};
use super::headers::{UPLOAD_LENGTH, UPLOAD_OFFSET, body_length, media_type, single};
use crate::error::{Error, Result};
use crate::resumable::Append;

pub const VERSION: &str = "1.0.0";
/// The supported extensions. Without `concatenation` and `checksum`, no client uses those.
pub const EXTENSIONS: &str = "creation,creation-with-upload,creation-defer-length,termination,expiration";
/// The media type of a body that contains bytes of the file.
pub const BODY_TYPE: &str = "application/offset+octet-stream";

pub const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
pub const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
pub const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
pub const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");
pub const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
/// Maximum length of `Upload-Metadata` in bytes. It is part of the upload's address, where it takes a third more. Many proxies
/// accept request lines of up to 8 KiB.
const MAX_METADATA: usize = 3 << 10;

/// Clients differ in whether they pad base64.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads a request that creates an upload.
///
/// # Errors
/// Returns [`Error::InvalidRequest`] (400 `invalid_request`), or [`Error::NotPartialUpload`] (415
/// `unsupported_media_type`) if the body contains something other than bytes of the file.
pub fn creation(headers: &HeaderMap) -> Result<Creation> {
    if headers.contains_key(UPLOAD_CONCAT) {
        return Err(invalid("Upload-Concat is not supported; upload the file in one upload"));
    }
    let length = match (number(headers, &UPLOAD_LENGTH)?, single(headers, &UPLOAD_DEFER_LENGTH)) {
        (Some(length), None) => Some(length),
        (None, Some("1")) => None,
        _ => return Err(invalid("Send either Upload-Length with the size of the file, or Upload-Defer-Length: 1")),
    };
    let body = body_length(headers);
    if body != Some(0) {
        check_body_type(headers)?;
    }
    let is_whole = length.is_some() && body == length;
    Ok(Creation { length, is_whole, file: declared_file(headers)?, tus_metadata: metadata_value(headers)? })
}

/// Reads a request that appends bytes to an upload.
///
/// # Errors
/// The same as those of [`creation`].
pub fn append(headers: &HeaderMap) -> Result<Append> {
    check_body_type(headers)?;
    let missing = || invalid("Send Upload-Offset with the offset of the first byte in the body");
    let offset = number(headers, &UPLOAD_OFFSET)?.ok_or_else(missing)?;
    let (length, content_length) = (number(headers, &UPLOAD_LENGTH)?, body_length(headers));
    Ok(Append { offset, length, content_length, completes: false })
}

fn invalid(problem: impl Into<String>) -> Error {
    Error::InvalidRequest(problem.into())
}

fn check_body_type(headers: &HeaderMap) -> Result<()> {
    let is_part = media_type(headers).is_some_and(|essence| essence == BODY_TYPE);
    if is_part { Ok(()) } else { Err(Error::NotPartialUpload { accepted: BODY_TYPE }) }
}

/// Returns a whole number of bytes.
fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let text = single(headers, name).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = text.and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| invalid(format!("{name} must be a whole number of bytes")))
}

/// Returns the file's name and media type. tus-js-client and Uppy send them as `filename` and `filetype`, Uppy also as
/// `name` and `type`.
fn declared_file(headers: &HeaderMap) -> Result<DeclaredFile> {
    let pairs = metadata(headers)?;
    let value = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| pairs.iter().find(|(known, _)| known == name));
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).filter(|value| !value.is_empty())
    };
    Ok(DeclaredFile { name: value(["filename", "name"]), content_type: value(["filetype", "type"]) })
}

/// Returns the value of `Upload-Metadata`, which is returned with the state of the upload.
fn metadata_value(headers: &HeaderMap) -> Result<Option<String>> {
    let lines: Vec<&str> = headers.get_all(UPLOAD_METADATA).iter().filter_map(|line| line.to_str().ok()).collect();
    let value = lines.join(",");
    if value.len() > MAX_METADATA {
        return Err(invalid(format!(
            "Upload-Metadata exceeds the limit of {MAX_METADATA} bytes; send only filename and filetype"
        )));
    }
    Ok(Some(value).filter(|value| !value.trim().is_empty()))
}

/// Returns the pairs of `Upload-Metadata`: names, each with a value in base64, separated by commas.
fn metadata(headers: &HeaderMap) -> Result<Vec<(&str, Vec<u8>)>> {
    let mut pairs: Vec<(&str, Vec<u8>)> = Vec::new();
    for line in headers.get_all(UPLOAD_METADATA) {
        let line = line.to_str().map_err(|_| invalid("Upload-Metadata must be ASCII"))?;
        for pair in line.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, encoded) = pair.split_once(' ').unwrap_or((pair, ""));
            let value = BASE64.decode(encoded.trim());
            let value = value.map_err(|_| invalid("Upload-Metadata: every value must be base64"))?;
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(invalid("Upload-Metadata: every name must occur once"));
            }
            pairs.push((name, value));
        }
    }
    Ok(pairs)
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

    fn file(metadata: &str) -> (Option<String>, Option<String>) {
        let DeclaredFile { name, content_type } = declared_file(&headers(&[("upload-metadata", metadata)])).unwrap();
        (name, content_type)
    }

    #[test]
    fn file_is_read_from_the_metadata() {
        let some = |text: &str| Some(text.to_owned());
        // "ü.png", "image/png", "a.jpg", "image/jpeg".
        assert_eq!(file("filename w7wucG5n,filetype aW1hZ2UvcG5n"), (some("ü.png"), some("image/png")));
        assert_eq!(file("name YS5qcGc=, type aW1hZ2UvanBlZw=="), (some("a.jpg"), some("image/jpeg")));
        assert_eq!(file("filename YS5qcGc,relativePath bnVsbA==,empty"), (some("a.jpg"), None));
        assert_eq!(file("filename w7wucG5n,name YS5qcGc=").0, some("ü.png"));
        assert_eq!(file("filename "), (None, None));
        assert_eq!(file(""), (None, None));
    }

    #[test]
    fn invalid_metadata_is_rejected() {
        for invalid in ["filename a.png", "filename YS5qcGc=,filename YS5qcGc=", "filename YS5qcGc= YS5qcGc="] {
            assert_eq!(code(declared_file(&headers(&[("upload-metadata", invalid)]))), "invalid_request", "{invalid}");
        }
    }

    #[test]
    fn metadata_are_kept_as_they_were_sent_up_to_the_limit() {
        let sent = |lines: &[(&'static str, &str)]| {
            let mut headers = headers(&[("upload-length", "7")]);
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            creation(&headers).map(|creation| creation.tus_metadata)
        };
        assert_eq!(sent(&[]).unwrap(), None);
        assert_eq!(sent(&[("upload-metadata", "")]).unwrap(), None);
        let value = "filename YS5qcGc, empty,is_confidential";
        assert_eq!(sent(&[("upload-metadata", value)]).unwrap().as_deref(), Some(value));
        let lines = [("upload-metadata", "filename YS5qcGc="), ("upload-metadata", "empty")];
        assert_eq!(sent(&lines).unwrap().as_deref(), Some("filename YS5qcGc=,empty"));
        let longest = "a".repeat(MAX_METADATA);
        assert!(sent(&[("upload-metadata", &longest)]).is_ok());
        assert_eq!(code(sent(&[("upload-metadata", &format!("{longest}a"))])), "invalid_request");
    }

    #[test]
    fn creation_requires_a_length_or_its_deferral() {
        let length = |lines: &[(&'static str, &str)]| creation(&headers(lines)).map(|creation| creation.length);
        assert_eq!(length(&[("upload-length", "7")]).unwrap(), Some(7));
        assert_eq!(length(&[("upload-defer-length", "1")]).unwrap(), None);
        let both = [("upload-length", "7"), ("upload-defer-length", "1")];
        for wrong in [&[][..], &both, &[("upload-defer-length", "2")], &[("upload-length", "+7")]] {
            assert_eq!(code(length(wrong)), "invalid_request", "{wrong:?}");
        }
        let concat = [("upload-length", "7"), ("upload-concat", "partial")];
        assert_eq!(code(length(&concat)), "invalid_request");
    }

    #[test]
    fn creation_with_the_whole_file_is_recognized() {
        let is_whole = |length: &str, body: &str| {
            let lines = [("upload-length", length), ("content-length", body), ("content-type", BODY_TYPE)];
            creation(&headers(&lines)).unwrap().is_whole
        };
        assert!(is_whole("7", "7") && !is_whole("7", "6") && !is_whole("7", "0"));
        let other = [("upload-length", "7"), ("content-length", "7"), ("content-type", "image/png")];
        assert_eq!(code(creation(&headers(&other))), "unsupported_media_type");
    }

    #[test]
    fn append_requires_type_and_offset() {
        let lines = [("content-type", BODY_TYPE), ("upload-offset", "5"), ("upload-length", "9")];
        let read = append(&headers(&lines)).unwrap();
        assert_eq!((read.offset, read.length, read.completes), (5, Some(9), false));
        assert_eq!(code(append(&headers(&lines[..1]))), "invalid_request");
        assert_eq!(code(append(&headers(&lines[1..]))), "unsupported_media_type");
        for wrong in ["-1", "1.0", "", "a", "18446744073709551616"] {
            let lines = [("content-type", BODY_TYPE), ("upload-offset", wrong)];
            assert_eq!(code(append(&headers(&lines))), "invalid_request", "{wrong}");
        }
    }
}
