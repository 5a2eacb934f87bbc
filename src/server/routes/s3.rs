//! `/s3/*`: the routes of Uppy's Companion that its S3 plugin (`@uppy/aws-s3`) uses.
//!
//! A small file is one form, which the plugin sends to `POST /images` with the fields of [`params`]. The plugin reports
//! nothing afterwards, so the image is checked while it arrives. A large file is sent to S3 in parts. The whole state of
//! such an upload is in its `uploadId`, which is a token.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, RawPathParams, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

use super::direct::{check_unused, held_parts, upload_link, wait};
use super::{ServiceBase, link_query};
use crate::auth::grants::{Claims, DEFAULT_LIFETIME};
use crate::direct::companion::CompanionUpload;
use crate::direct::create::{PlanTerms, create_parts};
use crate::direct::layout::ReportedPart;
use crate::direct::plan::{draw_key, part_sizes};
use crate::direct::withdraw::over;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::policy::Policy;
use crate::server::App;
use crate::server::json::{self, JsonBody, MAX_JSON};
use crate::server::middleware::access_log::{field, record_field};
use crate::server::middleware::authority::Authority;
use crate::server::middleware::deadline::Deadline;
use crate::server::openapi::{COMPANION, answers};
use crate::server::response::respond;
use crate::store::limits::MIN_PART_SIZE;
use crate::store::{ImageKey, ObjectInfo, Part};

/// Maximum size of a report of all parts, in bytes. The largest image has 954 parts of 5 MiB.
const MAX_REPORT: usize = 128 << 10;

/// The file of a form upload.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FileQuery {
    /// The file's name. Its extension, if it has one, must be of an accepted format and becomes the key's extension.
    #[param(example = "photo.png")]
    pub filename: Option<String>,
    /// The file's media type. `application/octet-stream` means that it is unknown.
    #[serde(rename = "type")]
    #[param(rename = "type", example = "image/png")]
    pub content_type: Option<String>,
}

/// The file of an upload in parts. Other fields are ignored.
#[derive(Deserialize, ToSchema)]
#[serde(expecting = "an object with filename and type")]
pub struct CompanionFile {
    /// The file's name. Its extension, if it has one, must be of an accepted format and becomes the key's extension.
    #[schema(examples("photo.png"))]
    pub filename: Option<String>,
    /// The file's media type. `application/octet-stream` means that it is unknown.
    #[serde(rename = "type")]
    #[schema(examples("image/png"))]
    pub content_type: Option<String>,
}

/// How to upload a file with one form.
#[derive(Serialize, ToSchema)]
pub struct CompanionForm {
    /// Always `POST`.
    #[schema(examples("POST"))]
    pub method: &'static str,
    /// Where to send the form.
    #[schema(format = "uri", examples("https://images.example/images"))]
    pub url: String,
    pub fields: FormFields,
}

/// The fields of the form. They precede the field `file`.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "grant": "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl", "key": "0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png" })))]
pub struct FormFields {
    /// A grant for exactly this image.
    #[schema(examples("eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"))]
    pub grant: String,
    /// The image's key. The service reads it from the grant and ignores this field.
    #[schema(value_type = ImageKey)]
    pub key: String,
}

/// An upload in parts that was started.
#[derive(Serialize, ToSchema)]
pub struct CompanionStart {
    #[schema(value_type = ImageKey)]
    pub key: String,
    /// Identifies the upload and authorizes its further requests, for one day.
    #[serde(rename = "uploadId")]
    #[schema(rename = "uploadId", examples("eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"))]
    pub upload_id: String,
}

/// Where to send one part.
#[derive(Serialize, ToSchema)]
pub struct CompanionPartUrl {
    /// The presigned URL for a PUT of the part.
    #[schema(
        format = "uri",
        examples(
            "https://s3.example/photos/incoming/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png?partNumber=1&X-Amz-Signature=8f1e"
        )
    )]
    pub url: String,
}

