//! The router: all routes, and the layers around them.

use axum::extract::Request;
use axum::middleware::{self, Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, options, post};
use axum::{Extension, Router};
use http::Method;
use std::sync::Arc;
use tower::util::MapRequestLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa::openapi::OpenApi;

use super::middleware::access_log::observe_request;
use super::middleware::authority::{self, Access, Guard};
use super::middleware::shared::Shared;
use super::middleware::{cors, deadline, error_form, headers, path_grant};
use super::openapi::router::{DescribedRouter, routes};
use super::request::{self, Rejected};
use super::response::respond;
use super::routes::{direct, docs, files, grants, images, page, s3, system, upload, uploaded};
use super::{App, openapi};
use crate::auth::Scope;
use crate::error::Error;

/// Maximum size of a request's path and query, in bytes. The longest URL of the service, the address of a resumable
/// upload with the longest `Upload-Metadata`, is below 5 KiB.
const MAX_URI: usize = 8 << 10;

impl App {
    /// Returns the router with all routes, inside the layers that apply to all of them.
    pub fn router(&self) -> Router {
        let read = if self.config.auth.public_read { Access::Open } else { Access::Key(Scope::Read) };
        let (routes, describe) = DescribedRouter::new(Router::new(), openapi::start)
            .merge(self.guarded(uploading(), Access::Form))
            .merge(self.guarded(planning(), Access::Upload))
            .merge(self.guarded(linked(), Access::Link))
            .merge(self.guarded(companion(), Access::Upload))
            .merge(self.guarded(companion_uploads(), Access::UploadId))
            .merge(self.resumable())
            .merge(self.guarded(granting(), Access::Key(Scope::Upload)))
            .merge(self.guarded(reading(), read))
            .merge(self.guarded(deleting(), Access::Key(Scope::Delete)))
            .merge(self.guarded(operating(), Access::Operator))
            .merge(self.guarded(limits(), Access::Anybody))
            .merge(self.guarded(open(), Access::Open))
            .merge(self.guarded(description(), Access::Open))
            .into_parts();
        let documents = documents().route_layer(from_fn_with_state(self.guard(Access::Open), authority::check));
        let results = results().route_layer(from_fn_with_state(self.guard(Access::UploadId), authority::check));
        let pages = page().merge(results).merge(documents).layer(CompressionLayer::new());
        let routes = routes.merge(pages).layer(Extension(openapi::finish(describe, self)));
        let store_routes = self.store_routes.clone().layer(middleware::from_fn(reject));
        let store_routes = store_routes.layer(from_fn_with_state(self.guard(Access::Open), authority::check));
        let store_routes = store_routes.layer(CatchPanicLayer::custom(panicked));
        path_grant::before(self.around(routes).merge(self.observed(store_routes)))
    }

    fn guard(&self, access: Access) -> Guard {
        Guard { authorities: self.authorities.clone(), access }
    }

    /// Puts `routes` behind `access`, also in their description.
    ///
    /// Answers that no handler gives (404, 405) and CORS preflights need no authority.
    fn guarded(&self, routes: DescribedRouter, access: Access) -> DescribedRouter {
        let keys = !self.config.auth.keys.is_empty();
        routes
            .map_routes(|routes| routes.route_layer(from_fn_with_state(self.guard(access), authority::check)))
            .map_description(move |description| openapi::secure(description, access, keys))
    }

    /// Returns the routes of resumable uploads.
    fn resumable(&self) -> DescribedRouter {
        let linked = routes!(files::head, files::image, files::append, files::cancel)
            .route("/files/{s3_key}", post(files::overridden));
        let limits = DescribedRouter::new(Router::new(), OpenApi::default)
            .route("/files", options(files::options))
            .route("/files/{s3_key}", options(files::options));
        self.guarded(routes!(files::create), Access::Upload)
            .merge(self.guarded(linked, Access::Link))
            .merge(self.guarded(limits, Access::Anybody))
            .map_routes(|routes| routes.route_layer(middleware::from_fn(files::speak_version)))
    }

