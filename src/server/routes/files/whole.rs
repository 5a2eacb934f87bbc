//! Requests that create an upload and contain the whole file. It is stored like every other file that comes in one request.

use axum::body::Body;
use axum::response::Response;
use http::header;
use http_body_util::BodyExt;
use std::sync::Arc;

use super::address;
use super::answer::{Answer, Position};
use super::creation::Creation;
use super::headers::{accepts_json, body_length};
use crate::crc64;
use crate::error::{Error, Result};
use crate::ingest::{BodyKind, IncomingBody};
use crate::resumable::NewUpload;
use crate::server::App;
use crate::server::middleware::authority::Authority;
use crate::server::request::started::Started;
use crate::server::routes::upload::{self, StoredImage, Terms, UploadHead};
use crate::store::{ImageKey, ObjectDigest};
use crate::upload::fixed::FixedKey;
use crate::upload::timer::{UploadMethod, UploadTimer};

/// Stores the whole file under the key of a new upload, like every other file that comes in one request.
pub(super) async fn store(
    app: &App,
    answer: Answer,
    request: UploadHead,
    authority: &Authority,
    new: NewUpload,
    body: Body,
) -> Result<Response> {
    let policy = Arc::new(request.limits().within(None, None, Some(new.format)));
    let (key, is_fixed_key) = (new.key.clone(), new.is_fixed_key);
    let (mut upload, metadata) = new.of_whole_file(app.config.upload.part_size);
    let terms = Terms {
        policy,
        key: is_fixed_key.then(|| FixedKey::Image(key.clone())),
        drawn_key: Some(key),
        metadata: metadata.custom,
        origin: metadata.origin,
        length: body_length(&request.headers),
        link: app.read_link(request.base.clone()),
    };
    let (base, is_json) = (request.base.clone(), accepts_json(&request.headers));
    let image = stream(app, request, &terms, body).await?;
    // Another key was drawn if the outcome of the first attempt is unknown.
    upload.key = ImageKey::parse(&image.s3_key).ok_or_else(|| Error::Internal("an image without a key".into()))?;
    if upload.is_fixed_key {
        let crc64 = image.checksum.as_deref().and_then(crc64::from_labelled);
        app.resumable.conclude(&upload, ObjectDigest { size: image.size, crc64 }).await?;
    }
    let (url, answer) = address(app, answer, &upload, base.as_deref(), authority)?;
    let position = Position { offset: image.size, length: Some(image.size), is_complete: true };
    Ok(answer.created(&url, position, is_json.then_some(image)))
}

/// Stores the body of an IETF request as the raw upload that it is. The answer contains the image, and no upload remains.
pub(super) async fn store_raw(
    app: &App,
    answer: Answer,
    request: UploadHead,
    creation: &Creation,
    body: Body,
) -> Result<Response> {
    let terms = Terms::new(app, &request)?;
    if let Some(name) = &creation.file.name {
        terms.policy.check_name(name)?;
    }
    let content_type = request.headers.get(header::CONTENT_TYPE);
    if content_type.is_some() && BodyKind::of(content_type, &terms.policy)? != BodyKind::Raw {
        return Err(Error::UnsupportedMediaType);
    }
    let image = stream(app, request, &terms, body).await?;
    let position = Position { offset: image.size, length: Some(image.size), is_complete: true };
    Ok(answer.appended(position, Some(image)))
}

/// Stores the image in the body.
async fn stream(app: &App, request: UploadHead, terms: &Terms, body: Body) -> Result<StoredImage> {
    let length = body_length(&request.headers);
    BodyKind::Raw.check_length(length.unwrap_or_default(), &terms.policy)?;
    let timer = UploadTimer::new(&app.metrics, UploadMethod::Resumable, request.timed_out);
    app.uploads.check_capacity(length)?;
    let body = Started::wait(body).await;
    let body = IncomingBody::new(BodyKind::Raw, body.map_err(axum::Error::into_inner));
    upload::store_body(app, body, terms, timer).await
}
