//! Stored images: redirects and links to them, their metadata, deleting them.

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

/// Any page may embed an image (`<img>`). Browsers require this header on the redirect too.
const EMBEDDABLE: (HeaderName, HeaderValue) = (CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));

/// The path parameter of the routes of one image or one direct upload.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct KeyInPath {
    /// The image's key: the `s3_key` in the response to its upload or in its plan.
    pub s3_key: ImageKey,
}

/// A link to an image, and the image's metadata.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageLink {
    /// A presigned GET URL of the store. Anyone who has it can read the image until `expires_at`, without an API key.
    #[schema(
        format = "uri",
        examples("https://s3.example/photos/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.jpg?X-Amz-Signature=8f1e")
    )]
    pub url: String,
    #[schema(value_type = ImageKey)]
    pub s3_key: String,
    /// The image's media type, detected from its bytes. `null` if the store has none.
    #[schema(required, examples("image/jpeg"))]
    pub content_type: Option<String>,
    /// Size of the image in bytes.
    #[schema(examples(482_113))]
    pub size: u64,
    /// Width of the image in pixels. `null` if the object was not stored by this service.
    #[schema(required, examples(4032))]
    pub width: Option<u32>,
    /// Height of the image in pixels. `null` if the object was not stored by this service.
    #[schema(required, examples(3024))]
    pub height: Option<u32>,
    /// The metadata that the issuer of the grant has attached to the image.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false, schema_with = metadata_schema)]
    pub metadata: CustomMetadata,
    /// When `url` expires (RFC 3339, UTC): after `READ_URL_TTL` (1 hour by default), or when the credentials that
    /// signed it expire, if that is earlier and known. It is not known on Lambda.
    #[schema(format = DateTime, examples("2026-11-22T13:00:00Z"))]
    pub expires_at: String,
}

/// The confirmation that an image was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// Describes what was done, in English, for people.
    #[schema(examples("File '0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.jpg' deleted successfully"))]
    pub detail: String,
}

/// Redirects to the image in the store.
///
/// This address does not expire and can be used in `<img src>`. It redirects to a presigned URL of the store, which
/// expires. Clients may cache the redirect for half of the remaining lifetime of that URL, so that a cached redirect
/// never leads to an expired URL.
#[utoipa::path(get, path = "/images/{s3_key}", tag = IMAGES, operation_id = "open_image", params(KeyInPath),
    responses(
        (status = 307, description = "The image can be read at `Location`.", headers(
            ("Location" = String, description = "A presigned GET URL of the store. It expires after `READ_URL_TTL` \
                (1 hour by default). With the embedded store, `Location` is relative to the request URL, unless \
                `PUBLIC_URL` is set."),
            ("Cache-Control" = String, description = "`private, max-age=<seconds>`: half of the remaining lifetime of \
                the presigned URL."),
        )),
        answers::Stored,
    ))]
pub async fn redirect(State(app): State<App>, key: KeyPath) -> Result<Response> {
    let name = image(key)?;
    app.store.head(&name).await.map_err(StoreError::or_not_found)?;
    // Links to the embedded store are relative to the request, so that they are correct under any path of a proxy.
    let base = app.config.public_url.clone().unwrap_or_else(|| "..".to_owned());
    let link = app.store.presign_get(&name, &app.read_link(Some(base))).await?;
    // A redirect from a cache must lead to a link that has not expired.
    let left = link.expires_at.duration_since(SystemTime::now()).unwrap_or_default();
    let cache = format!("private, max-age={}", left.as_secs() / 2);
    let headers = [(header::LOCATION, link.url), (header::CACHE_CONTROL, cache)];
    Ok((StatusCode::TEMPORARY_REDIRECT, [EMBEDDABLE], headers).into_response())
}

/// Returns the image's metadata as headers, without a redirect.
#[utoipa::path(head, path = "/images/{s3_key}", tag = IMAGES, operation_id = "image_headers", params(KeyInPath),
    responses(
        (status = 200, description = "The image exists.", headers(
            ("Content-Length" = u64, description = "Size of the image in bytes."),
            ("Content-Type" = String, description = "The image's media type, detected from its bytes."),
            ("ETag" = String, description = "The store's ETag of the object."),
            ("Last-Modified" = String, description = "When the image was stored (HTTP date)."),
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

/// Returns a link to the image, and its metadata.
#[utoipa::path(get, path = "/images/{s3_key}/url", tag = IMAGES, operation_id = "image_link", params(KeyInPath),
    responses((status = 200, description = "A new link and the image's metadata.", body = ImageLink), answers::Stored))]
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

/// Deletes the image.
///
/// Links that were issued earlier return 404 from the store afterwards. Deleting an image that does not exist is 404.
#[utoipa::path(delete, path = "/delete/{s3_key}", tag = IMAGES, operation_id = "delete_image", params(KeyInPath),
    responses((status = 200, description = "The image was deleted.", body = Deleted), answers::Stored))]
pub async fn delete(State(app): State<App>, key: KeyPath) -> Result<Json<Deleted>> {
    let name = image(key)?;
    app.verifier.delete(name.key()).await?;
    Ok(Json(Deleted { detail: format!("File '{}' deleted successfully", name.key()) }))
}

/// Returns the name of the image in the path. If it is not a valid key, returns [`Error::NotFound`] without a call to
/// the store.
fn image(path: KeyPath) -> Result<ObjectName> {
    let key = path.ok().and_then(|Path(text)| ImageKey::parse(&text)).ok_or(Error::NotFound)?;
    record_field(field::S3_KEY, key.as_str());
    Ok(ObjectName::Image(key))
}

fn httpdate(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}
