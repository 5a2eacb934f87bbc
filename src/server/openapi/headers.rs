//! Documents response headers.

use http::StatusCode;
use serde_json::{Value, json};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Header, Object, ObjectBuilder, Response};

use crate::error::Error;
use crate::server::middleware::access_log::REQUEST_ID;

/// Adds the header that every response has.
pub fn request_id(response: &mut Response) {
    let description = "The request's own `x-request-id` if it has 1 to 128 visible ASCII characters, otherwise a new \
                       id. The service logs it.";
    let id = json!("0b7ffd0c-5a9b-4c3e-8f3c-2f8a5c0e5a5b");
    response.headers.insert(REQUEST_ID.to_string(), header(Type::String, description, id).into());
}

/// Adds the headers of an error response.
pub fn of_error(response: &mut Response, error: &Error) {
    if let Some(seconds) = error.retry_after() {
        let after = header(Type::Integer, "Number of seconds to wait before retrying.", json!(seconds));
        response.headers.insert("Retry-After".to_owned(), after.into());
    }
    if matches!(error, Error::ContentEncoding) {
        let coding = header(Type::String, "With `unsupported_content_encoding`: what is supported.", json!("identity"));
        response.headers.insert("Accept-Encoding".to_owned(), coding.into());
    }
    if error.status() == StatusCode::UNAUTHORIZED {
        let scheme = header(Type::String, "The authentication scheme for API keys.", json!("Bearer"));
        response.headers.insert("WWW-Authenticate".to_owned(), scheme.into());
    }
}

fn header(of: Type, description: &str, example: Value) -> Header {
    let schema: Object = ObjectBuilder::new().schema_type(of).examples([example]).build();
    let mut header = Header::new(schema);
    header.description = Some(description.to_owned());
    header
}
