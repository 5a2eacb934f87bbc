//! A grant in the path: `/g/{grant}/…` is a request for the route after the prefix, authorized by the grant.
//!
//! The path is rewritten before routing, so that no route, log entry or metric ever contains the grant.

use axum::Router;
use axum::extract::{OriginalUri, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri, header};

const PREFIX: &str = "/g/";

/// The unverified token, in the extensions of a request whose path starts with a grant.
#[derive(Clone)]
pub struct PathGrant(pub String);

/// The route of `/g/{grant}` without a trailing slash. The page's relative links require the slash.
pub const WITHOUT_SLASH: &str = "/g";

/// Adds the rewriting in front of `routes`.
pub fn before(routes: Router) -> Router {
    Router::new().fallback_service(routes).layer(from_fn(take_from_path))
}

async fn take_from_path(mut request: Request, next: Next) -> Response {
    let Some((token, uri)) = split(request.uri()) else { return next.run(request).await };
    *request.uri_mut() = uri;
    // The outer router added it, with the grant.
    request.extensions_mut().remove::<OriginalUri>();
    request.extensions_mut().insert(PathGrant(token));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Returns the grant at the start of the path, and the URI without it.
fn split(uri: &Uri) -> Option<(String, Uri)> {
    let path = uri.path().strip_prefix(PREFIX)?;
    let (token, rest) = path.find('/').map_or((path, WITHOUT_SLASH), |end| path.split_at(end));
    if token.is_empty() {
        return None;
    }
    let path = uri.query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Some((token.to_owned(), Uri::from_parts(parts).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_split_into_grant_and_route() {
        let split = |uri: &str| split(&uri.parse().unwrap()).map(|(token, uri)| (token, uri.to_string()));
        let is = |token: &str, uri: &str| Some((token.to_owned(), uri.to_owned()));
        assert_eq!(split("/g/a.b.c/upload-image"), is("a.b.c", "/upload-image"));
        assert_eq!(split("/g/a.b.c/uploads/k?plan=x/y"), is("a.b.c", "/uploads/k?plan=x/y"));
        assert_eq!(split("/g/a.b.c/"), is("a.b.c", "/"));
        assert_eq!(split("/g/a.b.c"), is("a.b.c", "/g"));
        assert_eq!(split("/g/a.b.c?x"), is("a.b.c", "/g?x"));
        assert_eq!(split("http://h:1/g/a/limits"), is("a", "http://h:1/limits"));
        assert_eq!(split("/g/a/g/b/limits"), is("a", "/g/b/limits"));
        for other in ["/", "/g", "/g/", "/g//limits", "/G/a/limits", "/x/g/a/limits", "/limits?/g/a/"] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
