//! From errors to answers.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

use crate::error::{Error, ScanLimit};

/// Carried in the response's extensions, so that the access log can say why.
#[derive(Clone, Debug)]
pub struct Logged(pub Arc<Error>);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        respond(Arc::new(self))
    }
}

/// The answer for an error, which may be shared by several requests that waited for the same thing.
pub fn respond(error: Arc<Error>) -> Response {
    let mut response = (error.status(), Json(ErrorBody::from(&*error))).into_response();
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(*error, Error::ContentEncoding) {
        // RFC 9110 15.5.16: what would have been taken.
        response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    response.extensions_mut().insert(Logged(error));
    response
}

/// The body of every answer that is an error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    /// What went wrong and what to do, for people. The wording may change.
    #[schema(examples("File not found"))]
    pub detail: String,
    /// Which error it is, for programs. Codes do not change.
    #[schema(schema_with = codes)]
    pub code: &'static str,
    /// Of `invalid_file_type`: the format the bytes have, if they were recognised.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("webp"))]
    pub detected: Option<&'static str>,
    /// Of `invalid_file_type`: the formats that are allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Vec<String>, examples("jpeg"))]
    pub accepted: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = SearchLimit, required = false)]
    pub limit: Option<SearchLimit>,
    /// Of `no_file`: the names of the fields that the form had.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("photo"))]
    pub fields: Option<Vec<String>>,
    /// Of `parts_missing` and `parts_unexpected`: the numbers of the parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples(2))]
    pub parts: Option<Vec<u32>>,
    /// More about what to do, for people. The wording may change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("Send the image as a file that is not empty, in a form field named 'file'"))]
    pub hint: Option<String>,
}

/// Of `invalid_file_type`: the limit that ended the search for the image's dimensions, and its setting.
#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({ "setting": "HEADER_SCAN_LIMIT", "bytes": 5_242_880 })))]
pub struct SearchLimit {
    /// The setting's name.
    #[schema(examples("HEADER_SCAN_LIMIT"))]
    pub setting: &'static str,
    /// Its value.
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
            code: error.code(),
            detected: None,
            accepted: None,
            limit: None,
            fields: None,
            parts: None,
            hint: error.hint(),
        };
        match error {
            Error::InvalidFileType { detected, accepted, limit } => {
                refusal.detected = *detected;
                refusal.accepted = Some(accepted.clone());
                refusal.limit = limit.map(SearchLimit::from);
            }
            Error::NoFile { fields } => refusal.fields.clone_from(fields),
            Error::PartsMissing { parts } | Error::PartsUnexpected { parts } => refusal.parts = Some(parts.clone()),
            _ => {}
        }
        refusal
    }
}

/// The schema of [`ErrorBody::code`]: every code there is.
fn codes() -> utoipa::openapi::Object {
    let mut codes: Vec<&str> = Error::examples().iter().map(Error::code).collect();
    codes.sort_unstable();
    codes.dedup();
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .description(Some("Which error it is, for programs. Codes do not change."))
        .enum_values(Some(codes))
        .examples(["not_found"])
        .build()
}
