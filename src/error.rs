//! One error for the whole service: a status, a stable code, a text for people, and a private source.
//!
//! The source never reaches a client; it is logged once, in the request's line.

use http::StatusCode;

use crate::format::Format;

/// What went wrong with a request. `Display` is the public `detail`.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(test, derive(strum::EnumCount))]
pub enum Error {
    #[error("No file uploaded")]
    NoFile {
        /// The names of the fields that the form had. None if there was no form.
        fields: Option<Vec<String>>,
    },
    /// The name's extension or the leading bytes are not of an allowed format. Made by
    /// [`Policy::invalid_type`](crate::policy::Policy::invalid_type).
    #[error("Invalid file type")]
    InvalidFileType {
        /// What the bytes look like, if they look like anything.
        detected: Option<&'static str>,
        /// The short names of the allowed formats.
        accepted: Vec<&'static str>,
        /// The limit that ended the search for the dimensions.
        limit: Option<ScanLimit>,
    },
    #[error("The form could not be read: {0}")]
    MalformedForm(String),
    /// A Lambda event whose body is not what it says.
    #[error(
        "The body was to be base64 and is not: what passes the request on must encode it, as a function URL, an HTTP API \
         with payload format 2.0 and a REST API with binaryMediaTypes do"
    )]
    InvalidBase64,
    /// A Lambda event whose body was taken for text.
    #[error(
        "The body arrived as text, and its bytes are lost: add multipart/form-data and image/* (or */*) to the REST API's \
         binaryMediaTypes, or use a function URL or an HTTP API"
    )]
    MangledBody,
    #[error("{0}")]
    InvalidRequest(String),
    #[error("The image is {width} x {height} pixels; {limit}")]
    TooManyPixels { width: u64, height: u64, limit: String },
    #[error("The body ended before it was complete")]
    TruncatedBody(#[source] Option<BoxError>),
    #[error("Nothing arrived for {seconds} s; send the body faster or upload directly with POST /uploads")]
    ClientTooSlow { seconds: u64 },
    #[error(
        "The body arrives at less than {min_rate} bytes per second; send it faster or upload directly with POST /uploads"
    )]
    BelowMinRate { min_rate: u64 },
    #[error("Send an API key, as Authorization: Bearer <key> or X-API-Key: <key>")]
    Unauthorized,
    /// Of a form whose authority was to come in its field `grant`.
    #[error(
        "Send an API key or a grant as Authorization: Bearer <it>, or the grant in a form field named 'grant' that stands \
         before the field 'file', within the form's first 64 KiB"
    )]
    FormUnauthorized,
    /// Its source is what the operators may do about it.
    #[error("This is for the service's operators")]
    LocalOnly(#[source] BoxError),
    #[error("This API key does not have the scope {scope}")]
    Forbidden { scope: &'static str },
    #[error("A grant is good for uploads only; this wants an API key")]
    GrantForbidden,
    #[error("This API key is too short to sign grants: use one of at least 16 characters")]
    KeyTooShort,
    /// Its source says what is wrong with it.
    #[error("This grant is not valid: {0}")]
    InvalidGrant(#[source] BoxError),
    #[error("This grant has expired: ask for another where you got it")]
    ExpiredGrant,
    /// A plan's link that was altered or made up, or whose API key is gone. Its source is for the log.
    #[error("This link is not valid: use the links of the answer to POST /uploads as they are")]
    InvalidToken(#[source] Option<BoxError>),
    #[error("This link has expired: plan the upload again with POST /uploads")]
    ExpiredToken,
    #[error("File not found")]
    NotFound,
    /// A direct upload that cannot go on; `reason` says why.
    #[error("{reason}; plan another upload with POST /uploads")]
    UploadOver { reason: String },
    #[error("There is no such route")]
    NoRoute,
    #[error("This route does not take that method")]
    MethodNotAllowed,
    #[error("The request's head is longer than {limit} bytes, or has over 100 headers; send less of them")]
    HeadTooLarge { limit: usize },
    #[error("Send the body with a Content-Length, or with Transfer-Encoding: chunked and no other coding")]
    TransferEncoding,
    #[error("The address is longer than {limit} bytes; use the links of the service's answers as they are")]
    UriTooLong { limit: usize },
    /// For every way in.
    #[error("The image exceeds the limit of {limit} bytes")]
    PayloadTooLarge { limit: u64 },
    /// For the service itself. Direct uploads may be larger, on Lambda.
    #[error(
        "The image exceeds the limit of {limit} bytes for uploads through the service; larger images, if they are allowed, \
         go through POST /uploads"
    )]
    StreamTooLarge { limit: u64 },
    #[error("Send multipart/form-data with a field named 'file', or the image itself with Content-Type: image/*")]
    UnsupportedMediaType,
    /// A Content-Encoding.
    #[error("Send the image as it is, without Content-Encoding")]
    ContentEncoding,
    /// Of a form's part (RFC 2045).
    #[error(
        "The file's Content-Transfer-Encoding is not supported: send its bytes as they are (binary), or as base64 or \
         quoted-printable"
    )]
    ContentTransferEncoding,
    #[error("Send application/json")]
    NotJson,
    #[error("The image could not be stored; try again")]
    Storage(#[source] BoxError),
    #[error("Too many uploads at once; try again, or upload directly with POST /uploads")]
    OverCapacity(#[source] Option<std::io::Error>),
    #[error("Too many connections at once; try again")]
    TooManyConnections,
    #[error("The request took longer than it may; try again")]
    Deadline,
    #[error("The service is not ready: {reason}")]
    NotReady {
        reason: &'static str,
        #[source]
        source: Option<BoxError>,
    },
    #[error("Parts are missing: {}", list(parts))]
    PartsMissing { parts: Vec<u32> },
    #[error("Parts were uploaded that are not in the plan: {}; abort this upload and plan another", list(parts))]
    PartsUnexpected { parts: Vec<u32> },
    #[error("The upload is complete already; DELETE /delete/{{s3_key}} removes the image")]
    AlreadyComplete,
    #[error("The upload is being verified; ask again")]
    Verifying,
    #[error("The upload kept changing while it was checked; try again when nobody sends it any more")]
    ChangedMeanwhile,
    #[error("Internal error")]
    Internal(#[source] BoxError),
}

/// The setting that says how far into an image its dimensions are looked for, and what of the image lies behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimit {
    /// Bytes.
    pub bytes: u64,
    /// The image's format, if its dimensions lie at a known place behind the limit, where a direct upload's are read.
    pub format: Option<Format>,
}

impl ScanLimit {
    pub const SETTING: &str = "HEADER_SCAN_LIMIT";

    fn hint(self) -> String {
        let (setting, bytes) = (ScanLimit::SETTING, self.bytes);
        match self.format {
            Some(Format::Tiff) => format!(
                "The directory of this TIFF is behind its first {bytes} bytes ({setting}): TIFFs with their directory at \
                 the end are supported through direct uploads (POST /uploads)"
            ),
            Some(_) => format!(
                "The dimensions of this image are behind its first {bytes} bytes ({setting}): such images are supported \
                 through direct uploads (POST /uploads)"
            ),
            None => format!("The image's dimensions are not within its first {bytes} bytes ({setting})"),
        }
    }
}

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The stable, machine-readable name of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::NoFile { .. } => "no_file",
            Error::InvalidFileType { .. } => "invalid_file_type",
            Error::MalformedForm(_) => "malformed_form",
            Error::InvalidBase64 => "invalid_base64",
            Error::MangledBody => "mangled_body",
            Error::InvalidRequest(_) => "invalid_request",
            Error::TooManyPixels { .. } => "too_many_pixels",
            Error::TruncatedBody(_) => "truncated_body",
            Error::ClientTooSlow { .. } | Error::BelowMinRate { .. } => "client_too_slow",
            Error::Unauthorized | Error::FormUnauthorized => "unauthorized",
            Error::Forbidden { .. } | Error::LocalOnly(_) | Error::GrantForbidden => "forbidden",
            Error::KeyTooShort => "key_too_short",
            Error::InvalidToken(_) | Error::InvalidGrant(_) => "invalid_token",
            Error::ExpiredToken | Error::ExpiredGrant => "expired_token",
            Error::NotFound | Error::NoRoute | Error::UploadOver { .. } => "not_found",
            Error::MethodNotAllowed => "method_not_allowed",
            Error::HeadTooLarge { .. } => "head_too_large",
            Error::TransferEncoding => "unsupported_transfer_encoding",
            Error::UriTooLong { .. } => "uri_too_long",
            Error::PayloadTooLarge { .. } | Error::StreamTooLarge { .. } => "payload_too_large",
            Error::UnsupportedMediaType | Error::NotJson => "unsupported_media_type",
            Error::ContentEncoding => "unsupported_content_encoding",
            Error::ContentTransferEncoding => "unsupported_content_transfer_encoding",
            Error::Storage(_) => "storage_failed",
            Error::OverCapacity(_) | Error::TooManyConnections => "over_capacity",
            Error::Deadline => "deadline",
            Error::NotReady { .. } => "not_ready",
            Error::PartsMissing { .. } => "parts_missing",
            Error::PartsUnexpected { .. } => "parts_unexpected",
            Error::AlreadyComplete => "already_complete",
            Error::Verifying => "verifying",
            Error::ChangedMeanwhile => "changed_meanwhile",
            Error::Internal(_) => "internal",
        }
    }

    /// One of each, for the API's description.
    pub fn examples() -> Vec<Error> {
        vec![
            Error::NoFile { fields: Some(vec!["photo".to_owned()]) },
            Error::InvalidFileType { detected: Some("webp"), accepted: vec!["jpeg", "png"], limit: None },
            Error::MalformedForm("it has no closing boundary".to_owned()),
            Error::InvalidBase64,
            Error::MangledBody,
            Error::InvalidRequest("size must be at least 1 byte".to_owned()),
            Error::TooManyPixels { width: 70_000, height: 10, limit: "each side may have at most 65535".to_owned() },
            Error::TruncatedBody(None),
            Error::ClientTooSlow { seconds: 30 },
            Error::BelowMinRate { min_rate: 1024 },
            Error::Unauthorized,
            Error::FormUnauthorized,
            Error::LocalOnly("".into()),
            Error::Forbidden { scope: "upload" },
            Error::GrantForbidden,
            Error::KeyTooShort,
            Error::InvalidGrant("its signature is wrong".into()),
            Error::ExpiredGrant,
            Error::InvalidToken(None),
            Error::ExpiredToken,
            Error::NotFound,
            Error::UploadOver { reason: "The upload was aborted".to_owned() },
            Error::NoRoute,
            Error::MethodNotAllowed,
            Error::HeadTooLarge { limit: 32 << 10 },
            Error::TransferEncoding,
            Error::UriTooLong { limit: 8 << 10 },
            Error::PayloadTooLarge { limit: 5_000_000_000 },
            Error::StreamTooLarge { limit: 4_694_016 },
            Error::UnsupportedMediaType,
            Error::ContentEncoding,
            Error::ContentTransferEncoding,
            Error::NotJson,
            Error::Storage("".into()),
            Error::OverCapacity(None),
            Error::TooManyConnections,
            Error::Deadline,
            Error::NotReady { reason: "no answer from the store", source: None },
            Error::PartsMissing { parts: vec![2, 3] },
            Error::PartsUnexpected { parts: vec![7] },
            Error::AlreadyComplete,
            Error::Verifying,
            Error::ChangedMeanwhile,
            Error::Internal("".into()),
        ]
    }

    /// The HTTP status that goes with [`Error::code`].
    pub fn status(&self) -> StatusCode {
        match self {
            Error::NoFile { .. }
            | Error::InvalidFileType { .. }
            | Error::MalformedForm(_)
            | Error::InvalidBase64
            | Error::MangledBody
            | Error::InvalidRequest(_)
            | Error::TooManyPixels { .. }
            | Error::TruncatedBody(_) => StatusCode::BAD_REQUEST,
            Error::ClientTooSlow { .. } | Error::BelowMinRate { .. } => StatusCode::REQUEST_TIMEOUT,
            Error::Unauthorized
            | Error::FormUnauthorized
            | Error::InvalidToken(_)
            | Error::ExpiredToken
            | Error::InvalidGrant(_)
            | Error::ExpiredGrant => StatusCode::UNAUTHORIZED,
            Error::Forbidden { .. } | Error::LocalOnly(_) | Error::GrantForbidden | Error::KeyTooShort => {
                StatusCode::FORBIDDEN
            }
            Error::NotFound | Error::NoRoute | Error::UploadOver { .. } => StatusCode::NOT_FOUND,
            Error::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Error::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Error::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Error::UriTooLong { .. } => StatusCode::URI_TOO_LONG,
            Error::PayloadTooLarge { .. } | Error::StreamTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::PartsMissing { .. }
            | Error::PartsUnexpected { .. }
            | Error::AlreadyComplete
            | Error::Verifying
            | Error::ChangedMeanwhile => StatusCode::CONFLICT,
            Error::UnsupportedMediaType | Error::ContentEncoding | Error::ContentTransferEncoding | Error::NotJson => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            Error::OverCapacity(_) | Error::TooManyConnections | Error::Deadline | Error::NotReady { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Storage(_) | Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What else there is to say to people, beside the `detail` that the service this one replaces gave already.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoFile { fields: Some(_) } => {
                Some("Send the image in a form field named 'file', as a file that is not empty".to_owned())
            }
            Error::InvalidFileType { limit, .. } => limit.map(ScanLimit::hint),
            _ => None,
        }
    }

    /// Seconds after which asking again is worth it, for the errors that pass by themselves.
    pub fn retry_after(&self) -> Option<u32> {
        let passes = self.status() == StatusCode::SERVICE_UNAVAILABLE || matches!(self, Error::Verifying);
        passes.then_some(1)
    }
}

fn list(parts: &[u32]) -> String {
    let numbers: Vec<String> = parts.iter().map(u32::to_string).collect();
    numbers.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use strum::EnumCount;

    #[test]
    fn there_is_an_example_of_each() {
        let kinds: HashSet<_> = Error::examples().iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), Error::COUNT);
    }
}
