//! The router: all routes, and the layers around them.

use axum::extract::Request;
use axum::middleware::{self, Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use http::Method;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::middleware::access_log::observe_request;
use super::middleware::authority::{self, Guard};
use super::middleware::{cors, deadline, headers};
use super::request::{self, Rejected};
use super::response::respond;
use super::routes::{direct, docs, images, page, system, upload};
use super::{App, openapi};
use crate::auth::{Keys, Scope};
use crate::config;
use crate::error::Error;

/// Maximum size of a request's path and query, in bytes. The longest URL of the service, a plan's link, is below 1 KiB.
const MAX_URI: usize = 8 << 10;

impl App {
    /// Returns the router with all routes, inside the layers that apply to all of them.
    pub fn router(&self) -> Router {
        let config::Auth { keys, public_read, .. } = &self.config.auth;
        let reading = if *public_read { reading() } else { guarded(reading(), keys, Scope::Read) };
        let (routes, description) = OpenApiRouter::with_openapi(openapi::start())
            .merge(guarded(uploading(), keys, Scope::Upload))
            .merge(linked())
            .merge(reading)
            .merge(guarded(deleting(), keys, Scope::Delete))
            .merge(local_or_keyed(operating(), keys))
            .merge(open())
            .split_for_parts();
        let routes = routes.merge(pages()).layer(Extension(openapi::finish(description, self)));
        let store_routes = self.store_routes.clone().layer(middleware::from_fn(reject));
        let store_routes = store_routes.layer(CatchPanicLayer::custom(panicked));
        self.around(routes).merge(self.observed(store_routes))
    }

    /// Adds the layers that apply to all of `routes`, from the innermost to the outermost one.
    fn around(&self, routes: Router<App>) -> Router {
        let routes = routes
            .fallback(async || Error::NoRoute)
            .method_not_allowed_fallback(async || Error::MethodNotAllowed)
            .layer(from_fn_with_state(self.config.server.request_timeout, deadline::deadline))
            .layer(middleware::from_fn(limit_uri))
            .layer(middleware::from_fn(reject))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(cors::cors(&self.config.cors_origins))
            .layer(middleware::from_fn(reject_preflight));
        headers::protected(self.observed(routes)).with_state(self.clone())
    }

    /// Adds the facts about each request, its log line and its metrics.
    fn observed<S: Clone + Send + Sync + 'static>(&self, routes: Router<S>) -> Router<S> {
        routes
            .layer(from_fn_with_state(self.metrics.clone(), observe_request))
            .layer(from_fn_with_state(self.config.server.trusted_proxies.clone(), request::add_facts))
    }
}

/// Requires a key with `scope` for `routes`, and documents that. If no API keys are configured, the routes are open.
///
/// Responses that no handler generates (404, 405) and CORS preflights require no key.
fn guarded(mut routes: OpenApiRouter<App>, keys: &Keys, scope: Scope) -> OpenApiRouter<App> {
    openapi::secure(routes.get_openapi_mut(), Some(scope), !keys.is_empty());
    if keys.is_empty() {
        return routes;
    }
    let guard = Guard { keys: keys.clone(), scope };
    routes.route_layer(from_fn_with_state(guard, authority::check))
}

/// Requires any API key, with any scope, for `routes`, except for clients on this machine.
///
/// This also applies if no API keys are configured, because these routes are for operators only.
fn local_or_keyed(mut routes: OpenApiRouter<App>, keys: &Keys) -> OpenApiRouter<App> {
    openapi::secure(routes.get_openapi_mut(), None, false);
    routes.route_layer(from_fn_with_state(keys.clone(), authority::check_local_or_keyed))
}

/// Returns the routes that are open to everyone.
fn open() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(system::limits))
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(openapi::openapi))
}

/// Returns the routes for operators.
fn operating() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(system::metrics))
}

fn uploading() -> OpenApiRouter<App> {
    let routes = OpenApiRouter::default().routes(routes!(upload::upload)).route("/images", post(upload::upload));
    let mut routes = routes.routes(routes!(direct::plan));
    openapi::repeat(routes.get_openapi_mut(), "/upload-image", "/images", "create_image");
    routes
}

/// Returns the routes of a plan's links. The link itself authorizes the request.
fn linked() -> OpenApiRouter<App> {
    let routes = OpenApiRouter::default().routes(routes!(direct::status, direct::abort));
    let mut routes = routes.routes(routes!(direct::complete));
    openapi::secure_by_link(routes.get_openapi_mut());
    routes
}

fn deleting() -> OpenApiRouter<App> {
    let routes = OpenApiRouter::default().routes(routes!(images::delete));
    let mut routes = routes.route("/images/{s3_key}", delete(images::delete));
    openapi::repeat(routes.get_openapi_mut(), "/delete/{s3_key}", "/images/{s3_key}", "remove_image");
    routes
}

fn reading() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(images::redirect, images::head)).routes(routes!(images::url))
}

/// Returns the pages for browsers. They are not part of the API documentation.
fn pages() -> Router<App> {
    Router::new()
        .route("/", get(page::index))
        .route("/assets/{file}", get(page::asset))
        .route("/docs", get(docs::index))
        .route("/docs/{file}", get(docs::asset))
}

/// Responds to requests that the transport has rejected, so that these responses are like all others.
async fn reject(request: Request, next: Next) -> Response {
    match request.extensions().get() {
        Some(Rejected(error)) => respond(Arc::clone(error)),
        None => next.run(request).await,
    }
}

/// Does the same for preflights, to which the CORS layer would otherwise respond.
async fn reject_preflight(request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS { reject(request, next).await } else { next.run(request).await }
}

async fn limit_uri(request: Request, next: Next) -> Response {
    let length = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    if length > MAX_URI {
        return Error::UriTooLong { limit: MAX_URI }.into_response();
    }
    next.run(request).await
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Error::Internal(format!("panic: {}", text.unwrap_or("of another type")).into()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::commands::backend::Backend;
    use crate::config::Config;
    use crate::server::middleware::access_log::REQUEST_ID;
    use axum::body::Body;
    use clap::Parser;
    use http::{HeaderName, StatusCode, header};
    use tower::ServiceExt;

    async fn panics() -> StatusCode {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn panics_are_internal_errors_with_all_headers() {
        let flags = ["image-store", "--s3-bucket=b", "--cors-allow-origin=http://page.example"];
        let config = Config::new(&Cli::parse_from(flags).settings).unwrap();
        let store = Backend::open(&config).await.unwrap().store;
        let router = App::new(config, store, None).around(Router::new().route("/", get(panics)));
        let request = Request::get("/").header(header::ORIGIN, "http://page.example").body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let value = |name: HeaderName| answer.headers()[name].to_str().unwrap();
        assert_eq!(value(header::CONTENT_TYPE), "application/json");
        assert_eq!(value(header::ACCESS_CONTROL_ALLOW_ORIGIN), "http://page.example");
        assert_eq!(value(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
        assert_eq!(value(header::CONTENT_SECURITY_POLICY), "default-src 'none'; frame-ancestors 'none'");
        assert!(answer.headers().contains_key(REQUEST_ID));
    }
}
