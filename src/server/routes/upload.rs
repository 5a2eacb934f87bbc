//! `POST /upload-image` and `POST /images`: stream the image in a form or a raw body into the store.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
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
use super::uploaded::Uploaded;
use crate::crc64;
use crate::error::{Error, Result};
use crate::format::{Format, ImageInfo};
use crate::ingest::{BodyKind, IncomingBody, IncomingImage};
use crate::policy::Policy;
use crate::server::App;
use crate::server::middleware::access_log::{field, record_field};
use crate::server::middleware::authority::Authority;
use crate::server::openapi::{IMAGES, answers};
use crate::server::request::accept::prefers_html;
use crate::server::request::started::Started;
use crate::server::request::{Invocation, check_encoding};
use crate::store::{CustomMetadata, ImageKey, Metadata, ObjectInfo, ObjectName, PresignOptions, StoreError};
use crate::upload::budget::memory_checks;
use crate::upload::fixed::{FixedKey, FixedUpload, check_same};
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
    /// The metadata that the issuer of the grant has attached to the image.
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
        description = "A value that the client chooses for this image, preferably a UUID: a string in quotes (RFC 8941). \
            It is also accepted without quotes.")),
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
        (status = 303, description = "The image was stored, and the client prefers `text/html` to `application/json`, as a \
            browser does that sends a form: `Location` is a page that shows the result. Errors are pages then, too.",
            headers(("Location" = String, description = "The page, relative to the request URL. It expires with the \
                image's link."))),
        answers::Upload,
    ))]
pub async fn upload(State(app): State<App>, mut request: UploadHead, body: Body) -> Result<Response> {
    let stored = store(&app, &mut request, body).await;
    let image = stored.map_err(|error| Invocation::explain(request.invocation.as_ref(), error))?;
    if prefers_html(&request.headers)
        && let Ok(redirect) = see_other(&app, &image, request.authority.as_ref())
    {
        return Ok(redirect);
    }
    Ok(located(image, &ServiceBase(request.base)))
}

/// Returns the redirect to a page that shows the image.
fn see_other(app: &App, image: &StoredImage, authority: Option<&Authority>) -> Result<Response> {
    let (key, content_type) = (image.s3_key.clone(), image.content_type.clone());
    let dimensions = image.width.zip(image.height).unwrap_or_default();
    let uploaded = Uploaded::new(key, content_type, image.size, dimensions, app.config.read_url_ttl);
    uploaded.see_other(app, authority.and_then(Authority::key_name))
}

/// Returns the response with the image's URL.
fn located(image: StoredImage, base: &ServiceBase) -> Response {
    let location = base.image_url(&image.s3_key);
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
    /// What fixes the image's key.
    pub(super) key: Option<FixedKey>,
    /// The key if none is fixed. `None`: it is drawn when the image's format is known.
    pub(super) drawn_key: Option<ImageKey>,
    pub(super) metadata: CustomMetadata,
    /// The ID of the resumable upload that the image belongs to.
    pub(super) origin: Option<Uuid>,
    /// The declared length of the body in bytes.
    pub(super) length: Option<u64>,
    pub(super) link: PresignOptions,
}

impl Terms {
    pub(super) fn new(app: &App, request: &UploadHead) -> Result<Self> {
        let authority = request.authority.as_ref();
        Ok(Terms {
            policy: request.limits(),
            key: fixed_key(authority, &request.headers)?,
            drawn_key: None,
            metadata: authority.map(Authority::metadata).unwrap_or_default(),
            origin: None,
            length: content_length(&request.headers),
            link: app.read_link(request.base.clone()),
        })
    }

    fn metadata_of(&self, image: &IncomingImage) -> Metadata {
        let may_be_planned = matches!(self.key, Some(FixedKey::Image(_)));
        let origin = self.origin;
        Metadata { may_be_planned, origin, ..Metadata::verified(image.info(), self.metadata.clone()) }
    }

    /// Returns a link to the stored image.
    async fn link_to(&self, app: &App, name: &ObjectName) -> Result<String, StoreError> {
        Ok(app.store.presign_get(name, &self.link).await?.url)
    }

