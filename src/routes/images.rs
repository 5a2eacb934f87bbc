//! Images that are there: reading them, linking to them, deleting them.

use axum::Json;
use axum::extract::{Path, State, rejection::PathRejection};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::SystemTime;

use super::request_host;
use crate::app::App;
use crate::app::headers::CROSS_ORIGIN_RESOURCE_POLICY;
use crate::error::{Error, Result};
use crate::store::{ImageKey, Name, ObjectInfo};
use crate::telemetry::{field, note};

type KeyPath = Result<Path<String>, PathRejection>;

/// Any page may show an image (`<img>`), and a browser asks this of the redirect, too.
const EMBEDDABLE: (HeaderName, HeaderValue) = (CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));

/// A link to an image and what is known of it.
#[derive(Debug, Serialize)]
pub struct ImageLink {
    /// A presigned GET.
    pub url: String,
    pub s3_key: String,
    pub content_type: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Pixels.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// When `url` ends, RFC 3339; temporary credentials may end it sooner.
    pub expires_at: String,
}

/// `GET /images/{s3_key}`: sends the client on to the store.
pub async fn redirect(State(app): State<App>, uri: Uri, headers: HeaderMap, key: KeyPath) -> Result<Response> {
    let name = image(key)?;
    app.store.head(&name).await?;
    let link = app.store.presign_get(&name, &app.read_link(request_host(&uri, &headers))).await?;
    // A redirect that is used again from a cache must still lead to a link with some life in it.
    let left = link.expires_at.duration_since(SystemTime::now()).unwrap_or_default();
    let cache = format!("private, max-age={}", left.as_secs() / 2);
    let headers = [(header::LOCATION, link.url), (header::CACHE_CONTROL, cache)];
    Ok((StatusCode::TEMPORARY_REDIRECT, [EMBEDDABLE], headers).into_response())
}

/// `HEAD /images/{s3_key}`: answers itself, with the image's own headers.
pub async fn head(State(app): State<App>, key: KeyPath) -> Result<Response> {
    let found = app.store.head(&image(key)?).await?;
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(found.size));
    let mut set = |name, value: Option<String>| {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, found.content_type);
    set(header::ETAG, found.etag);
    set(header::LAST_MODIFIED, found.last_modified.map(httpdate));
    Ok(response)
}

/// `GET /images/{s3_key}/url`: the link itself.
pub async fn url(State(app): State<App>, uri: Uri, headers: HeaderMap, key: KeyPath) -> Result<Json<ImageLink>> {
    let name = image(key)?;
    let ObjectInfo { size, content_type, dimensions, .. } = app.store.head(&name).await?;
    let link = app.store.presign_get(&name, &app.read_link(request_host(&uri, &headers))).await?;
    let (width, height) = dimensions.unzip();
    Ok(Json(ImageLink {
        url: link.url,
        s3_key: name.key().to_string(),
        content_type,
        size,
        width,
        height,
        expires_at: humantime::format_rfc3339_seconds(link.expires_at).to_string(),
    }))
}

/// `DELETE /delete/{s3_key}`. S3 deletes what is not there without a word, so this looks first.
pub async fn delete(State(app): State<App>, key: KeyPath) -> Result<Json<Value>> {
    let name = image(key)?;
    app.store.head(&name).await?;
    app.store.delete(&name).await?;
    Ok(Json(json!({ "detail": format!("File '{}' deleted successfully", name.key()) })))
}

/// The image a path names. What cannot be a key is not there: the store is not asked.
fn image(path: KeyPath) -> Result<Name> {
    let key = path.ok().and_then(|Path(text)| ImageKey::parse(&text)).ok_or(Error::NotFound)?;
    note(field::S3_KEY, key.as_str());
    Ok(Name::Image(key))
}

fn httpdate(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}
