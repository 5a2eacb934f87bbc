//! `/files`: resumable uploads, with tus 1.0 or with the IETF's resumable uploads.
//!
//! A request that creates an upload requires an API key or a grant, and is answered with the address of the upload. The
//! address contains a token, which is all that further requests require. `tus` and `ietf` read the headers of the two
//! protocols, `answer` writes those of the responses, and [`crate::resumable`] does the rest.

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use utoipa::{IntoParams, ToSchema};

mod answer;
mod creation;
mod headers;
mod ietf;
mod protocol;
mod tus;
mod whole;

pub use answer::speak_version;

use answer::{Answer, Limits, Position};
use creation::{Creation, DeclaredFile};
use headers::{accepts_json, body_length, single};
use protocol::Protocol;

use super::images::KeyInPath;
use super::upload::{StoredImage, UploadHead};
use super::{ServiceBase, link_query};
use crate::auth::tokens::{PLAN_LIFETIME, VerifiedToken};
use crate::crc64;
use crate::direct::plan::draw_key;
use crate::error::{Error, Result};
use crate::ingest::error_from_body;
use crate::policy::Policy;
use crate::resumable::{Append, NewUpload, Progress, ResumableClaims, ResumableUpload};
use crate::server::App;
use crate::server::middleware::access_log::{field, record_field};
use crate::server::middleware::authority::Authority;
use crate::server::openapi::{RESUMABLE, answers};
use crate::server::request::{Invocation, check_encoding};
use crate::store::{ImageKey, ObjectName};
use crate::upload::timer::UploadMethod;

const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// The query of an upload's address.
#[derive(Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// The upload, signed by the service. It permits continuing, reading and cancelling this upload, and expires after one
    /// day.
    #[param(min_length = 1, example = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")]
    pub upload: String,
}

/// An upload from its address. The address authorizes the request.
pub struct UploadFromLink {
    upload: ResumableUpload,
    expires_at: SystemTime,
}

impl FromRequestParts<App> for UploadFromLink {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, app).await;
        let key = path.ok().and_then(|Path(key)| ImageKey::parse(&key)).ok_or(Error::NotFound)?;
        record_field(field::S3_KEY, key.as_str());
        let UploadQuery { upload: token } = link_query(parts, app).await?;
        let VerifiedToken { upload, kid, expires_at } = app.tokens.verify::<ResumableClaims>(&token)?;
        if let Some(kid) = kid {
            record_field(field::API_KEY_NAME, kid.as_str());
        }
        let upload = ResumableUpload::from_claims(upload)?;
        if upload.key != key {
            return Err(Error::InvalidToken(Some("the token is for another s3_key".into())));
        }
        Ok(UploadFromLink { upload, expires_at })
    }
}

/// What a request for an upload consists of, besides the upload and the body.
pub struct UploadRequest {
    headers: HeaderMap,
    base: Option<String>,
    invocation: Option<Invocation>,
}

impl FromRequestParts<App> for UploadRequest {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let ServiceBase(base) = ServiceBase::from_request_parts(parts, app).await?;
        let invocation = parts.extensions.get().cloned();
        Ok(UploadRequest { headers: std::mem::take(&mut parts.headers), base, invocation })
    }
}

impl UploadRequest {
    /// Returns what builds the responses to this request for an upload.
    fn answer(&self, linked: &UploadFromLink) -> Answer {
        let limits = Limits {
            max_size: linked.upload.max_size,
            max_append: self.invocation.as_ref().map(|invocation| invocation.max_stream),
            expires_at: Some(linked.expires_at),
        };
        Answer { protocol: Protocol::of(&self.headers), limits }
    }
}

/// Returns what `/files` supports, and the limits of new uploads.
pub async fn options(
    State(app): State<App>,
    authority: Option<Authority>,
    invocation: Option<Extension<Invocation>>,
) -> Response {
    answer::options(&limits(&policy(&app, authority.as_ref()), invocation.as_deref()))
}

fn policy(app: &App, authority: Option<&Authority>) -> Arc<Policy> {
    let policy = Arc::clone(&app.policy);
    match authority {
        Some(authority) => authority.limit(policy),
        None => policy,
    }
}

/// Returns the limits of an upload that is to be created.
fn limits(policy: &Policy, invocation: Option<&Invocation>) -> Limits {
    let max_append = invocation.map(|invocation| invocation.max_stream);
    Limits { max_size: policy.max_upload_size, max_append, expires_at: None }
}

