//! `/uploads`: create, inspect, complete and abort direct uploads.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::request::Parts;
use http::{StatusCode, header};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

use super::images::KeyInPath;
use super::upload::StoredImage;
use super::{ServiceBase, link_query};
use crate::crc64;
use crate::direct::create::{PlanTerms, create};
use crate::direct::identity::Match;
use crate::direct::plan::{UploadLinks, UploadRequest, compare};
use crate::direct::presign::{self, UploadPart, UploadPlan};
use crate::direct::withdraw::over;
use crate::direct::{Plan, plan};
use crate::error::{Error, Result};
use crate::server::App;
use crate::server::json::JsonBody;
use crate::server::middleware::access_log::{field, record_field};
use crate::server::middleware::authority::Authority;
use crate::server::middleware::deadline::Deadline;
use crate::server::openapi::{DIRECT, answers};
use crate::server::response::respond;
use crate::store::s3::Sse;
use crate::store::{ImageKey, ObjectInfo, ObjectName, Part, PresignOptions, StoreError, Upload};

/// The `Retry-After` of a response with the state `verifying`, in seconds.
const RETRY_AFTER: u32 = 2;

/// The status of a direct upload, and its links.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UploadStatus)]
pub struct Status {
    #[schema(value_type = ImageKey)]
    pub s3_key: String,
    /// The planned upload method: `put` (one PUT) or `multipart` (several parts).
    #[schema(examples("multipart"))]
    pub kind: &'static str,
    pub state: UploadState,
    /// The planned size of the image in bytes.
    #[schema(examples(314_572_800))]
    pub size: u64,
    /// All parts of a multipart upload that is not complete. Parts with a `url` have not arrived yet: PUT them there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub parts: Option<Vec<UploadPart>>,
    /// When the URLs of the missing parts expire (RFC 3339, UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime, examples("2026-11-22T12:15:00Z"))]
    pub expires_at: Option<String>,
    #[serde(flatten)]
    pub links: UploadLinks,
}

impl Status {
    fn new(app: &App, linked: &PlanFromLink, state: UploadState) -> Self {
        let PlanFromLink { plan, token } = linked;
        Status {
            s3_key: plan.key.to_string(),
            kind: if plan.upload().is_some() { "multipart" } else { "put" },
            state,
            size: plan.size,
            parts: None,
            expires_at: None,
            links: plan.links(app.config.public_url.as_deref(), token),
        }
    }
}

/// The state of a direct upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(examples("uploading"))]
pub enum UploadState {
    /// No bytes have arrived.
    Waiting,
    /// Some or all parts have arrived. The upload is not complete.
    Uploading,
    /// All bytes have arrived and are not verified yet. A POST to `complete_url` verifies them and stores the image, or compares
    /// them with the image that exists already.
    Verifying,
    /// The image is stored.
    Complete,
}

/// An upload whose verification takes longer than the service waits for it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Unfinished {
    #[schema(value_type = ImageKey)]
    pub s3_key: String,
    /// Always `verifying`.
    #[schema(examples("verifying"))]
    pub state: UploadState,
}

/// A plan from its link. The link authorizes the request.
pub struct PlanFromLink {
    plan: Plan,
    token: String,
}

impl FromRequestParts<App> for PlanFromLink {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, app).await;
        let key = path.ok().and_then(|Path(key)| ImageKey::parse(&key)).ok_or(Error::NotFound)?;
        record_field(field::S3_KEY, key.as_str());
        let plan::Query { plan: token } = link_query(parts, app).await?;
        let (claims, kid) = app.tokens.read(&token)?;
        if let Some(kid) = kid {
            record_field(field::API_KEY_NAME, kid.as_str());
        }
        let plan = Plan::from_claims(claims)?;
        if plan.key != key {
            return Err(Error::InvalidToken(Some("the token is for another s3_key".into())));
        }
        Ok(PlanFromLink { plan, token })
    }
}

/// Plans a direct upload: returns presigned URLs for the bytes, and links to complete, inspect and abort the upload.
///
/// A file of at most `direct_put_max` bytes (`GET /limits`) is sent with one PUT, a larger one in at most 100 parts.
/// PUT each of them with exactly the headers in the plan, then POST to `complete_url`. The links are valid for one day
/// and require no API key.
#[utoipa::path(post, path = "/uploads", tag = DIRECT, operation_id = "plan_upload", request_body = plan::UploadRequest,
    responses((status = 201, description = "The plan of the upload.", body = UploadPlan), answers::Plan))]
