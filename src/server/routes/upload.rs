//! `POST /upload-image`: a form or a raw body, streamed into the store.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, header};
use http_body_util::BodyExt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Object, ObjectBuilder};

use super::ServiceBase;
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::ingest::{BodyKind, IncomingImage};
use crate::policy::Policy;
use crate::server::App;
use crate::server::middleware::access_log::{field, record_field};
use crate::server::middleware::authority::KeyName;
use crate::server::openapi::{IMAGES, answers};
use crate::server::request::Invocation;
use crate::server::request::started::Started;
use crate::store::{CustomMetadata, ImageKey, Metadata, ObjectName, PresignOptions};
use crate::upload::fixed::{FixedKey, check_same};
use crate::upload::idempotency::{IdempotencyKey, IdempotencyScope};
use crate::upload::timer::{DeadlineFlag, UploadMethod, UploadTimer};
use crate::upload::writer::AdmittedUpload;
use crate::upload::{Stored, UploadWriter};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
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
    /// What the grant's issuer wanted to be kept with the image.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false, schema_with = metadata_schema)]
    pub metadata: CustomMetadata,
}

/// The schema of an image's custom metadata.
pub fn metadata_schema() -> Object {
    ObjectBuilder::new()
        .description(Some(
            "What the grant's issuer wanted to be kept with the image, by name. Left out if there is none.",
        ))
        .additional_properties(Some(ObjectBuilder::new().schema_type(Type::String)))
        .examples([serde_json::json!({ "owner": "7" })])
        .build()
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
///
/// With an `Idempotency-Key` a request whose answer was lost is sent again as it was: it is stored once, and answered as the
/// first time. Other bytes under the same value are 422 `idempotency_key_reused`. After a `DELETE` the value is free again.
#[utoipa::path(post, path = "/upload-image", tag = IMAGES, operation_id = "upload_image",
    params(("Idempotency-Key" = Option<String>, Header,
        pattern = r#"^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255})$"#,
        example = "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
        description = "A value of the client's own for this image: a string in quotes (RFC 8941), best a UUID. Without its \
            quotes it is taken, too.")),
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
pub async fn upload(
    State(app): State<App>,
    ServiceBase(base): ServiceBase,
    headers: HeaderMap,
    invocation: Option<Extension<Invocation>>,
    timed_out: Option<Extension<DeadlineFlag>>,
    key: Option<Extension<KeyName>>,
    body: Body,
) -> Result<Response> {
    let scope = key.map(|Extension(KeyName(_, key_hash))| IdempotencyScope { key_hash, jti: None });
    let terms = Terms {
        policy: Invocation::policy(invocation.as_deref(), &app.policy),
        key: fixed_key(None, scope, &headers)?,
        metadata: CustomMetadata::new(),
    };
    let timed_out = timed_out.map(|Extension(it)| it).unwrap_or_default();
    let stored = store(&app, terms, &headers, base, body, timed_out).await;
    let public_url = app.config.public_url.as_deref();
    stored.map(|image| located(image, public_url)).map_err(|error| Invocation::explain(invocation.as_deref(), error))
}

/// What an upload is bound to, besides its bytes.
struct Terms {
    policy: Arc<Policy>,
    key: Option<FixedKey>,
    metadata: CustomMetadata,
}

/// What fixes the image's key: a key that the upload is for goes before an Idempotency-Key, which could only name the same.
fn fixed_key(key: Option<ImageKey>, scope: Option<IdempotencyScope>, headers: &HeaderMap) -> Result<Option<FixedKey>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let value = values.next().map(|value| IdempotencyKey::parse(value.as_bytes())).transpose()?;
    if values.next().is_some() {
        return Err(Error::InvalidRequest("Send one Idempotency-Key".to_owned()));
    }
    let derived = || value.map(|value| FixedKey::Idempotent(value.image_id(&scope.unwrap_or_default())));
    Ok(key.map(FixedKey::Image).or_else(derived))
}

/// The answer, with where the image is. Without a base that is relative to the request: a proxy may have put a prefix before
/// its path.
fn located(image: StoredImage, base: Option<&str>) -> Response {
    let location = format!("{}/images/{}", base.unwrap_or("."), image.s3_key);
    let etag = image.checksum.as_ref().map(|checksum| [(header::ETAG, format!("\"{checksum}\""))]);
    ([(header::LOCATION, location)], etag, Json(image)).into_response()
}

