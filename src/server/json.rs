//! JSON request bodies, with error messages for clients.

use axum::extract::{FromRequest, Request};
use http::header;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::error::{BoxError, Error, Result};
use crate::ingest::error_from_body;
use crate::server::request::check_encoding;

/// Maximum size of most JSON bodies, in bytes.
pub const MAX_JSON: usize = 16 << 10;

/// A request body, parsed as JSON.
///
/// Error messages say what `T` expects. Its `#[serde(expecting = …)]` describes that in words; otherwise the messages
/// would contain the name of the Rust type.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _state: &S) -> Result<Self> {
        read(request, MAX_JSON).await.map(JsonBody)
    }
}

/// Parses a request body of at most `limit` bytes as JSON. Use [`JsonBody`] unless a request needs more than [`MAX_JSON`].
pub async fn read<T: DeserializeOwned>(request: Request, limit: usize) -> Result<T> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.is_some_and(is_json) {
        return Err(Error::NotJson);
    }
    check_encoding(request.headers())?;
    let body = Limited::new(request.into_body(), limit).collect().await;
    let body = body.map_err(|error| read_error(error, limit))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| Error::InvalidRequest(describe(&error)))
}

/// Whether the media type is `application/json` or based on it, such as `application/problem+json`.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn describe(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Data => format!("the JSON body does not match the schema of this route: {error}"),
        Category::Syntax | Category::Eof | Category::Io => format!("the body is not valid JSON: {error}"),
    }
}

fn read_error(error: BoxError, limit: usize) -> Error {
    if error.is::<LengthLimitError>() {
        return Error::InvalidRequest(format!("the JSON body exceeds the limit of {limit} bytes"));
    }
    error_from_body(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direct::plan::UploadRequest;
    use axum::body::Body;

    async fn read(content_type: &str, body: &'static str) -> Result<JsonBody<UploadRequest>> {
        let request = Request::post("/").header(header::CONTENT_TYPE, content_type).body(body.into()).unwrap();
        JsonBody::from_request(request, &()).await
    }

    #[tokio::test]
    async fn errors_name_fields_and_positions_but_no_types() {
        for (body, named) in [
            ("[]", "an object"),
            ("null", "an object"),
            ("\"text\"", "an object"),
            ("{\"filename\":\"a.png\"}", "`size`"),
            ("{\"filename\":\"a.png\",\"size\":\"1\"}", "number"),
            ("{\"filename\":\"a.png\",\"size\":-1}", "whole number of bytes"),
            ("{\"filename\":7,\"size\":1}", "a string"),
            ("{\"filename\":\"a.png\",\"size\":1,\"more\":1}", "`more`"),
            ("{", "not valid JSON"),
            ("", "not valid JSON"),
        ] {
            let Err(error) = read("application/json", body).await else { panic!("{body} is accepted") };
            let text = error.to_string();
            assert!(text.contains(named), "{body}: {text}");
            for rust in ["UploadRequest", "struct", "u64", "Option", "target type", "deserialize"] {
                assert!(!text.contains(rust), "{body}: {text}");
            }
        }
    }

    #[tokio::test]
    async fn too_long_and_interrupted_bodies_are_errors() {
        let read = async |chunk: Result<Vec<u8>, Error>| {
            let body = Body::from_stream(futures::stream::iter([chunk]));
            let request = Request::post("/").header(header::CONTENT_TYPE, "application/json").body(body).unwrap();
            JsonBody::<UploadRequest>::from_request(request, &()).await.err().unwrap()
        };
        assert_eq!(read(Ok(vec![b' '; MAX_JSON + 1])).await.code(), "invalid_request");
        assert!(matches!(read(Err(Error::ClientTooSlow { seconds: 7 })).await, Error::ClientTooSlow { seconds: 7 }));
    }

    #[tokio::test]
    async fn json_content_type_is_required() {
        const BODY: &str = "{\"filename\":\"a.png\",\"size\":1}";
        for content_type in ["application/json", "Application/JSON; charset=utf-8", "application/x+json"] {
            assert!(read(content_type, BODY).await.is_ok(), "{content_type}");
        }
        for other in ["text/plain", "text/json", "", "application/jsonx"] {
            assert!(matches!(read(other, BODY).await, Err(Error::NotJson)), "{other}");
        }
        let compressed = Request::post("/").header(header::CONTENT_TYPE, "application/json");
        let compressed = compressed.header(header::CONTENT_ENCODING, "gzip").body(BODY.into()).unwrap();
        let read = JsonBody::<UploadRequest>::from_request(compressed, &()).await;
        assert!(matches!(read, Err(Error::ContentEncoding)));
    }
}
