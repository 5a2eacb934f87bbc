//! CORS: which origins may call the service, which headers they may send and which response headers they may read
//! (Fetch, "HTTP-CORS protocol").

use axum::Router;
use axum::extract::Request;
use http::{HeaderName, HeaderValue, Method, header};
use std::time::Duration;
use tower::util::MapRequestLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::access_log::REQUEST_ID;
use super::authority::API_KEY;
use super::shared::Shared;
use crate::server::request::X_BASE_URL;
use crate::telemetry::trace;

/// How long a browser may cache the response to a preflight.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The request headers that browsers may send. A file without a media type has a name in `Content-Disposition`. Dropzone
/// sends `Cache-Control` and `X-Requested-With`. tus-js-client, Uppy and the IETF's resumable uploads use the `Tus-…`,
/// `Upload-…`, `Idempotency-Key` and `X-HTTP-Method-Override` headers.
const REQUEST: [HeaderName; 20] = [
    header::CONTENT_TYPE,
    header::CONTENT_DISPOSITION,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    API_KEY,
    REQUEST_ID,
    X_BASE_URL,
    trace::TRACEPARENT,
    trace::TRACESTATE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("tus-resumable"),
    HeaderName::from_static("upload-complete"),
    HeaderName::from_static("upload-concat"),
    HeaderName::from_static("upload-defer-length"),
    HeaderName::from_static("upload-draft-interop-version"),
    HeaderName::from_static("upload-length"),
    HeaderName::from_static("upload-metadata"),
    HeaderName::from_static("upload-offset"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-requested-with"),
];

/// The response headers that pages may read.
const RESPONSE: [HeaderName; 16] = [
    header::ETAG,
    header::LOCATION,
    header::RETRY_AFTER,
    REQUEST_ID,
    HeaderName::from_static("tus-extension"),
    HeaderName::from_static("tus-max-size"),
    HeaderName::from_static("tus-resumable"),
    HeaderName::from_static("tus-version"),
    HeaderName::from_static("upload-complete"),
    HeaderName::from_static("upload-defer-length"),
    HeaderName::from_static("upload-draft-interop-version"),
    HeaderName::from_static("upload-expires"),
    HeaderName::from_static("upload-length"),
    HeaderName::from_static("upload-limit"),
    HeaderName::from_static("upload-metadata"),
    HeaderName::from_static("upload-offset"),
];

/// Allows `origins` to call `routes`. A single `*` allows every origin; an empty list allows none.
///
/// The CORS layer responds to every `OPTIONS` request itself, although only one with `Access-Control-Request-Method` is a
/// preflight. Other ones are therefore shown to it as `GET`, so that they reach their route.
pub fn allow<S: Clone + Send + Sync + 'static>(routes: Router<S>, origins: &[String]) -> Router<S> {
    routes.layer((MapRequestLayer::new(hide_options), cors(origins), MapRequestLayer::new(restore_options), Shared))
}

/// An extension of `OPTIONS` requests that are no preflights.
#[derive(Clone)]
struct PlainOptions;

fn hide_options(mut request: Request) -> Request {
    let is_preflight = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() == Method::OPTIONS && !is_preflight {
        request.extensions_mut().insert(PlainOptions);
        *request.method_mut() = Method::GET;
    }
    request
}

fn restore_options(mut request: Request) -> Request {
    if request.extensions_mut().remove::<PlainOptions>().is_some() {
        *request.method_mut() = Method::OPTIONS;
    }
    request
}

fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers(REQUEST)
        .expose_headers(RESPONSE)
        .max_age(MAX_AGE)
}
