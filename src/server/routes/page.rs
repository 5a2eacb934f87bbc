//! `/`: the upload page, and `/assets/{file}`: its files. All of them are embedded in the binary.

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri, header};
use std::sync::LazyLock;

use super::ServiceBase;
use super::asset::{self, Asset, CSS, FRESH, JS, SVG};
use crate::error::{Error, Result};
use crate::server::App;
use crate::server::html::HTML;
use crate::server::middleware::path_grant::PathGrant;
use crate::store::{ImageKey, ObjectName};

/// The HTML of the page.
const INDEX: &str = include_str!("../../../web/index.html");

macro_rules! assets {
    ($($name:literal: $content_type:ident),* $(,)?) => {
        &[$(Asset {
            name: $name,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../../../web/", $name)),
            encoding: None,
        }),*]
    };
}

static ASSETS: &[Asset] = assets! {
    "app.css": CSS,
    "icon.svg": SVG,
    "app.js": JS,
    "api.js": JS,
    "card.js": JS,
    "retry.js": JS,
    "direct.js": JS,
    "form.js": JS,
    "file-input.js": JS,
    "grant.js": JS,
    "api-key.js": JS,
    "pace.js": JS,
    "thumbnail.js": JS,
    "xhr.js": JS,
    "upload.js": JS,
};

static ETAG: LazyLock<String> = LazyLock::new(|| asset::tag_all(ASSETS));

/// `GET /`.
pub async fn index(State(app): State<App>, base: ServiceBase) -> Response {
    answer(&app, base, INDEX).await
}

/// Handles `GET /g/{grant}`: the page has the same address with a trailing slash, because its links are relative. `./`
/// keeps the token from being read as a scheme or an authority.
pub async fn add_slash(grant: Option<Extension<PathGrant>>) -> Result<Response> {
    let Extension(PathGrant(token)) = grant.ok_or(Error::NoRoute)?;
    Ok((StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, format!("./{token}/"))]).into_response())
}

/// Returns a page that may send requests to this service and its store only.
pub async fn answer(app: &App, ServiceBase(base): ServiceBase, html: &'static str) -> Response {
    let policy = content_security_policy(&origins(app, base).await);
    // The page has no ETag: the policy depends on the settings, and after a 304 an older policy would remain in force.
    ([FRESH], [(header::CONTENT_TYPE, HTML), (header::CONTENT_SECURITY_POLICY, &policy)], html).into_response()
}

/// `GET /assets/{file}`.
pub async fn asset(file: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response> {
    asset::answer(ASSETS, &ETAG, file, &headers)
}

/// Returns the origins besides its own to which the page sends requests: the store, and the service at `PUBLIC_URL`.
async fn origins(app: &App, base: Option<String>) -> Vec<String> {
    // The origin of the store's links may depend on how the client reached the service, so a link is signed to find it.
    let anything = ObjectName::Image(ImageKey::random("png"));
    let link = app.store.presign_get(&anything, &app.read_link(base)).await;
    let link = link.map(|link| link.url).inspect_err(|error| {
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, "the origin of the store is unknown: direct uploads from the page will not work");
    });
    let addresses = link.ok().into_iter().chain(app.config.public_url.clone());
    let mut origins: Vec<String> = addresses.filter_map(|address| origin(&address)).collect();
    origins.dedup();
    origins
}

/// Returns the scheme, host and port of a URL.
///
/// The host may come from the client's Host header, which may contain a `;`. Only plain names may be written into the
/// policy header.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    authority.bytes().all(plain).then(|| format!("{scheme}://{authority}"))
}

fn content_security_policy(origins: &[String]) -> String {
    let origins: String = origins.iter().map(|origin| format!(" {origin}")).collect();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:{origins}; \
         connect-src 'self'{origins}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

#[cfg(test)]
mod tests {
    use super::origin;

    #[test]
    fn origins_with_special_characters_are_dropped() {
        assert_eq!(origin("http://127.0.0.1:8080/_store/a?b=c").as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(
            origin("https://b.s3.eu-west-1.amazonaws.com/k").as_deref(),
            Some("https://b.s3.eu-west-1.amazonaws.com")
        );
        assert_eq!(origin("http://[::1]:8080/images").as_deref(), Some("http://[::1]:8080"));
        assert_eq!(origin("http://a;script-src*/images"), None);
        assert_eq!(origin("http://user@host/images"), None);
        assert_eq!(origin("/images"), None);
    }
}
