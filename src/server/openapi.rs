//! `/openapi.json`: the API documentation that the routes declare (utoipa), and what applies to all of them.
//!
//! A route and its documentation are registered together (`routes!`). The code that adds a layer around routes also
//! adds its documentation: [`secure`] documents the authorization, [`finish`] the layers of every request.

use axum::Extension;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{OpenApi, PathItem, RefOr, Response, Server};

pub mod answers;
mod headers;
pub mod policy;
pub mod router;

use self::router::Describe;
use super::App;
use super::middleware::authority::{API_KEY, Access};
use super::response::ErrorBody;
use super::routes::asset::{self, FRESH};
use crate::auth::Scope;
use crate::error::Error;

/// The tags that group the routes.
pub const IMAGES: &str = "Images";
pub const DIRECT: &str = "Uploads";
pub const RESUMABLE: &str = "Resumable uploads";
pub const GRANTS: &str = "Grants";
pub const COMPANION: &str = "Uppy";
pub const SERVICE: &str = "Service";

const BEARER: &str = "bearer";
const KEY: &str = "api_key";

const JSON: &str = "application/json";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "image-store",
        description = "Accepts images and stores them in S3. Sizes are in bytes, dimensions in pixels, times in RFC \
            3339 (UTC).\n\nEvery error response is JSON: `{\"detail\": \"<text for people>\", \"code\": \"<for \
            programs>\"}`. Besides the errors that each route lists, the following apply to every request. An unknown \
            path returns 404 `not_found`. A method that the route does not support returns 405 `method_not_allowed`. A \
            path and query of more than 8 KiB returns 414 `uri_too_long`. Request headers of more than 32 KiB, or more \
            than 100 of them, return 431 `head_too_large`. A request that violates HTTP/1.1 returns 400 \
            `invalid_request`. A transfer coding other than a single `chunked` returns 501 \
            `unsupported_transfer_encoding`.\n\nA client can send the URL at which it reaches the service in the \
            header `X-Base-URL`, for example `https://example.com/images`. The links in the response then start with \
            that URL, unless `PUBLIC_URL` is configured.\n\nA grant (`POST /grants`) can also be sent in the path: \
            `/g/{grant}/` before the path of an upload route, of `GET /limits` and of the upload page. Before any other \
            path it returns 403 `forbidden`."
    ),
    tags(
        (name = IMAGES, description = "Upload images through the service, read them, delete them."),
        (name = DIRECT, description = "Direct uploads: `POST /uploads` returns a plan with presigned URLs, the client \
            PUTs the bytes to S3, and a POST to `complete_url` verifies and stores the image. Use the links of a plan \
            unchanged."),
        (name = RESUMABLE, description = "Uploads that continue after an interruption, with clients of tus 1.0 or of the IETF's \
            resumable uploads (draft, interop version 8): `POST /files` returns the address of an upload, `PATCH` appends \
            bytes, `HEAD` returns how many have arrived. `OPTIONS /files` returns the limits."),
        (name = GRANTS, description = "The right to upload, for clients without an API key. Grants are signed with an API \
            key, have limits, and expire within a day."),
        (name = COMPANION, description = "The routes of Uppy's Companion that its S3 plugin uses (`@uppy/aws-s3`). An \
            error's text is also in the field `message`, where Uppy reads it."),
        (name = SERVICE, description = "The service itself: limits, health, metrics and this document."),
    ),
    components(schemas(ErrorBody)),
)]
struct Shared;

/// Returns the document without any routes.
pub fn start() -> OpenApi {
    let mut document = <Shared as utoipa::OpenApi>::openapi();
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some("One of the service's API keys, if it has any. For uploads also a grant.".to_owned());
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    let key = ApiKeyValue::with_description(API_KEY.as_str(), "The same keys, if `Authorization` is used by a proxy.");
    components.add_security_scheme(KEY, SecurityScheme::ApiKey(ApiKey::Header(key)));
    document
}

/// Documents which authority the routes so far require: none unless `keys` are configured.
pub fn secure(document: &mut OpenApi, access: Access, keys: bool) {
    let (scope, required) = match access {
        Access::Open => return set_security(document, vec![SecurityRequirement::default()]),
        Access::Anybody => return set_security(document, schemes(None, false, keys)),
        // The token is a parameter, in the path or in the query.
        Access::UploadId | Access::Link => return set_security(document, Vec::new()),
        Access::Operator => (None, false),
        Access::Key(scope) => (Some(scope), true),
        Access::Upload | Access::Form => (Some(Scope::Upload), true),
    };
    set_security(document, schemes(scope, required, keys));
    for operation in operations(document) {
        let forbidden =
            scope.map_or_else(|| Error::LocalOnly("".into()), |scope| Error::Forbidden { scope: scope.name() });
        let errors = [Error::Unauthorized, answers::invalid_grant(), Error::ExpiredGrant, forbidden];
        answers::add(&mut operation.responses.responses, errors);
    }
}

