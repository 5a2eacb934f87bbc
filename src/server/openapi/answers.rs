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
    ($($(#[$meta:meta])* $name:ident: $($error:ident),*;)*) => {$(
        $(#[$meta])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> Responses {
                let mut responses = Responses::new();
                let is_listed = |error: &Error| matches!(error, $(Error::$error { .. })|*);
                add(&mut responses, Error::examples().into_iter().filter(is_listed));
                responses
            }
        }
    )*};
}

answers! {
    /// Errors of `POST /upload-image` and `POST /images`.
    Upload: NoFile, InvalidFileType, InvalidRequest, MalformedForm, InvalidBase64, MangledBody, TooManyPixels,
        TruncatedBody, ClientTooSlow, BelowMinRate, StreamTooLarge, UnsupportedMediaType, ContentEncoding,
        ContentTransferEncoding, AlreadyExists, IdempotencyKeyReused, OutcomeUnknown, Storage, OverCapacity;
    /// Errors of the routes of one image.
    Stored: NotFound, Storage;
    /// Errors of `POST /uploads`.
    Plan: InvalidFileType, InvalidRequest, TruncatedBody, ClientTooSlow, BelowMinRate, PayloadTooLarge, NotJson, ContentEncoding,
        UploadOver, AlreadyExists, Storage;
    /// Errors of `GET /s3/multipart/{upload_id}`.
    PlanFromLink: InvalidToken, ExpiredToken, NotFound, UploadOver, Storage;
    /// Errors of `status_url`.
    UploadStatus: InvalidToken, ExpiredToken, NotFound, UploadOver, AlreadyExists, Storage;
    /// Errors of `complete_url`.
    Complete: InvalidToken, AlreadyExists, ExpiredToken, UploadOver, AlreadyComplete, OverCapacity, InvalidFileType,
        InvalidRequest, TooManyPixels, NotFound, PayloadTooLarge, PartsMissing, PartsUnexpected, ChangedMeanwhile,
        Storage;
    /// Errors of `abort_url`.
    Abort: InvalidToken, ExpiredToken, AlreadyComplete, Verifying, NotFound, Storage;
    /// Errors of `GET /s3/params`.
    CompanionForm: InvalidFileType, InvalidRequest, KeyTooShort;
    /// Errors of `POST /s3/multipart`.
    CompanionStart: InvalidFileType, InvalidRequest, TruncatedBody, ClientTooSlow, BelowMinRate, NotJson, ContentEncoding, UploadOver, AlreadyExists, OverCapacity, Storage;
    /// Errors of `GET /s3/multipart/{upload_id}/{part_number}`.
    CompanionPart: InvalidToken, ExpiredToken, InvalidRequest, PayloadTooLarge, Storage;
    /// Errors of `POST /s3/multipart/{upload_id}/complete`.
    CompanionComplete: InvalidToken, ExpiredToken, NotJson, ContentEncoding, TruncatedBody, ClientTooSlow, BelowMinRate, NoFile, AlreadyExists, UploadOver, AlreadyComplete, OverCapacity, InvalidFileType, InvalidRequest, TooManyPixels, NotFound, PayloadTooLarge, PartsMissing, PartsUnexpected, ChangedMeanwhile, Storage;
    /// Errors of `POST /files`.
    CreateUpload: NoFile, InvalidFileType, InvalidRequest, InconsistentLength, TooManyPixels, InvalidBase64, MangledBody, TruncatedBody, ClientTooSlow, BelowMinRate, PayloadTooLarge, NotPartialUpload, ContentEncoding, TusVersion, AlreadyExists, IdempotencyKeyReused, OutcomeUnknown, UploadInterrupted, Storage, OverCapacity;
    /// Errors of `HEAD` and `GET /files/{s3_key}`.
    UploadState: InvalidToken, ExpiredToken, InvalidRequest, InvalidFileType, TooManyPixels, NotFound, UploadGone, TusVersion, AlreadyExists, OutcomeUnknown, UploadInterrupted, Storage, OverCapacity;
    /// Errors of `PATCH /files/{s3_key}`.
    AppendToUpload: InvalidToken, ExpiredToken, InvalidRequest, InvalidFileType, InconsistentLength, TooManyPixels, InvalidBase64, MangledBody, TruncatedBody, ClientTooSlow, BelowMinRate, NotFound, OffsetMismatch, AlreadyExists, UploadGone, TusVersion, PayloadTooLarge, NotPartialUpload, ContentEncoding, OutcomeUnknown, UploadInterrupted, Storage, OverCapacity;
    /// Errors of `DELETE /files/{s3_key}`.
    CancelUpload: InvalidToken, ExpiredToken, NotFound, AlreadyComplete, TusVersion, UploadInterrupted, Storage;
    /// Errors of `POST /grants`.
    Grant: InvalidRequest, InvalidFileType, KeyTooShort, TruncatedBody, ClientTooSlow, BelowMinRate, NotJson, ContentEncoding;
    /// Errors of `GET /limits`.
    Limits: Unauthorized, InvalidGrant, ExpiredGrant;
    /// Errors of `GET /readyz`.
    Ready: NotReady;
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