/// A part that has arrived.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CompanionPart {
    /// Part numbers start at 1.
    #[schema(examples(1))]
    pub part_number: u32,
    /// The part's ETag. After the parts were joined: the object's.
    #[serde(rename = "ETag", skip_serializing_if = "Option::is_none")]
    #[schema(rename = "ETag", nullable = false, examples("\"9a0364b9e99bb480dd25e1f0284c8555\""))]
    pub etag: Option<String>,
    /// Size in bytes.
    #[schema(examples(5_242_880))]
    pub size: u64,
}

/// The parts of which an upload consists.
#[derive(Deserialize, ToSchema)]
#[serde(expecting = "an object with parts")]
pub struct CompanionReport {
    /// All parts, in any order.
    #[schema(min_items = 1)]
    pub parts: Vec<SentPart>,
}

/// A part that the client has sent.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase", expecting = "an object with PartNumber and ETag")]
pub struct SentPart {
    /// Part numbers start at 1.
    #[schema(minimum = 1, examples(1))]
    pub part_number: u32,
    /// The ETag in the response to its PUT, with or without quotes.
    #[serde(rename = "ETag")]
    #[schema(rename = "ETag", examples("\"9a0364b9e99bb480dd25e1f0284c8555\""))]
    pub etag: String,
}

/// The image of a completed upload.
#[derive(Serialize, ToSchema)]
pub struct CompanionImage {
    /// The image's URL in this service. It does not expire.
    #[schema(format = "uri", examples("https://images.example/images/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png"))]
    pub location: String,
    #[schema(value_type = ImageKey)]
    pub key: String,
}

/// An empty object.
#[derive(Serialize, ToSchema)]
pub struct CompanionDone {}

/// The path of an upload's routes.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct UploadIdInPath {
    /// The `uploadId` of the upload.
    #[param(example = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")]
    pub upload_id: String,
}

/// The path of a part's route.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct PartInPath {
    /// The `uploadId` of the upload.
    #[param(example = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")]
    pub upload_id: String,
    /// The number of the part. Part numbers start at 1.
    #[param(minimum = 1, example = 1)]
    pub part_number: u32,
}

/// The query of an upload's routes.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct KeyQuery {
    /// The `key` of the upload.
    #[param(value_type = ImageKey)]
    pub key: String,
}

/// An upload from its `uploadId`, which authorizes the request.
pub struct UploadFromId(CompanionUpload);

impl FromRequestParts<App> for UploadFromId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let other = |reason: &'static str| Error::InvalidToken(Some(reason.into()));
        let path = RawPathParams::from_request_parts(parts, app).await;
        let path = path.map_err(|_| other("the path is not valid UTF-8"))?;
        let token = path.iter().find_map(|(name, value)| (name == "upload_id").then_some(value));
        let KeyQuery { key } = link_query(parts, app).await?;
        let (claims, kid) = app.tokens.read(token.unwrap_or_default())?;
        if let Some(kid) = kid {
            record_field(field::API_KEY_NAME, kid.as_str());
        }
        let upload = CompanionUpload::from_claims(claims)?;
        record_field(field::S3_KEY, upload.key().as_str());
        if upload.key().as_str() != key {
            return Err(other("the uploadId is for another key"));
        }
        Ok(UploadFromId(upload))
    }
}

/// Returns the form with which to upload a small file.
///
/// The form is sent to `POST /images`, with the given fields before the field `file`. The grant in it has the limits of
/// the request's own authority, and is for exactly one image. Parameters other than these are ignored.
#[utoipa::path(get, path = "/s3/params", tag = COMPANION, operation_id = "companion_form", params(FileQuery),
    responses((status = 200, description = "The form.", body = CompanionForm), answers::CompanionForm))]
pub async fn params(
    State(app): State<App>,
    base: ServiceBase,
    authority: Authority,
    file: Result<Query<FileQuery>, QueryRejection>,
) -> Result<Json<CompanionForm>> {
    let Query(file) = file.map_err(|problem| Error::InvalidRequest(problem.body_text()))?;
    let policy = authority.limit(Arc::clone(&app.policy));
    let (key, _) = image_key(&authority, file.filename.as_deref(), file.content_type.as_deref(), &policy)?;
    let claims = authority.grant().map_or_else(|| Claims::lasting(DEFAULT_LIFETIME), Claims::like);
    let claims = Claims { key: Some(key.to_string()), ..claims };
    let (grant, _) = app.authorities.grants().mint(claims, authority.key_name().unwrap_or_default())?;
    let fields = FormFields { grant, key: key.to_string() };
    Ok(Json(CompanionForm { method: "POST", url: base.url("images"), fields }))
}

