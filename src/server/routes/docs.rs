//! `/docs`: the API documentation in Swagger UI, where requests can be tried, and `/docs/{version}/{file}`: its
//! files.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use http::HeaderMap;
use std::sync::LazyLock;

use super::asset::{self, Asset, Assets, CSS, JS};
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

static FILES: &[Asset] = &[
    Asset { name: "start.js", content_type: JS, bytes: include_bytes!("../../../web/docs/start.js"), encoding: None },
    Asset { name: "docs.css", content_type: CSS, bytes: include_bytes!("../../../web/docs/docs.css"), encoding: None },
    Asset {
        name: "swagger-ui-bundle.js",
        content_type: JS,
        bytes: swagger_ui!("swagger-ui-bundle.js"),
        encoding: Some("gzip"),
    },
    Asset { name: "swagger-ui.css", content_type: CSS, bytes: swagger_ui!("swagger-ui.css"), encoding: Some("gzip") },
];

static ASSETS: Assets = Assets::new(FILES, || asset::version(FILES));

static PAGE: LazyLock<String> = LazyLock::new(|| page::ASSETS.versioned(&ASSETS.versioned(INDEX, "docs"), "assets"));

/// `GET /docs`.
pub async fn index(State(app): State<App>, base: ServiceBase) -> Response {
    page::answer(&app, base, &PAGE).await
}

/// `GET /docs/{version}/{file}`.
pub async fn asset(path: Result<Path<(String, String)>, PathRejection>, headers: HeaderMap) -> Result<Response> {
    ASSETS.answer(path, &headers)
}
