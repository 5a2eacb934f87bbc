//! The service without its transport: state, routes, and what holds for every request.

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::Method;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

mod cors;
pub mod headers;
mod readiness;

use self::readiness::Readiness;

use crate::auth::tokens::Tokens;
use crate::auth::{self, Scope};
use crate::config::{self, Config};
use crate::direct::Promotions;
use crate::direct::verify::Verifier;
use crate::error::{Error, respond};
use crate::policy::Policy;
use crate::routes::{description, direct, docs, images, page, system, upload};
use crate::sink::Uploads;
use crate::sink::spill::Spill;
use crate::store::measured::Measured;
use crate::store::{PresignOptions, Store};
use crate::telemetry::metrics::{TimedOut, table};
use crate::telemetry::{self, Metrics};
use crate::transport::{Deadline, Invocation, Rejected, request};

/// Bytes of a request's path and query. The longest that anybody is given, a plan's link, is well below 1 KiB.
const MAX_URI: usize = 8 << 10;

/// No request takes longer, whatever the settings say, so that its end can be computed.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Everything a handler needs. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub config: Arc<Config>,
    pub policy: Arc<Policy>,
    pub store: Arc<dyn Store>,
    pub uploads: Uploads,
    pub verifier: Verifier,
    pub promotions: Promotions,
    pub tokens: Tokens,
    pub readiness: Readiness,
    pub metrics: Metrics,
    draining: Arc<AtomicBool>,
    /// Of a store that is reached through the service; else none.
    store_routes: Router,
}

impl App {
    pub fn new(config: Config, store: Arc<dyn Store>, spill: Option<Spill>) -> Self {
        let metrics = Metrics::new();
        // Not behind the limit of calls: a service that is busy is ready.
        let readiness = Readiness::new(Arc::clone(&store));
        let store: Arc<dyn Store> = Arc::new(Measured::new(store, &metrics, config.store.max_calls));
        let policy = Arc::new(config.policy.clone());
        let uploads = Uploads::new(Arc::clone(&store), &config.sink, spill);
        let tasks = uploads.tasks().clone();
        let budget = Arc::clone(uploads.budget());
        let reconciler = uploads.reconciler().clone();
        let verifier = Verifier::new(Arc::clone(&store), reconciler, Arc::clone(&policy), budget, tasks.clone());
        let tokens = Tokens::new(config.auth.keys.clone(), config.auth.token_secret.as_ref());
        App {
            promotions: Promotions::new(verifier.clone(), tasks, metrics.clone()),
            verifier,
            policy,
            uploads,
            tokens,
            config: Arc::new(config),
            readiness,
            store,
            metrics,
            draining: Arc::default(),
            store_routes: Router::new(),
        }
    }

    /// Serves `routes` too: clients' way to a store in this process. What holds for the service's own routes (CORS, headers, the
    /// deadline) does not hold for them.
    #[must_use]
    pub fn with_store_routes(mut self, routes: Router) -> Self {
        self.store_routes = routes;
        self
    }

    /// All metrics in Prometheus' text format, those that are only known now among them.
    pub fn scrape(&self) -> String {
        let (used, limit) = (self.uploads.used(), self.uploads.limits());
        for (budget, used, limit) in [("memory", used.0, limit.0), ("spill", used.1, limit.1)] {
            self.metrics.gauge(&table::BUDGET_USED, &[budget]).set(used as f64);
            self.metrics.gauge(&table::BUDGET_LIMIT, &[budget]).set(limit as f64);
        }
        self.metrics.gauge(&table::UPLOADS_OPEN, &[]).set(self.uploads.open() as f64);
        self.metrics.render()
    }

    /// From now on [`App::is_draining`]: readiness says no, so that nobody is sent here any more.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How links to an image are signed for a client that reached the service at `base`.
    pub fn read_link(&self, base: Option<String>) -> PresignOptions {
        PresignOptions { ttl: self.config.read_url_ttl, base }
    }

