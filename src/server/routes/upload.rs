//! `POST /upload-image` and `POST /images`: stream the image in a form or a raw body into the store.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use http_body_util::BodyExt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Object, ObjectBuilder};
use uuid::Uuid;

use super::ServiceBase;
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::ingest::{BodyKind, IncomingBody, IncomingImage};
use crate::policy::Policy;
use crate::server::App;
use crate::server::middleware::access_log::{field, record_field};
use crate::server::middleware::authority::Authority;
use crate::server::openapi::{IMAGES, answers};
use crate::server::request::Invocation;
use crate::server::request::started::Started;
use crate::store::{CustomMetadata, ImageKey, Metadata, ObjectName, PresignOptions};
use crate::upload::fixed::{FixedKey, check_same};
use crate::upload::idempotency::IdempotencyKey;
use crate::upload::timer::{DeadlineFlag, UploadMethod, UploadTimer};
use crate::upload::writer::AdmittedUpload;
use crate::upload::{Stored, UploadWriter};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

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
    /// What the grant's issuer wanted to be kept with the image.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false, schema_with = metadata_schema)]
    pub metadata: CustomMetadata,
}

/// The schema of an image's custom metadata.
pub fn metadata_schema() -> Object {
    ObjectBuilder::new()
        .description(Some(
            "The metadata that the issuer of the grant has attached to the image, by name. Absent if empty.",
        ))
        .additional_properties(Some(ObjectBuilder::new().schema_type(Type::String)))
        .examples([serde_json::json!({ "owner": "7" })])
        .build()
}

/// A form with one file, in the field `file`. Fields other than these are ignored.
#[derive(ToSchema)]
pub struct UploadForm {
    /// A grant, if the request has no other authority. It must precede `file`, within the form's first 64 KiB.
    // The example is what /docs would send.
    #[schema(required = false, nullable = false, examples(""))]
    pub grant: Option<String>,
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
///
/// If the response to a request with an `Idempotency-Key` was lost, send the same request again: the image is stored once,
/// and the response is the same. Other bytes under the same value are rejected with 422 `idempotency_key_reused`. After a
/// `DELETE` of the image the value can be used again.
#[utoipa::path(post, path = "/upload-image", tag = IMAGES, operation_id = "upload_image",
    params(("Idempotency-Key" = Option<String>, Header,
        pattern = r#"^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255})$"#,
        example = "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
        description = "A value of the client's own for this image: a string in quotes (RFC 8941), best a UUID. Without its \
            quotes it is taken, too.")),
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
pub async fn upload(State(app): State<App>, request: UploadHead, body: Body) -> Result<Response> {
    let (invocation, base) = (request.invocation.clone(), request.base.clone());
    let stored = store(&app, request, body).await;
    stored.map(|image| located(image, base.as_deref())).map_err(|error| Invocation::explain(invocation.as_ref(), error))
}

/// Returns the response with the image's URL. If the request has no valid host, the URL is relative to the request.
fn located(image: StoredImage, base: Option<&str>) -> Response {
    let location = format!("{}/images/{}", base.unwrap_or("."), image.s3_key);
    let etag = image.checksum.as_ref().map(|checksum| [(header::ETAG, format!("\"{checksum}\""))]);
    ([(header::LOCATION, location)], etag, Json(image)).into_response()
}

/// The head of an upload request.
pub struct UploadHead {
    pub(super) headers: HeaderMap,
    pub(super) base: Option<String>,
    /// `None` if the form must contain it.
    pub(super) authority: Option<Authority>,
    /// The policy without the limits of the authority.
    policy: Arc<Policy>,
    pub(super) invocation: Option<Invocation>,
    pub(super) timed_out: DeadlineFlag,
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
            invocation: invocation.cloned(),
            timed_out: parts.extensions.get().cloned().unwrap_or_default(),
            headers: std::mem::take(&mut parts.headers),
        })
    }
}

impl UploadHead {
    /// Returns the policy with the limits of the authority.
    pub(super) fn limits(&self) -> Arc<Policy> {
        let policy = Arc::clone(&self.policy);
        match &self.authority {
            Some(authority) => authority.limit(policy),
            None => policy,
        }
    }

