//! `/uploads`: planning, watching, completing and aborting direct uploads.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Uri, header};
use serde::Serialize;
use serde_json::json;

use super::request_host;
use super::upload::{StoredImage, checksum_text};
use crate::app::App;
use crate::direct::plan::{Draft, Links, Wish, compare, part_size};
use crate::direct::presign::{self, PartAnswer, PlanAnswer};
use crate::direct::{Door, Plan, plan};
use crate::error::{Error, Result, respond};
use crate::store::{ImageKey, Metadata, Name, ObjectInfo, PresignOptions, StoreError};
use crate::telemetry::{field, note};

/// How soon a client that was told `verifying` may ask again, in seconds.
const ASK_AGAIN: u32 = 2;

/// `GET status_url`.
#[derive(Debug, Serialize)]
pub struct Status {
    pub s3_key: String,
    pub kind: &'static str,
    pub state: Progress,
    /// Bytes planned.
    pub size: u64,
    /// A multipart plan's parts, while its upload lives: those with a `url` are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<PartAnswer>>,
    /// When the parts' URLs end, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    #[serde(flatten)]
    pub links: Links,
}

/// How far a direct upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// Nothing has arrived.
    Waiting,
    /// Some parts have arrived, or all: not completed.
    Uploading,
    /// The bytes are in the store and not yet an image: `complete_url` makes them one.
    Verifying,
    /// The image is there.
    Complete,
}

/// A plan from its link.
pub struct Linked(Plan);

impl FromRequestParts<App> for Linked {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, app).await;
        let key = path.ok().and_then(|Path(key)| ImageKey::parse(&key)).ok_or(Error::NotFound)?;
        note(field::S3_KEY, key.as_str());
        let query: Result<Query<plan::Query>, QueryRejection> = Query::from_request_parts(parts, app).await;
        let Query(query) = query.map_err(|problem| Error::InvalidRequest(problem.body_text()))?;
        Ok(Linked(Plan::from_link(key, &query, &app.policy)?))
    }
}