    /// Returns the error as the client gets it.
    fn explain(&self, error: Error) -> Error {
        match &self.key {
            Some(fixed) => fixed.explain(error),
            None => error,
        }
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
async fn store(app: &App, request: &mut UploadHead, body: Body) -> Result<StoredImage> {
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
    let terms = Terms::new(app, request)?;
    kind.check_length(length.unwrap_or_default(), &terms.policy)?;
    store_body(app, body, &terms, watch).await
}

/// Stores the image in `body`.
pub(super) async fn store_body(
    app: &App,
    body: IncomingBody,
    terms: &Terms,
    watch: UploadTimer,
) -> Result<StoredImage> {
    let mut admitted = app.uploads.admit(terms.length).await?;
    let mut image = IncomingImage::open(body, Arc::clone(&terms.policy), admitted.head()).await?;
    loop {
        let work = send(app, terms, &mut image, admitted);
        match watch.run(work).await.map_err(|error| terms.explain(error))? {
            ControlFlow::Break(outcome) => {
                record_field(field::SIZE, outcome.stored.size);
                match outcome.is_new {
                    true => watch.stored(outcome.stored.size),
                    false => watch.repeated(),
                }
                return Ok(answer(image.info(), outcome));
            }
            ControlFlow::Continue(reservation) => admitted = reservation,
        }
        image = image.replacement(admitted.head()).await?;
    }
}

/// What a request's image is stored as.
enum Target {
    Drawn(ObjectName),
    Fixed(FixedUpload),
    /// An object exists under the fixed key.
    Existing(ObjectName, ObjectInfo),
}

impl Target {
    async fn find(app: &App, terms: &Terms, format: Format, extension: &'static str) -> Result<Self> {
        record_field(field::CONTENT_TYPE, format.content_type());
        let Some(fixed) = &terms.key else {
            let key = terms.drawn_key.clone().unwrap_or_else(|| ImageKey::random(extension));
            record_field(field::S3_KEY, key.as_str());
            return Ok(Target::Drawn(ObjectName::Image(key)));
        };
        let upload = app.uploads.begin_fixed(fixed, fixed.of(format, &terms.policy)?);
        record_field(field::S3_KEY, upload.name().key().as_str());
        Ok(match upload.find(app.store.as_ref()).await? {
            Some(existing) => Target::Existing(upload.name(), existing),
            None => Target::Fixed(upload),
        })
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

/// Stores the image, or finds that it exists already. If another file of the form replaces it, nothing of it is stored and a
/// reservation for the other file is returned.
async fn send(
    app: &App,
    terms: &Terms,
    image: &mut IncomingImage,
    admitted: AdmittedUpload,
) -> Result<ControlFlow<Outcome, AdmittedUpload>> {
    let (metadata, min_size) = (terms.metadata_of(image), image.min_size());
    let existing = match Target::find(app, terms, image.info().format, image.extension()).await {
        Ok(Target::Drawn(name)) => {
            let uploader = app.uploads.start(name.clone(), metadata, min_size, admitted);
            return stream(app, terms, image, name, uploader).await;
        }
        Ok(Target::Fixed(upload)) => {
            let name = upload.name();
            let uploader = app.uploads.start_fixed(upload, metadata, min_size, admitted);
            return stream(app, terms, image, name, uploader).await;
        }
        Ok(Target::Existing(name, existing)) => Ok((name, existing)),
        // The error does not matter if another file replaces this one.
        Err(error) if image.may_be_replaced() => Err(error),
        Err(error) => return Err(error),
    };
    let stored = digest(image, admitted).await?;
    if image.is_replaced() {
        return Ok(ControlFlow::Continue(app.uploads.admit(terms.length).await?));
    }
    let (name, existing) = existing?;
    check_same(app.store.as_ref(), &name, &existing, stored).await?;
    let url = terms.link_to(app, &name).await?;
    Ok(ControlFlow::Break(Outcome { name, stored, url, metadata: existing.custom, is_new: false }))
}

/// Streams the image into the store, under `name` unless that name must be given up.
async fn stream(
    app: &App,
    terms: &Terms,
    image: &mut IncomingImage,
    name: ObjectName,
    mut uploader: UploadWriter,
) -> Result<ControlFlow<Outcome, AdmittedUpload>> {
    pump(image, &mut uploader).await?;
    if image.is_replaced() {
        return Ok(ControlFlow::Continue(uploader.restart().await));
    }
    let durable = uploader.finish().await?;
    if durable.name != name {
        record_field(field::S3_KEY, durable.name.key().as_str());
    }
    // If this fails or is dropped, the upload is undone. Nothing is awaited after it.
    let url = match (terms.link_to(app, &durable.name).await, &terms.key) {
        (Err(error), Some(_)) => return Err(Error::OutcomeUnknown(error.into())),
        (url, _) => url?,
    };
    let name = durable.name.clone();
    let (stored, metadata) = (durable.acknowledge(), terms.metadata.clone());
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
    let mut memory_checks = memory_checks();
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = image.next_chunk() => chunk?,
            error = uploader.failed() => return Err(error),
            _ = memory_checks.tick() => {
                uploader.leave_scarce_memory().await?;
                continue;
            }
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
        checksum: Some(crc64::labelled(outcome.stored.crc64)),
        metadata: outcome.metadata,
    }
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