/// Returns when the image is durable. Nothing is awaited after that: a request that ends then has been answered.
async fn store(
    app: &App,
    Terms { policy, key, metadata }: Terms,
    headers: &HeaderMap,
    base: Option<String>,
    body: Body,
    timed_out: DeadlineFlag,
) -> Result<StoredImage> {
    // All that the head shows comes first: what is wrong takes no room, and is told so also where there is none.
    check_encoding(headers)?;
    let kind = BodyKind::of(headers.get(header::CONTENT_TYPE), &policy)?;
    let (door, length) = (door(&kind), content_length(headers));
    refuse_too_large(&policy, door, length)?;
    let watch = UploadTimer::new(&app.metrics, door, timed_out);
    app.uploads.check_capacity(length)?;
    let body = Started::wait(body).await;
    let mut opening = app.uploads.admit(length).await?;
    // Only the box axum put around it goes: the reader tells the transport's own errors by their type.
    let body = body.map_err(axum::Error::into_inner);
    let image = IncomingImage::open(kind, body, Arc::clone(&policy), opening.head()).await?;
    let info = image.info();
    let s3_key = match &key {
        Some(key) => key.of(info.format, &policy)?,
        None => ImageKey::random(image.extension()),
    };
    record_field(field::S3_KEY, s3_key.as_str());
    record_field(field::CONTENT_TYPE, info.format.content_type());

    let target = Target { name: ObjectName::Image(s3_key), fixed: key, metadata: Metadata::verified(info, metadata) };
    let link = app.read_link(base);
    let work = store_image(app, image, opening, &target, &link);
    let outcome = watch.run(work).await.map_err(|error| target.explain(error))?;
    if outcome.is_new {
        watch.stored(outcome.stored.size);
    }
    record_field(field::SIZE, outcome.stored.size);
    Ok(answer(&target.name, info, outcome))
}

/// Where an image goes, and what is kept with it.
struct Target {
    name: ObjectName,
    /// What fixed the name, if it was not drawn at random.
    fixed: Option<FixedKey>,
    metadata: Metadata,
}

impl Target {
    /// What an error means to the client.
    fn explain(&self, error: Error) -> Error {
        match &self.fixed {
            Some(fixed) => fixed.explain(error),
            None => error,
        }
    }
}

/// An image that is stored.
struct Outcome {
    stored: Stored,
    url: String,
    metadata: CustomMetadata,
    /// By this request, as far as it can tell.
    is_new: bool,
}

/// Stores the image, or sees that it is there already.
async fn store_image(
    app: &App,
    mut image: IncomingImage,
    opening: AdmittedUpload,
    target: &Target,
    link: &PresignOptions,
) -> Result<Outcome> {
    let Target { name, fixed, metadata } = target;
    let presigned = async || app.store.presign_get(name, link).await.map(|link| link.url).map_err(Error::from);
    let there = match fixed {
        Some(fixed) => fixed.find(app.store.as_ref(), name.key()).await?,
        None => None,
    };
    if let Some(there) = there {
        let stored = digest(&mut image, opening).await?;
        check_same(app.store.as_ref(), name, &there, stored).await?;
        return Ok(Outcome { stored, url: presigned().await?, metadata: there.custom, is_new: false });
    }
    let mut uploader = match fixed {
        Some(_) => app.uploads.start_fixed(name.key().clone(), metadata.clone(), opening),
        None => app.uploads.start(name.clone(), metadata.clone(), opening),
    };
    pump(&mut image, &mut uploader).await?;
    let url = presigned().await?;
    let stored = uploader.finish().await?;
    Ok(Outcome { stored, url, metadata: metadata.custom.clone(), is_new: true })
}

/// Reads what is compared with an image that is there already.
async fn digest(image: &mut IncomingImage, opening: AdmittedUpload) -> Result<Stored> {
    let mut digest = opening.into_digest();
    while let Some(chunk) = image.next_chunk().await? {
        digest.update(&chunk);
    }
    Ok(digest.finish())
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

fn answer(name: &ObjectName, info: ImageInfo, outcome: Outcome) -> StoredImage {
    StoredImage {
        url: outcome.url,
        s3_key: name.key().to_string(),
        content_type: info.format.content_type().to_owned(),
        size: outcome.stored.size,
        width: Some(info.width),
        height: Some(info.height),
        checksum: Some(checksum_text(outcome.stored.crc64)),
        metadata: outcome.metadata,
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
