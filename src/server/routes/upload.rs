//! `POST /upload-image` and `POST /images`: stream the image in a form or a raw body into the store.

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

/// A stored image: the response of every upload method.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredImage {
    /// A presigned GET URL of the store. It expires after `READ_URL_TTL` (1 hour by default).
    #[schema(
        format = "uri",
        examples("https://s3.example/photos/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.jpg?X-Amz-Signature=8f1e")
    )]
    pub url: String,
    #[schema(value_type = ImageKey)]
    pub s3_key: String,
    /// The image's media type, detected from its bytes. It may differ from the type that the client sent.
    #[schema(examples("image/jpeg"))]
    pub content_type: String,
    /// Size of the image in bytes.
    #[schema(examples(482_113))]
    pub size: u64,
    /// Width of the image in pixels.
    #[schema(required, examples(4032))]
    pub width: Option<u32>,
    /// Height of the image in pixels.
    #[schema(required, examples(3024))]
    pub height: Option<u32>,
    /// CRC-64/NVME checksum of the whole object, as `crc64nvme:<base64>`. `null` after a direct upload if the store has
    /// no such checksum of the object.
    #[schema(required, examples("crc64nvme:eOogX3OeWNc="))]
    pub checksum: Option<String>,
}

/// A form with one file, in the field `file`. Other fields are ignored.
#[derive(ToSchema)]
pub struct UploadForm {
    /// The image. If its file name has an extension, it must be one of an accepted format.
    #[schema(value_type = String, format = Binary)]
    pub file: (),
}

/// The bytes of the image, at most `max_stream_size` of `GET /limits`.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct RawImage(pub ());

/// Uploads an image through the service, in the form field `file` or as the request body.
///
/// The service streams the body into the store. The image becomes readable only after the whole request was received
/// and is valid. For images larger than `max_stream_size` of `GET /limits`, use `POST /uploads`.
#[utoipa::path(post, path = "/upload-image", tag = IMAGES, operation_id = "upload_image",
    request_body(content((UploadForm = "multipart/form-data"), (RawImage = "image/*"))),
    responses(
        (status = 200, description = "The image was stored.", body = StoredImage, headers(
            ("Location" = String, description = "The image's URL in this service. It starts with `PUBLIC_URL` or, if \
                that is not set, with the URL at which the client reached the service."),
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

/// Returns the response with the image's URL. If the request has no valid host, the URL is relative to the request.
fn located(image: StoredImage, base: Option<&str>) -> Response {
    let location = format!("{}/images/{}", base.unwrap_or("."), image.s3_key);
    let etag = image.checksum.as_ref().map(|checksum| [(header::ETAG, format!("\"{checksum}\""))]);
    ([(header::LOCATION, location)], etag, Json(image)).into_response()
}

/// Stores the image and returns when it is durable. Nothing is awaited after that, so it cannot be cancelled any more.
async fn store(
    app: &App,
    policy: Arc<Policy>,
    headers: &HeaderMap,
    base: Option<String>,
    body: Body,
    timed_out: DeadlineFlag,
) -> Result<StoredImage> {
    // The head is checked first: an invalid request reserves nothing, and gets its own error if the budget is full.
    check_encoding(headers)?;
    let kind = BodyKind::of(headers.get(header::CONTENT_TYPE), &policy)?;
    let (method, length) = (upload_method(&kind), content_length(headers));
    kind.check_length(length.unwrap_or_default(), &policy)?;
    let watch = UploadTimer::new(&app.metrics, method, timed_out);
    app.uploads.check_capacity(length)?;
    let body = Started::wait(body).await;
    let mut admitted = app.uploads.admit(length).await?;
    // This removes only axum's wrapper: the reader recognises the transport's errors by their type.
    let body = body.map_err(axum::Error::into_inner);
    let mut image = IncomingImage::open(kind, body, policy, admitted.head()).await?;
    loop {
        match send(app, &watch, &mut image, admitted, base.clone()).await? {
            ControlFlow::Break(stored) => {
                watch.stored(stored.size);
                return Ok(stored);
            }
            ControlFlow::Continue(reservation) => admitted = reservation,
        }
        image = image.replacement(admitted.head()).await?;
    }
}

/// Stores the image. If another file of the form replaces it, nothing of it is stored and its reservation is returned.
async fn send(
    app: &App,
    watch: &UploadTimer,
    image: &mut IncomingImage,
    admitted: AdmittedUpload,
    base: Option<String>,
) -> Result<ControlFlow<StoredImage, AdmittedUpload>> {
    let info = image.info();
    let name = ObjectName::Image(ImageKey::random(image.extension()));
    record_field(field::S3_KEY, name.key().as_str());
    record_field(field::CONTENT_TYPE, info.format.content_type());

    let mut uploader = app.uploads.start(name.clone(), info.into(), admitted);
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

/// Copies the image to the writer until the whole request was received and is valid, or the store has failed.
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

/// Formats a checksum as S3 does: `crc64nvme:` and the base64 of its big-endian bytes.
pub fn checksum_text(crc64: u64) -> String {
    format!("crc64nvme:{}", STANDARD.encode(crc64.to_be_bytes()))
}

/// Rejects an image with a Content-Encoding (RFC 9110 8.4): neither the service nor its readers would decode it.
fn check_encoding(headers: &HeaderMap) -> Result<()> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter().map(|value| value.as_bytes().trim_ascii());
    let mut others = codings.filter(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    others.next().map_or(Ok(()), |_| Err(Error::ContentEncoding))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn upload_method(kind: &BodyKind) -> UploadMethod {
    match kind {
        BodyKind::Form { .. } => UploadMethod::Form,
        BodyKind::Raw => UploadMethod::Raw,
    }
}
