//! Who may do what: API keys, checked before a request's body is asked for.
//!
//! A route is open unless [`guarded`] put it behind a scope. Keys come in `Authorization: Bearer` or `X-API-Key`; the log has
//! their names.

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use http::{HeaderMap, HeaderName, header};
use utoipa_axum::router::OpenApiRouter;

mod keys;
pub use keys::{Key, Keys, Scope, Secret};

use crate::error::{Error, Result};
use crate::routes::description;
use crate::telemetry::{field, note};

pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What a group of routes asks for.
#[derive(Clone, Debug)]
struct Guard {
    keys: Keys,
    scope: Scope,
}

/// Puts `routes` behind `scope`, also in their description; leaves them open where there are no keys at all.
///
/// Answers that no handler gives (404, 405) and CORS preflights need no key.
pub fn guarded<S>(mut routes: OpenApiRouter<S>, keys: &Keys, scope: Scope) -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    description::secure(routes.get_openapi_mut(), scope, !keys.is_empty());
    if keys.is_empty() {
        return routes;
    }
    let guard = Guard { keys: keys.clone(), scope };
    routes.route_layer(middleware::from_fn_with_state(guard, check))
}

async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Result<Response> {
    let key = identify(&guard.keys, request.headers()).ok_or(Error::Unauthorized)?;
    if !key.may(guard.scope) {
        return Err(Error::Forbidden { scope: guard.scope.name() });
    }
    Ok(next.run(request).await)
}

/// The key a request was sent with, noted in its log line.
fn identify<'a>(keys: &'a Keys, headers: &HeaderMap) -> Option<&'a Key> {
    // Either will do: what is in front of the service may need `Authorization` for itself.
    let given = [bearer(headers), headers.get(API_KEY).map(|value| value.as_bytes())];
    let key = given.into_iter().flatten().find_map(|secret| keys.find(secret))?;
    note(field::API_KEY_NAME, key.name());
    Some(key)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, secret) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| secret.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_key_comes_in_either_header() {
        let keys = Keys::read(Some(&Secret::from("one,two".to_owned())), None).unwrap();
        let name = |headers: &[(HeaderName, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            identify(&keys, &headers.collect()).map(|key| key.name().to_owned())
        };
        assert_eq!(name(&[(header::AUTHORIZATION, "Bearer one")]).as_deref(), Some("key-1"));
        assert_eq!(name(&[(header::AUTHORIZATION, "bearer   two ")]).as_deref(), Some("key-2"));
        assert_eq!(name(&[(API_KEY, "two")]).as_deref(), Some("key-2"));
        assert_eq!(name(&[(header::AUTHORIZATION, "Basic b25lOg=="), (API_KEY, "one")]).as_deref(), Some("key-1"));
        for wrong in ["", "Bearer", "Bearer ", "Bearer on", "Bearer one,two", "one", "Basic one"] {
            assert_eq!(name(&[(header::AUTHORIZATION, wrong)]), None, "{wrong}");
        }
    }
}
