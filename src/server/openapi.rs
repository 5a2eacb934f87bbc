//! `/openapi.json`: the API as its routes describe it (utoipa), and what holds for all of them.
//!
//! A route and its description are one thing (`routes!`). What comes from around the routes is added where that is:
//! [`secure`] beside the guard, [`finish`] beside the layers that every request passes.

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

use super::App;
use super::middleware::authority::{API_KEY, Access};
use super::response::ErrorBody;
use super::routes::asset::{self, FRESH};
use crate::auth::Scope;
use crate::error::Error;

/// The tags routes are grouped by.
pub const IMAGES: &str = "Images";
pub const DIRECT: &str = "Uploads";
pub const GRANTS: &str = "Grants";
pub const SERVICE: &str = "Service";

const BEARER: &str = "bearer";
const KEY: &str = "api_key";
const PLAN: &str = "plan";

const JSON: &str = "application/json";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "image-store",
        description = "Takes images and keeps them in S3. Sizes are bytes, dimensions pixels, times RFC 3339 in UTC.\n\n\
            Every error is JSON, `{\"detail\": \"<for people>\", \"code\": \"<for programs>\"}`. Beside what the routes \
            list, any path that is none of them is 404 `not_found`, a method a route does not take 405 \
            `method_not_allowed`, a path and query over 8 KiB 414 `uri_too_long`, and a head over 32 KiB 431 \
            `head_too_large`. A head that breaks the rules of HTTP/1.1 is 400 `invalid_request`, and a transfer coding \
            other than one `chunked` 501 `unsupported_transfer_encoding`.\n\n\
            A grant (`POST /grants`) also travels in the path: `/g/{grant}/` before the path of any route that uploads, \
            `GET /limits`, and the upload page. Before any other it is 403 `forbidden`."
    ),
    tags(
        (name = IMAGES, description = "Upload through the service, read, delete."),
        (name = DIRECT, description = "Past the service: `POST /uploads` plans, the client PUTs to S3, `complete_url` \
            makes it an image. The links of a plan are used as they are."),
        (name = GRANTS, description = "The right to upload, for clients without a key: signed by whoever has one, limited, and \
            over within a day."),
        (name = SERVICE, description = "What the service says of itself."),
    ),
    components(schemas(ErrorBody)),
)]
struct Shared;

/// What there is to say before any route.
pub fn start() -> OpenApi {
    let mut document = <Shared as utoipa::OpenApi>::openapi();
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some("One of the service's API keys, where it has any; to upload, also a grant.".to_owned());
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    let key = ApiKeyValue::with_description(API_KEY.as_str(), "The same keys, where `Authorization` is taken.");
    components.add_security_scheme(KEY, SecurityScheme::ApiKey(ApiKey::Header(key)));
    let plan = ApiKeyValue::with_description(PLAN, "In the links of a plan, which are used as they are.");
    components.add_security_scheme(PLAN, SecurityScheme::ApiKey(ApiKey::Query(plan)));
    document
}

/// Says what the routes so far want: an authority in either header, which may be left off unless `keys` exist, or the link of
/// a plan.
pub fn secure(document: &mut OpenApi, access: Access, keys: bool) {
    let (scope, required) = match access {
        Access::Open | Access::Anybody => return,
        Access::Link => return secure_by_link(document),
        Access::Operator => (None, false),
        Access::Key(scope) => (Some(scope), keys),
        Access::Upload | Access::Form => (Some(Scope::Upload), keys),
    };
    let open = (!required).then(SecurityRequirement::default);
    let schemes = [BEARER, KEY].map(|scheme| SecurityRequirement::new(scheme, scope.map(Scope::name)));
    let security: Vec<_> = open.into_iter().chain(schemes).collect();
    for operation in operations(document) {
        operation.security = Some(security.clone());
        let forbidden =
            scope.map_or_else(|| Error::LocalOnly("".into()), |scope| Error::Forbidden { scope: scope.name() });
        let errors = [Error::Unauthorized, answers::invalid_grant(), Error::ExpiredGrant, forbidden];
        answers::add(&mut operation.responses.responses, errors);
    }
}

/// Says that a plan's link is the permission for the routes so far.
fn secure_by_link(document: &mut OpenApi) {
    for operation in operations(document) {
        operation.security = Some(vec![SecurityRequirement::new(PLAN, [""; 0])]);
    }
}

/// The description, to be made whole when it is asked for.
pub fn finish(document: OpenApi, app: &App) -> Document {
    let app = app.clone();
    Document(Arc::new(LazyLock::new(Box::new(move || Text::of(whole(document, &app))))))
}

/// Adds what holds for every route, and what follows from the settings.
fn whole(mut document: OpenApi, app: &App) -> Value {
    document.servers = app.config.public_url.as_ref().map(|url| vec![Server::new(url)]);
    for operation in operations(&mut document) {
        let anywhere = [Error::Internal("".into()), Error::Deadline, Error::TooManyConnections];
        answers::add(&mut operation.responses.responses, anywhere);
        operation.responses.responses.values_mut().filter_map(inline).for_each(headers::request_id);
    }
    for item in document.paths.paths.values_mut() {
        item.head.iter_mut().for_each(answers::without_bodies);
    }
    let mut document = json!(document);
    policy::apply(&mut document, &app.policy, app.config.direct.put_max);
    document
}

/// Nothing here refers to a shared response.
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

/// The finished description, in every request's extensions. It is written when it is first asked for: on Lambda a cold start
/// would wait for it, and nearly nobody asks.
#[derive(Clone)]
pub struct Document(Arc<LazyLock<Text, Box<dyn FnOnce() -> Text + Send>>>);

struct Text {
    json: Bytes,
    tag: String,
}

impl Text {
    fn of(document: Value) -> Self {
        let json = Bytes::from(document.to_string());
        Text { tag: asset::tag([&json[..]]), json }
    }
}

/// This description.
///
/// OpenAPI 3.1.
#[utoipa::path(get, path = "/openapi.json", tag = SERVICE, operation_id = "openapi",
    responses(
        (status = 200, description = "An OpenAPI document.", body = Value,
            headers(("ETag" = String, description = "Of this text, for `If-None-Match`."))),
        (status = 304, description = "It is what `If-None-Match` names."),
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
