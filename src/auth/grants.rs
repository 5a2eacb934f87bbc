//! Grants: JSON Web Tokens that allow uploads. Any holder of an API key can sign them without the service.
//!
//! A grant is signed with the SHA-256 of an API key that has the scope `upload` (32 raw bytes). Nothing is stored: a
//! grant expires at its `exp`, or when its key is removed. Unknown claims are rejected, because a misspelt limit must
//! not be ignored.

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

use super::api_keys::{Hash, Key, Keys, Scope, hash};
use super::jwt::{self, Flaw, OPEN_SECRET};
use crate::error::{BoxError, Error, Result};
use crate::format::{Format, format_of_key};

/// The audience of grants. It distinguishes them from all other kinds of tokens.
const AUDIENCE: &str = "image-store";
/// Maximum lifetime of a grant.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Default lifetime of a grant.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(900);
/// Tolerance for clock differences between the signer and the service.
const LEEWAY: Duration = Duration::from_secs(60);
/// Maximum size of the metadata in bytes of JSON.
const MAX_METADATA: usize = 1 << 10;

/// A verified grant: it allows uploads within these limits until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The name of the API key that signed it. Empty if no API keys are configured.
    pub issuer: String,
    /// The `s3_key` of the image, if the grant is for exactly one image.
    pub key: Option<String>,
    /// Maximum size of an image in bytes.
    pub max_size: Option<u64>,
    pub formats: Option<Vec<Format>>,
    pub metadata: BTreeMap<String, String>,
    pub expires_at: SystemTime,
    pub jti: Option<String>,
}

/// The claims of a grant: its limits and the registered claims (RFC 7519, 4.1).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    pub aud: OneAudience,
    pub exp: NumericDate,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub formats: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub iat: Option<NumericDate>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<NumericDate>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}

/// Rejects `null`, so that a claim is either absent or has a value.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// Seconds since 1970. Fractions are truncated (RFC 7519, 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NumericDate(u64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(number: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(number)?;
        // A date before 1970 or after the year 9999 is a mistake.
        if !(0.0..253_402_300_800.0).contains(&seconds) {
            return Err(D::Error::custom("a date is out of range"));
        }
        Ok(NumericDate(seconds as u64))
    }
}

impl From<SystemTime> for NumericDate {
    fn from(time: SystemTime) -> Self {
        NumericDate(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
    }
}

/// The claim `aud`: a name, or a list with one name, which is what some libraries write (RFC 7519, 4.1.3).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "the claim 'aud' must be a name or a list with one name")]
pub enum OneAudience {
    Name(String),
    List([String; 1]),
}

impl OneAudience {
    fn name(&self) -> &str {
        match self {
            OneAudience::Name(name) | OneAudience::List([name]) => name,
        }
    }
}

impl NumericDate {
    fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

/// Why a grant is rejected. The text follows "The grant is invalid: ".
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Token(#[from] Flaw),
    #[error("its kid is not the name of an API key that may sign grants")]
    Key,
    #[error("it expires more than 24 hours from now")]
    Lifetime,
}

impl Refusal {
    /// Returns the reason as a label value for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Token(Flaw::Malformed) => "malformed",
            Refusal::Token(Flaw::Signature) => "signature",
            Refusal::Token(Flaw::Expired) => "expired",
            Refusal::Token(Flaw::NotYet) => "not_yet",
            Refusal::Token(Flaw::Claims(_)) => "claims",
            Refusal::Key => "key",
            Refusal::Lifetime => "lifetime",
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Token(Flaw::Expired) => Error::ExpiredGrant,
            refusal => Error::InvalidGrant(BoxError::from(refusal)),
        }
    }
}

fn claims(problem: impl Into<String>) -> Refusal {
    Refusal::Token(Flaw::Claims(problem.into()))
}

impl Claims {
    /// Returns the claims of a grant without limits that expires after `lifetime`.
    pub fn lasting(lifetime: Duration) -> Claims {
        let now = SystemTime::now();
        Claims {
            aud: OneAudience::Name(AUDIENCE.to_owned()),
            exp: (now + lifetime).into(),
            max_size: None,
            formats: None,
            key: None,
            metadata: BTreeMap::new(),
            iat: Some(now.into()),
            nbf: None,
            iss: None,
            sub: None,
            jti: Some(Uuid::new_v4().to_string()),
        }
    }

    /// Returns the claims of another grant with the same limits and the same end.
    pub fn like(grant: &Grant) -> Claims {
        let names = |formats: &Vec<Format>| formats.iter().map(|format| format.name().to_owned()).collect();
        Claims {
            exp: grant.expires_at.into(),
            max_size: grant.max_size,
            formats: grant.formats.as_ref().map(names),
            key: grant.key.clone(),
            metadata: grant.metadata.clone(),
            jti: grant.jti.clone(),
            ..Claims::lasting(DEFAULT_LIFETIME)
        }
    }