/// Creates a resumable upload, and returns its address.
///
/// With `Tus-Resumable` this is a request of tus 1.0, with `Upload-Complete` one of the IETF's resumable uploads (interop
/// version 8). The body may contain the beginning of the file or the whole file. The address in `Location` requires no API
/// key. It is valid for one day.
#[utoipa::path(post, path = "/files", tag = RESUMABLE, operation_id = "create_upload",
    params(
        ("Tus-Resumable" = Option<String>, Header, example = "1.0.0", description = "The version of tus: `1.0.0`."),
        ("Upload-Length" = Option<u64>, Header, example = 482_113, description = "The size of the file in bytes."),
        ("Upload-Defer-Length" = Option<u64>, Header, description = "tus: `1` if the size is not known yet."),
        ("Upload-Metadata" = Option<String>, Header, example = "filename cGhvdG8ucG5n",
            description = "tus: names and base64 values. `filename` or `name`, and `filetype` or `type`, determine the \
                extension of the key. The bytes must have that format."),
        ("Upload-Complete" = Option<String>, Header, example = "?0", description = "IETF: `?1` if the body is the whole \
            file, otherwise `?0`. `Content-Type` and the file name in `Content-Disposition` determine the key's extension."),
    ),
    request_body(content = FilePart, content_type = "application/offset+octet-stream"),
    responses(
        (status = 200, description = "IETF: the body was the whole file, which was stored.", body = StoredImage,
            headers(("Upload-Complete" = String, description = "`?1`."))),
        (status = 201, description = "The upload was created. The body is empty unless the whole file was stored and the \
            client accepts `application/json`.", headers(
            ("Location" = String, description = "The address of the upload. Use it unchanged."),
            ("Upload-Offset" = u64, description = "The number of bytes that are stored."),
            ("Upload-Expires" = String, description = "tus: when the upload expires (HTTP date)."),
            ("Upload-Complete" = String, description = "IETF: `?0`."),
            ("Upload-Limit" = String, description = "IETF: the limits of the upload."),
        )),
        answers::CreateUpload,
    ))]
pub async fn create(State(app): State<App>, request: UploadHead, body: Body) -> Response {
    let policy = policy(&app, request.authority.as_ref());
    let limits = limits(&policy, request.invocation.as_ref());
    let answer = Answer { protocol: Protocol::of(&request.headers), limits };
    let invocation = request.invocation.clone();
    let created = start(&app, answer, &policy, request, body).await;
    created.unwrap_or_else(|error| answer.error(Invocation::explain(invocation.as_ref(), error)))
}

/// Bytes of the file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct FilePart(pub ());

async fn start(app: &App, answer: Answer, policy: &Policy, request: UploadHead, body: Body) -> Result<Response> {
    check_encoding(&request.headers)?;
    let creation = answer.protocol.creation(&request.headers)?;
    if creation.is_whole && answer.protocol == Protocol::Ietf {
        return whole::store_raw(app, answer, request, &creation, body).await;
    }
    let authority = request.authority.clone().ok_or(Error::Unauthorized)?;
    let new = new_upload(&authority, policy, &creation)?;
    record_field(field::S3_KEY, new.key.as_str());
    if creation.is_whole {
        return whole::store(app, answer, request, &authority, new, body).await;
    }
    let pending = app.resumable.create(new).await?;
    let (url, answer) = address(app, answer, pending.upload(), request.base.as_deref(), &authority)?;
    let first = Append { content_length: body_length(&request.headers), ..Append::default() };
    let progress = match first.content_length {
        Some(0) => Progress::Unfinished { offset: 0, length: creation.length },
        _ => app.resumable.append(pending.upload(), first, chunks(body)).await?,
    };
    observe(app, &progress, answer.limits.expires_at);
    pending.acknowledged();
    Ok(answer.created(&url, position(&progress), None))
}

/// Checks the request by the policy and gives the upload a key: a new one, unless a grant fixes it.
fn new_upload(authority: &Authority, policy: &Policy, creation: &Creation) -> Result<NewUpload> {
    let DeclaredFile { name, content_type } = &creation.file;
    let (drawn, format) = draw_key(name.as_deref(), content_type.as_deref(), policy)?;
    let fixed = authority.image_key();
    Ok(NewUpload {
        is_fixed_key: fixed.is_some(),
        key: fixed.unwrap_or(drawn),
        format,
        length: creation.length,
        max_size: policy.max_upload_size,
        custom: authority.metadata(),
        tus_metadata: creation.tus_metadata.clone(),
    })
}

/// Signs the upload. Returns its address, and the answer with its expiry.
fn address(
    app: &App,
    answer: Answer,
    upload: &ResumableUpload,
    base: Option<&str>,
    authority: &Authority,
) -> Result<(String, Answer)> {
    let (token, expires_at) = app.tokens.issue(upload.claims(), authority.key_name())?;
    // A token contains only characters that need no escaping in a query (RFC 7515, 2: base64url and dots).
    let url = format!("{}/files/{}?upload={token}", base.unwrap_or("."), upload.key);
    let limits = Limits { expires_at: Some(expires_at), ..answer.limits };
    Ok((url, Answer { limits, ..answer }))
}

