//! The HTTP API, one file per resource.

pub(super) mod asset;
pub mod direct;
pub mod docs;
pub mod files;
pub mod grants;
pub mod images;
pub mod page;
pub mod system;
pub mod upload;

use axum::extract::FromRequestParts;
use http::request::Parts;
use std::convert::Infallible;

use crate::server::App;
use crate::server::request::RequestFacts;

/// The URL at which the client reaches the service, without a trailing slash. See [`RequestFacts::base_url`].
///
/// Unless it is `PUBLIC_URL`, the client chooses it freely, so it may be used only in responses to this client.
pub struct ServiceBase(Option<String>);

impl FromRequestParts<App> for ServiceBase {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let public_url = app.config.public_url.as_deref();
        let facts = parts.extensions.get::<RequestFacts>();
        Ok(ServiceBase(facts.and_then(|facts| facts.base_url(public_url))))
    }
}
