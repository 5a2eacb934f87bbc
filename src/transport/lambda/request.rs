//! Converts an event into the HTTP request that it describes.

use form_urlencoded::Serializer;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use std::collections::BTreeMap;

use super::body::EventBody;
use super::path;
use super::payload::Payload;
use crate::error::BoxError;
use crate::server::request::BasePath;

/// Maximum payload of a synchronous invocation, in bytes.
const PAYLOAD_LIMIT: u64 = 6_291_456;
/// Maximum request body that an ALB accepts for a function (1 MB), in bytes.
const ALB_LIMIT: u64 = 1_000_000;
/// Allowance in bytes for the rest of an event (headers, cookies, context) and for the rest of a form.
const OVERHEAD: u64 = 32 << 10;

/// Characters that a URI may not contain. They are escaped if a path or a query contains them.
const NOT_IN_URI: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'#').add(b'`').add(b'{').add(b'}');
const NOT_IN_PATH: &AsciiSet = &NOT_IN_URI.add(b'?');

/// The format of an HTTP event and of its answer, which depends on the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A function URL or an HTTP API, payload format 2.0.
    V2,
    /// A REST API, or an HTTP API with payload format 1.0.
    V1,
    /// An application load balancer. It requires the headers of the answer in the same form as those of the request.
    Alb { multi_value: bool },
}

impl Shape {
    /// Returns the size in bytes of the largest image that such an event can contain. The body is in base64, which
    /// encodes three bytes as four.
    pub fn max_stream(self) -> u64 {
        match self {
            Shape::V2 | Shape::V1 => (PAYLOAD_LIMIT - OVERHEAD) / 4 * 3,
            Shape::Alb { .. } => ALB_LIMIT - OVERHEAD,
        }
    }
}

/// The request of an HTTP event.
#[derive(Debug)]
pub struct HttpEvent {
    pub shape: Shape,
    pub request: Request<EventBody>,
}

impl HttpEvent {
    /// Returns the request that the payload describes. `None` if it describes no request.
    pub(super) fn of(mut payload: Payload<'_>) -> Result<Option<HttpEvent>, BoxError> {
        let Some((shape, method)) = shape(&payload) else {
            return Ok(None);
        };
        let path = match shape {
            Shape::V2 => payload.raw_path.as_deref(),
            Shape::V1 | Shape::Alb { .. } => payload.path.as_deref(),
        };
        let path = path.unwrap_or_default();
        let below = path::below_base(path, resource(shape, &payload), &payload);
        let base = BasePath(path::base(path, below, &payload).to_owned());
        let target = match shape {
            Shape::V2 => target(below, payload.raw_query_string.as_deref().unwrap_or_default()),
            Shape::V1 => v1_target(below, &payload, encoded_query),
            Shape::Alb { .. } => v1_target(below, &payload, raw_query),
        };
        let mut headers = headers(&mut payload);
        let body = payload.body.take().map(|text| text.0);
        let body = EventBody::new(body, payload.is_base64_encoded.unwrap_or_default(), is_binary(&headers));
        // The length must be that of the decoded body. The length before base64 and recoding is of no use.
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRANSFER_ENCODING);
        if let Some(len) = body.len().filter(|len| *len > 0) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        }
        let mut request = Request::new(body);
        *request.method_mut() = Method::from_bytes(method.as_bytes())?;
        *request.uri_mut() = PathAndQuery::try_from(target)?.into();
        *request.headers_mut() = headers;
        request.extensions_mut().insert(base);
        Ok(Some(HttpEvent { shape, request }))
    }
}

fn shape(payload: &Payload<'_>) -> Option<(Shape, String)> {
    let context = payload.request_context.as_ref();
    if let Some(http) = context.and_then(|context| context.http.as_ref()) {
        return Some((Shape::V2, http.method.clone()));
    }
    let method = payload.http_method.clone()?;
    let alb = context.is_some_and(|context| context.elb.is_some());
    let multi_value = payload.multi_value_headers.is_some();
    Some((if alb { Shape::Alb { multi_value } } else { Shape::V1 }, method))
}

/// Returns the resource that the gateway matched.
fn resource<'a>(shape: Shape, payload: &'a Payload<'_>) -> Option<&'a str> {
    match shape {
        // `$default` contains no path.
        Shape::V2 => payload.route_key.as_deref()?.split_once(' ').map(|(_, resource)| resource),
        Shape::V1 | Shape::Alb { .. } => payload.resource.as_deref(),
    }
}

