//! The error type of the service: an HTTP status, a stable code, a text for people, and a private source.
//!
//! The source is never sent to a client. It is logged once, in the access log entry of the request.

use http::StatusCode;
use strum::EnumProperty;

use crate::format::Format;

/// An error of a request. `Display` is the public `detail`: what is wrong, then what to do. The code is the variant's name
/// in snake case, unless `serialize` gives another one. An error without a `status` is a fault of the service (500).
#[derive(Debug, thiserror::Error, strum::EnumProperty, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[cfg_attr(test, derive(strum::EnumCount))]
pub enum Error {
    #[error("No file uploaded")]
    #[strum(props(status = 400))]
    NoFile {
        /// The names of the fields in the form. `None` if there was no form.
        fields: Option<Vec<String>>,
    },
    /// The extension of the file's name or its leading bytes are not of an allowed format. Created by
    /// [`Policy::invalid_type`](crate::policy::Policy::invalid_type).
    #[error("Invalid file type")]
    #[strum(props(status = 400))]
    InvalidFileType {
        /// The format that was detected from the bytes, if any.
        detected: Option<&'static str>,
        /// The short names of the allowed formats.
        accepted: Vec<&'static str>,
        /// The limit that ended the search for the dimensions.
        limit: Option<ScanLimit>,
    },
    #[error("The form is malformed: {0}")]
    #[strum(props(status = 400))]
    MalformedForm(String),
    /// A Lambda event whose body is marked as base64 but is not valid base64.
    #[error(
        "The body is marked as base64 but is not valid base64; the sender of the event must encode it, as a function \
         URL, an HTTP API with payload format 2.0 and a REST API with binaryMediaTypes do"
    )]
    #[strum(props(status = 400))]
    InvalidBase64,
    /// A Lambda event whose body was passed on as text.
    #[error(
        "The body was passed on as text, which corrupts binary data; add multipart/form-data and image/* (or */*) to \
         the REST API's binaryMediaTypes, or use a function URL or an HTTP API"
    )]
    #[strum(props(status = 400))]
    MangledBody,
    #[error("{0}")]
    #[strum(props(status = 400))]
    InvalidRequest(String),
    #[error("The image is {width} x {height} pixels; {limit}")]
    #[strum(props(status = 400))]
    TooManyPixels { width: u64, height: u64, limit: String },
    #[error("The body ended before it was complete; send the request again")]
    #[strum(props(status = 400))]
    TruncatedBody(#[source] Option<BoxError>),
    #[error("No data arrived for {seconds} s; send the body faster or upload directly with POST /uploads")]
    #[strum(props(status = 408))]
    ClientTooSlow { seconds: u64 },
    #[error(
        "The body arrives at less than {min_rate} bytes per second; send it faster or upload directly with POST /uploads"
    )]
    #[strum(serialize = "client_too_slow", props(status = 408))]
    BelowMinRate { min_rate: u64 },
    #[error("An API key is required; send it as Authorization: Bearer <key> or X-API-Key: <key>")]
    #[strum(props(status = 401))]
    Unauthorized,
    /// A form without a credential in a header and without a field `grant`.
    #[error(
        "An API key or a grant is required; send it as Authorization: Bearer <key or grant>, or send the grant in a \
         form field named 'grant' before the field 'file', within the first 64 KiB of the form"
    )]
    #[strum(serialize = "unauthorized", props(status = 401))]
    FormUnauthorized,
    /// The source tells operators what to do. It is only logged.
    #[error("Only the operators of the service have access to this route")]
    #[strum(serialize = "forbidden", props(status = 403))]
    LocalOnly(#[source] BoxError),
    #[error("The API key does not have the scope {scope}; use a key that has it")]
    #[strum(props(status = 403))]
    Forbidden { scope: &'static str },
    #[error("A grant only allows uploads; use an API key for this route")]
    #[strum(serialize = "forbidden", props(status = 403))]
    GrantForbidden,
    #[error("The API key is too short to sign grants; use a key of at least 16 characters")]
    #[strum(props(status = 403))]
    KeyTooShort,
    /// The source is the reason.
    #[error("The grant is invalid: {0}")]
    #[strum(serialize = "invalid_token", props(status = 401))]
    InvalidGrant(#[source] BoxError),
    #[error("The grant has expired; request a new one from its issuer")]
    #[strum(serialize = "expired_token", props(status = 401))]
    ExpiredGrant,
    /// The link of a plan that was changed or forged, or whose API key was removed. The source is only logged.
    #[error("The link is invalid; use the links from the answer to POST /uploads or POST /files unchanged")]
    #[strum(props(status = 401))]
    InvalidToken(#[source] Option<BoxError>),
    #[error("The link has expired; start the upload again with POST /uploads or POST /files")]
    #[strum(props(status = 401))]
    ExpiredToken,
    #[error("File not found")]
    #[strum(props(status = 404))]
    NotFound,
    /// A direct upload that cannot be continued, for the given `reason`.
    #[error("{reason}; create a new plan with POST /uploads")]
    #[strum(serialize = "not_found", props(status = 404))]
    UploadOver { reason: String },
    #[error("The route does not exist; GET /openapi.json describes all routes")]
    #[strum(serialize = "not_found", props(status = 404))]
    NoRoute,
    #[error("The route does not support this method; GET /openapi.json describes all routes")]
    #[strum(props(status = 405))]
    MethodNotAllowed,
    #[error(
        "The head of the request exceeds the limit of {limit} bytes or of 100 headers; send fewer or shorter headers"
    )]
    #[strum(props(status = 431))]
    HeadTooLarge { limit: usize },
    #[error(
        "The Transfer-Encoding is not supported; send the body with a Content-Length, or with Transfer-Encoding: \
         chunked and no other coding"
    )]
    #[strum(serialize = "unsupported_transfer_encoding", props(status = 501))]
    TransferEncoding,
    #[error("The URI exceeds the limit of {limit} bytes; use the links from the service's answers unchanged")]
    #[strum(props(status = 414))]
    UriTooLong { limit: usize },
    /// The limit of every upload method.
    #[error("The image exceeds the limit of {limit} bytes")]
    #[strum(props(status = 413))]
    PayloadTooLarge { limit: u64 },
    /// The limit of uploads through the service. On Lambda it is lower than that of direct uploads.
    #[error(
        "The image exceeds the limit of {limit} bytes for uploads through the service; if larger images are allowed, \
         upload them directly with POST /uploads (with Uppy: shouldUseMultipart: () => true)"
    )]
    #[strum(serialize = "payload_too_large", props(status = 413))]
    StreamTooLarge { limit: u64 },
    #[error(
        "The Content-Type is not supported; send multipart/form-data with a field named 'file', or the image itself \
         with Content-Type: image/*"
    )]
    #[strum(props(status = 415))]
    UnsupportedMediaType,
    /// The body has a Content-Encoding.
    #[error("Content-Encoding is not supported; send the body without it")]
    #[strum(serialize = "unsupported_content_encoding", props(status = 415))]
    ContentEncoding,
    /// A part of the form has an unsupported encoding (RFC 2045).
    #[error(
        "The file's Content-Transfer-Encoding is not supported; send the file unencoded (binary), or as base64 or \
         quoted-printable"
    )]
    #[strum(serialize = "unsupported_content_transfer_encoding", props(status = 415))]
    ContentTransferEncoding,
    #[error("The Content-Type is not supported; send application/json")]
    #[strum(serialize = "unsupported_media_type", props(status = 415))]
    NotJson,
    /// The body of a request to `/files`.
    #[error("The Content-Type is not supported; send the bytes of the file as {accepted}")]
    #[strum(serialize = "unsupported_media_type", props(status = 415))]
    NotPartialUpload { accepted: &'static str },
    #[error("This version of tus is not supported; send Tus-Resumable: 1.0.0")]
    #[strum(serialize = "unsupported_tus_version", props(status = 412))]
    TusVersion,
    #[error("The image could not be stored; try again")]
    #[strum(serialize = "storage_failed", props(status = 500))]
    Storage(#[source] BoxError),
    #[error("Too many concurrent uploads; try again later, or upload directly with POST /uploads")]
    #[strum(props(status = 503))]
    OverCapacity(#[source] Option<std::io::Error>),
    #[error("Too many concurrent connections; try again later")]
    #[strum(serialize = "over_capacity", props(status = 503))]
    TooManyConnections,
    #[error("The request exceeded its time limit; try again")]
    #[strum(props(status = 503))]
    Deadline,
    #[error("The service is not ready: {reason}")]
    #[strum(props(status = 503))]
    NotReady {
        reason: &'static str,
        #[source]
        source: Option<BoxError>,
    },
    #[error("Parts are missing: {}; upload them, then complete the upload again", list(parts))]
    #[strum(props(status = 409))]
    PartsMissing { parts: Vec<u32> },
    #[error("Parts were uploaded that are not in the plan: {}; abort this upload and create a new plan", list(parts))]
    #[strum(props(status = 409))]
    PartsUnexpected { parts: Vec<u32> },
    #[error("The upload is already complete; DELETE /delete/{{s3_key}} removes the image")]
    #[strum(props(status = 409))]
    AlreadyComplete,
    /// Only for uploads whose key a grant fixes.
    #[error(
        "Another image is already stored under this key; remove it with DELETE /delete/{{s3_key}}, or use a grant for \
         another key"
    )]
    #[strum(props(status = 409))]
    AlreadyExists,
    #[error("The Idempotency-Key was already used for another image; send every image with its own Idempotency-Key")]
    #[strum(props(status = 422))]
    IdempotencyKeyReused,
    /// Only for uploads whose key a grant or an Idempotency-Key fixes, so that the same request finds the image.
    #[error("The image may have been stored; send the same request again; the image is stored only once")]
    #[strum(props(status = 503))]
    OutcomeUnknown(#[source] BoxError),
    /// A resumable upload continues at another byte than the one that the request begins with.
    #[error("The upload continues at byte {offset}; send the bytes from there on")]
    #[strum(props(status = 409))]
    OffsetMismatch {
        offset: u64,
        /// The offset in the request.
        provided: u64,
    },
    /// A request of a resumable upload contradicts the length of the file.
    #[error("The file has {length} bytes; send exactly these bytes, and no other length")]
    #[strum(props(status = 400))]
    InconsistentLength { length: u64 },
    #[error("The upload was cancelled or has expired; create a new upload with POST /files")]
    #[strum(props(status = 410))]
    UploadGone,
    /// The store has failed in the middle of a resumable upload. What it has stored so far remains.
    #[error("The upload was interrupted; ask for its offset with HEAD, and send the bytes from there on")]
    #[strum(props(status = 503))]
    UploadInterrupted(#[source] BoxError),
    #[error("The upload is being verified; ask again")]
    #[strum(props(status = 409))]
    Verifying,
    #[error("The uploaded object changed repeatedly while it was verified; try again when no client is sending it")]
    #[strum(props(status = 409))]
    ChangedMeanwhile,
    #[error("Internal error")]
    #[strum(props(status = 500))]
    Internal(#[source] BoxError),
}

/// The limit on the number of leading bytes in which an image's dimensions are searched, when it ended the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimit {
    /// Bytes.
    pub bytes: u64,
    /// The image's format, if its dimensions are at a known position after the limit. Direct uploads are read there.
    pub format: Option<Format>,
}

impl ScanLimit {
    pub const SETTING: &str = "HEADER_SCAN_LIMIT";

    fn hint(self) -> String {
        let (setting, bytes) = (ScanLimit::SETTING, self.bytes);
        match self.format {
            Some(Format::Tiff) => format!(
                "The directory of this TIFF is not within its first {bytes} bytes ({setting}); use direct uploads \
                 (POST /uploads) for TIFFs whose directory is at the end"
            ),
            Some(_) => format!(
                "The dimensions of this image are not within its first {bytes} bytes ({setting}); use direct uploads \
                 (POST /uploads) for such images"
            ),
            None => format!("The dimensions of this image are not within its first {bytes} bytes ({setting})"),
        }
    }
}

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns the stable, machine-readable name of this error.
    pub fn code(&self) -> &'static str {
        self.into()
    }

    /// Returns an example of each error, for the API's description.
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
            Error::InvalidGrant("its signature is invalid".into()),
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
            Error::NotPartialUpload { accepted: "application/offset+octet-stream" },
            Error::TusVersion,
            Error::Storage("".into()),
            Error::OverCapacity(None),
            Error::TooManyConnections,
            Error::Deadline,
            Error::NotReady { reason: "no answer from the store", source: None },
            Error::PartsMissing { parts: vec![2, 3] },
            Error::PartsUnexpected { parts: vec![7] },
            Error::AlreadyComplete,
            Error::AlreadyExists,
            Error::IdempotencyKeyReused,
            Error::OutcomeUnknown("".into()),
            Error::OffsetMismatch { offset: 5_242_880, provided: 0 },
            Error::InconsistentLength { length: 482_113 },
            Error::UploadGone,
            Error::UploadInterrupted("".into()),
            Error::Verifying,
            Error::ChangedMeanwhile,
            Error::Internal("".into()),
        ]
    }

    /// Returns the HTTP status of this error.
    pub fn status(&self) -> StatusCode {
        let declared = self.get_int("status").and_then(|status| u16::try_from(status).ok());
        declared.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Returns the level at which the error is logged: `ERROR` for faults of the service or the store, `WARN` for
    /// limits that were reached, and `INFO` for errors of the client.
    pub fn log_level(&self) -> tracing::Level {
        match self {
            Error::TransferEncoding => tracing::Level::INFO,
            // `OverCapacity` with a source is logged as an error, because the disk cannot be written.
            Error::TooManyConnections | Error::OverCapacity(None) => tracing::Level::WARN,
            error if error.status().is_server_error() => tracing::Level::ERROR,
            _ => tracing::Level::INFO,
        }
    }

    /// Returns further advice for people, for errors whose `detail` must stay as in the service that this one replaces.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoFile { fields: Some(_) } => {
                Some("Send the image as a file that is not empty, in a form field named 'file'".to_owned())
            }
            Error::InvalidFileType { limit, .. } => limit.map(ScanLimit::hint),
            _ => None,
        }
    }

    /// Returns the number of seconds after which the request may be retried, for temporary errors.
    pub fn retry_after(&self) -> Option<u32> {
        let is_temporary = self.status() == StatusCode::SERVICE_UNAVAILABLE || matches!(self, Error::Verifying);
        is_temporary.then_some(1)
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
    fn only_faults_of_the_service_are_logged_as_errors() {
        for (error, level) in [
            (Error::NotFound, tracing::Level::INFO),
            (Error::TransferEncoding, tracing::Level::INFO),
            (Error::TooManyConnections, tracing::Level::WARN),
            (Error::OverCapacity(None), tracing::Level::WARN),
            (Error::OverCapacity(Some(std::io::ErrorKind::StorageFull.into())), tracing::Level::ERROR),
            (Error::Storage("".into()), tracing::Level::ERROR),
        ] {
            assert_eq!(error.log_level(), level, "{error:?}");
        }
    }

    #[test]
    fn every_error_has_an_example() {
        let kinds: HashSet<_> = Error::examples().iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), Error::COUNT);
    }

    #[test]
    fn every_error_declares_a_valid_status() {
        for error in Error::examples() {
            assert_eq!(error.get_int("status"), Some(error.status().as_u16().into()), "{error:?}");
        }
    }
}
