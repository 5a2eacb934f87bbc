//! Documents error responses. This module lists the errors of each route; [`Error`] gives status, body and examples.

use std::collections::BTreeMap;
use utoipa::openapi::example::Example;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, Ref, RefOr, Response};
use utoipa::{IntoResponses, ToSchema};

use super::headers;
use crate::error::Error;
use crate::server::response::ErrorBody;

type Responses = BTreeMap<String, RefOr<Response>>;

/// Defines types that represent the errors of a route, for `responses(…)`.
macro_rules! answers {
    ($($(#[$meta:meta])* $name:ident: $errors:pat,)*) => {$(
        $(#[$meta])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> Responses {
                let mut responses = Responses::new();
                add(&mut responses, Error::examples().into_iter().filter(|error| matches!(error, $errors)));
                responses
            }
        }
    )*};
}

answers! {
    /// Errors of `POST /upload-image` and `POST /images`.
    Upload:
        Error::NoFile { .. }
        | Error::InvalidFileType { .. }
        | Error::InvalidRequest(_)
        | Error::MalformedForm(_)
        | Error::InvalidBase64
        | Error::MangledBody
        | Error::TooManyPixels { .. }
        | Error::TruncatedBody(_)
        | Error::ClientTooSlow { .. }
        | Error::BelowMinRate { .. }
        | Error::StreamTooLarge { .. }
        | Error::UnsupportedMediaType
        | Error::ContentEncoding
        | Error::ContentTransferEncoding
        | Error::AlreadyExists
        | Error::IdempotencyKeyReused
        | Error::OutcomeUnknown(_)
        | Error::Storage(_)
        | Error::OverCapacity(_),
    /// Errors of the routes of one image.
    Stored: Error::NotFound | Error::Storage(_),
    /// Errors of `POST /uploads`.
    Plan:
        Error::InvalidFileType { .. }
        | Error::InvalidRequest(_)
        | Error::TruncatedBody(_)
        | Error::ClientTooSlow { .. }
        | Error::BelowMinRate { .. }
        | Error::PayloadTooLarge { .. }
        | Error::NotJson
        | Error::UploadOver { .. }
        | Error::AlreadyExists
        | Error::Storage(_),
    /// Errors of `status_url`.
    PlanFromLink:
        Error::InvalidToken(_)
        | Error::ExpiredToken
        | Error::NotFound
        | Error::UploadOver { .. }
        | Error::Storage(_),
    /// Errors of `complete_url`.
    Complete:
        Error::InvalidToken(_)
        | Error::AlreadyExists
        | Error::ExpiredToken
        | Error::UploadOver { .. }
        | Error::AlreadyComplete
        | Error::OverCapacity(_)
        | Error::InvalidFileType { .. }
        | Error::InvalidRequest(_)
        | Error::TooManyPixels { .. }
        | Error::NotFound
        | Error::PayloadTooLarge { .. }
        | Error::PartsMissing { .. }
        | Error::PartsUnexpected { .. }
        | Error::ChangedMeanwhile
        | Error::Storage(_),
    /// Errors of `abort_url`.
    Abort:
        Error::InvalidToken(_)
        | Error::ExpiredToken
        | Error::AlreadyComplete
        | Error::Verifying
        | Error::NotFound
        | Error::Storage(_),
    /// Errors of `POST /files`.
    CreateUpload:
        Error::NoFile { .. }
        | Error::InvalidFileType { .. }
        | Error::InvalidRequest(_)
        | Error::InconsistentLength { .. }
        | Error::TooManyPixels { .. }
        | Error::InvalidBase64
        | Error::MangledBody
        | Error::TruncatedBody(_)
        | Error::ClientTooSlow { .. }
        | Error::BelowMinRate { .. }
        | Error::PayloadTooLarge { .. }
        | Error::NotPartialUpload { .. }
        | Error::ContentEncoding
        | Error::TusVersion
        | Error::AlreadyExists
        | Error::IdempotencyKeyReused
        | Error::OutcomeUnknown(_)
        | Error::UploadInterrupted(_)
        | Error::Storage(_)
        | Error::OverCapacity(_),
    /// Errors of `HEAD` and `GET /files/{s3_key}`.
    UploadState:
        Error::InvalidToken(_)
        | Error::ExpiredToken
        | Error::InvalidRequest(_)
        | Error::InvalidFileType { .. }
        | Error::TooManyPixels { .. }
        | Error::NotFound
        | Error::UploadGone
        | Error::TusVersion
        | Error::AlreadyExists
        | Error::OutcomeUnknown(_)
        | Error::UploadInterrupted(_)
        | Error::Storage(_)
        | Error::OverCapacity(_),
    /// Errors of `PATCH /files/{s3_key}`.
    AppendToUpload:
        Error::InvalidToken(_)
        | Error::ExpiredToken
        | Error::InvalidRequest(_)
        | Error::InvalidFileType { .. }
        | Error::InconsistentLength { .. }
        | Error::TooManyPixels { .. }
        | Error::InvalidBase64
        | Error::MangledBody
        | Error::TruncatedBody(_)
        | Error::ClientTooSlow { .. }
        | Error::BelowMinRate { .. }
        | Error::NotFound
        | Error::OffsetMismatch { .. }
        | Error::AlreadyExists
        | Error::UploadGone
        | Error::TusVersion
        | Error::PayloadTooLarge { .. }
        | Error::NotPartialUpload { .. }
        | Error::ContentEncoding
        | Error::OutcomeUnknown(_)
        | Error::UploadInterrupted(_)
        | Error::Storage(_)
        | Error::OverCapacity(_),
    /// Errors of `DELETE /files/{s3_key}`.
    CancelUpload:
        Error::InvalidToken(_)
        | Error::ExpiredToken
        | Error::NotFound
        | Error::AlreadyComplete
        | Error::TusVersion
        | Error::UploadInterrupted(_)
        | Error::Storage(_),
    /// Errors of `POST /grants`.
    Grant:
        Error::InvalidRequest(_)
        | Error::InvalidFileType { .. }
        | Error::KeyTooShort
        | Error::TruncatedBody(_)
        | Error::ClientTooSlow { .. }
        | Error::BelowMinRate { .. }
        | Error::NotJson,
    /// Errors of `GET /limits`.
    Limits: Error::Unauthorized | Error::InvalidGrant(_) | Error::ExpiredGrant,
    /// Errors of `GET /readyz`.
    Ready: Error::NotReady { .. },
}