    /// Checks the claims and returns the grant. `issuer` is the name of the API key that signed it.
    fn check(self, issuer: &str) -> Result<Grant, Refusal> {
        // `jsonwebtoken` also accepts a list that contains other audiences.
        if self.aud.name() != AUDIENCE {
            return Err(claims("the claim 'aud' is for another audience"));
        }
        let expires_at = self.exp.time();
        if expires_at > SystemTime::now() + MAX_LIFETIME + LEEWAY {
            return Err(Refusal::Lifetime);
        }
        if self.key.as_deref().is_some_and(|key| format_of_key(key).is_none()) {
            return Err(claims("the claim 'key' is not an s3_key (a UUID, a dot and an image extension)"));
        }
        if !self.metadata.is_empty() && metadata_size(&self.metadata) > MAX_METADATA {
            return Err(claims(format!("the claim 'metadata' exceeds the limit of {MAX_METADATA} bytes of JSON")));
        }
        Ok(Grant {
            issuer: issuer.to_owned(),
            key: self.key,
            max_size: self.max_size,
            formats: self.formats.as_deref().map(read_formats).transpose()?,
            metadata: self.metadata,
            expires_at,
            jti: self.jti,
        })
    }
}

fn metadata_size(metadata: &BTreeMap<String, String>) -> usize {
    serde_json::to_string(metadata).map_or(usize::MAX, |json| json.len())
}

fn read_formats(names: &[String]) -> Result<Vec<Format>, Refusal> {
    if names.is_empty() {
        return Err(claims("the claim 'formats' is empty"));
    }
    let known = |name: &String| Format::from_extension(name).map(|(format, _)| format);
    let unknown = |name: &String| claims(format!("the claim 'formats' contains an unknown format, '{name}'"));
    names.iter().map(|name| known(name).ok_or_else(|| unknown(name))).collect()
}

/// Signs and verifies grants. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Grants {
    keys: Keys,
}

impl Grants {
    /// `keys` are all API keys. If there are none, grants are signed with a constant. It is no longer accepted as soon
    /// as API keys are configured.
    pub fn new(keys: Keys) -> Grants {
        Grants { keys }
    }

    /// Signs a grant with the API key named `issuer`, which is empty if no API keys are configured. Returns the token
    /// and the grant.
    ///
    /// # Errors
    /// Returns [`Error::InvalidRequest`] (400) if the service would reject the grant, and [`Error::KeyTooShort`] (403
    /// `key_too_short`) if the key is too short.
    pub fn mint(&self, claims: Claims, issuer: &str) -> Result<(String, Grant)> {
        let grant = claims.clone().check(issuer).map_err(|refusal| Error::InvalidRequest(refusal.to_string()))?;
        let key = self.keys.named(issuer);
        if key.is_some_and(Key::is_short) {
            return Err(Error::KeyTooShort);
        }
        let secret = key.map_or(OPEN_SECRET, |key| key.hash());
        let token = jwt::sign(&claims, secret, key.map(Key::name)).map_err(|error| Error::Internal(error.into()))?;
        Ok((token, grant))
    }

    /// Verifies a token. Returns its grant, and the hash of the API key that signed it.
    ///
    /// # Errors
    /// Returns [`Refusal`] if the grant is invalid. The text describes claims only if the signature is valid.
    pub fn read(&self, token: &str) -> Result<(Grant, Hash), Refusal> {
        let kid = jwt::kid(token)?;
        if self.keys.is_empty() {
            return Ok((signed_claims(token, OPEN_SECRET)?.check("")?, hash(OPEN_SECRET)));
        }
        let may_sign = |key: &&Key| key.may(Scope::Upload) && !key.is_short();
        let mut keys =
            self.keys.iter().filter(may_sign).filter(|key| kid.as_ref().is_none_or(|kid| kid == key.name())).peekable();
        if keys.peek().is_none() {
            return Err(Refusal::Key);
        }
        for key in keys {
            match signed_claims(token, key.hash()) {
                Err(Flaw::Signature) => {}
                read => return Ok((read?.check(key.name())?, *key.hash())),
            }
        }
        Err(Flaw::Signature.into())
    }
}

fn signed_claims(token: &str, secret: &[u8]) -> Result<Claims, Flaw> {
    jwt::read(token, secret, AUDIENCE, LEEWAY)
}

/// Signs a grant with an API key, without the service. `kid` is the name of the key in the service's configuration.
///
/// # Errors
/// Returns an error if the service would reject the grant.
pub fn sign_offline(claims: &Claims, api_key: &str, kid: Option<&str>) -> Result<String, BoxError> {
    claims.clone().check("")?;
    Ok(jwt::sign(claims, &hash(api_key.as_bytes()), kid)?)
}

#[cfg(test)]
mod tests;
