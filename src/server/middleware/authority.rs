//! Who may do what: API keys and grants, checked before a request's body is asked for.
//!
//! One authority counts: the grant in the path (`/g/{grant}/…`), else `X-API-Key`, else `Authorization: Bearer` (an API key or
//! a grant), else the field `grant` of a form. If it is wrong, the request is rejected, whatever else it brings. The router
//! says what each group of routes wants ([`Access`]). The log has the names of keys, and no key and no grant.

use axum::extract::{FromRequestParts, OptionalFromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use std::convert::Infallible;
use std::sync::Arc;

use super::access_log::{field, record_field};
use super::path_grant::PathGrant;
use crate::auth::grants::{Grant, Grants};
use crate::auth::{Hash, Key, Keys, Scope};
use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::server::request::Peer;
use crate::store::{CustomMetadata, ImageKey};
use crate::telemetry::metrics::{Metrics, defs};
use crate::upload::idempotency::IdempotencyScope;

pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What a request may do is because of this. In its extensions once it was checked.
#[derive(Clone)]
pub enum Authority {
    /// There are no API keys: everybody may do everything.
    Open,
    /// An API key, by its name.
    Key {
        name: String,
        /// What idempotency keys are bound to.
        hash: Hash,
    },
    /// A grant, and the hash of the API key that signed it (without keys, of a constant).
    Grant(Arc<Grant>, Hash),
}

impl Authority {
    /// The name of the API key that it comes from. None if there are no keys.
    pub fn key_name(&self) -> Option<&str> {
        match self {
            Authority::Open => None,
            Authority::Key { name, .. } => Some(name),
            Authority::Grant(grant, _) => Some(grant.issuer.as_str()).filter(|issuer| !issuer.is_empty()),
        }
    }

    pub fn grant(&self) -> Option<&Grant> {
        match self {
            Authority::Grant(grant, _) => Some(grant),
            Authority::Open | Authority::Key { .. } => None,
        }
    }

    /// The key of the one image that it is for, if it is for one.
    pub fn image_key(&self) -> Option<ImageKey> {
        self.grant()?.key.as_deref().and_then(ImageKey::parse)
    }

    /// Returns the metadata that the grant attaches to its images.
    pub fn metadata(&self) -> CustomMetadata {
        self.grant().map(|grant| grant.metadata.clone()).unwrap_or_default()
    }

    /// Returns the scope of the request's Idempotency-Key.
    pub fn idempotency_scope(&self) -> IdempotencyScope {
        match self {
            Authority::Open => IdempotencyScope::default(),
            Authority::Key { hash, .. } => IdempotencyScope { key_hash: *hash, jti: None },
            Authority::Grant(grant, hash) => {
                // Never the scope of the API key itself.
                IdempotencyScope { key_hash: *hash, jti: Some(grant.jti.clone().unwrap_or_default()) }
            }
        }
    }

    /// `policy` with the limits that the authority has.
    pub fn limit(&self, policy: Arc<Policy>) -> Arc<Policy> {
        let Some(grant) = self.grant() else { return policy };
        let key_format = self.image_key().and_then(|key| key.format());
        Arc::new(policy.within(grant.max_size, grant.formats.as_deref(), key_format))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Authority {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        parts.extensions.get().cloned().ok_or(Error::Unauthorized)
    }
}

/// None where a form may still bring one, or nothing is wanted.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Authority {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

/// Finds the authority of requests. Cheap to clone.
#[derive(Clone)]
pub struct Authorities {
    keys: Keys,
    grants: Grants,
    metrics: Metrics,
}

impl Authorities {
    pub fn new(keys: Keys, metrics: Metrics) -> Self {
        Authorities { grants: Grants::new(keys.clone()), keys, metrics }
    }

    /// Signs grants, too.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// The authority of a token that came as a form's field.
    ///
    /// # Errors
    /// 401 `invalid_token`, `expired_token`.
    pub fn of_field(&self, token: &str) -> Result<Authority> {
        let granted = self.granted(token)?;
        self.count("used");
        Ok(granted)
    }

    /// The authority that a request's head brings, if any. Without keys everybody has one.
    fn of_head(&self, request: &Request) -> Result<Option<Authority>> {
        let found = match request.extensions().get::<PathGrant>() {
            Some(PathGrant(token)) => Some(self.granted(token)?),
            None => self.of_headers(request.headers())?,
        };
        Ok(found.or_else(|| self.keys.is_empty().then_some(Authority::Open)))
    }

    fn of_headers(&self, headers: &HeaderMap) -> Result<Option<Authority>> {
        // First: what is in front of the service may need `Authorization` for itself.
        if let Some(secret) = headers.get(API_KEY) {
            return self.of_key(secret.as_bytes());
        }
        match bearer(headers) {
            Some(secret) if self.keys.find(secret).is_none() && is_token(secret) => {
                self.granted(std::str::from_utf8(secret).unwrap_or_default()).map(Some)
            }
            Some(secret) => self.of_key(secret),
            None => Ok(None),
        }
    }

    /// Where there are no keys, none is wrong.
    fn of_key(&self, secret: &[u8]) -> Result<Option<Authority>> {
        match self.keys.find(secret) {
            Some(key) => Ok(Some(known(key))),
            None if self.keys.is_empty() => Ok(None),
            None => Err(Error::Unauthorized),
        }
    }

    /// Checks a grant. It is in the request's log line from here on, by its issuer and its key.
    fn granted(&self, token: &str) -> Result<Authority> {
        let (grant, hash) = self.grants.read(token).inspect_err(|refusal| self.count(refusal.reason()))?;
        record_field(field::GRANTED_BY, grant.issuer.as_str());
        if let Some(key) = &grant.key {
            record_field(field::S3_KEY, key.as_str());
        }
        Ok(Authority::Grant(Arc::new(grant), hash))
    }

    fn count(&self, outcome: &str) {
        self.metrics.counter(&defs::GRANTS, &[outcome]).increment(1);
    }

    /// Counts the use of a grant, or that it was for something else.
    fn count_use<T>(&self, authority: Option<&Authority>, admitted: &Result<T>) {
        if matches!(authority, Some(Authority::Grant(..))) {
            self.count(if admitted.is_ok() { "used" } else { "route" });
        }
    }
}

/// An API key, noted in the request's log line.
fn known(key: &Key) -> Authority {
    record_field(field::API_KEY_NAME, key.name());
    Authority::Key { name: key.name().to_owned(), hash: *key.hash() }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, secret) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| secret.trim_ascii())
}

