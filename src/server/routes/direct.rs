//! `/uploads`: planning, watching, completing and aborting direct uploads.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::request::Parts;
use http::{StatusCode, header};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

use super::ServiceBase;
use super::images::KeyInPath;
use super::upload::{StoredImage, checksum_text};
use crate::direct::create::create;
use crate::direct::plan::{UploadLinks, UploadRequest, compare};
use crate::direct::presign::{self, UploadPart, UploadPlan};
use crate::direct::promote::over;
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

/// How soon a client that was told `verifying` may ask again, in seconds.
const ASK_AGAIN: u32 = 2;

/// How far a direct upload is, and its links.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UploadStatus)]
pub struct Status {
    #[schema(value_type = ImageKey)]
    pub s3_key: String,
    /// `put` or `multipart`, as planned.
    #[schema(examples("multipart"))]
    pub kind: &'static str,
    pub state: UploadState,
    /// Bytes planned.
    #[schema(examples(314_572_800))]
    pub size: u64,
    /// A multipart plan's parts, while its upload lives: those with a `url` are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub parts: Option<Vec<UploadPart>>,
    /// When the parts' URLs end, RFC 3339.
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

/// How far a direct upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(examples("uploading"))]
pub enum UploadState {
    /// Nothing has arrived.
    Waiting,
    /// Some parts have arrived, or all: not completed.
    Uploading,
    /// The bytes are in the store and not yet an image: `complete_url` makes them one.
    Verifying,
    /// The image is there.
    Complete,
}

/// An upload that takes longer to check than the client wants to wait.
#[derive(Debug, Serialize, ToSchema)]
pub struct Unfinished {
    #[schema(value_type = ImageKey)]
    pub s3_key: String,
    /// Always `verifying`.
    #[schema(examples("verifying"))]
    pub state: UploadState,
}

/// A plan from its link, which is the permission to go on with it.
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
        let query: Result<Query<plan::Query>, QueryRejection> = Query::from_request_parts(parts, app).await;
        let Query(plan::Query { plan: token }) = query.map_err(|problem| Error::InvalidToken(Some(problem.into())))?;
        let (claims, kid) = app.tokens.read_plan(&token)?;
        if let Some(kid) = kid {
            record_field(field::API_KEY_NAME, kid.as_str());
        }
        let plan = Plan::from_claims(claims)?;
        if plan.key != key {
            return Err(Error::InvalidToken(Some("it is for another key".into())));
        }
        Ok(PlanFromLink { plan, token })
    }
}

/// Plans a direct upload: what to PUT where, and the links to go on with.
///
/// Up to `direct_put_max` of `GET /limits` it is one PUT, above it at most 100 parts, each to be PUT with exactly the
/// headers it has. Then POST to `complete_url`.
#[utoipa::path(post, path = "/uploads", tag = DIRECT, operation_id = "plan_upload", request_body = plan::UploadRequest,
    responses((status = 201, description = "The plan.", body = UploadPlan), answers::Plan))]
pub async fn plan(
    State(app): State<App>,
    base: ServiceBase,
    authority: Authority,
    JsonBody(wish): JsonBody<UploadRequest>,
) -> Result<(StatusCode, Json<UploadPlan>)> {
    let draft = wish.check(&authority.limit(Arc::clone(&app.policy)), authority.image_key())?;
    record_field(field::S3_KEY, draft.key.as_str());
    record_field(field::SIZE, draft.size);
    let pending = create(&app.store, app.uploads.reconciler(), app.uploads.tasks(), &app.config, draft).await?;
    let token = app.tokens.sign_plan(pending.plan.claims(), authority.key_name())?;
    let links = pending.plan.links(app.config.public_url.as_deref(), &token);
    let options = upload_link(&app, base);
    let answer = presign::sign(app.store.as_ref(), &pending.plan, &options, links).await.map_err(Error::from)?;
    pending.acknowledged();
    Ok((StatusCode::CREATED, Json(answer)))
}

/// What has arrived, and fresh URLs for the parts that have not: a plan's `status_url`.
#[utoipa::path(get, path = "/uploads/{s3_key}", tag = DIRECT, operation_id = "upload_status",
    params(KeyInPath, plan::Query),
    responses((status = 200, description = "How far it is.", body = Status), answers::PlanFromLink))]
