//! A grant in the path: `/g/{grant}/…` is the route behind it, asked for with the grant.
//!
//! The path is rewritten before a route is looked for, so that no route, log line or metric ever sees the grant.

use axum::Router;
use axum::extract::{OriginalUri, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri, header};

const PREFIX: &str = "/g/";

/// In the extensions of a request whose path began with a grant: that token, not checked.
#[derive(Clone)]
pub struct PathGrant(pub String);

/// `/g/{grant}` without its slash at the end, which links of the page are relative to.
pub const WITHOUT_SLASH: &str = "/g";

/// Puts the rewriting before `routes`.
pub fn before(routes: Router) -> Router {
    Router::new().fallback_service(routes).layer(from_fn(take_from_path))
}

async fn take_from_path(mut request: Request, next: Next) -> Response {
    let Some((token, uri)) = split(request.uri()) else { return next.run(request).await };
    *request.uri_mut() = uri;
    // The router around this one has put it there.
    request.extensions_mut().remove::<OriginalUri>();
    request.extensions_mut().insert(PathGrant(token));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The grant that a path begins with, and the address without it.
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
    fn a_path_is_split_into_a_grant_and_a_route() {
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
