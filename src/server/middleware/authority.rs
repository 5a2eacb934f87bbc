//! Authorization with API keys and grants. Both are verified before the request's body is read.
//!
//! Exactly one credential is used, the first of: the grant in the path (`/g/{grant}/…`), `X-API-Key`,
//! `Authorization: Bearer` (an API key or a grant), and the field `grant` of a form. If it is invalid, the request is
//! rejected, even if another credential is valid. The router defines what each group of routes requires ([`Access`]).
//! The log contains the names of API keys, but neither keys nor grants.

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

/// The verified authorization of a request. Stored in the request's extensions.
#[derive(Clone)]
pub enum Authority {
    /// No API keys are configured: every request is allowed.
    Open,
    /// An API key.
    Key {
        name: String,
        /// The hash of the key. Idempotency keys are bound to it.
        hash: Hash,
    },
    /// A grant, and the hash of the API key that signed it, or of a constant if no API keys are configured.
    Grant(Arc<Grant>, Hash),
}

impl Authority {
    /// Returns the name of the API key that was sent or that signed the grant. `None` if no API keys are configured.
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

    /// Returns the key of the image, if the grant is for exactly one image.
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

    /// Returns `policy` with the limits of the grant applied.
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

/// `None` if the credential may follow in a form field, or if the route requires none.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Authority {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

/// Verifies the credentials of requests. Cheap to clone.
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

    /// Returns the signer and verifier of grants.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Verifies a grant from a form field.
    ///
    /// # Errors
    /// Returns [`Error::InvalidGrant`] (401 `invalid_token`) or [`Error::ExpiredGrant`] (401 `expired_token`).
    pub fn of_field(&self, token: &str) -> Result<Authority> {
        let granted = self.granted(token)?;
        self.count("used");
        Ok(granted)
    }

    /// Verifies the credential in the request's head, if there is one. Without API keys, every request is authorized.
    fn of_head(&self, request: &Request) -> Result<Option<Authority>> {
        let found = match request.extensions().get::<PathGrant>() {
            Some(PathGrant(token)) => Some(self.granted(token)?),
            None => self.of_headers(request.headers())?,
        };
        Ok(found.or_else(|| self.keys.is_empty().then_some(Authority::Open)))
    }

    fn of_headers(&self, headers: &HeaderMap) -> Result<Option<Authority>> {
        // `X-API-Key` takes precedence, because a proxy before the service may use `Authorization` for itself.
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

    /// Verifies an API key. If no API keys are configured, any key is ignored.
    fn of_key(&self, secret: &[u8]) -> Result<Option<Authority>> {
        match self.keys.find(secret) {
            Some(key) => Ok(Some(known(key))),
            None if self.keys.is_empty() => Ok(None),
            None => Err(Error::Unauthorized),
        }
    }

    /// Verifies a grant, and records its issuer and its key in the access log entry of the request.
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

    /// Counts whether a grant was used, or was rejected because the route does not accept grants.
    fn count_use<T>(&self, authority: Option<&Authority>, admitted: &Result<T>) {
        if matches!(authority, Some(Authority::Grant(..))) {
            self.count(if admitted.is_ok() { "used" } else { "route" });
        }
    }
}

/// Records the name of the API key in the access log entry of the request.
fn known(key: &Key) -> Authority {
    record_field(field::API_KEY_NAME, key.name());
    Authority::Key { name: key.name().to_owned(), hash: *key.hash() }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, secret) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| secret.trim_ascii())
}

/// Returns whether the secret has the form of a JSON Web Token (RFC 7515, 7.1): three parts, of which the first is a
/// JSON object.
fn is_token(secret: &[u8]) -> bool {
    secret.starts_with(b"ey") && secret.iter().filter(|byte| **byte == b'.').count() == 2
}

/// What a group of routes requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An API key with this scope.
    Key(Scope),
    /// An API key with the scope `upload`, or a grant.
    Upload,
    /// The same, but the grant may also be a form field.
    Form,
    /// Nothing. If a credential is sent, it must be valid, and its limits apply.
    Anybody,
    /// The link of a plan. If the path contains a grant, the grant must be valid.
    Link,
    /// The ID of a Companion upload. If the path contains a grant, the grant must be valid, or it has expired since the
    /// upload began: the client cannot change the address of the service during an upload.
    UploadId,
    /// Nothing. Grants in the path are not accepted.
    Open,
    /// Any API key, or a client on this machine.
    Operator,
}

/// The state of [`check`].
#[derive(Clone)]
pub struct Guard {
    pub authorities: Authorities,
    pub access: Access,
}

/// Rejects requests that are not authorized for a group of routes.
pub async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Result<Response> {
    if let Some(authority) = guard.admit(&request)? {
        request.extensions_mut().insert(authority);
    }
    Ok(next.run(request).await)
}

impl Guard {
    fn admit(&self, request: &Request) -> Result<Option<Authority>> {
        let in_path = request.extensions().get::<PathGrant>().is_some();
        let is_checked = match self.access {
            Access::Link | Access::UploadId | Access::Open => in_path,
            Access::Operator => in_path || !is_local(request),
            Access::Key(_) | Access::Upload | Access::Form | Access::Anybody => true,
        };
        if !is_checked {
            return Ok(None);
        }
        let found = match self.authorities.of_head(request) {
            Err(Error::ExpiredGrant) if self.access == Access::UploadId => None,
            found => found?,
        };
        let admitted = self.judge(found.as_ref(), request.headers());
        self.authorities.count_use(found.as_ref(), &admitted);
        admitted.map(|()| found)
    }

    fn judge(&self, found: Option<&Authority>, headers: &HeaderMap) -> Result<()> {
        let keys = &self.authorities.keys;
        match (self.access, found) {
            (
                Access::Upload | Access::Form | Access::Anybody | Access::Link | Access::UploadId,
                Some(Authority::Grant(..)),
            ) => Ok(()),
            (_, Some(Authority::Grant(..))) => Err(Error::GrantForbidden),
            (Access::Operator, Some(Authority::Open)) => Err(Error::LocalOnly(NO_KEYS.into())),
            (Access::Operator, None) => Err(Error::Unauthorized),
            (Access::Anybody | Access::Link | Access::UploadId | Access::Open | Access::Operator, _)
            | (_, Some(Authority::Open)) => Ok(()),
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

/// Only logged, so that remote clients learn nothing about the configuration.
const NO_KEYS: &str = "without API keys only this machine has access; set API_KEYS or API_KEYS_FILE";

/// Headers that show that a proxy passed the request on, or that a web page sent it. So does every `x-forwarded-…`.
const FROM_ELSEWHERE: [HeaderName; 4] =
    [header::FORWARDED, header::VIA, header::ORIGIN, HeaderName::from_static("x-real-ip")];

/// Returns whether the client is on this machine. Only the socket's address can prove it. Headers can only disprove it.
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
}