pub async fn status(State(app): State<App>, base: ServiceBase, linked: PlanFromLink) -> Result<Json<Status>> {
    let plan = &linked.plan;
    if is_there(&app, &plan.image()).await? {
        return Ok(Json(Status::new(&app, &linked, UploadState::Complete)));
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

/// By these a client sees whether what has arrived is what it would send.
fn add_etags(parts: &mut [UploadPart], held: &[Part]) {
    for part in parts.iter_mut().filter(|part| part.url.is_none()) {
        part.etag = held.iter().find(|held| held.number == part.part_number).and_then(|held| held.etag.clone());
    }
}

/// The parts of a multipart upload; none where it is over.
async fn held_parts(app: &App, upload: &Upload) -> Result<Option<Vec<Part>>> {
    match app.store.list_parts(upload).await {
        Ok(parts) => Ok(Some(parts)),
        Err(StoreError::NoSuchUpload) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How far an upload is that has no image, and no parts any more or never had any.
async fn without_parts(app: &App, plan: &Plan) -> Result<UploadState> {
    let arrived = app.verifier.find(&plan.incoming()).await?;
    if arrived.as_ref().is_some_and(|arrived| arrived.marker.is_none()) {
        return Ok(UploadState::Verifying);
    }
    // It may have been promoted since the image was looked for.
    if is_there(app, &plan.image()).await? {
        return Ok(UploadState::Complete);
    }
    match arrived.and_then(|arrived| arrived.marker) {
        Some(marker) => Err(over(&marker)),
        None if plan.upload().is_some() => Err(Error::NotFound),
        None => Ok(UploadState::Waiting),
    }
}

/// Makes what has arrived an image, after checking it as any other: a plan's `complete_url`.
///
/// It may be asked again and again, and answers the same. After an error that says what is wrong with the image, the upload
/// is over: plan another one.
#[utoipa::path(post, path = "/uploads/{s3_key}/complete", tag = DIRECT, operation_id = "complete_upload",
    params(KeyInPath, plan::Query),
    responses(
        (status = 200, description = "It is an image.", body = StoredImage),
        (status = 202, description = "It is still being checked: ask again.", body = Unfinished,
            headers(("Retry-After" = u32, description = "Seconds."))),
        answers::Complete,
    ))]
pub async fn complete(
    State(app): State<App>,
    ServiceBase(base): ServiceBase,
    deadline: Option<Extension<Deadline>>,
    PlanFromLink { plan, .. }: PlanFromLink,
) -> Result<Response, Response> {
    let name = plan.image();
    let outcome = match tokio::time::timeout(wait(&app, deadline), app.promotions.complete(plan)).await {
        Ok(outcome) => outcome,
        Err(_) => return Ok(verifying(&name)),
    };
    let image = outcome.map_err(respond)?;
    // The image stays if signing fails: the client has its links, and can ask again.
    let link = app.store.presign_get(&name, &app.read_link(base)).await;
    let link = link.map_err(|error| Error::from(error).into_response())?;
    record_field(field::SIZE, image.size);
    Ok(Json(stored(name.key(), image, link.url)).into_response())
}

/// For how long the request may wait for a promotion or an abort, and still say that it is not over.
fn wait(app: &App, deadline: Option<Extension<Deadline>>) -> Duration {
    Deadline::wait(deadline.map(|Extension(deadline)| deadline), app.config.direct.complete_wait)
}

fn verifying(name: &ObjectName) -> Response {
    let body = Unfinished { s3_key: name.key().to_string(), state: UploadState::Verifying };
    (StatusCode::ACCEPTED, [(header::RETRY_AFTER, ASK_AGAIN.to_string())], Json(body)).into_response()
}

fn stored(key: &ImageKey, image: ObjectInfo, url: String) -> StoredImage {
    let (width, height) = image.dimensions.unzip();
    StoredImage {
        url,
        s3_key: key.to_string(),
        content_type: image.content_type.unwrap_or_default(),
        size: image.size,
        width,
        height,
        checksum: image.crc64.map(checksum_text),
    }
}

/// Leaves nothing of an upload: a plan's `abort_url`.
#[utoipa::path(delete, path = "/uploads/{s3_key}", tag = DIRECT, operation_id = "abort_upload",
    params(KeyInPath, plan::Query),
    responses((status = 204, description = "Nothing is left."), answers::Abort))]
pub async fn abort(
    State(app): State<App>,
    deadline: Option<Extension<Deadline>>,
    PlanFromLink { plan, .. }: PlanFromLink,
) -> Result<StatusCode, Response> {
    let aborted = tokio::time::timeout(wait(&app, deadline), app.promotions.abort(plan)).await;
    let aborted = aborted.map_err(|_| Error::Verifying.into_response())?;
    aborted.map(|()| StatusCode::NO_CONTENT).map_err(respond)
}

async fn is_there(app: &App, name: &ObjectName) -> Result<bool> {
    Ok(app.verifier.find(name).await?.is_some())
}

fn upload_link(app: &App, ServiceBase(base): ServiceBase) -> PresignOptions {
    PresignOptions { ttl: app.config.direct.url_ttl, base }
}