    /// Reads the grant in the form if the request has no other authority.
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

/// The conditions of an upload, besides its bytes.
pub(super) struct Terms {
    pub(super) policy: Arc<Policy>,
    pub(super) key: Option<FixedKey>,
    /// The key if none is fixed. `None`: it is drawn when the image's format is known.
    pub(super) drawn_key: Option<ImageKey>,
    pub(super) metadata: CustomMetadata,
    /// The ID of the resumable upload that the image belongs to.
    pub(super) resumable: Option<Uuid>,
}

impl Terms {
    pub(super) fn new(request: &UploadHead) -> Result<Self> {
        let authority = request.authority.as_ref();
        Ok(Terms {
            policy: request.limits(),
            key: fixed_key(authority, &request.headers)?,
            drawn_key: None,
            metadata: authority.map(Authority::metadata).unwrap_or_default(),
            resumable: None,
        })
    }
}

/// Returns what fixes the image's key. The key of a grant takes precedence over an Idempotency-Key.
fn fixed_key(authority: Option<&Authority>, headers: &HeaderMap) -> Result<Option<FixedKey>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let value = values.next().map(|value| IdempotencyKey::parse(value.as_bytes())).transpose()?;
    if values.next().is_some() {
        return Err(Error::InvalidRequest("Send only one Idempotency-Key".to_owned()));
    }
    let scope = || authority.map(Authority::idempotency_scope).unwrap_or_default();
    let derived = || value.map(|value| FixedKey::Idempotent(value.image_id(&scope())));
    Ok(authority.and_then(Authority::image_key).map(FixedKey::Image).or_else(derived))
}

/// Stores the image of a request.
async fn store(app: &App, mut request: UploadHead, body: Body) -> Result<StoredImage> {
    // The head is checked first: an invalid request reserves nothing, and gets its own error if the budget is full.
    check_encoding(&request.headers)?;
    let kind = BodyKind::of(request.headers.get(header::CONTENT_TYPE), &request.limits())?;
    let (method, length) = (upload_method(&kind), content_length(&request.headers));
    kind.check_length(length.unwrap_or_default(), &request.limits())?;
    fixed_key(request.authority.as_ref(), &request.headers)?;
    let watch = UploadTimer::new(&app.metrics, method, request.timed_out.clone());
    app.uploads.check_capacity(length)?;
    let body = Started::wait(body).await;
    // This removes only axum's wrapper: the reader recognises the transport's errors by their type.
    let mut body = IncomingBody::new(kind.clone(), body.map_err(axum::Error::into_inner));
    request.take_form_grant(app, &mut body).await?;
    let terms = Terms::new(&request)?;
    kind.check_length(length.unwrap_or_default(), &terms.policy)?;
    stream(app, body, length, &terms, &app.read_link(request.base), watch).await
}

/// Stores the image in `body`, of at most `length` bytes.
pub(super) async fn stream(
    app: &App,
    body: IncomingBody,
    length: Option<u64>,
    terms: &Terms,
    link: &PresignOptions,
    watch: UploadTimer,
) -> Result<StoredImage> {
    let mut admitted = app.uploads.admit(length).await?;
    let mut image = IncomingImage::open(body, Arc::clone(&terms.policy), admitted.head()).await?;
    loop {
        let target = Target::new(&image, terms)?;
        let work = send(app, &target, &mut image, admitted, link);
        match watch.run(work).await.map_err(|error| target.explain(error))? {
            ControlFlow::Break(outcome) => {
                if outcome.name != target.name {
                    record_field(field::S3_KEY, outcome.name.key().as_str());
                }
                record_field(field::SIZE, outcome.stored.size);
                if outcome.is_new {
                    watch.stored(outcome.stored.size);
                }
                return Ok(answer(image.info(), outcome));
            }
            ControlFlow::Continue(reservation) => admitted = reservation,
        }
        image = image.replacement(admitted.head()).await?;
    }
}

/// The name under which an image is stored, and its metadata.
struct Target {
    name: ObjectName,
    /// What fixed the name. `None` if it was drawn at random.
    fixed: Option<FixedKey>,
    metadata: Metadata,
}

