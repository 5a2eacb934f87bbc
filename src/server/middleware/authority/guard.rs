//! Decides whether a request's credential is enough for its route.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, header};

use super::super::path_grant::PathGrant;
use super::local::is_local;
use super::{Authorities, Authority};
use crate::auth::{Keys, Scope};
use crate::error::{Error, Result};

/// Only logged, so that remote clients learn nothing about the configuration.
const NO_KEYS: &str = "without API keys only this machine has access; set API_KEYS or API_KEYS_FILE";

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
