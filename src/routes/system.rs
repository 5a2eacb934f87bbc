//! What the service says of itself.

use axum::extract::State;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use http::header;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

use crate::app::App;
use crate::error::{Error, Result};
use crate::policy::MAX_SIDE;
use crate::transport::Invocation;

/// The store must answer a readiness probe within this time.
const READY_TIMEOUT: Duration = Duration::from_secs(3);

/// What a client may send, and how.
#[derive(Debug, Serialize)]
pub struct Limits {
    /// The largest image, in bytes.
    pub max_upload_size: u64,
    /// The largest image `POST /upload-image` takes, in bytes; smaller on Lambda, whose events are limited.
    pub max_stream_size: u64,
    /// The largest image planned as one presigned PUT, in bytes; larger ones are planned in parts.
    pub direct_put_max: u64,
    /// Width times height; 0: any.
    pub max_pixels: u64,
    /// Pixels of each side, where `max_pixels` is not 0.
    pub max_side: u64,
    /// An image must show its dimensions within this many bytes.
    pub header_scan_limit: usize,
    pub formats: Vec<FormatLimits>,
    /// How an image may come in.
    pub doors: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub struct FormatLimits {
    pub name: &'static str,
    pub content_type: &'static str,
    pub extensions: &'static [&'static str],
}

/// `GET /limits`.
pub async fn limits(State(app): State<App>, invocation: Option<Extension<Invocation>>) -> Json<Limits> {
    let policy = &app.policy;
    let streams = Invocation::policy(invocation.as_deref(), policy);
    let formats = policy.formats.iter().map(|format| FormatLimits {
        name: format.name(),
        content_type: format.content_type(),
        extensions: format.extensions(),
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
    })
}

/// `GET /metrics`: for Prometheus.
pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.scrape())
}

/// `GET /healthz`: the process answers.
pub async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /readyz`: the process takes work, and the bucket answers.
pub async fn readyz(State(app): State<App>) -> Result<Json<Value>> {
    if app.is_draining() {
        return Err(Error::NotReady { reason: "it is stopping", source: None });
    }
    match tokio::time::timeout(READY_TIMEOUT, app.store.ping()).await {
        Ok(Ok(())) => Ok(Json(json!({ "status": "ready" }))),
        Ok(Err(error)) => Err(Error::NotReady { reason: "the store refuses", source: Some(error.into()) }),
        Err(late) => Err(Error::NotReady { reason: "the store does not answer", source: Some(late.into()) }),
    }
}
