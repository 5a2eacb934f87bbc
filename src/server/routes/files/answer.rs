//! The responses of `/files`, in the headers of the request's protocol.

use axum::Json;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use std::time::SystemTime;

use super::headers::{UPLOAD_EXPIRES, UPLOAD_LENGTH, UPLOAD_LIMIT, UPLOAD_OFFSET, single};
use super::ietf::{self, UPLOAD_COMPLETE, UPLOAD_DRAFT_INTEROP_VERSION};
use super::protocol::Protocol;
use super::tus::{self, TUS_EXTENSION, TUS_MAX_SIZE, TUS_RESUMABLE, TUS_VERSION, UPLOAD_DEFER_LENGTH, UPLOAD_METADATA};
use crate::auth::tokens::PLAN_LIFETIME;
use crate::error::Error;
use crate::server::routes::upload::StoredImage;

const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// The limits of an upload, or of those that can be created.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum length of the file in bytes.
    pub max_size: u64,
    /// Maximum length of a request's body in bytes, if it is smaller.
    pub max_append: Option<u64>,
    /// When the upload expires. `None` if it was not created yet.
    pub expires_at: Option<SystemTime>,
}

impl Limits {
    /// Returns the value of `Upload-Limit`.
    ///
    /// There is no `min-append-size`: a request may bring any number of bytes.
    fn value(&self) -> String {
        let left = |expires: SystemTime| expires.duration_since(SystemTime::now()).unwrap_or_default();
        let max_age = self.expires_at.map_or(PLAN_LIFETIME, left).as_secs();
        let max_append = self.max_append.map(|size| format!(", max-append-size={size}")).unwrap_or_default();
        format!("max-size={}, min-size=1{max_append}, max-age={max_age}", self.max_size)
    }
}

/// How far an upload is, as its client learns it.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub offset: u64,
    /// `None` if it is not known yet.
    pub length: Option<u64>,
    pub is_complete: bool,
}

/// Builds the responses to a request.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub protocol: Protocol,
    pub limits: Limits,
}

impl Answer {
    /// The response to the creation of an upload. `image` is set if the upload is already complete and the client accepts
    /// JSON.
    pub fn created(&self, url: &str, position: Position, image: Option<StoredImage>) -> Response {
        let mut response = with_body(StatusCode::CREATED, image);
        set(response.headers_mut(), header::LOCATION, url);
        self.add_position(response.headers_mut(), position);
        response
    }

    /// The response to a request that appended bytes.
    pub fn appended(&self, position: Position, image: Option<StoredImage>) -> Response {
        let status = if image.is_some() { StatusCode::OK } else { StatusCode::NO_CONTENT };
        let mut response = with_body(status, image);
        self.add_position(response.headers_mut(), position);
        response
    }

    /// The response to a request for the state of an upload. `metadata` are those that a tus client has sent when it created
    /// the upload.
    pub fn state(&self, position: Position, metadata: Option<&str>) -> Response {
        // Some tus clients accept 200 only.
        let status = if self.protocol == Protocol::Tus { StatusCode::OK } else { StatusCode::NO_CONTENT };
        let mut response = status.into_response();
        self.add_state(response.headers_mut(), position);
        if let (Protocol::Tus, Some(metadata)) = (self.protocol, metadata) {
            set(response.headers_mut(), UPLOAD_METADATA, metadata);
        }
        response
    }

    /// The response to a GET request: the image, if the upload is complete.
    pub fn retrieved(&self, position: Position, image: Option<StoredImage>) -> Response {
        let mut response = self.appended(position, image);
        self.add_state(response.headers_mut(), position);
        response
    }

    /// Adds the headers of an error response.
    pub fn error(&self, error: Error) -> Response {
        let mut response = error.into_response();
        let is_limit = response.status() == StatusCode::PAYLOAD_TOO_LARGE;
        let headers = response.headers_mut();
        if is_limit || self.protocol == Protocol::Ietf {
            set(headers, UPLOAD_LIMIT, &self.limits.value());
        }
        if self.protocol == Protocol::Ietf {
            set(headers, UPLOAD_COMPLETE, "?0");
        }
        response
    }

    fn add_position(&self, headers: &mut HeaderMap, position: Position) {
        headers.insert(UPLOAD_OFFSET, HeaderValue::from(position.offset));
        match (self.protocol, self.limits.expires_at) {
            (Protocol::Tus, Some(expires_at)) if !position.is_complete => {
                set(headers, UPLOAD_EXPIRES, &httpdate::fmt_http_date(expires_at));
            }
            (Protocol::Tus, _) => {}
            (Protocol::Ietf, _) => {
                set(headers, UPLOAD_COMPLETE, if position.is_complete { "?1" } else { "?0" });
                set(headers, UPLOAD_LIMIT, &self.limits.value());
            }
        }
    }

    fn add_state(&self, headers: &mut HeaderMap, position: Position) {
        self.add_position(headers, position);
        match position.length {
            Some(length) => drop(headers.insert(UPLOAD_LENGTH, HeaderValue::from(length))),
            None if self.protocol == Protocol::Tus => set(headers, UPLOAD_DEFER_LENGTH, "1"),
            None => {}
        }
        set(headers, header::CACHE_CONTROL, "no-store");
    }
}

fn with_body(status: StatusCode, image: Option<StoredImage>) -> Response {
    match image {
        Some(image) => (status, Json(image)).into_response(),
        None => status.into_response(),
    }
}

/// The response to an `OPTIONS` request: what both protocols support, and the limits.
pub fn options(limits: &Limits) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    set(headers, TUS_RESUMABLE, tus::VERSION);
    set(headers, TUS_VERSION, tus::VERSION);
    set(headers, TUS_EXTENSION, tus::EXTENSIONS);
    headers.insert(TUS_MAX_SIZE, HeaderValue::from(limits.max_size));
    set(headers, UPLOAD_LIMIT, &limits.value());
    set(headers, ACCEPT_PATCH, &format!("{}, {}", tus::BODY_TYPE, ietf::BODY_TYPE));
    response
}

/// Adds the version of the request's protocol to every response of `/files`, and rejects other versions of tus.
pub async fn speak_version(request: Request, next: Next) -> Response {
    let protocol = Protocol::of(request.headers());
    let is_other = protocol == Protocol::Tus && single(request.headers(), &TUS_RESUMABLE) != Some(tus::VERSION);
    let mut response = if is_other && request.method() != Method::OPTIONS {
        let mut response = Error::TusVersion.into_response();
        set(response.headers_mut(), TUS_VERSION, tus::VERSION);
        response
    } else {
        next.run(request).await
    };
    let (name, version) = match protocol {
        Protocol::Tus => (TUS_RESUMABLE, tus::VERSION),
        Protocol::Ietf => (UPLOAD_DRAFT_INTEROP_VERSION, ietf::INTEROP_VERSION),
    };
    set(response.headers_mut(), name, version);
    response
}

/// Sets a header to a text that was built here, and therefore consists of visible characters.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn limits_are_a_dictionary() {
        let limits = Limits { max_size: 9, max_append: None, expires_at: None };
        assert_eq!(limits.value(), "max-size=9, min-size=1, max-age=86400");
        let ended = SystemTime::now() - Duration::from_secs(1);
        let limits = Limits { max_size: 9, max_append: Some(7), expires_at: Some(ended) };
        assert_eq!(limits.value(), "max-size=9, min-size=1, max-append-size=7, max-age=0");
    }
}
