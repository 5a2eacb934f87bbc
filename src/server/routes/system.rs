//! What the service says of itself.

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

/// What a client may send, and how.
#[derive(Debug, Serialize, ToSchema)]
pub struct Limits {
    /// The largest image, in bytes.
    #[schema(examples(5_000_000_000_u64))]
    pub max_upload_size: u64,
    /// The largest image `POST /upload-image` takes, in bytes; smaller on Lambda, whose events are limited.
    #[schema(examples(4_694_016))]
    pub max_stream_size: u64,
    /// The largest image planned as one presigned PUT, in bytes; larger ones are planned in parts.
    #[schema(examples(104_857_600))]
    pub direct_put_max: u64,
    /// Width times height; 0: any.
    #[schema(examples(268_435_456))]
    pub max_pixels: u64,
    /// Pixels of each side, where `max_pixels` is not 0.
    #[schema(examples(65_535))]
    pub max_side: u64,
    /// An image must show its dimensions within this many bytes.
    #[schema(examples(5_242_880))]
    pub header_scan_limit: usize,
    /// What is taken.
    pub formats: Vec<FormatLimits>,
    /// How an image may come in.
    #[schema(examples("form"))]
    pub doors: Vec<&'static str>,
    /// Of a grant: when it ends, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime, examples("2026-11-22T12:15:00Z"))]
    pub expires_at: Option<String>,
    /// Of a grant for exactly one image: the key that it will have.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ImageKey, required = false)]
    pub s3_key: Option<String>,
}

/// An image format that is taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct FormatLimits {
    /// Its short name.
    #[schema(examples("jpeg"))]
    pub name: &'static str,
    /// Its media type.
    #[schema(examples("image/jpeg"))]
    pub content_type: &'static str,
    /// The extensions its files may have, in any case.
    #[schema(value_type = Vec<String>, examples("jpg"))]
    pub extensions: Vec<&'static str>,
}

/// How the service is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok` of `/healthz`, `ready` of `/readyz`.
    #[schema(examples("ok"))]
    pub status: &'static str,
}

/// The sizes, formats and doors in force, so that a client can choose; with a grant those of the grant.
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
        doors: vec!["form", "raw", "put", "multipart"],
        expires_at: grant.map(|grant| presign::rfc3339(grant.expires_at)),
        s3_key: grant.and_then(|grant| grant.key.clone()),
    })
}

/// Numbers for Prometheus.
///
/// Answered with any API key, whatever its scope, and to clients on the service's own machine that neither a proxy nor a page
/// stands between.
#[utoipa::path(get, path = "/metrics", tag = SERVICE,
    responses((status = 200, description = "In Prometheus' text format.", body = String, content_type = "text/plain")))]
pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.scrape())
}

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = SERVICE,
    responses((status = 200, description = "It does.", body = Health)))]
pub async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether the process takes work, and the bucket answers.
///
/// 503 also while it is stopping. The bucket is asked at most every two seconds, whoever calls how often; it is never
/// written to.
#[utoipa::path(get, path = "/readyz", tag = SERVICE,
    responses(
        (status = 200, description = "They do.", body = Health, example = json!({ "status": "ready" })),
        answers::Ready,
    ))]
pub async fn readyz(State(app): State<App>) -> Result<Json<Health>> {
    if app.is_draining() {
        return Err(Error::NotReady { reason: "it is stopping", source: None });
    }
    app.readiness.check().await?;
    Ok(Json(Health { status: "ready" }))
}
