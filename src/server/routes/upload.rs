//! `POST /upload-image`: a form or a raw body, streamed into the store.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use utoipa::ToSchema;

use super::ServiceBase;
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::ingest::{BodyKind, IncomingBody, IncomingImage};
use crate::policy::Policy;
use crate::server::App;
use crate::server::middleware::access_log::{field, record_field};
use crate::server::middleware::authority::Authority;
use crate::server::middleware::path_grant::PathGrant;
use crate::server::openapi::{IMAGES, answers};
use crate::server::request::Invocation;
use crate::server::request::started::Started;
use crate::store::{ImageKey, ObjectName};
use crate::upload::timer::{DeadlineFlag, UploadMethod, UploadTimer};
use crate::upload::{Stored, UploadWriter};

/// What a form may be longer than its file: the other fields it may hold, and every field's head.
const FORM_ALLOWANCE: u64 = 2 << 20;

/// An image that is stored: the answer of every door.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredImage {
    /// A presigned GET of the store, good for `READ_URL_TTL` (1 h).
    #[schema(
        format = "uri",
        examples("https://s3.example/photos/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.jpg?X-Amz-Signature=8f1e")
    )]
    pub url: String,
    #[schema(value_type = ImageKey)]
    pub s3_key: String,
    /// By the bytes, not by what the client said.
    #[schema(examples("image/jpeg"))]
    pub content_type: String,
    /// Bytes.
    #[schema(examples(482_113))]
    pub size: u64,
    /// Pixels.
    #[schema(required, examples(4032))]
    pub width: Option<u32>,
    /// Pixels.
    #[schema(required, examples(3024))]
    pub height: Option<u32>,
    /// `crc64nvme:<base64>` of the whole object; null where the store has none of an object it was sent directly.
    #[schema(required, examples("crc64nvme:eOogX3OeWNc="))]
    pub checksum: Option<String>,
}

/// A form with one file. Other fields than these are ignored.
#[derive(ToSchema)]
pub struct UploadForm {
    /// A grant, if the request has no other authority. It must stand before `file`, within the form's first 64 KiB.
    // The example is what /docs would send.
    #[schema(required = false, nullable = false, examples(""))]
    pub grant: Option<String>,
    /// The image. Its name's extension, where it has one, must be of a format that is taken.
    #[schema(value_type = String, format = Binary)]
    pub file: (),
}

/// The image itself, of any length up to `max_stream_size` of `GET /limits`.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct RawImage(pub ());

/// Uploads an image through the service: as a form's field `file`, or as the body itself.
///
/// The body is streamed into the store, and what is stored becomes visible only once the whole request has proved right.
/// A body larger than `max_stream_size` of `GET /limits` goes through `POST /uploads`.
#[utoipa::path(post, path = "/upload-image", tag = IMAGES, operation_id = "upload_image",
    request_body(content((UploadForm = "multipart/form-data"), (RawImage = "image/*"))),
    responses(
        (status = 200, description = "It is stored.", body = StoredImage, headers(
            ("Location" = String, description = "Of the image: a reference relative to this request, or with \
                `PUBLIC_URL` absolute."),
            ("ETag" = String, description = "The image's `checksum`, in quotes. It is not the store's ETag."),
        ), links(
            ("open" = (operation_id = "open_image", parameters(("s3_key" = "$response.body#/s3_key")))),
            ("headers" = (operation_id = "image_headers", parameters(("s3_key" = "$response.body#/s3_key")))),
            ("link" = (operation_id = "image_link", parameters(("s3_key" = "$response.body#/s3_key")))),
            ("delete" = (operation_id = "delete_image", parameters(("s3_key" = "$response.body#/s3_key")))),
        )),
        answers::Upload,
    ))]
pub async fn upload(State(app): State<App>, request: UploadHead, body: Body) -> Result<Response> {
    let (invocation, root) = (request.invocation.clone(), request.root(&app));
    let stored = store(&app, request, body).await;
    stored.map(|image| located(image, &root)).map_err(|error| Invocation::explain(invocation.as_ref(), error))
}

/// The answer, with where the image is: behind `root`.
fn located(image: StoredImage, root: &str) -> Response {
    let location = format!("{root}/images/{}", image.s3_key);
    let etag = image.checksum.as_ref().map(|checksum| [(header::ETAG, format!("\"{checksum}\""))]);
    ([(header::LOCATION, location)], etag, Json(image)).into_response()
}

/// What a request to upload says besides its body.
pub struct UploadHead {
    headers: HeaderMap,
    base: Option<String>,
    /// None where the form must bring it.
    authority: Option<Authority>,
    /// Without the authority's limits.
    policy: Arc<Policy>,
    /// A grant came in the path.
    granted_by_path: bool,
    invocation: Option<Invocation>,
    timed_out: DeadlineFlag,
}

impl FromRequestParts<App> for UploadHead {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let ServiceBase(base) = ServiceBase::from_request_parts(parts, app).await?;
        let invocation: Option<&Invocation> = parts.extensions.get();
        Ok(UploadHead {
            base,
            authority: parts.extensions.get().cloned(),
            policy: Invocation::policy(invocation, &app.policy),
            granted_by_path: parts.extensions.get::<PathGrant>().is_some(),
            invocation: invocation.cloned(),
            timed_out: parts.extensions.get().cloned().unwrap_or_default(),
            headers: std::mem::take(&mut parts.headers),
        })
    }
}