/// Starts an upload in parts.
///
/// Request a URL for each part, PUT the parts, and complete the upload. Every part but the last has at least 5 MiB.
#[utoipa::path(post, path = "/s3/multipart", tag = COMPANION, operation_id = "companion_start",
    request_body = CompanionFile,
    responses((status = 200, description = "The upload.", body = CompanionStart), answers::CompanionStart))]
pub async fn create(
    State(app): State<App>,
    authority: Authority,
    JsonBody(file): JsonBody<CompanionFile>,
) -> Result<Json<CompanionStart>> {
    let policy = authority.limit(Arc::clone(&app.policy));
    let (key, format) = image_key(&authority, file.filename.as_deref(), file.content_type.as_deref(), &policy)?;
    let terms = PlanTerms::new(authority.metadata(), authority.image_key().is_some());
    let id = terms.id;
    if id.is_some() {
        check_unused(&app, &key).await?;
    }
    let (store, uploads) = (&app.store, &app.uploads);
    let started = create_parts(store, uploads.reconciler(), uploads.tasks(), &key, format, terms);
    let (upload, undo) = started.await?;
    let upload = CompanionUpload { upload, id, max_size: policy.max_upload_size };
    let upload_id = app.tokens.sign(upload.claims(), authority.key_name())?;
    undo.disarm();
    Ok(Json(CompanionStart { key: key.to_string(), upload_id }))
}

/// Returns the key of the image, which is drawn unless a grant fixes it, and the declared format.
fn image_key(
    authority: &Authority,
    filename: Option<&str>,
    content_type: Option<&str>,
    policy: &Policy,
) -> Result<(ImageKey, Format)> {
    // Uppy's type of files that it does not know.
    let content_type = content_type.filter(|content_type| *content_type != "application/octet-stream");
    let (drawn, format) = draw_key(filename, content_type, policy)?;
    let key = authority.image_key().unwrap_or(drawn);
    record_field(field::S3_KEY, key.as_str());
    Ok((key, format))
}

/// Returns the parts that have arrived.
///
/// After the parts were joined, parts of the minimum size are listed. They cover the whole image, so a client that resumes the
/// upload has nothing more to send, and completes it again.
#[utoipa::path(get, path = "/s3/multipart/{upload_id}", tag = COMPANION, operation_id = "companion_parts",
    params(UploadIdInPath, KeyQuery),
    responses((status = 200, description = "The parts.", body = Vec<CompanionPart>), answers::PlanFromLink))]
pub async fn list(State(app): State<App>, UploadFromId(upload): UploadFromId) -> Result<Json<Vec<CompanionPart>>> {
    if let Some(held) = held_parts(&app, &upload.upload).await? {
        let part = |part: Part| CompanionPart { part_number: part.number, etag: part.etag, size: part.size };
        return Ok(Json(held.into_iter().map(part).collect()));
    }
    let ObjectInfo { size, etag, .. } = joined(&app, &upload).await?;
    let parts = (1..).zip(part_sizes(size, MIN_PART_SIZE));
    Ok(Json(parts.map(|(part_number, size)| CompanionPart { part_number, etag: etag.clone(), size }).collect()))
}

/// Returns the object of an upload whose parts were joined: the image, or what will be verified.
async fn joined(app: &App, upload: &CompanionUpload) -> Result<ObjectInfo> {
    let arrived = app.store.find(&upload.upload.name).await?;
    match arrived {
        Some(arrived) if arrived.marker.is_none() => Ok(arrived),
        arrived => {
            let ended = || arrived.and_then(|arrived| arrived.marker).map_or(Error::NotFound, |marker| over(&marker));
            app.store.find(&upload.image()).await?.ok_or_else(ended)
        }
    }
}