/// Returns how much of the file is stored.
///
/// Ends an older request for this upload, if there is one. The bytes that it has sent are stored.
#[utoipa::path(head, path = "/files/{s3_key}", tag = RESUMABLE, operation_id = "upload_offset",
    params(KeyInPath, UploadQuery),
    responses(
        (status = 200, description = "tus: the state of the upload.", headers(
            ("Upload-Offset" = u64, description = "The number of bytes that are stored. Continue there."),
            ("Upload-Length" = u64, description = "The size of the file in bytes, if it is known."),
            ("Upload-Defer-Length" = u64, description = "`1` if the size is not known yet."),
            ("Upload-Metadata" = String, description = "What the client has sent when it created the upload."),
            ("Upload-Expires" = String, description = "When the upload expires (HTTP date)."),
        )),
        (status = 204, description = "IETF: the state of the upload.", headers(
            ("Upload-Offset" = u64, description = "The number of bytes that are stored. Continue there."),
            ("Upload-Complete" = String, description = "`?1` if the image is stored, otherwise `?0`."),
            ("Upload-Length" = u64, description = "The size of the file in bytes, if it is known."),
            ("Upload-Limit" = String, description = "The limits of the upload."),
        )),
        answers::UploadState,
    ))]
pub async fn head(State(app): State<App>, linked: UploadFromLink, request: UploadRequest) -> Result<Response> {
    let answer = request.answer(&linked);
    answer.protocol.check_retrieval(&request.headers)?;
    let progress = status(&app, &linked).await?;
    Ok(answer.state(position(&progress), linked.upload.tus_metadata.as_deref()))
}

/// Returns the image of a complete upload.
#[utoipa::path(get, path = "/files/{s3_key}", tag = RESUMABLE, operation_id = "uploaded_image",
    params(KeyInPath, UploadQuery),
    responses(
        (status = 200, description = "The upload is complete.", body = StoredImage),
        (status = 204, description = "The upload is not complete. The headers are those of `HEAD`."),
        answers::UploadState,
    ))]
pub async fn image(State(app): State<App>, linked: UploadFromLink, request: UploadRequest) -> Result<Response> {
    let answer = request.answer(&linked);
    answer.protocol.check_retrieval(&request.headers)?;
    let progress = status(&app, &linked).await?;
    let image = json(&app, request.base, &progress).await?;
    Ok(answer.retrieved(position(&progress), image))
}

/// Appends bytes to the file. With the last byte the image is stored.
///
/// If the request breaks off, what has arrived is stored and counts. Ask for the offset with `HEAD` and continue there.
#[utoipa::path(patch, path = "/files/{s3_key}", tag = RESUMABLE, operation_id = "append_to_upload",
    params(KeyInPath, UploadQuery,
        ("Upload-Offset" = u64, Header, example = 0, description = "The offset of the body's first byte in the file."),
        ("Upload-Length" = Option<u64>, Header, description = "The size of the file in bytes, if it was not known before."),
        ("Upload-Complete" = Option<String>, Header, description = "IETF: `?1` if the file ends with the body, otherwise `?0`."),
    ),
    request_body(content((FilePart = "application/offset+octet-stream"), (FilePart = "application/partial-upload"))),
    responses(
        (status = 200, description = "The image is stored, and the client accepts `application/json` by name.", body = StoredImage),
        (status = 204, description = "The bytes are stored.", headers(
            ("Upload-Offset" = u64, description = "The number of bytes that are stored. It can be less than was sent."),
            ("Upload-Expires" = String, description = "tus: when the upload expires (HTTP date)."),
            ("Upload-Complete" = String, description = "IETF: `?1` if the image is stored, otherwise `?0`."),
            ("Upload-Limit" = String, description = "IETF: the limits of the upload."),
        )),
        answers::AppendToUpload,
    ))]
pub async fn append(State(app): State<App>, linked: UploadFromLink, request: UploadRequest, body: Body) -> Response {
    let answer = request.answer(&linked);
    let invocation = request.invocation.clone();
    let appended = append_body(&app, answer, &linked, request, body).await;
    appended.unwrap_or_else(|error| answer.error(Invocation::explain(invocation.as_ref(), error)))
}

