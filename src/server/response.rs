//! Converts errors to HTTP responses.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

use crate::error::{Error, ScanLimit};

pub const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");

/// The problem types of the IETF's resumable uploads (RFC 9457).
const MISMATCHING_OFFSET: &str = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
const INCONSISTENT_LENGTH: &str = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";

/// A response extension: the error that the access log reports.
#[derive(Clone, Debug)]
pub struct Logged(pub Arc<Error>);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        respond(Arc::new(self))
    }
}

/// Returns the response for an error, which several requests may share if they waited for the same result.
pub fn respond(error: Arc<Error>) -> Response {
    let mut response = (error.status(), Json(ErrorBody::from(&*error))).into_response();
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Error::OffsetMismatch { offset, .. } = *error {
        response.headers_mut().insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    }
    if matches!(*error, Error::ContentEncoding) {
        // RFC 9110 15.5.16: the content codings that are supported.
        response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    response.extensions_mut().insert(Logged(error));
    response
}

/// The body of every error response.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    /// Describes the error and what to do, in English, for people. The wording may change: programs use `code`.
    #[schema(examples("File not found"))]
    pub detail: String,
    /// The same text as `detail`, for Uppy. Only in the errors of `/s3/*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("File not found"))]
    pub message: Option<String>,
    /// Identifies the error, for programs. Codes do not change.
    #[schema(schema_with = codes)]
    pub code: &'static str,
    /// With `invalid_file_type`: the format that was detected from the file's bytes, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("webp"))]
    pub detected: Option<&'static str>,
    /// With `invalid_file_type`: the short names of the accepted formats.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Vec<String>, examples("jpeg"))]
    pub accepted: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = SearchLimit, required = false)]
    pub limit: Option<SearchLimit>,
    /// With `no_file`: the names of the fields in the form. The image must be in a field named `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("photo"))]
    pub fields: Option<Vec<String>>,
    /// With `parts_missing` and `parts_unexpected`: the numbers of these parts. Numbering starts at 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples(2))]
    pub parts: Option<Vec<u32>>,
    /// With `offset_mismatch` and `inconsistent_length`: the problem type of the IETF's resumable uploads (RFC 9457).
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("https://iana.org/assignments/http-problem-types#mismatching-upload-offset"))]
    pub problem: Option<&'static str>,
    /// With `offset_mismatch`: the offset at which the upload continues, as in `Upload-Offset`.
    #[serde(rename = "expected-offset", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples(5_242_880))]
    pub expected_offset: Option<u64>,
    /// With `offset_mismatch`: the offset that the request has sent.
    #[serde(rename = "provided-offset", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples(0))]
    pub provided_offset: Option<u64>,
    /// More advice on how to fix the request, in English, for people. The wording may change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("Send the image as a file that is not empty, in a form field named 'file'"))]
    pub hint: Option<String>,
}

/// With `invalid_file_type`: the limit that ended the search for the image's dimensions. It is present if the image may
/// be valid but its dimensions are not within this limit.
#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({ "setting": "HEADER_SCAN_LIMIT", "bytes": 5_242_880 })))]
pub struct SearchLimit {
    /// The name of the service's setting.
    #[schema(examples("HEADER_SCAN_LIMIT"))]
    pub setting: &'static str,
    /// The value of the setting, in bytes.
    #[schema(examples(5_242_880))]
    pub bytes: u64,
}

impl From<ScanLimit> for SearchLimit {
    fn from(limit: ScanLimit) -> Self {
        SearchLimit { setting: ScanLimit::SETTING, bytes: limit.bytes }
    }
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        let mut refusal = ErrorBody {
            detail: error.to_string(),
            message: None,
            code: error.code(),
            detected: None,
            accepted: None,
            limit: None,
            fields: None,
            parts: None,
            problem: None,
            expected_offset: None,
            provided_offset: None,
            hint: error.hint(),
        };
        match error {
            Error::InvalidFileType { detected, accepted, limit } => {
                refusal.detected = *detected;
                refusal.accepted = Some(accepted.clone());
                refusal.limit = limit.map(SearchLimit::from);
            }
            Error::NoFile { fields } => refusal.fields.clone_from(fields),
            Error::OffsetMismatch { offset, provided } => {
                refusal.problem = Some(MISMATCHING_OFFSET);
                (refusal.expected_offset, refusal.provided_offset) = (Some(*offset), Some(*provided));
            }
            Error::InconsistentLength { .. } => refusal.problem = Some(INCONSISTENT_LENGTH),
            Error::PartsMissing { parts } | Error::PartsUnexpected { parts } => refusal.parts = Some(parts.clone()),
            _ => {}
        }
        refusal
    }
}

/// Returns the schema of [`ErrorBody::code`], which lists all codes.
fn codes() -> utoipa::openapi::Object {
    let mut codes: Vec<&str> = Error::examples().iter().map(Error::code).collect();
    codes.sort_unstable();
    codes.dedup();
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .description(Some("Identifies the error, for programs. Codes do not change."))
        .enum_values(Some(codes))
        .examples(["not_found"])
        .build()
}
