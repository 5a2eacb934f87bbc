use super::*;
use crate::auth::grants::{Claims, DEFAULT_LIFETIME};
use crate::auth::{Keys, Secret};
use crate::server::request::Peer;
use crate::telemetry::metrics::Metrics;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderName, HeaderValue, header};
use tower::ServiceExt;

/// Sends a request from `peer` to a route that requires an API key or a client on this machine.
async fn answered(keys: &str, peer: Option<&str>, headers: &[(&str, &str)]) -> Response {
    let keys = (!keys.is_empty()).then(|| Secret::from(keys.to_owned()));
    let keys = Keys::read(keys.as_ref(), None).unwrap();
    let guard = Guard { authorities: Authorities::new(keys, Metrics::new()), access: Access::Operator };
    let check = axum::middleware::from_fn_with_state(guard, check);
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
async fn metrics_require_a_key_except_from_this_machine() {
    for keys in ["", "right"] {
        for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(answered(keys, Some(local), &[]).await.status(), 200, "{local}");
        }
        for other in [None, Some("192.0.2.7"), Some("0.0.0.0"), Some("2001:db8::1"), Some("::ffff:192.0.2.7")] {
            // Headers from the client prove nothing.
            let answer = answered(keys, other, &[("x-forwarded-for", "127.0.0.1"), ("host", "localhost")]).await;
            let rejected = if keys.is_empty() { 403 } else { 401 };
            assert_eq!(answer.status(), rejected, "{other:?}");
            assert_eq!(answer.headers().contains_key(header::WWW_AUTHENTICATE), rejected == 401);
            let keyed = answered(keys, other, &[("x-api-key", "right")]).await.status();
            assert_eq!(keyed, if keys.is_empty() { 403 } else { 200 }, "{other:?}");
            assert_eq!(answered(keys, other, &[("x-api-key", "wrong")]).await.status(), rejected, "{other:?}");
        }
    }
}

#[tokio::test]
async fn metrics_from_proxies_and_browsers_require_a_key() {
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

/// Returns what authorizes a request with these headers, or the code of the error.
fn authority(authorities: &Authorities, headers: &[(HeaderName, &str)]) -> String {
    let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
    match authorities.of_headers(&headers.collect()) {
        Ok(Some(Authority::Grant(grant, _))) => format!("grant of {}", grant.issuer),
        Ok(found) => found.as_ref().and_then(Authority::key_name).unwrap_or("-").to_owned(),
        Err(error) => error.code().to_owned(),
    }
}

fn authorities(keys: &str) -> Authorities {
    let keys = (!keys.is_empty()).then(|| Secret::from(keys.to_owned()));
    Authorities::new(Keys::read(keys.as_ref(), None).unwrap(), Metrics::new())
}

fn granted(authorities: &Authorities, issuer: &str) -> String {
    authorities.grants().mint(Claims::lasting(DEFAULT_LIFETIME), issuer).unwrap().0
}

#[test]
fn api_key_is_read_from_both_headers() {
    let keys = authorities("one,two");
    assert_eq!(authority(&keys, &[(header::AUTHORIZATION, "Bearer one")]), "key-1");
    assert_eq!(authority(&keys, &[(header::AUTHORIZATION, "bearer   two ")]), "key-2");
    assert_eq!(authority(&keys, &[(API_KEY, "two")]), "key-2");
    assert_eq!(authority(&keys, &[(header::AUTHORIZATION, "Basic b25lOg=="), (API_KEY, "one")]), "key-1");
    for other in ["", "Bearer", "one", "Basic one"] {
        assert_eq!(authority(&keys, &[(header::AUTHORIZATION, other)]), "-", "{other}");
    }
    for wrong in ["Bearer ", "Bearer on", "Bearer one,two", "Bearer eyJ.one"] {
        assert_eq!(authority(&keys, &[(header::AUTHORIZATION, wrong)]), "unauthorized", "{wrong}");
    }
}

#[test]
fn invalid_credential_is_rejected_despite_a_valid_one() {
    let keys = authorities("sixteen-letters-at-least,two");
    let grant = format!("Bearer {}", granted(&keys, "key-1"));
    fn bearer(value: &str) -> (HeaderName, &str) {
        (header::AUTHORIZATION, value)
    }
    let key = |value| (API_KEY, value);
    assert_eq!(authority(&keys, &[bearer(&grant)]), "grant of key-1");
    assert_eq!(authority(&keys, &[bearer(&grant), key("two")]), "key-2");
    assert_eq!(authority(&keys, &[bearer("Bearer two"), key("wrong")]), "unauthorized");
    assert_eq!(authority(&keys, &[bearer(&grant), key("")]), "unauthorized");
    assert_eq!(authority(&keys, &[bearer(&format!("{grant}x"))]), "invalid_token");
    // A grant is not an API key.
    assert_eq!(authority(&keys, &[key(&grant["Bearer ".len()..])]), "unauthorized");
    // An API key may look like a token.
    let keys = authorities("ey.a.key");
    assert_eq!(authority(&keys, &[bearer("Bearer ey.a.key")]), "key-1");
}

#[test]
fn without_keys_only_invalid_grants_are_rejected() {
    let open = authorities("");
    let grant = format!("Bearer {}", granted(&open, ""));
    assert_eq!(authority(&open, &[(header::AUTHORIZATION, &grant)]), "grant of ");
    assert_eq!(authority(&open, &[(header::AUTHORIZATION, "Bearer eyJ.wrong.one")]), "invalid_token");
    for ignored in [(header::AUTHORIZATION, "Bearer anything"), (API_KEY, "anything")] {
        assert_eq!(authority(&open, &[ignored]), "-");
    }
}