impl UploadHead {
    /// Where the service's paths begin: absolute, or relative to the request and without a grant in its path. A proxy may have
    /// put a prefix before that.
    fn root(&self, app: &App) -> String {
        let relative = if self.granted_by_path { "../.." } else { "." };
        app.config.public_url.as_deref().unwrap_or(relative).to_owned()
    }

    /// The policy with the authority's limits.
    fn limits(&self) -> Arc<Policy> {
        let policy = Arc::clone(&self.policy);
        match &self.authority {
            Some(authority) => authority.limit(policy),
            None => policy,
        }
    }

    /// Takes the grant that a form brings, if no other authority counts.
    async fn take_form_grant(&mut self, app: &App, body: &mut IncomingBody) -> Result<()> {
        if !matches!(self.authority, None | Some(Authority::Open)) {
            return Ok(());
        }
        if let Some(token) = body.find_grant().await? {
            self.authority = Some(app.authorities.of_field(&token)?);
        }
        if self.authority.is_none() { Err(Error::FormUnauthorized) } else { Ok(()) }
    }
}

/// Returns when the image is durable. Nothing is awaited after that: a request that ends then has been answered.
async fn store(app: &App, mut request: UploadHead, body: Body) -> Result<StoredImage> {
    // All that the head shows comes first: what is wrong takes no room, and is told so also where there is none.
    check_encoding(&request.headers)?;
    let kind = BodyKind::of(request.headers.get(header::CONTENT_TYPE), &request.limits())?;
    let (door, length) = (door(&kind), content_length(&request.headers));
    refuse_too_large(&request.limits(), door, length)?;
    let watch = UploadTimer::new(&app.metrics, door, request.timed_out.clone());
    app.uploads.check_capacity(length)?;
    let body = Started::wait(body).await;
    // Only the box axum put around it goes: the reader tells the transport's own errors by their type.
    let mut body = IncomingBody::new(kind, body.map_err(axum::Error::into_inner));
    request.take_form_grant(app, &mut body).await?;
    let policy = request.limits();
    refuse_too_large(&policy, door, length)?;
    let mut opening = app.uploads.admit(length).await?;
    let mut image = IncomingImage::open(body, policy, opening.head()).await?;
    let info = image.info();
    let name = ObjectName::Image(image_key(request.authority.as_ref(), &image));
    record_field(field::S3_KEY, name.key().as_str());
    record_field(field::CONTENT_TYPE, info.format.content_type());

    let mut uploader = app.uploads.start(name.clone(), info.into(), opening);
    let work = async {
        pump(&mut image, &mut uploader).await?;
        let link = app.store.presign_get(&name, &app.read_link(request.base)).await.map_err(Error::from)?;
        Ok((uploader.finish().await?, link))
    };
    let (stored, link) = watch.run(work).await?;
    watch.stored(stored.size);
    record_field(field::SIZE, stored.size);
    Ok(answer(&name, info, stored, link.url))
}

/// The key that the grant is for, else a fresh one that follows the bytes.
fn image_key(authority: Option<&Authority>, image: &IncomingImage) -> ImageKey {
    let fixed = authority.and_then(Authority::image_key);
    fixed.unwrap_or_else(|| ImageKey::random(image.extension()))
}

/// Moves the image over, until its request has proved right to its end or the store has failed for good.
async fn pump(image: &mut IncomingImage, uploader: &mut UploadWriter) -> Result<()> {
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = image.next_chunk() => chunk?,
            error = uploader.failed() => return Err(error),
        };
        match chunk {
            Some(chunk) => uploader.write(chunk).await?,
            None => return Ok(()),
        }
    }
}

fn answer(name: &ObjectName, info: ImageInfo, stored: Stored, url: String) -> StoredImage {
    StoredImage {
        url,
        s3_key: name.key().to_string(),
        content_type: info.format.content_type().to_owned(),
        size: stored.size,
        width: Some(info.width),
        height: Some(info.height),
        checksum: Some(checksum_text(stored.crc64)),
    }
}

/// `crc64nvme:` and the big-endian bytes in base64, as S3 writes it.
pub fn checksum_text(crc64: u64) -> String {
    format!("crc64nvme:{}", STANDARD.encode(crc64.to_be_bytes()))
}

/// A coded image is no image: nothing here would decode it, and no reader would (RFC 9110 8.4).
fn check_encoding(headers: &HeaderMap) -> Result<()> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter().map(|value| value.as_bytes().trim_ascii());
    let mut others = codings.filter(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    others.next().map_or(Ok(()), |_| Err(Error::ContentEncoding))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn door(kind: &BodyKind) -> UploadMethod {
    match kind {
        BodyKind::Form { .. } => UploadMethod::Form,
        BodyKind::Raw => UploadMethod::Raw,
    }
}

/// Refuses what says itself that it is too large, before its body is asked for.
fn refuse_too_large(policy: &Policy, door: UploadMethod, length: Option<u64>) -> Result<()> {
    let allowance = if door == UploadMethod::Form { FORM_ALLOWANCE } else { 0 };
    policy.check_stream_size(length.unwrap_or_default().saturating_sub(allowance))
}
