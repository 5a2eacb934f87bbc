//! Finds and verifies the credential of a request.

use axum::extract::Request;
use http::{HeaderMap, HeaderName, header};
use std::sync::Arc;

use super::super::access_log::{field, record_field};
use super::super::path_grant::PathGrant;
use super::Authority;
use crate::auth::grants::Grants;
use crate::auth::{Key, Keys};
use crate::error::{Error, Result};
use crate::telemetry::metrics::{Metrics, defs};

pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Verifies the credentials of requests. Cheap to clone.
#[derive(Clone)]
pub struct Authorities {
    pub(super) keys: Keys,
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
    pub(super) fn of_head(&self, request: &Request) -> Result<Option<Authority>> {
        let found = match request.extensions().get::<PathGrant>() {
            Some(PathGrant(token)) => Some(self.granted(token)?),
            None => self.of_headers(request.headers())?,
        };
        Ok(found.or_else(|| self.keys.is_empty().then_some(Authority::Open)))
    }

    pub(super) fn of_headers(&self, headers: &HeaderMap) -> Result<Option<Authority>> {
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
    pub(super) fn count_use<T>(&self, authority: Option<&Authority>, admitted: &Result<T>) {
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
