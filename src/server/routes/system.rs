//! Routes about the service itself: limits, metrics and health.

use axum::extract::State;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use http::header;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

use crate::direct::presign;
use crate::error::{Error, Result};
use crate::policy::MAX_SIDE;
use crate::server::App;
use crate::server::middleware::authority::Authority;
use crate::server::openapi::{SERVICE, answers};
use crate::server::request::Invocation;
use crate::store::ImageKey;

/// The limits that apply to uploads, and the upload methods.
#[derive(Debug, Serialize, ToSchema)]
pub struct Limits {
    /// Maximum size of an image in bytes, for all upload methods.
    #[schema(examples(5_000_000_000_u64))]
    pub max_upload_size: u64,
    /// Maximum size in bytes of an image in `POST /upload-image` or `POST /images`. It is smaller on Lambda, because
    /// the size of Lambda events is limited.
    #[schema(examples(4_694_016))]
    pub max_stream_size: u64,
    /// Maximum size in bytes of an image that `POST /uploads` plans as one presigned PUT. Larger images are uploaded
    /// in parts.
    #[schema(examples(104_857_600))]
    pub direct_put_max: u64,
    /// Maximum number of pixels of an image (width times height). 0 means no limit.
    #[schema(examples(268_435_456))]
    pub max_pixels: u64,
    /// Maximum width and maximum height in pixels. It applies only if `max_pixels` is not 0.
    #[schema(examples(65_535))]
    pub max_side: u64,
    /// The dimensions of an image must be found within this many bytes from its start.
    #[schema(examples(5_242_880))]
    pub header_scan_limit: usize,
    /// The accepted image formats.
    pub formats: Vec<FormatLimits>,
    /// The available upload methods: `form` and `raw` (a form or the bytes as the body of `POST /upload-image`), `put`
    /// and `multipart` (one presigned PUT or several parts, planned by `POST /uploads`), `companion` (the routes of
    /// Uppy's Companion, `/s3/*`), and `resumable` (tus or the IETF's resumable uploads, at `/files`).
    #[schema(examples("form"))]
    pub upload_methods: Vec<&'static str>,
    /// Whether uploads require an API key or a grant.
    #[schema(examples(true))]
    pub key_required: bool,
    /// With a grant: when it expires (RFC 3339, UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime, examples("2026-11-22T12:15:00Z"))]
    pub expires_at: Option<String>,
    /// With a grant for exactly one image: the key of that image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ImageKey, required = false)]
    pub s3_key: Option<String>,
}

/// An accepted image format.
#[derive(Debug, Serialize, ToSchema)]
pub struct FormatLimits {
    /// The short name of the format.
    #[schema(examples("jpeg"))]
    pub name: &'static str,
    /// The media type of the format.
    #[schema(examples("image/jpeg"))]
    pub content_type: &'static str,
    /// The accepted file name extensions, without the dot. Case does not matter.
    #[schema(value_type = Vec<String>, examples("jpg"))]
    pub extensions: Vec<&'static str>,
}

/// The health of the service.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok` from `/healthz`, `ready` from `/readyz`.
    #[schema(examples("ok"))]
    pub status: &'static str,
}

/// Returns the size limits, the accepted formats and the upload methods, so that a client can choose among them. With a grant
/// these are the limits of the grant.
#[utoipa::path(get, path = "/limits", tag = SERVICE,
    responses((status = 200, description = "The limits.", body = Limits), answers::Limits))]
pub async fn limits(
    State(app): State<App>,
    authority: Option<Authority>,
    invocation: Option<Extension<Invocation>>,
) -> Json<Limits> {
    let authority = authority.unwrap_or(Authority::Open);
    let policy = &authority.limit(Arc::clone(&app.policy));
    let streams = Invocation::policy(invocation.as_deref(), policy);
    let grant = authority.grant();
    let formats = policy.byte_formats().map(|format| FormatLimits {
        name: format.name(),
        content_type: format.content_type(),
        extensions: format.file_extensions().collect(),
    });
    Json(Limits {
        max_upload_size: policy.max_upload_size,
        max_stream_size: streams.max_upload_size,
        direct_put_max: app.config.direct.put_max.min(policy.max_upload_size),
        max_pixels: policy.max_pixels,
        max_side: MAX_SIDE,
        header_scan_limit: policy.header_scan_limit,
        formats: formats.collect(),
        upload_methods: vec!["form", "raw", "put", "multipart", "companion", "resumable"],
        key_required: !app.config.auth.keys.is_empty(),
        expires_at: grant.map(|grant| presign::rfc3339(grant.expires_at)),
        s3_key: grant.and_then(|grant| grant.key.clone()),
    })
}

/// Returns metrics for Prometheus.
///
/// Requires an API key, with any scope. Clients on the service's own machine need no key, unless the request comes from
/// a browser page or through a proxy.
#[utoipa::path(get, path = "/metrics", tag = SERVICE,
    responses((status = 200, description = "Prometheus text format.", body = String, content_type = "text/plain")))]
pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.scrape())
}

/// Checks that the process is running (liveness).
#[utoipa::path(get, path = "/healthz", tag = SERVICE,
    responses((status = 200, description = "The process is running.", body = Health)))]
pub async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Checks that the process accepts requests and that the bucket is reachable (readiness).
///
/// Returns 503 also while the process is shutting down. The bucket is checked at most every two seconds, regardless of
/// the number of calls. The check writes nothing.
#[utoipa::path(get, path = "/readyz", tag = SERVICE,
    responses(
        (status = 200, description = "The service is ready.", body = Health, example = json!({ "status": "ready" })),
        answers::Ready,
    ))]
pub async fn readyz(State(app): State<App>) -> Result<Json<Health>> {
    if app.is_draining() {
        return Err(Error::NotReady { reason: "it is stopping", source: None });
    }
    app.readiness.check().await?;
    Ok(Json(Health { status: "ready" }))
}
