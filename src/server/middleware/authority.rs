//! Authorization with API keys and grants. Both are verified before the request's body is read.
//!
//! Exactly one credential is used, the first of: the grant in the path (`/g/{grant}/…`), `X-API-Key`,
//! `Authorization: Bearer` (an API key or a grant), and the field `grant` of a form. If it is invalid, the request is
//! rejected, even if another credential is valid. The router defines what each group of routes requires ([`Access`]).
//! The log contains the names of API keys, but neither keys nor grants.

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use http::request::Parts;
use std::convert::Infallible;
use std::sync::Arc;

use crate::auth::Hash;
use crate::auth::grants::Grant;
use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::store::{CustomMetadata, ImageKey};
use crate::upload::idempotency::IdempotencyScope;

mod authorities;
mod guard;
mod local;
#[cfg(test)]
mod tests;

pub use authorities::{API_KEY, Authorities};
pub use guard::{Access, Guard, check};

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