async fn append_body(
    app: &App,
    answer: Answer,
    linked: &UploadFromLink,
    request: UploadRequest,
    body: Body,
) -> Result<Response> {
    check_encoding(&request.headers)?;
    let append = answer.protocol.append(&request.headers)?;
    let received = AtomicU64::new(0);
    let counted = chunks(body).inspect_ok(|bytes| {
        received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    });
    let progress = match app.resumable.append(&linked.upload, append, counted).await {
        Ok(progress) => progress,
        Err(error) => {
            let end = append.offset + append.content_length.unwrap_or(received.into_inner());
            return Err(failed(app, answer.protocol, linked, end, error).await);
        }
    };
    observe(app, &progress, Some(linked.expires_at));
    let image = if accepts_json(&request.headers) { json(app, request.base, &progress).await? } else { None };
    Ok(answer.appended(position(&progress), image))
}

/// Counts an upload that was refused. `end` is the offset at which the body ends.
///
/// The IETF's draft requires that an upload becomes invalid if it was sent more than its length.
async fn failed(app: &App, protocol: Protocol, linked: &UploadFromLink, end: u64, error: Error) -> Error {
    let is_refused = match &error {
        Error::InvalidFileType { .. } | Error::TooManyPixels { .. } => true,
        // If this fails, the upload remains until it expires.
        Error::InconsistentLength { length } if protocol == Protocol::Ietf && end > *length => {
            app.resumable.delete(&linked.upload).await.is_ok()
        }
        _ => false,
    };
    if is_refused {
        app.metrics.aborted(UploadMethod::Resumable, "refused_late");
    }
    error
}

/// Cancels the upload and removes everything that was stored of it.
///
/// It never deletes an image: after the last byte has arrived it returns 409 `already_complete`.
#[utoipa::path(delete, path = "/files/{s3_key}", tag = RESUMABLE, operation_id = "cancel_upload",
    params(KeyInPath, UploadQuery),
    responses((status = 204, description = "The upload was cancelled."), answers::CancelUpload))]
pub async fn cancel(State(app): State<App>, linked: UploadFromLink) -> Result<StatusCode> {
    app.resumable.delete(&linked.upload).await?;
    app.metrics.aborted(UploadMethod::Resumable, "requested");
    Ok(StatusCode::NO_CONTENT)
}

/// Handles a POST request that stands for another method, from a client that cannot send `PATCH` or `DELETE`.
pub async fn overridden(
    state: State<App>,
    linked: UploadFromLink,
    request: UploadRequest,
    body: Body,
) -> Result<Response> {
    match single(&request.headers, &METHOD_OVERRIDE).map(str::to_ascii_uppercase).as_deref() {
        Some("PATCH") => Ok(append(state, linked, request, body).await),
        Some("DELETE") => cancel(state, linked).await.map(IntoResponse::into_response),
        Some("HEAD") => head(state, linked, request).await,
        _ => Err(Error::MethodNotAllowed),
    }
}

async fn status(app: &App, linked: &UploadFromLink) -> Result<Progress> {
    let progress = app.resumable.status(&linked.upload).await?;
    observe(app, &progress, Some(linked.expires_at));
    Ok(progress)
}

/// Records the image of an upload that is complete.
fn observe(app: &App, progress: &Progress, expires_at: Option<SystemTime>) {
    let Progress::Complete(image) = progress else { return };
    record_field(field::SIZE, image.object.size);
    if image.is_new {
        let created = expires_at.map(|expires_at| expires_at - PLAN_LIFETIME);
        let duration = created.and_then(|created| created.elapsed().ok()).unwrap_or_default();
        app.metrics.stored(UploadMethod::Resumable, duration, image.object.size);
    }
}

fn position(progress: &Progress) -> Position {
    match progress {
        Progress::Unfinished { offset, length } => Position { offset: *offset, length: *length, is_complete: false },
        Progress::Complete(image) => {
            let size = image.object.size;
            Position { offset: size, length: Some(size), is_complete: true }
        }
    }
}

/// Returns the image of an upload as every upload method does. `None` if the upload is not complete.
async fn json(app: &App, base: Option<String>, progress: &Progress) -> Result<Option<StoredImage>> {
    let Progress::Complete(image) = progress else { return Ok(None) };
    let info = app.resumable.inspect(image).await?;
    let link = app.store.presign_get(&ObjectName::Image(image.key.clone()), &app.read_link(base)).await?;
    record_field(field::CONTENT_TYPE, info.format.content_type());
    Ok(Some(StoredImage {
        url: link.url,
        s3_key: image.key.to_string(),
        content_type: info.format.content_type().to_owned(),
        size: image.object.size,
        width: Some(info.width),
        height: Some(info.height),
        checksum: image.crc64.map(crc64::labelled),
        metadata: image.object.custom.clone(),
    }))
}

/// Returns the data of a body.
fn chunks(body: Body) -> impl Stream<Item = Result<Bytes>> + Send {
    TryStreamExt::map_err(body.into_data_stream(), |error| error_from_body(error.into_inner()))
}