/// `POST /uploads`.
pub async fn plan(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
    wish: Result<Json<Wish>, JsonRejection>,
) -> Result<(StatusCode, Json<PlanAnswer>)> {
    let Json(wish) = wish.map_err(|problem| Error::InvalidRequest(problem.body_text()))?;
    let draft = wish.check(&app.policy)?;
    note(field::S3_KEY, draft.key.as_str());
    note(field::SIZE, draft.size);
    let options = upload_link(&app, &uri, &headers);
    // On a task of its own: an upload id whose client has gone is still aborted.
    let (answer, receiver) = tokio::sync::oneshot::channel();
    app.uploads.tasks().spawn(make_plan(app.clone(), draft, options, answer));
    let answer = receiver.await.map_err(|gone| Error::Internal(gone.into()))??;
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn make_plan(
    app: App,
    draft: Draft,
    options: PresignOptions,
    answer: tokio::sync::oneshot::Sender<Result<PlanAnswer>>,
) {
    let plan = match open(&app, draft).await {
        Ok(plan) => plan,
        Err(error) => return drop(answer.send(Err(error))),
    };
    let base = app.config.public_url.as_deref();
    let signed = presign::sign(app.store.as_ref(), &plan, &options, base).await.map_err(Error::Storage);
    let failed = signed.is_err();
    let unheard = answer.send(signed).is_err();
    if let (true, Some((upload, _))) = (failed || unheard, plan.upload())
        && let Err(error) = app.store.abort_upload(&upload).await
    {
        let error = &error as &dyn std::error::Error;
        tracing::error!(s3_key = %plan.key, error, "a plan nobody has could not be aborted; sweep removes it");
    }
}

/// Chooses the door by the size; a multipart upload begins here.
async fn open(app: &App, draft: Draft) -> Result<Plan> {
    let Draft { key, size, format, sha256 } = draft;
    if size <= app.config.direct.put_max {
        return Ok(Plan { key, size, format, door: Door::Put { sha256 } });
    }
    if sha256.is_some() {
        let limit = app.config.direct.put_max;
        let detail =
            format!("sha256 can be checked up to {limit} bytes only: S3 has it for a single PUT and not for parts");
        return Err(Error::InvalidRequest(detail));
    }
    let metadata = Metadata { content_type: format.content_type().to_owned(), dimensions: None };
    let upload = app.store.create_upload(&Name::Incoming(key.clone()), &metadata).await.map_err(Error::Storage)?;
    let part_size = part_size(size, app.config.sink.part_size as u64);
    Ok(Plan { key, size, format, door: Door::Multipart { upload_id: upload.id, part_size } })
}

/// `GET status_url`: what has arrived, and fresh URLs for the parts that have not.
pub async fn status(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
    Linked(plan): Linked,
) -> Result<Json<Status>> {
    let kind = if plan.upload().is_some() { "multipart" } else { "put" };
    let links = plan.links(app.config.public_url.as_deref());
    let mut status = Status {
        s3_key: plan.key.to_string(),
        kind,
        state: Progress::Complete,
        size: plan.size,
        parts: None,
        expires_at: None,
        links,
    };
    if is_there(&app, &plan.image()).await? {
        return Ok(Json(status));
    }
    if let Some(held) = held_parts(&app, &plan).await? {
        let options = upload_link(&app, &uri, &headers);
        return live(&app, &plan, held, status, &options).await.map(Json);
    }
    status.state = if is_there(&app, &plan.incoming()).await? {
        Progress::Verifying
    } else if is_there(&app, &plan.image()).await? {
        Progress::Complete
    } else if plan.upload().is_none() {
        Progress::Waiting
    } else {
        return Err(Error::NotFound);
    };
    Ok(Json(status))
}

/// The parts of a multipart upload; none where the plan is no such, or its upload is over.
async fn held_parts(app: &App, plan: &Plan) -> Result<Option<Vec<crate::store::Part>>> {
    let Some((upload, _)) = plan.upload() else { return Ok(None) };
    match app.store.list_parts(&upload).await {
        Ok(parts) => Ok(Some(parts)),
        Err(StoreError::NoSuchUpload) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn live(
    app: &App,
    plan: &Plan,
    held: Vec<crate::store::Part>,
    mut status: Status,
    options: &PresignOptions,
) -> Result<Status> {
    let Some((upload, part_size)) = plan.upload() else { return Ok(status) };
    status.state = if held.is_empty() { Progress::Waiting } else { Progress::Uploading };
    let missing = compare(&held, plan.size, part_size).missing;
    let wanted = |number| missing.contains(&number);
    let signed = presign::sign_parts(app.store.as_ref(), plan.size, &upload, part_size, wanted, options).await;
    let (parts, expires_at) = signed.map_err(Error::Storage)?;
    status.parts = Some(parts);
    status.expires_at = Some(presign::rfc3339(expires_at));
    Ok(status)
}

/// `POST complete_url`.
pub async fn complete(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
    Linked(plan): Linked,
) -> Result<Response, Response> {
    let name = plan.image();
    let outcome = match tokio::time::timeout(app.config.direct.complete_wait, app.promotions.complete(plan)).await {
        Ok(outcome) => outcome,
        Err(_) => return Ok(verifying(&name)),
    };
    let image = outcome.map_err(respond)?;
    let host = request_host(&uri, &headers);
    // The image stays if signing fails: the client has its links, and can ask again.
    let link = app.store.presign_get(&name, &app.read_link(host)).await;
    let link = link.map_err(|error| Error::Storage(error).into_response())?;
    note(field::SIZE, image.size);
    Ok(Json(stored(name.key(), image, link.url)).into_response())
}

fn verifying(name: &Name) -> Response {
    let body = json!({ "s3_key": name.key().as_str(), "state": Progress::Verifying });
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

/// `DELETE abort_url`: nothing of the upload is left.
pub async fn abort(State(app): State<App>, Linked(plan): Linked) -> Result<StatusCode> {
    if is_there(&app, &plan.image()).await? {
        return Err(Error::AlreadyComplete);
    }
    if let Some((upload, _)) = plan.upload() {
        app.store.abort_upload(&upload).await.map_err(Error::Storage)?;
    }
    app.store.delete(&plan.incoming()).await.map_err(Error::Storage)?;
    // A complete that was under way may have been faster.
    if is_there(&app, &plan.image()).await? {
        return Err(Error::AlreadyComplete);
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn is_there(app: &App, name: &Name) -> Result<bool> {
    match app.store.head(name).await {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn upload_link(app: &App, uri: &Uri, headers: &HeaderMap) -> PresignOptions {
    PresignOptions { ttl: app.config.direct.url_ttl, host: request_host(uri, headers) }
}
