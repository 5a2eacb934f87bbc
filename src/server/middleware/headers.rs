//! What browsers are told with every answer, refusals and preflights too.
//!
//! HTTPS (`Strict-Transport-Security`) is the business of what ends TLS in front of the service.

use axum::Router;
use http::{HeaderName, HeaderValue, header};
use tower_http::set_header::SetResponseHeaderLayer;

pub const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Nothing here is a document that loads anything or lies in a frame; the pages that are have their own policy.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

/// Adds each header where an answer does not have it.
pub fn protected<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    let unless_set = |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    router.layer((
        unless_set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        unless_set(header::REFERRER_POLICY, "no-referrer"),
        // Most answers hold links that end, or a state that passes; what may be kept says so itself.
        unless_set(header::CACHE_CONTROL, "no-store"),
        unless_set(header::CONTENT_SECURITY_POLICY, NOTHING),
        // For what is taken without asking (`<img>`, `<script>`). Pages allowed by CORS ask, and are not concerned.
        unless_set(CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    ))
}
