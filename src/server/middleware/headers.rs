//! Security headers of every response, including errors and preflights.
//!
//! `Strict-Transport-Security` is not among them: it belongs to the proxy that terminates TLS.

use axum::Router;
use http::{HeaderName, HeaderValue, header};
use tower_http::set_header::SetResponseHeaderLayer;

use super::shared::Shared;

pub const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Allows documents to load nothing and to be in no frame. The pages of the service set their own policy.
const LOAD_NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

/// Adds each header to the responses that do not have it.
pub fn protected<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    let unless_set = |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    router.layer((
        unless_set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        unless_set(header::REFERRER_POLICY, "no-referrer"),
        // Most responses contain links that expire, or a state that changes. Cacheable responses set this themselves.
        unless_set(header::CACHE_CONTROL, "no-store"),
        unless_set(header::CONTENT_SECURITY_POLICY, LOAD_NOTHING),
        // This applies to requests without CORS (`<img>`, `<script>`). Requests with CORS are not affected.
        unless_set(CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
        Shared,
    ))
}