impl Target {
    fn new(image: &IncomingImage, terms: &Terms) -> Result<Self> {
        let info = image.info();
        record_field(field::CONTENT_TYPE, info.format.content_type());
        let s3_key = match &terms.key {
            Some(fixed) => fixed.of(info.format, &terms.policy)?,
            None => terms.drawn_key.clone().unwrap_or_else(|| ImageKey::random(image.extension())),
        };
        record_field(field::S3_KEY, s3_key.as_str());
        let verified = Metadata::verified(info, terms.metadata.clone());
        let metadata = Metadata { resumable: terms.resumable, ..verified };
        Ok(Target { name: ObjectName::Image(s3_key), fixed: terms.key.clone(), metadata })
    }

    /// Returns the error as the client gets it.
    fn explain(&self, error: Error) -> Error {
        match &self.fixed {
            Some(fixed) => fixed.explain(error),
            None => error,
        }
    }
}

/// A stored image.
struct Outcome {
    name: ObjectName,
    stored: Stored,
    url: String,
    metadata: CustomMetadata,
    /// Whether this request has created it, as far as that is known.
    is_new: bool,
}

/// Stores the image, or finds that it exists already. If another file of the form replaces it, nothing of it is stored and its
/// reservation is returned.
async fn send(
    app: &App,
    target: &Target,
    image: &mut IncomingImage,
    admitted: AdmittedUpload,
    link: &PresignOptions,
) -> Result<ControlFlow<Outcome, AdmittedUpload>> {
    let Target { name, fixed, metadata } = target;
    let presigned = async |name: &ObjectName| app.store.presign_get(name, link).await.map(|link| link.url);
    let existing = match fixed {
        Some(fixed) => fixed.find(app.store.as_ref(), name.key()).await?,
        None => None,
    };
    if let Some(existing) = existing {
        let stored = digest(image, admitted).await?;
        if image.is_replaced() {
            return Ok(ControlFlow::Continue(app.uploads.admit(None).await?));
        }
        check_same(app.store.as_ref(), name, &existing, stored).await?;
        let (url, metadata) = (presigned(name).await?, existing.custom);
        return Ok(ControlFlow::Break(Outcome { name: name.clone(), stored, url, metadata, is_new: false }));
    }
    let mut uploader = match fixed {
        Some(_) => app.uploads.start_fixed(name.key().clone(), metadata.clone(), admitted),
        None => app.uploads.start(name.clone(), metadata.clone(), admitted),
    };
    pump(image, &mut uploader).await?;
    if image.is_replaced() {
        return Ok(ControlFlow::Continue(uploader.restart().await));
    }
    let durable = uploader.finish().await?;
    // If this fails or is dropped, the upload is undone. Nothing is awaited after it.
    let url = match (presigned(&durable.name).await, fixed) {
        (Err(error), Some(_)) => return Err(Error::OutcomeUnknown(error.into())),
        (url, _) => url?,
    };
    let name = durable.name.clone();
    let (stored, metadata) = (durable.acknowledge(), metadata.custom.clone());
    Ok(ControlFlow::Break(Outcome { name, stored, url, metadata, is_new: true }))
}

/// Reads the image to its end, to compare it with an image that exists already.
async fn digest(image: &mut IncomingImage, admitted: AdmittedUpload) -> Result<Stored> {
    let mut digest = admitted.into_digest();
    while let Some(chunk) = image.next_chunk().await? {
        digest.update(&chunk);
    }
    Ok(digest.finish())
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

fn answer(info: ImageInfo, outcome: Outcome) -> StoredImage {
    StoredImage {
        url: outcome.url,
        s3_key: outcome.name.key().to_string(),
        content_type: info.format.content_type().to_owned(),
        size: outcome.stored.size,
        width: Some(info.width),
        height: Some(info.height),
        checksum: Some(checksum_text(outcome.stored.crc64)),
        metadata: outcome.metadata,
    }
}

/// Formats a checksum as S3 does: `crc64nvme:` and the base64 of its big-endian bytes.
pub fn checksum_text(crc64: u64) -> String {
    format!("crc64nvme:{}", STANDARD.encode(crc64.to_be_bytes()))
}

/// Rejects an image with a Content-Encoding (RFC 9110 8.4): neither the service nor its readers would decode it.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<()> {
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
