//! The response headers that are worth knowing.

use http::StatusCode;
use serde_json::{Value, json};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Header, Object, ObjectBuilder, Response};

use crate::error::Error;
use crate::server::middleware::access_log::REQUEST_ID;

/// On every answer.
pub fn request_id(response: &mut Response) {
    let description = "The request's `x-request-id` where it had one (1 to 128 visible characters), else a fresh one. \
                       It is in the log.";
    let id = json!("0b7ffd0c-5a9b-4c3e-8f3c-2f8a5c0e5a5b");
    response.headers.insert(REQUEST_ID.to_string(), header(Type::String, description, id).into());
}

/// What comes with an error beside its body.
pub fn of_error(response: &mut Response, error: &Error) {
    if let Some(seconds) = error.retry_after() {
        let after = header(Type::Integer, "Seconds after which it is worth asking again.", json!(seconds));
        response.headers.insert("Retry-After".to_owned(), after.into());
    }
    if matches!(error, Error::ContentEncoding) {
        let taken = header(Type::String, "Of `unsupported_content_encoding`: what is accepted.", json!("identity"));
        response.headers.insert("Accept-Encoding".to_owned(), taken.into());
    }
    if error.status() == StatusCode::UNAUTHORIZED {
        let wanted = header(Type::String, "How a key is sent.", json!("Bearer"));
        response.headers.insert("WWW-Authenticate".to_owned(), wanted.into());
    }
}

fn header(of: Type, description: &str, example: Value) -> Header {
    let schema: Object = ObjectBuilder::new().schema_type(of).examples([example]).build();
    let mut header = Header::new(schema);
    header.description = Some(description.to_owned());
    header
}
