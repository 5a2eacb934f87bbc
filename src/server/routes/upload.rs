//! `POST /upload-image` and `POST /images`: a form or a raw body, streamed into the store.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::Arc;
use utoipa::ToSchema;

use super::ServiceBase;
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::ingest::{BodyKind, IncomingImage};
use crate::policy::Policy;
use crate::server::App;
use crate::server::middleware::access_log::{field, record_field};
use crate::server::openapi::{IMAGES, answers};
use crate::server::request::Invocation;
use crate::server::request::started::Started;
use crate::store::{ImageKey, ObjectName};
use crate::upload::timer::{DeadlineFlag, UploadMethod, UploadTimer};
use crate::upload::writer::AdmittedUpload;
use crate::upload::{Stored, UploadWriter};

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

/// A form with one file. It may have other fields, which are ignored.
#[derive(ToSchema)]
pub struct UploadForm {
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
            ("Location" = String, description = "The image's address. It starts at `PUBLIC_URL`, or else where this request \
                was sent to."),
            ("ETag" = String, description = "The image's `checksum`, in quotes. It is not the store's ETag."),
        ), links(
            ("open" = (operation_id = "open_image", parameters(("s3_key" = "$response.body#/s3_key")))),
            ("headers" = (operation_id = "image_headers", parameters(("s3_key" = "$response.body#/s3_key")))),
            ("link" = (operation_id = "image_link", parameters(("s3_key" = "$response.body#/s3_key")))),
            ("delete" = (operation_id = "delete_image", parameters(("s3_key" = "$response.body#/s3_key")))),
        )),
        answers::Upload,
    ))]
pub async fn upload(State(app): State<App>, ServiceBase(base): ServiceBase, request: Request) -> Result<Response> {
    let (Parts { headers, extensions, .. }, body) = request.into_parts();
    let invocation = extensions.get::<Invocation>();
    let policy = Invocation::policy(invocation, &app.policy);
    let timed_out = extensions.get::<DeadlineFlag>().cloned().unwrap_or_default();
    let stored = store(&app, policy, &headers, base.clone(), body, timed_out).await;
    stored.map(|image| located(image, base.as_deref())).map_err(|error| Invocation::explain(invocation, error))
}

/// The answer, with where the image is: relative to the request if that names no host.
fn located(image: StoredImage, base: Option<&str>) -> Response {
    let location = format!("{}/images/{}", base.unwrap_or("."), image.s3_key);
    let etag = image.checksum.as_ref().map(|checksum| [(header::ETAG, format!("\"{checksum}\""))]);
    ([(header::LOCATION, location)], etag, Json(image)).into_response()
}

/// Returns when the image is durable. Nothing is awaited after that: a request that ends then has been answered.
async fn store(
    app: &App,
    policy: Arc<Policy>,
    headers: &HeaderMap,
    base: Option<String>,
    body: Body,
    timed_out: DeadlineFlag,
) -> Result<StoredImage> {
    // All that the head shows comes first: what is wrong takes no room, and is told so also where there is none.
    check_encoding(headers)?;
    let kind = BodyKind::of(headers.get(header::CONTENT_TYPE), &policy)?;
    let (door, length) = (door(&kind), content_length(headers));
    kind.check_length(length.unwrap_or_default(), &policy)?;
    let watch = UploadTimer::new(&app.metrics, door, timed_out);
    app.uploads.check_capacity(length)?;
    let body = Started::wait(body).await;
    let mut opening = app.uploads.admit(length).await?;
    // Only the box axum put around it goes: the reader tells the transport's own errors by their type.
    let body = body.map_err(axum::Error::into_inner);
    let mut image = IncomingImage::open(kind, body, policy, opening.head()).await?;
    loop {
        match send(app, &watch, &mut image, opening, base.clone()).await? {
            ControlFlow::Break(stored) => {
                watch.stored(stored.size);
                return Ok(stored);
            }
            ControlFlow::Continue(room) => opening = room,
        }
        image = image.replacement(opening.head()).await?;
    }
}

/// Stores the image. If it turns out that another one is to be stored, nothing of it is, and its room is free.
async fn send(
    app: &App,
    watch: &UploadTimer,
    image: &mut IncomingImage,
    opening: AdmittedUpload,
    base: Option<String>,
) -> Result<ControlFlow<StoredImage, AdmittedUpload>> {
    let info = image.info();
    let name = ObjectName::Image(ImageKey::random(image.extension()));
    record_field(field::S3_KEY, name.key().as_str());
    record_field(field::CONTENT_TYPE, info.format.content_type());

    let mut uploader = app.uploads.start(name.clone(), info.into(), opening);
    let work = async {
        pump(image, &mut uploader).await?;
        if image.is_replaced() {
            return Ok(ControlFlow::Continue(uploader.restart().await));
        }
        let link = app.store.presign_get(&name, &app.read_link(base)).await?;
        Ok(ControlFlow::Break((uploader.finish().await?, link)))
    };
    Ok(watch.run(work).await?.map_break(|(stored, link)| {
        record_field(field::SIZE, stored.size);
        answer(&name, info, stored, link.url)
    }))
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
