//! Converts a response into the answer format of the event's sender.

use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde::Serialize;
use std::collections::BTreeMap;

use super::request::Shape;
use crate::error::BoxError;

/// The answer to an HTTP event. Each sender uses the fields that it knows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpAnswer {
    status_code: u16,
    /// Only for an ALB, for example `200 OK`.
    #[serde(skip_serializing_if = "Option::is_none")]
    status_description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_headers: Option<BTreeMap<String, Vec<String>>>,
    /// Only for payload format 2.0. It is always empty, but cargo-lambda requires it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cookies: Option<[(); 0]>,
    body: String,
    is_base64_encoded: bool,
}

impl HttpAnswer {
    /// Converts a response. `head` means that the request's method was HEAD. Content-Length then refers to a body that
    /// is not sent, and is kept.
    pub async fn of(response: Response<Body>, shape: Shape, head: bool) -> Result<HttpAnswer, BoxError> {
        let (mut parts, body) = response.into_parts();
        if !head {
            // The sender determines the length itself.
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        let (body, is_base64_encoded) = match String::from_utf8(body.collect().await?.to_bytes().into()) {
            Ok(text) => (text, false),
            Err(bytes) => (STANDARD.encode(bytes.as_bytes()), true),
        };
        let several = matches!(shape, Shape::V1 | Shape::Alb { multi_value: true });
        Ok(HttpAnswer {
            status_code: parts.status.as_u16(),
            status_description: matches!(shape, Shape::Alb { .. }).then(|| description(parts.status)),
            headers: (!several).then(|| joined(&parts.headers)),
            multi_value_headers: several.then(|| multi_value(&parts.headers)),
            cookies: (shape == Shape::V2).then_some([]),
            body,
            is_base64_encoded,
        })
    }
}

fn description(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("Unknown"))
}

fn multi_value(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let values = |name| headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into());
    headers.keys().map(|name| (name.to_string(), values(name).collect())).collect()
}

/// Joins the values of each header. Set-Cookie is the only header whose values cannot be joined, and this service sets
/// no cookies.
fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    multi_value(headers).into_iter().map(|(name, values)| (name, values.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    async fn answer(shape: Shape, head: bool, body: &'static [u8]) -> Value {
        let response = Response::builder()
            .status(404)
            .header("vary", "origin")
            .header("vary", "accept")
            .header("content-length", "7")
            .body(Body::from(body));
        serde_json::to_value(HttpAnswer::of(response.unwrap(), shape, head).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn headers_have_the_form_that_the_sender_requires() {
        let single = json!({"vary": "origin, accept"});
        let several = json!({"vary": ["origin", "accept"]});
        let v2 = answer(Shape::V2, false, b"text").await;
        let text = json!({
            "statusCode": 404, "headers": single, "cookies": [], "body": "text", "isBase64Encoded": false
        });
        assert_eq!(v2, text);
        let v1 = answer(Shape::V1, false, b"").await;
        assert_eq!(v1, json!({"statusCode": 404, "multiValueHeaders": several, "body": "", "isBase64Encoded": false}));
        let alb = answer(Shape::Alb { multi_value: false }, false, b"").await;
        assert_eq!((&alb["statusDescription"], &alb["headers"]), (&json!("404 Not Found"), &single));
        assert_eq!(answer(Shape::Alb { multi_value: true }, false, b"").await["multiValueHeaders"], several);
    }

    #[tokio::test]
    async fn binary_bodies_are_base64_and_head_keeps_its_length() {
        let bytes = answer(Shape::V2, true, b"\xff").await;
        assert_eq!((&bytes["body"], &bytes["isBase64Encoded"]), (&json!("/w=="), &json!(true)));
        assert_eq!(bytes["headers"]["content-length"], "7");
    }
}
