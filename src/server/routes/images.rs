//! Images that are there: reading them, linking to them, deleting them.

use axum::Json;
use axum::extract::{Path, State, rejection::PathRejection};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::SystemTime;
use utoipa::{IntoParams, ToSchema};

use super::ServiceBase;
use super::upload::metadata_schema;
use crate::error::{Error, Result};
use crate::server::App;
use crate::server::middleware::access_log::{field, record_field};
use crate::server::middleware::headers::CROSS_ORIGIN_RESOURCE_POLICY;
use crate::server::openapi::{IMAGES, answers};
use crate::store::{CustomMetadata, ImageKey, ObjectInfo, ObjectName, StoreError};

type KeyPath = Result<Path<String>, PathRejection>;

/// Any page may show an image (`<img>`), and a browser asks this of the redirect, too.
const EMBEDDABLE: (HeaderName, HeaderValue) = (CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));

/// The path of every route that names an image.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct KeyInPath {
    /// The image's key, as the answer to its upload gave it.
    pub s3_key: ImageKey,
}

/// A link to an image and what is known of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageLink {
    /// A presigned GET of the store; whoever has it can read the image until `expires_at`.
    #[schema(
        format = "uri",
        examples("https://s3.example/photos/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.jpg?X-Amz-Signature=8f1e")
    )]
    pub url: String,
    #[schema(value_type = ImageKey)]
    pub s3_key: String,
    /// The image's media type, by its bytes.
    #[schema(required, examples("image/jpeg"))]
    pub content_type: Option<String>,
    /// Bytes.
    #[schema(examples(482_113))]
    pub size: u64,
    /// Pixels; null of an object that did not come through this service.
    #[schema(required, examples(4032))]
    pub width: Option<u32>,
    /// Pixels; null of an object that did not come through this service.
    #[schema(required, examples(3024))]
    pub height: Option<u32>,
    /// What the grant's issuer wanted to be kept with the image.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false, schema_with = metadata_schema)]
    pub metadata: CustomMetadata,
    /// When `url` ends, RFC 3339: after `READ_URL_TTL`, or with the credentials that signed it if they say that they end
    /// earlier (those of a Lambda function do not).
    #[schema(format = DateTime, examples("2026-11-22T13:00:00Z"))]
    pub expires_at: String,
}

/// An image that is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// What was done, for people.
    #[schema(examples("File '0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.jpg' deleted successfully"))]
    pub detail: String,
}

/// Sends the client on to the image in the store.
///
/// The redirect may be kept for less than what is left of the link.
#[utoipa::path(get, path = "/images/{s3_key}", tag = IMAGES, operation_id = "open_image", params(KeyInPath),
    responses(
        (status = 307, description = "The image is at `Location`.", headers(
            ("Location" = String, description = "A presigned GET, good for `READ_URL_TTL` (1 h)."),
            ("Cache-Control" = String, description = "`private, max-age=<seconds>`: half of what is left of the link."),
        )),
        answers::Stored,
    ))]
pub async fn redirect(State(app): State<App>, ServiceBase(base): ServiceBase, key: KeyPath) -> Result<Response> {
    let name = image(key)?;
    app.store.head(&name).await.map_err(StoreError::or_not_found)?;
    let link = app.store.presign_get(&name, &app.read_link(base)).await?;
    // A redirect that is used again from a cache must still lead to a link with some life in it.
    let left = link.expires_at.duration_since(SystemTime::now()).unwrap_or_default();
    let cache = format!("private, max-age={}", left.as_secs() / 2);
    let headers = [(header::LOCATION, link.url), (header::CACHE_CONTROL, cache)];
    Ok((StatusCode::TEMPORARY_REDIRECT, [EMBEDDABLE], headers).into_response())
}

/// The image's own headers, without a redirect.
#[utoipa::path(head, path = "/images/{s3_key}", tag = IMAGES, operation_id = "image_headers", params(KeyInPath),
    responses(
        (status = 200, description = "The image is there.", headers(
            ("Content-Length" = u64, description = "Bytes."),
            ("Content-Type" = String, description = "The image's media type, by its bytes."),
            ("ETag" = String, description = "The store's."),
            ("Last-Modified" = String, description = "When it was stored (HTTP date)."),
        )),
        answers::Stored,
    ))]
pub async fn head(State(app): State<App>, key: KeyPath) -> Result<Response> {
    let found = app.store.head(&image(key)?).await.map_err(StoreError::or_not_found)?;
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

/// The link itself, and what is known of the image.
#[utoipa::path(get, path = "/images/{s3_key}/url", tag = IMAGES, operation_id = "image_link", params(KeyInPath),
    responses((status = 200, description = "A fresh link.", body = ImageLink), answers::Stored))]
pub async fn url(State(app): State<App>, ServiceBase(base): ServiceBase, key: KeyPath) -> Result<Json<ImageLink>> {
    let name = image(key)?;
    let ObjectInfo { size, content_type, dimensions, custom, .. } =
        app.store.head(&name).await.map_err(StoreError::or_not_found)?;
    let link = app.store.presign_get(&name, &app.read_link(base)).await?;
    let (width, height) = dimensions.unzip();
    Ok(Json(ImageLink {
        url: link.url,
        s3_key: name.key().to_string(),
        content_type,
        size,
        width,
        height,
        metadata: custom,
        expires_at: humantime::format_rfc3339_seconds(link.expires_at).to_string(),
    }))
}

/// Deletes an image.
#[utoipa::path(delete, path = "/delete/{s3_key}", tag = IMAGES, operation_id = "delete_image", params(KeyInPath),
    responses((status = 200, description = "It is gone.", body = Deleted), answers::Stored))]
pub async fn delete(State(app): State<App>, key: KeyPath) -> Result<Json<Deleted>> {
    let name = image(key)?;
    app.verifier.delete(name.key()).await?;
    Ok(Json(Deleted { detail: format!("File '{}' deleted successfully", name.key()) }))
}

/// The image a path names. What cannot be a key is not there: the store is not asked.
fn image(path: KeyPath) -> Result<ObjectName> {
    let key = path.ok().and_then(|Path(text)| ImageKey::parse(&text)).ok_or(Error::NotFound)?;
    record_field(field::S3_KEY, key.as_str());
    Ok(ObjectName::Image(key))
}

fn httpdate(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}
