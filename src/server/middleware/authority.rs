//! Who may do what: API keys, checked before a request's body is asked for.
//!
//! The router says which routes ask for a scope, and which for this machine. Keys come in
//! `Authorization: Bearer` or `X-API-Key`; the log has their names.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::access_log::{field, record_field};
use crate::auth::{Key, Keys, Scope};
use crate::error::{Error, Result};
use crate::server::request::Peer;

pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What a group of routes asks for.
#[derive(Clone, Debug)]
pub struct Guard {
    pub keys: Keys,
    pub scope: Scope,
}

/// Lets any key in, and who asks on this machine itself.
pub async fn check_local_or_keyed(State(keys): State<Keys>, request: Request, next: Next) -> Result<Response> {
    if identify(&keys, request.headers()).is_none() && !is_local(&request) {
        return Err(if keys.is_empty() { Error::LocalOnly(NO_KEYS.into()) } else { Error::Unauthorized });
    }
    Ok(next.run(request).await)
}

/// For the log: who asks from elsewhere is not told how the service is set up.
const NO_KEYS: &str = "only this machine is answered while there are no keys: set API_KEYS or API_KEYS_FILE";

/// Headers by which a proxy says that the client is another, or a browser that a page asks. So do all `x-forwarded-…`.
const FROM_ELSEWHERE: [HeaderName; 4] =
    [header::FORWARDED, header::VIA, header::ORIGIN, HeaderName::from_static("x-real-ip")];

/// Whether the client is on this machine. Only the socket is believed; what the headers say can only be against it.
fn is_local(request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>();
    peer.is_some_and(|peer| peer.is_loopback()) && !request.headers().keys().any(is_from_elsewhere)
}

fn is_from_elsewhere(name: &HeaderName) -> bool {
    FROM_ELSEWHERE.contains(name) || name.as_str().starts_with("x-forwarded-")
}

/// Lets keys in that have the scope.
pub async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Result<Response> {
    let key = identify(&guard.keys, request.headers()).ok_or(Error::Unauthorized)?;
    if !key.may(guard.scope) {
        return Err(Error::Forbidden { scope: guard.scope.name() });
    }
    let name = KeyName(key.name().to_owned(), key.hash());
    request.extensions_mut().insert(name);
    Ok(next.run(request).await)
}

/// In a request's extensions: the name and the SHA-256 of the API key that it was let in by. None if there are no keys.
#[derive(Clone)]
pub struct KeyName(pub String, pub [u8; 32]);

/// The key a request was sent with, noted in its log line.
fn identify<'a>(keys: &'a Keys, headers: &HeaderMap) -> Option<&'a Key> {
    // Either will do: what is in front of the service may need `Authorization` for itself.
    let given = [bearer(headers), headers.get(API_KEY).map(HeaderValue::as_bytes)];
    let key = given.into_iter().flatten().find_map(|secret| keys.find(secret))?;
    record_field(field::API_KEY_NAME, key.name());
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
    use crate::auth::Secret;
    use tower::ServiceExt;

    /// What a route behind this machine or a key answers to `peer`.
    async fn answered(keys: &str, peer: Option<&str>, headers: &[(&str, &str)]) -> Response {
        let keys = (!keys.is_empty()).then(|| Secret::from(keys.to_owned()));
        let keys = Keys::read(keys.as_ref(), None).unwrap();
        let check = axum::middleware::from_fn_with_state(keys, check_local_or_keyed);
        let routes = axum::Router::new().route("/", axum::routing::get(async || "")).route_layer(check);
        let mut request = Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(axum::body::Body::empty()).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        }
        routes.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn this_machine_needs_no_key_and_every_other_does() {
        for keys in ["", "right"] {
            for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
                assert_eq!(answered(keys, Some(local), &[]).await.status(), 200, "{local}");
            }
            for other in [None, Some("192.0.2.7"), Some("0.0.0.0"), Some("2001:db8::1"), Some("::ffff:192.0.2.7")] {
                // What a client may write is no proof.
                let answer = answered(keys, other, &[("x-forwarded-for", "127.0.0.1"), ("host", "localhost")]).await;
                let refused = if keys.is_empty() { 403 } else { 401 };
                assert_eq!(answer.status(), refused, "{other:?}");
                assert_eq!(answer.headers().contains_key(header::WWW_AUTHENTICATE), refused == 401);
                let keyed = answered(keys, other, &[("x-api-key", "right")]).await.status();
                assert_eq!(keyed, if keys.is_empty() { 403 } else { 200 }, "{other:?}");
                assert_eq!(answered(keys, other, &[("x-api-key", "wrong")]).await.status(), refused, "{other:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_a_proxy_on_this_machine_passes_on_and_what_a_page_asks_needs_a_key() {
        for header in [
            ("forwarded", "for=192.0.2.7"),
            ("via", "1.1 p"),
            ("x-forwarded-for", "::1"),
            ("X-Forwarded-Proto", "https"),
            ("x-forwarded-host", "localhost"),
            ("x-real-ip", ""),
            ("origin", "http://127.0.0.1"),
        ] {
            assert_eq!(answered("right", Some("::1"), &[header]).await.status(), 401, "{header:?}");
            let keyed = [header, ("authorization", "Bearer right")];
            assert_eq!(answered("right", Some("::1"), &keyed).await.status(), 200, "{header:?}");
        }
    }

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
