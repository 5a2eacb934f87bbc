//! Grants: the right to upload, as JSON Web Tokens that any holder of an API key makes by itself.
//!
//! A grant is signed with the SHA-256 of an API key that has the scope `upload` (32 raw bytes). Nothing is stored: a grant
//! ends with its `exp`, or when its key is removed. Every claim that is not known is rejected: a limit that is misspelt must
//! not be no limit.
use uuid::Uuid;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::api_keys::{Hash, Key, Keys, Scope, hash};
use super::jwt::{self, Flaw, OPEN_SECRET};
use crate::error::{BoxError, Error, Result};
use crate::format::{Format, format_of_key};

/// What tells a grant from every other kind of token.
const AUDIENCE: &str = "image-store";
/// How far ahead a grant may end.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long a grant lives unless something else is asked for.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(900);
/// For the clocks of those that sign.
const LEEWAY: Duration = Duration::from_secs(60);
/// Bytes of the metadata, as JSON.
const MAX_METADATA: usize = 1 << 10;

/// The right to upload, checked: within these limits, until it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The name of the API key that signed it; empty without keys.
    pub issuer: String,
    /// The `s3_key`, if it is for exactly that image.
    pub key: Option<String>,
    /// Bytes.
    pub max_size: Option<u64>,
    pub formats: Option<Vec<Format>>,
    pub metadata: BTreeMap<String, String>,
    pub expires_at: SystemTime,
    pub jti: Option<String>,
}

/// What a grant says, signed: its limits and the registered claims (RFC 7519, 4.1).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    pub aud: String,
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

/// A claim that is there has a value: `null` is not the same as none.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// Seconds since 1970; a fraction is cut off (RFC 7519, 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NumericDate(u64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(number: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(number)?;
        // Before 1970, and after the year 10000, is no date that anybody means.
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

impl NumericDate {
    fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

/// Why a grant is not accepted. The text goes after "This grant is not valid: ".
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Token(#[from] Flaw),
    #[error("its kid names no API key that may sign grants")]
    Key,
    #[error("it ends more than 24 hours from now")]
    Lifetime,
}

impl Refusal {
    /// One of a few words, for the metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Token(Flaw::Malformed(_)) => "malformed",
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
    /// Those of a grant without limits that ends after `lifetime`.
    pub fn lasting(lifetime: Duration) -> Claims {
        let now = SystemTime::now();
        Claims {
            aud: AUDIENCE.to_owned(),
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

    /// The grant that these claims make, which the holder of the key `issuer` has signed.
    fn check(self, issuer: &str) -> Result<Grant, Refusal> {
        // `jsonwebtoken` also takes a list that the audience is in.
        if self.aud != AUDIENCE {
            return Err(claims("the claim 'aud' names another audience"));
        }
        let expires_at = self.exp.time();
        if expires_at > SystemTime::now() + MAX_LIFETIME + LEEWAY {
            return Err(Refusal::Lifetime);
        }
        if self.key.as_deref().is_some_and(|key| format_of_key(key).is_none()) {
            return Err(claims("the claim 'key' is not an s3_key (a UUID, a dot and an image extension)"));
        }
        if !self.metadata.is_empty() && metadata_size(&self.metadata) > MAX_METADATA {
            return Err(claims(format!("the claim 'metadata' is longer than {MAX_METADATA} bytes of JSON")));
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
        return Err(claims("the claim 'formats' names none"));
    }
    let known = |name: &String| Format::from_extension(name).map(|(format, _)| format);
    let unknown = |name: &String| claims(format!("the claim 'formats' names an unknown format, '{name}'"));
    names.iter().map(|name| known(name).ok_or_else(|| unknown(name))).collect()
}

/// Signs grants, and checks them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Grants {
    keys: Keys,
}

impl Grants {
    /// `keys` are all there are. Without any, grants are signed with a constant that counts for nothing once there are keys.
    pub fn new(keys: Keys) -> Grants {
        Grants { keys }
    }

    /// Signs a grant with the API key named `issuer`; without keys that is empty. Also returns what it says.
    ///
    /// # Errors
    /// 400 if it would not be accepted, 403 `key_too_short`.
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

    /// The grant that a token carries, and the hash of the API key that it is signed with.
    ///
    /// # Errors
    /// Whatever is wrong with it. What its signature proves to be its signer's is named, nothing else.
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

/// Signs a grant with an API key, without the service. `kid` is the name that the key has there.
///
/// # Errors
/// If the service would not accept it.
pub fn sign_offline(claims: &Claims, api_key: &str, kid: Option<&str>) -> Result<String, BoxError> {
    claims.clone().check("")?;
    Ok(jwt::sign(claims, &hash(api_key.as_bytes()), kid)?)
}

#[cfg(test)]
mod tests;