    /// Every route, with what holds for all of them around it.
    pub fn router(&self) -> Router {
        let config::Auth { keys, public_read, .. } = &self.config.auth;
        let reading = if *public_read { reading() } else { auth::guarded(reading(), keys, Scope::Read) };
        let (routes, description) = OpenApiRouter::with_openapi(description::start())
            .merge(auth::guarded(uploading(), keys, Scope::Upload))
            .merge(linked())
            .merge(reading)
            .merge(auth::guarded(deleting(), keys, Scope::Delete))
            .merge(auth::local_or_keyed(operating(), keys))
            .merge(open())
            .split_for_parts();
        let routes = routes.merge(pages()).layer(Extension(description::finish(description, self)));
        let store_routes = self.store_routes.clone().layer(middleware::from_fn(reject));
        let store_routes = store_routes.layer(CatchPanicLayer::custom(panicked));
        self.around(routes).merge(self.observed(store_routes))
    }

    /// `routes` with what holds for all of them; from the inside out.
    fn around(&self, routes: Router<App>) -> Router {
        let routes = routes
            .fallback(async || Error::NoRoute)
            .method_not_allowed_fallback(async || Error::MethodNotAllowed)
            .layer(middleware::from_fn_with_state(self.config.server.request_timeout, deadline))
            .layer(middleware::from_fn(limit_uri))
            .layer(middleware::from_fn(reject))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(cors::cors(&self.config.cors_origins))
            .layer(middleware::from_fn(reject_preflight));
        headers::protected(self.observed(routes)).with_state(self.clone())
    }

    /// The facts of every request, its line in the log and its place in the metrics.
    fn observed<S: Clone + Send + Sync + 'static>(&self, routes: Router<S>) -> Router<S> {
        routes
            .layer(middleware::from_fn_with_state(self.metrics.clone(), telemetry::observe_request))
            .layer(middleware::from_fn_with_state(self.config.server.trusted_proxies.clone(), request::add_facts))
    }
}

/// What anybody may ask.
fn open() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(system::limits))
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(description::openapi))
}

/// What only who runs the service may ask.
fn operating() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(system::metrics))
}

fn uploading() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(upload::upload)).routes(routes!(direct::plan))
}

/// What a plan's links are for: they are the permission.
fn linked() -> OpenApiRouter<App> {
    let routes = OpenApiRouter::default().routes(routes!(direct::status, direct::abort));
    let mut routes = routes.routes(routes!(direct::complete));
    description::secure_by_link(routes.get_openapi_mut());
    routes
}

fn deleting() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(images::delete))
}

fn reading() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(images::redirect, images::head)).routes(routes!(images::url))
}

/// For people, and no part of the API's description.
fn pages() -> Router<App> {
    Router::new()
        .route("/", get(page::index))
        .route("/assets/{file}", get(page::asset))
        .route("/docs", get(docs::index))
        .route("/docs/{file}", get(docs::asset))
}

/// Ends a request that takes too long in all, however steadily it goes on; on Lambda also while there is time to undo it.
async fn deadline(State(limit): State<Duration>, mut request: Request, next: Next) -> Response {
    let ends = Instant::now() + limit.min(LONGEST);
    let invocation = request.extensions().get().map(|invocation: &Invocation| invocation.ends);
    let ends = invocation.map_or(ends, |invocation| invocation.min(ends));
    let timed_out = TimedOut::default();
    request.extensions_mut().insert(timed_out.clone());
    request.extensions_mut().insert(Deadline(ends));
    let mut answer = std::pin::pin!(next.run(request));
    match tokio::time::timeout_at(ends, &mut answer).await {
        Ok(response) => response,
        Err(_) => {
            timed_out.set();
            Error::Deadline.into_response()
        }
    }
}

/// Answers what the transport rejects, so that such an answer is like any other.
async fn reject(request: Request, next: Next) -> Response {
    match request.extensions().get() {
        Some(Rejected(error)) => respond(Arc::clone(error)),
        None => next.run(request).await,
    }
}

/// The same for what CORS would answer by itself.
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
    use crate::backend::Backend;
    use crate::config::Cli;
    use axum::body::Body;
    use clap::Parser;
    use http::{HeaderName, StatusCode, header};
    use tower::ServiceExt;

    async fn panics() -> StatusCode {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn a_panic_is_answered_as_any_error_is() {
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
        assert!(answer.headers().contains_key(telemetry::REQUEST_ID));
    }
}