/// Returns the URL for one part.
#[utoipa::path(get, path = "/s3/multipart/{upload_id}/{part_number}", tag = COMPANION,
    operation_id = "companion_part_url", params(PartInPath, KeyQuery),
    responses((status = 200, description = "The URL.", body = CompanionPartUrl), answers::CompanionPart))]
pub async fn sign(
    State(app): State<App>,
    base: ServiceBase,
    UploadFromId(upload): UploadFromId,
    Path((_, number)): Path<(String, String)>,
) -> Result<Json<CompanionPartUrl>> {
    let number = number.parse().ok().filter(|number| *number > 0);
    let number: u32 = number.ok_or_else(|| Error::InvalidRequest("part numbers are integers from 1".to_owned()))?;
    if number > upload.max_parts() {
        return Err(Error::PayloadTooLarge { limit: upload.max_size });
    }
    let signed = app.store.presign_part(&upload.upload, number, None, &upload_link(&app, base)).await;
    Ok(Json(CompanionPartUrl { url: signed.map_err(Error::from)?.url }))
}

/// Completes the upload: joins the parts, verifies the image and stores it.
///
/// The response is sent when the image is stored. Repeated requests return the same result. An error about the image
/// itself, such as `invalid_file_type`, ends the upload.
#[utoipa::path(post, path = "/s3/multipart/{upload_id}/complete", tag = COMPANION,
    operation_id = "companion_complete", params(UploadIdInPath, KeyQuery), request_body = CompanionReport,
    responses((status = 200, description = "The image is stored.", body = CompanionImage), answers::CompanionComplete))]
pub async fn complete(
    State(app): State<App>,
    base: ServiceBase,
    deadline: Option<Extension<Deadline>>,
    UploadFromId(upload): UploadFromId,
    request: Request,
) -> Result<Json<CompanionImage>, Response> {
    let parts = read_report(&app, request).await.map_err(IntoResponse::into_response)?;
    let completing = app.promotions.complete(upload.direct_upload(parts));
    // Uppy takes every 2xx for a stored image, and never asks again. The promotion goes on if this request ends before.
    let patience = Deadline::wait(deadline.map(|Extension(deadline)| deadline), Duration::MAX);
    let outcome = tokio::time::timeout(patience, completing).await;
    let image = outcome.map_err(|_| Error::Deadline.into_response())?.map_err(respond)?;
    record_field(field::SIZE, image.size);
    Ok(Json(CompanionImage { location: base.image_url(upload.key().as_str()), key: upload.key().to_string() }))
}

/// Reads the report of the parts. The memory for a long one is charged to the budget.
async fn read_report(app: &App, request: Request) -> Result<Vec<ReportedPart>> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let length = length.unwrap_or(MAX_REPORT).min(MAX_REPORT);
    let charged = if length > MAX_JSON { 2 * length as u64 } else { 0 };
    let _charged = app.uploads.budget().lend(charged).await?;
    let report: CompanionReport = json::read(request, MAX_REPORT).await?;
    Ok(report.parts.iter().map(|part| ReportedPart::new(part.part_number, &part.etag)).collect())
}

/// Aborts the upload and deletes everything that has arrived.
///
/// It never deletes an image: after a successful completion it returns 409 `already_complete`.
#[utoipa::path(delete, path = "/s3/multipart/{upload_id}", tag = COMPANION, operation_id = "companion_abort",
    params(UploadIdInPath, KeyQuery),
    responses((status = 200, description = "The upload was aborted.", body = CompanionDone), answers::Abort))]
pub async fn abort(
    State(app): State<App>,
    deadline: Option<Extension<Deadline>>,
    UploadFromId(upload): UploadFromId,
) -> Result<Json<CompanionDone>, Response> {
    let aborting = app.promotions.abort(upload.direct_upload(Vec::new()));
    let aborted = tokio::time::timeout(wait(&app, deadline), aborting).await;
    let aborted = aborted.map_err(|_| Error::Verifying.into_response())?;
    aborted.map(|()| Json(CompanionDone {})).map_err(respond)
}