pub async fn plan(
    State(app): State<App>,
    base: ServiceBase,
    authority: Authority,
    JsonBody(request): JsonBody<UploadRequest>,
) -> Result<(StatusCode, Json<UploadPlan>)> {
    let draft = request.check(&authority.limit(Arc::clone(&app.policy)), authority.image_key())?;
    let (custom, is_fixed_key) = (authority.metadata(), authority.image_key().is_some());
    record_field(field::S3_KEY, draft.key.as_str());
    record_field(field::SIZE, draft.size);
    if is_fixed_key {
        check_unused(&app, &draft.key).await?;
    }
    let terms = PlanTerms::new(custom.clone(), is_fixed_key);
    let pending = create(&app.store, app.uploads.reconciler(), app.uploads.tasks(), &app.config, draft, terms).await?;
    let token = app.tokens.sign(pending.plan.claims(), authority.key_name())?;
    let links = pending.plan.links(app.config.public_url.as_deref(), &token);
    let options = upload_link(&app, base);
    let answer = presign::sign(app.store.as_ref(), &pending.plan, custom, &options, links).await;
    let answer = answer.map_err(Error::from)?;
    pending.acknowledged();
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Returns the status of the upload, and new URLs for the parts that have not arrived. This is a plan's `status_url`.
///
/// If a grant fixes the key and another upload has stored its image, the response is 409 `already_exists`.
#[utoipa::path(get, path = "/uploads/{s3_key}", tag = DIRECT, operation_id = "upload_status",
    params(KeyInPath, plan::Query),
    responses((status = 200, description = "The status.", body = Status), answers::UploadStatus))]
pub async fn status(State(app): State<App>, base: ServiceBase, linked: PlanFromLink) -> Result<Json<Status>> {
    let plan = &linked.plan;
    if let Some(state) = with_image(&app, plan).await? {
        return Ok(Json(Status::new(&app, &linked, state)));
    }
    if let Some((upload, part_size)) = plan.upload()
        && let Some(held) = held_parts(&app, &upload).await?
    {
        let missing = compare(&held, plan.size, part_size).missing;
        let state = if held.is_empty() { UploadState::Waiting } else { UploadState::Uploading };
        let mut status = Status::new(&app, &linked, state);
        let (options, wanted) = (upload_link(&app, base), |number| missing.contains(&number));
        let signed = presign::sign_parts(app.store.as_ref(), plan.size, &upload, part_size, wanted, &options).await;
        let (mut parts, expires_at) = signed.map_err(Error::from)?;
        if !matches!(app.config.store.sse, Some(Sse::Kms { .. })) {
            add_etags(&mut parts, &held);
        }
        status.parts = Some(parts);
        status.expires_at = (!missing.is_empty()).then(|| presign::rfc3339(expires_at));
        return Ok(Json(status));
    }
    Ok(Json(Status::new(&app, &linked, without_parts(&app, plan).await?)))
}

/// Returns the state of an upload whose key has an image. `None` if there is no image.
async fn with_image(app: &App, plan: &Plan) -> Result<Option<UploadState>> {
    let Some(image) = app.store.find(&plan.image()).await? else { return Ok(None) };
    let arrived = match plan.id {
        Some(_) => app.store.find(&plan.incoming()).await?,
        None => None,
    };
    match plan.expected().compare(&image, arrived.as_ref()) {
        Match::Same => Ok(Some(UploadState::Complete)),
        Match::Undecided => Ok(Some(UploadState::Verifying)),
        Match::Other => Err(Error::AlreadyExists),
    }
}

/// Adds the ETags of the parts that have arrived, with which a client can check that they are parts of its own file.
fn add_etags(parts: &mut [UploadPart], held: &[Part]) {
    for part in parts.iter_mut().filter(|part| part.url.is_none()) {
        part.etag = held.iter().find(|held| held.number == part.part_number).and_then(|held| held.etag.clone());
    }
}

