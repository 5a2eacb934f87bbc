//! The form of error responses that some clients need instead of the usual one.

use axum::Json;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header;
use serde::Serialize;

use crate::error::Error;
use crate::server::response::{ErrorBody, Logged};

/// The routes of Uppy's Companion.
const COMPANION: &str = "/s3/";

/// An error as Uppy reads it: it shows `message` to its user.
#[derive(Serialize)]
struct CompanionError {
    message: String,
    #[serde(flatten)]
    body: ErrorBody,
}

/// Replaces the bodies of errors for the clients of the Companion routes. Status and headers remain.
pub async fn adapt(request: Request, next: Next) -> Response {
    let is_companion = request.uri().path().starts_with(COMPANION);
    let response = next.run(request).await;
    match response.extensions().get() {
        Some(Logged(error)) if is_companion => {
            let body = companion_error(error);
            with_body(response, Json(body))
        }
        _ => response,
    }
}

fn companion_error(error: &Error) -> CompanionError {
    CompanionError { message: error.to_string(), body: ErrorBody::from(error) }
}

/// Returns the response with another body and its type.
fn with_body(response: Response, body: impl IntoResponse) -> Response {
    let (mut head, _) = response.into_parts();
    let (other, body) = body.into_response().into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.extend(other.headers);
    Response::from_parts(head, body)
}
