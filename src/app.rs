//! The service without its transport: state, routes, and what holds for every request.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::{HeaderName, HeaderValue, Method, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::auth::{self, Scope};
use crate::config::{self, Config};
use crate::direct::Promotions;
use crate::error::Error;
use crate::policy::Policy;
use crate::routes::{description, direct, docs, images, page, system, upload};
use crate::sink::Uploads;
use crate::sink::spill::Spill;
use crate::store::{PresignOptions, Store};
use crate::telemetry;
use crate::transport::Invocation;

/// Everything a handler needs. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub config: Arc<Config>,
    pub policy: Arc<Policy>,
    pub store: Arc<dyn Store>,
    pub uploads: Uploads,
    pub promotions: Promotions,
    draining: Arc<AtomicBool>,
}

impl App {
    pub fn new(config: Config, store: Arc<dyn Store>, spill: Option<Spill>) -> Self {
        let policy = Arc::new(config.policy.clone());
        let uploads = Uploads::new(Arc::clone(&store), &config.sink, spill);
        App {
            promotions: Promotions::new(Arc::clone(&store), Arc::clone(&policy), uploads.tasks().clone()),
            policy,
            uploads,
            config: Arc::new(config),
            store,
            draining: Arc::default(),
        }
    }

    /// From now on [`App::is_draining`]: readiness says no, so that nobody is sent here any more.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How links to an image are signed for a client that reached the service at `host`.
    pub fn read_link(&self, host: Option<String>) -> PresignOptions {
        PresignOptions { ttl: self.config.read_url_ttl, host }
    }

    /// Every route, with what holds for all of them around it.
    pub fn router(&self) -> Router {
        let config::Auth { keys, public_read } = &self.config.auth;
        let reading = if *public_read { reading() } else { auth::guarded(reading(), keys, Scope::Read) };
        let (routes, description) = OpenApiRouter::with_openapi(description::start())
            .merge(auth::guarded(uploading(), keys, Scope::Upload))
            .merge(reading)
            .merge(auth::guarded(deleting(), keys, Scope::Delete))
            .merge(open())
            .split_for_parts();
        routes
            .merge(pages())
            .layer(Extension(description::finish(description, self)))
            .fallback(async || Error::NoRoute)
            .method_not_allowed_fallback(async || Error::MethodNotAllowed)
            .layer(middleware::from_fn_with_state(self.config.server.request_timeout, deadline))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(cors(&self.config.cors_origins))
            .layer(middleware::from_fn(telemetry::log_request))
            .with_state(self.clone())
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

fn uploading() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(upload::upload))
        .routes(routes!(direct::plan).layer(DefaultBodyLimit::max(direct::LONGEST_WISH)))
        .routes(routes!(direct::status, direct::abort))
        .routes(routes!(direct::complete))
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
async fn deadline(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let ends = request.extensions().get().map(|invocation: &Invocation| invocation.ends);
    let limit = ends.map_or(limit, |ends| limit.min(ends.saturating_duration_since(Instant::now())));
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Error::Deadline.into_response(),
    }
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Error::Internal(format!("panic: {}", text.unwrap_or("of another type")).into()).into_response()
}

fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let headers: [HeaderName; 4] = [header::CONTENT_TYPE, header::AUTHORIZATION, auth::API_KEY, telemetry::REQUEST_ID];
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
        .allow_headers(headers)
        .expose_headers([telemetry::REQUEST_ID, header::RETRY_AFTER])
        .max_age(Duration::from_secs(3600))
}