/// Returns the parts of a multipart upload. `None` if the upload has ended.
pub(super) async fn held_parts(app: &App, upload: &Upload) -> Result<Option<Vec<Part>>> {
    match app.store.list_parts(upload).await {
        // SeaweedFS lists no parts before its response to the upload's Complete, when the object exists already.
        Ok(parts) if parts.is_empty() && exists(app, &upload.name).await? => Ok(None),
        Ok(parts) => Ok(Some(parts)),
        Err(StoreError::NoSuchUpload) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the state of an upload that has no image and no parts, because it has ended or is a single PUT.
async fn without_parts(app: &App, plan: &Plan) -> Result<UploadState> {
    let arrived = app.store.find(&plan.incoming()).await?;
    if arrived.as_ref().is_some_and(|arrived| arrived.marker.is_none()) {
        return Ok(UploadState::Verifying);
    }
    // The upload may have been promoted since the search for the image.
    if let Some(state) = with_image(app, plan).await? {
        return Ok(state);
    }
    match arrived.and_then(|arrived| arrived.marker) {
        Some(marker) => Err(over(&marker)),
        None if plan.upload().is_some() => Err(Error::NotFound),
        None => Ok(UploadState::Waiting),
    }
}

/// Completes the upload: verifies the bytes that have arrived and stores the image. This is a plan's `complete_url`.
///
/// Repeated requests return the same result. An error about the image itself, such as `invalid_file_type`, ends the
/// upload: plan another one.
#[utoipa::path(post, path = "/uploads/{s3_key}/complete", tag = DIRECT, operation_id = "complete_upload",
    params(KeyInPath, plan::Query),
    responses(
        (status = 200, description = "The image is stored.", body = StoredImage),
        (status = 202, description = "The image is still being verified. Repeat the request.", body = Unfinished,
            headers(("Retry-After" = u32, description = "Number of seconds to wait before the next request."))),
        answers::Complete,
    ))]
pub async fn complete(
    State(app): State<App>,
    ServiceBase(base): ServiceBase,
    deadline: Option<Extension<Deadline>>,
    PlanFromLink { plan, .. }: PlanFromLink,
) -> Result<Response, Response> {
    let name = plan.image();
    let completing = app.promotions.complete((&plan).into());
    let Ok(outcome) = tokio::time::timeout(wait(&app, deadline), completing).await else { return Ok(verifying(&name)) };
    let image = outcome.map_err(respond)?;
    // The image remains if signing fails: the client has the plan's links and can repeat the request.
    let link = app.store.presign_get(&name, &app.read_link(base)).await;
    let link = link.map_err(|error| Error::from(error).into_response())?;
    record_field(field::SIZE, image.size);
    Ok(Json(stored(name.key(), image, link.url)).into_response())
}

/// Returns how long the request may wait for a promotion or an abort, so that it can still report that this is running.
pub(super) fn wait(app: &App, deadline: Option<Extension<Deadline>>) -> Duration {
    Deadline::wait(deadline.map(|Extension(deadline)| deadline), app.config.direct.complete_wait)
}

fn verifying(name: &ObjectName) -> Response {
    let body = Unfinished { s3_key: name.key().to_string(), state: UploadState::Verifying };
    (StatusCode::ACCEPTED, [(header::RETRY_AFTER, RETRY_AFTER.to_string())], Json(body)).into_response()
}

fn stored(key: &ImageKey, image: ObjectInfo, url: String) -> StoredImage {
    let (width, height) = image.dimensions.unzip();
    StoredImage {
        url,
        s3_key: key.to_string(),
        checksum: image.known_crc64().map(crc64::labelled),
        content_type: image.content_type.unwrap_or_default(),
        size: image.size,
        width,
        height,
        metadata: image.custom,
    }
}

/// Aborts the upload and deletes everything that has arrived. This is a plan's `abort_url`.
///
/// It never deletes an image: after a successful completion it returns 409 `already_complete`.
#[utoipa::path(delete, path = "/uploads/{s3_key}", tag = DIRECT, operation_id = "abort_upload",
    params(KeyInPath, plan::Query),
    responses((status = 204, description = "The upload was aborted."), answers::Abort))]
pub async fn abort(
    State(app): State<App>,
    deadline: Option<Extension<Deadline>>,
    PlanFromLink { plan, .. }: PlanFromLink,
) -> Result<StatusCode, Response> {
    let aborted = tokio::time::timeout(wait(&app, deadline), app.promotions.abort((&plan).into())).await;
    let aborted = aborted.map_err(|_| Error::Verifying.into_response())?;
    aborted.map(|()| StatusCode::NO_CONTENT).map_err(respond)
}

/// Checks that a key that was fixed beforehand can still be used for a direct upload.
pub(super) async fn check_unused(app: &App, key: &ImageKey) -> Result<()> {
    if exists(app, &ObjectName::Image(key.clone())).await? {
        return Err(Error::AlreadyExists);
    }
    let incoming = app.store.find(&ObjectName::Incoming(key.clone())).await?;
    incoming.and_then(|incoming| incoming.marker).map_or(Ok(()), |marker| Err(over(&marker)))
}

async fn exists(app: &App, name: &ObjectName) -> Result<bool> {
    Ok(app.store.find(name).await?.is_some())
}

pub(super) fn upload_link(app: &App, ServiceBase(base): ServiceBase) -> PresignOptions {
    PresignOptions { ttl: app.config.direct.url_ttl, base }
}