/// Returns an example of a rejected grant.
pub fn invalid_grant() -> Error {
    Error::InvalidGrant("its signature is invalid".into())
}

/// Adds errors to the responses of a route. Errors with the same status become examples of one response.
pub fn add(responses: &mut Responses, errors: impl IntoIterator<Item = Error>) {
    for error in errors {
        let status = error.status();
        let reason = status.canonical_reason().unwrap_or_default();
        let response = responses.entry(status.as_str().to_owned()).or_insert_with(|| Response::new(reason).into());
        if let Some(response) = super::inline(response) {
            headers::of_error(response, &error);
            let content = response.content.entry("application/json".to_owned()).or_insert_with(error_body);
            if let RefOr::T(content) = content {
                // If several errors have the same code, the first one is specific to the route.
                content.examples.entry(error.code().to_owned()).or_insert_with(|| example(&error).into());
            }
        }
    }
}

fn error_body() -> RefOr<Content> {
    Content::new(Some(Ref::from_schema_name(ErrorBody::name()))).into()
}

fn example(error: &Error) -> Example {
    let mut example = Example::new();
    example.value = serde_json::to_value(ErrorBody::from(error)).ok();
    example
}

/// Removes the bodies from the responses of a `HEAD` operation. Statuses and headers remain.
pub fn without_bodies(operation: &mut Operation) {
    operation.responses.responses.values_mut().filter_map(super::inline).for_each(|response| response.content.clear());
}
