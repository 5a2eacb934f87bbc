//! The form of error responses that some clients need instead of the usual one.

use axum::Json;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header;

use crate::error::Error;
use crate::server::html;
use crate::server::request::accept::prefers_html;
use crate::server::response::{ErrorBody, Logged};

/// The routes of Uppy's Companion.
const COMPANION: &str = "/s3/";

/// The form of a request's errors.
enum Form {
    Json,
    Companion,
    /// A page without a script.
    Page,
}

impl Form {
    fn of(request: &Request) -> Form {
        match (request.method().as_str(), request.uri().path()) {
            (_, path) if path.starts_with(COMPANION) => Form::Companion,
            ("POST", "/upload-image" | "/images") | (_, "/uploaded") if prefers_html(request.headers()) => Form::Page,
            _ => Form::Json,
        }
    }
}

/// Replaces the bodies of errors for clients that need another form. Status and headers remain.
pub async fn adapt(request: Request, next: Next) -> Response {
    let form = Form::of(&request);
    let response = next.run(request).await;
    let Some(Logged(error)) = response.extensions().get() else { return response };
    let body = match form {
        Form::Json => return response,
        Form::Companion => Json(with_message(error)).into_response(),
        Form::Page => html::error_page(error),
    };
    with_body(response, body)
}

/// Returns the body of an error as Uppy reads it: it shows `message` to its user.
fn with_message(error: &Error) -> ErrorBody {
    ErrorBody { message: Some(error.to_string()), ..ErrorBody::from(error) }
}

/// Returns the response with the body of another one, and the headers that describe it.
fn with_body(response: Response, other: Response) -> Response {
    let (mut head, _) = response.into_parts();
    let (other, body) = other.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.extend(other.headers);
    Response::from_parts(head, body)
}