/// Whether it has the form of a JSON Web Token (RFC 7515, 7.1): three parts, of which the first is a JSON object.
fn is_token(secret: &[u8]) -> bool {
    secret.starts_with(b"ey") && secret.iter().filter(|byte| **byte == b'.').count() == 2
}

/// What a group of routes wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An API key with this scope.
    Key(Scope),
    /// An API key with the scope `upload`, or a grant.
    Upload,
    /// The same; but a form may bring its grant itself.
    Form,
    /// Nothing. An authority that is there must be right, and its limits hold.
    Anybody,
    /// The link of a plan. A grant in the path must be right.
    Link,
    /// Nothing, and no grant in the path is good for it.
    Open,
    /// Any API key, or a client on this machine.
    Operator,
}

/// What [`check`] needs.
#[derive(Clone)]
pub struct Guard {
    pub authorities: Authorities,
    pub access: Access,
}

/// Lets in whoever a group of routes is for.
pub async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Result<Response> {
    if let Some(authority) = guard.admit(&request)? {
        request.extensions_mut().insert(authority);
    }
    Ok(next.run(request).await)
}

impl Guard {
    fn admit(&self, request: &Request) -> Result<Option<Authority>> {
        let in_path = request.extensions().get::<PathGrant>().is_some();
        let looks = match self.access {
            Access::Link | Access::Open => in_path,
            Access::Operator => in_path || !is_local(request),
            Access::Key(_) | Access::Upload | Access::Form | Access::Anybody => true,
        };
        if !looks {
            return Ok(None);
        }
        let found = self.authorities.of_head(request)?;
        let admitted = self.judge(found.as_ref(), request.headers());
        self.authorities.count_use(found.as_ref(), &admitted);
        admitted.map(|()| found)
    }

    fn judge(&self, found: Option<&Authority>, headers: &HeaderMap) -> Result<()> {
        let keys = &self.authorities.keys;
        match (self.access, found) {
            (Access::Upload | Access::Form | Access::Anybody | Access::Link, Some(Authority::Grant(..))) => Ok(()),
            (_, Some(Authority::Grant(..))) => Err(Error::GrantForbidden),
            (Access::Operator, Some(Authority::Open)) => Err(Error::LocalOnly(NO_KEYS.into())),
            (Access::Operator, None) => Err(Error::Unauthorized),
            (Access::Anybody | Access::Link | Access::Open | Access::Operator, _) | (_, Some(Authority::Open)) => {
                Ok(())
            }
            (Access::Form, None) if is_form(headers) => Ok(()),
            (_, None) => Err(Error::Unauthorized),
            (Access::Key(scope), Some(Authority::Key { name, .. })) => has_scope(keys, name, scope),
            (Access::Upload | Access::Form, Some(Authority::Key { name, .. })) => has_scope(keys, name, Scope::Upload),
        }
    }
}

fn has_scope(keys: &Keys, name: &str, scope: Scope) -> Result<()> {
    let has = keys.named(name).is_some_and(|key| key.may(scope));
    if has { Ok(()) } else { Err(Error::Forbidden { scope: scope.name() }) }
}

fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"multipart/form-data")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;
    use crate::auth::grants::{Claims, DEFAULT_LIFETIME};
    use http::HeaderValue;
    use tower::ServiceExt;

    /// What a route behind this machine or a key answers to `peer`.
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

    /// What requests with these headers are let in by; or the code of the error.
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
    fn a_key_comes_in_either_header() {
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
    fn one_header_counts_even_if_the_other_is_better() {
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
        // A grant is no key.
        assert_eq!(authority(&keys, &[key(&grant["Bearer ".len()..])]), "unauthorized");
        // Nor is it looked at whose key looks like a token.
        let keys = authorities("ey.a.key");
        assert_eq!(authority(&keys, &[bearer("Bearer ey.a.key")]), "key-1");
    }

    #[test]
    fn without_keys_only_what_claims_to_be_a_grant_can_be_wrong() {
        let open = authorities("");
        let grant = format!("Bearer {}", granted(&open, ""));
        assert_eq!(authority(&open, &[(header::AUTHORIZATION, &grant)]), "grant of ");
        assert_eq!(authority(&open, &[(header::AUTHORIZATION, "Bearer eyJ.wrong.one")]), "invalid_token");
        for ignored in [(header::AUTHORIZATION, "Bearer anything"), (API_KEY, "anything")] {
            assert_eq!(authority(&open, &[ignored]), "-");
        }
    }
}
