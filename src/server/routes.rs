//! The HTTP API, one file per resource.

pub(super) mod asset;
pub mod direct;
pub mod docs;
pub mod files;
pub mod grants;
pub mod images;
pub mod page;
pub mod s3;
pub mod system;
pub mod upload;
pub mod uploaded;

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use serde::de::DeserializeOwned;
use std::convert::Infallible;

use crate::error::{Error, Result};
use crate::server::App;
use crate::server::request::RequestFacts;

/// Returns the query of a request to the link of an upload.
///
/// # Errors
/// Returns [`Error::InvalidToken`] without axum's reason. That one quotes the query, and a token must not be in the log.
async fn link_query<Q: DeserializeOwned + Send>(parts: &mut Parts, app: &App) -> Result<Q> {
    match Query::from_request_parts(parts, app).await {
        Ok(Query(query)) => Ok(query),
        Err(_) => Err(Error::InvalidToken(Some("the query is not that of a link".into()))),
    }
}

/// The URL at which the client reaches the service, without a trailing slash. See [`RequestFacts::base_url`].
///
/// Unless it is `PUBLIC_URL`, the client chooses it freely, so it may be used only in responses to this client.
pub struct ServiceBase(Option<String>);

impl ServiceBase {
    /// Returns the permanent URL of an image in this service. If the request has no valid host, it is relative.
    fn image_url(&self, key: &str) -> String {
        format!("{}/{key}", self.url("images"))
    }

    /// Returns the URL of a route of the service.
    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.0.as_deref().unwrap_or("."))
    }
}

impl FromRequestParts<App> for ServiceBase {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let public_url = app.config.public_url.as_deref();
        let facts = parts.extensions.get::<RequestFacts>();
        Ok(ServiceBase(facts.and_then(|facts| facts.base_url(public_url))))
    }
}
