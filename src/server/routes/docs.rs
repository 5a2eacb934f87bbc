//! `/docs`: the API documentation in Swagger UI, where requests can be tried, and `/docs/{file}`: its files.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use http::HeaderMap;
use std::sync::LazyLock;

use super::asset::{self, Asset, CSS, JS};
use super::{ServiceBase, page};
use crate::error::Result;
use crate::server::App;

const INDEX: &str = include_str!("../../../web/docs/index.html");

/// build.rs extracts these files from Swagger UI's archive.
macro_rules! swagger_ui {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz"))
    };
}

static ASSETS: &[Asset] = &[
    Asset { name: "start.js", content_type: JS, bytes: include_bytes!("../../../web/docs/start.js"), encoding: None },
    Asset {
        name: "swagger-ui-bundle.js",
        content_type: JS,
        bytes: swagger_ui!("swagger-ui-bundle.js"),
        encoding: Some("gzip"),
    },
    Asset { name: "swagger-ui.css", content_type: CSS, bytes: swagger_ui!("swagger-ui.css"), encoding: Some("gzip") },
];

static ETAG: LazyLock<String> = LazyLock::new(|| asset::tag_all(ASSETS));

/// `GET /docs`.
pub async fn index(State(app): State<App>, base: ServiceBase) -> Response {
    page::answer(&app, base, INDEX).await
}

/// `GET /docs/{file}`.
pub async fn asset(file: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response> {
    asset::answer(ASSETS, &ETAG, file, &headers)
}