fn v1_target(path: &str, payload: &Payload<'_>, query: impl Fn(&[(&str, &str)]) -> String) -> String {
    let several = payload.multi_value_query_string_parameters.as_ref().filter(|all| !all.is_empty());
    let pairs: Vec<(&str, &str)> = match several {
        Some(all) => {
            all.iter().flat_map(|(name, values)| values.iter().map(|value| (name.as_str(), value.as_str()))).collect()
        }
        None => payload
            .query_string_parameters
            .iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect(),
    };
    target(path, &query(&pairs))
}

/// Encodes a query from API Gateway, which sends decoded names and values.
fn encoded_query(pairs: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Joins a query from an ALB, which sends names and values as they were in the URL.
fn raw_query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

fn target(path: &str, query: &str) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut target = format!("{slash}{}", utf8_percent_encode(path, NOT_IN_PATH));
    if !query.is_empty() {
        target.push('?');
        target.extend(utf8_percent_encode(query, NOT_IN_URI));
    }
    target
}

/// Returns all headers, from single or multiple values. Invalid HTTP headers are left out.
fn headers(payload: &mut Payload<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let single = payload.headers.take().unwrap_or_default();
    let several = payload.multi_value_headers.take().filter(|all| !all.is_empty());
    for (name, values) in several.unwrap_or_else(|| as_multi_value(single)) {
        let Ok(name) = HeaderName::try_from(name) else { continue };
        for value in values.into_iter().filter_map(|value| HeaderValue::try_from(value).ok()) {
            // Headers beyond the capacity of the map are left out too.
            let _ = headers.try_append(name.clone(), value);
        }
    }
    let cookies = payload.cookies.take().filter(|cookies| !cookies.is_empty());
    if let Some(cookies) = cookies.and_then(|cookies| HeaderValue::try_from(cookies.join("; ")).ok()) {
        headers.insert(header::COOKIE, cookies);
    }
    headers
}

fn as_multi_value(single: BTreeMap<String, String>) -> BTreeMap<String, Vec<String>> {
    single.into_iter().map(|(name, value)| (name, vec![value])).collect()
}

/// The media types of bodies that contain bytes of an image, besides forms and `image/*`.
const BINARY: [&str; 3] = ["application/octet-stream", "application/offset+octet-stream", "application/partial-upload"];

/// Whether the Content-Type says that the body contains an image, and therefore arbitrary bytes.
fn is_binary(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = content_type.trim().to_ascii_lowercase();
    let is_known = BINARY.iter().any(|known| content_type.starts_with(known));
    is_known || content_type.starts_with("multipart/form-data") || content_type.starts_with("image/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target_of(payload: &str) -> String {
        let event = HttpEvent::of(serde_json::from_str(payload).unwrap()).unwrap().unwrap();
        event.request.uri().to_string()
    }

    #[test]
    fn api_gateway_queries_are_encoded_and_alb_queries_are_not() {
        let query = r#""path": "/a b?é", "multiValueQueryStringParameters": {"k": ["a%20b", "c"]}"#;
        assert_eq!(target_of(&format!(r#"{{"httpMethod": "GET", {query}}}"#)), "/a%20b%3F%C3%A9?k=a%2520b&k=c");
        let elb = r#""requestContext": {"elb": {"targetGroupArn": "x"}}"#;
        assert_eq!(target_of(&format!(r#"{{"httpMethod": "GET", {elb}, {query}}}"#)), "/a%20b%3F%C3%A9?k=a%20b&k=c");
    }

    #[test]
    fn invalid_headers_are_left_out() {
        let headers = r#"{"a": "1", "no header": "2", "b": "3\n", "content-length": "99"}"#;
        let payload = format!(r#"{{"httpMethod": "POST", "path": "/", "headers": {headers}, "body": "abc"}}"#);
        let event = HttpEvent::of(serde_json::from_str(&payload).unwrap()).unwrap().unwrap();
        let headers = event.request.headers();
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert_eq!((&headers["a"], &headers["content-length"]), (&"1".parse().unwrap(), &"3".parse().unwrap()));
    }

    #[test]
    fn image_of_the_maximum_size_fits_into_an_event() {
        let base64 = |size: u64| size.div_ceil(3) * 4;
        assert!(base64(Shape::V2.max_stream()) + OVERHEAD <= PAYLOAD_LIMIT);
        assert_eq!(Shape::V1.max_stream(), 4_694_016);
        assert_eq!(Shape::Alb { multi_value: false }.max_stream(), 967_232);
    }
}