/// Documents the only operation at `path` a second time, for the `other` path, which does the same.
pub fn repeat(document: &mut OpenApi, path: &str, other: &str, operation_id: &str) {
    let Some(mut item) = document.paths.paths.get(path).cloned() else { return };
    for operation in [&mut item.post, &mut item.delete].into_iter().flatten() {
        operation.operation_id = Some(operation_id.to_owned());
        operation.summary = Some(format!("Same as `{path}`."));
        operation.description = None;
    }
    document.paths.paths.insert(other.to_owned(), item);
}

/// Returns the ways to authorize a request with one of the `keys`, and first of all no way unless one is `required`.
fn schemes(scope: Option<Scope>, required: bool, keys: bool) -> Vec<SecurityRequirement> {
    let open = (!required || !keys).then(SecurityRequirement::default);
    let schemes = [BEARER, KEY].map(|scheme| SecurityRequirement::new(scheme, scope.map(Scope::name)));
    open.into_iter().chain(schemes.into_iter().filter(|_| keys)).collect()
}

fn set_security(document: &mut OpenApi, security: Vec<SecurityRequirement>) {
    operations(document).for_each(|operation| operation.security = Some(security.clone()));
}

/// Returns the document, which is built when it is first requested.
pub fn finish(describe: Describe, app: &App) -> Document {
    let app = app.clone();
    Document(Arc::new(LazyLock::new(Box::new(move || Text::of(whole(describe(), &app))))))
}

/// Adds what applies to every route, and what depends on the settings.
fn whole(mut document: OpenApi, app: &App) -> Value {
    if app.config.auth.keys.is_empty()
        && let Some(components) = &mut document.components
    {
        components.security_schemes.clear();
    }
    // A relative URL is relative to the document's.
    document.servers = Some(vec![Server::new(app.config.public_url.as_deref().unwrap_or("."))]);
    for operation in operations(&mut document) {
        let anywhere = [Error::Internal("".into()), Error::Deadline, Error::TooManyConnections];
        answers::add(&mut operation.responses.responses, anywhere);
        // A summary is plain text, while a description is Markdown.
        operation.summary = operation.summary.take().map(|summary| summary.replace('`', ""));
        operation.responses.responses.values_mut().filter_map(inline).for_each(headers::request_id);
    }
    for item in document.paths.paths.values_mut() {
        item.head.iter_mut().for_each(answers::without_bodies);
    }
    let mut document = json!(document);
    policy::apply(&mut document, &app.policy, app.config.direct.put_max);
    document
}

/// Returns the response itself. This document contains no references to shared responses.
fn inline(response: &mut RefOr<Response>) -> Option<&mut Response> {
    match response {
        RefOr::T(response) => Some(response),
        RefOr::Ref(_) => None,
    }
}

fn operations(document: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    document.paths.paths.values_mut().flat_map(|item| {
        let PathItem { get, put, post, delete, head, patch, .. } = item;
        [get, put, post, delete, head, patch].into_iter().flatten()
    })
}

/// The complete document, an extension of every request. It is built when it is first requested: on Lambda building it
/// would delay every cold start, and few clients request it.
#[derive(Clone)]
pub struct Document(Arc<LazyLock<Text, Box<dyn FnOnce() -> Text + Send>>>);

struct Text {
    json: Bytes,
    tag: String,
}

impl Text {
    fn of(document: Value) -> Self {
        let json = Bytes::from(document.to_string());
        Text { tag: asset::tag(&json), json }
    }
}

/// Returns this document.
///
/// It is an OpenAPI 3.1 document. `GET /docs` shows it in a browser.
#[utoipa::path(get, path = "/openapi.json", tag = SERVICE, operation_id = "openapi",
    responses(
        (status = 200, description = "The OpenAPI document.", body = Value,
            headers(("ETag" = String, description = "The document's ETag, for `If-None-Match`."))),
        (status = 304, description = "The document has the ETag that `If-None-Match` names."),
    ))]
pub async fn openapi(
    Extension(Document(document)): Extension<Document>,
    headers: HeaderMap,
) -> axum::response::Response {
    let Text { json, tag } = &**document;
    asset::not_modified(tag, &headers).unwrap_or_else(|| {
        ([FRESH], [(header::ETAG, tag.as_str()), (header::CONTENT_TYPE, JSON)], json.clone()).into_response()
    })
}