    /// Adds the layers that apply to all of `routes`.
    fn around(&self, routes: Router<App>) -> Router {
        let routes = routes
            .fallback(async || Error::NoRoute)
            .method_not_allowed_fallback(async || Error::MethodNotAllowed)
            // From the outermost to the innermost one.
            .layer((
                middleware::from_fn(error_form::adapt),
                CatchPanicLayer::custom(panicked),
                middleware::from_fn(reject_with_limit),
                from_fn_with_state(self.config.server.request_timeout, deadline::deadline),
                Shared,
            ));
        let routes = cors::allow(routes, &self.config.cors_origins);
        let routes = routes.layer((middleware::from_fn(reject_preflight), Shared));
        headers::protected(self.observed(routes)).with_state(self.clone())
    }

    /// Adds the facts about each request, its log line and its metrics.
    fn observed<S: Clone + Send + Sync + 'static>(&self, routes: Router<S>) -> Router<S> {
        let trusted = self.config.server.trusted_proxies.clone();
        routes.layer((
            MapRequestLayer::new(move |request| request::add_facts(request, &trusted)),
            from_fn_with_state(self.metrics.clone(), observe_request),
            Shared,
        ))
    }
}

/// Returns the routes that are open to everyone.
fn open() -> DescribedRouter {
    routes!(system::healthz, system::readyz)
}

/// Returns the route of the API's description, which is also open to everyone.
fn description() -> DescribedRouter {
    routes!(openapi::openapi).map_routes(|routes| routes.layer(CompressionLayer::new()))
}

/// Returns the route that is open to everyone, and answers with the limits of a grant if there is one.
fn limits() -> DescribedRouter {
    routes!(system::limits)
}

/// Returns the routes for operators.
fn operating() -> DescribedRouter {
    routes!(system::metrics)
}

fn uploading() -> DescribedRouter {
    routes!(upload::upload)
        .route("/images", post(upload::upload))
        .map_description(|description| openapi::repeat(description, "/upload-image", "/images", "create_image"))
}

fn planning() -> DescribedRouter {
    routes!(direct::plan)
}

fn granting() -> DescribedRouter {
    routes!(grants::grant)
}

/// Returns the routes of a plan's links. The link itself authorizes the request.
fn linked() -> DescribedRouter {
    routes!(direct::status, direct::abort, direct::complete)
}

/// Returns the routes with which Uppy's S3 plugin starts an upload.
fn companion() -> DescribedRouter {
    routes!(s3::params, s3::create)
}

/// Returns the routes of an upload that Uppy's S3 plugin has started. Its ID authorizes the request.
fn companion_uploads() -> DescribedRouter {
    routes!(s3::list, s3::abort, s3::sign, s3::complete)
}

fn deleting() -> DescribedRouter {
    routes!(images::delete).route("/images/{s3_key}", delete(images::delete)).map_description(|description| {
        openapi::repeat(description, "/delete/{s3_key}", "/images/{s3_key}", "remove_image");
    })
}

fn reading() -> DescribedRouter {
    routes!(images::redirect, images::head, images::url)
}

/// Returns the upload page, which is not part of the API documentation. It is also served under a grant that has expired,
/// because it reports that.
fn page() -> Router<App> {
    Router::new()
        .route("/", get(page::index))
        .route(path_grant::WITHOUT_SLASH, get(page::add_slash))
        .route("/assets/{version}/{file}", get(page::asset))
}

/// Returns the page that shows an uploaded image. A token in its address authorizes the request.
fn results() -> Router<App> {
    Router::new().route("/uploaded", get(uploaded::page))
}

/// The API's description as pages.
fn documents() -> Router<App> {
    Router::new().route("/docs", get(docs::index)).route("/docs/{version}/{file}", get(docs::asset))
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

/// Does the same, and responds to requests whose URI is too long.
async fn reject_with_limit(request: Request, next: Next) -> Response {
    let length = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    if length > MAX_URI && request.extensions().get::<Rejected>().is_none() {
        return Error::UriTooLong { limit: MAX_URI }.into_response();
    }
    reject(request, next).await
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
