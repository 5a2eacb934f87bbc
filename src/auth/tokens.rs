//! Upload tokens: JSON Web Tokens in the addresses of uploads that take several requests, such as the links of a plan.
//!
//! A token contains an upload that was started. Nothing is stored: anyone who has the token may continue exactly that
//! upload without an API key until the token expires. A token that was changed, or that is for another kind of upload, is
//! rejected.

use hkdf::Hkdf;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::api_keys::{Keys, Scope, Secret};
use super::jwt::{self, Flaw, OPEN_SECRET};
use crate::error::{BoxError, Error, Result};

/// How long a token is valid. The sweep removes older uploads.
pub const PLAN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Separates the derived secret from other secrets that may be derived from the same keys (RFC 5869, 3.2).
const SECRET_INFO: &[u8] = b"image-store token secret";

/// An upload that was started, as stored in a token.
pub trait UploadClaims: Serialize + DeserializeOwned {
    /// The audience of the tokens of this kind of upload. It distinguishes them from all other tokens.
    const AUDIENCE: &str;
}

/// A direct upload that was started, as stored in its links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanClaims {
    /// The `s3_key`.
    pub key: String,
    /// The ID of this plan, which is also in the object's metadata. Missing if the key was drawn for this plan, so that there
    /// is no other upload of it. Older plans have none either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Exact size in bytes.
    pub size: u64,
    /// The declared media type.
    #[serde(rename = "type")]
    pub content_type: String,
    /// SHA-256 in hexadecimal, if it was declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The ID of the multipart upload in S3, if the plan is multipart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Size in bytes of every part except the last, if the plan is multipart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_size: Option<u64>,
}

impl UploadClaims for PlanClaims {
    const AUDIENCE: &str = "image-store/plan";
}

/// A token that is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken<C> {
    /// The upload.
    pub upload: C,
    /// The name of the API key with which the upload was started. `None` if no keys are configured.
    pub kid: Option<String>,
    pub expires_at: SystemTime,
}

/// The claims of a token: the upload and the registered claims (RFC 7519, 4.1).
#[derive(Serialize, Deserialize)]
struct Claims<C> {
    aud: String,
    /// Seconds since 1970.
    exp: u64,
    /// The [`Keys::fingerprint`] of the API key. A name is not enough, because another key may get it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    plan: C,
}

/// Signs and verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    keys: Keys,
    secret: Vec<u8>,
}

impl Tokens {
    /// `secret` is `TOKEN_SECRET`. Without it, the secret is derived from all API keys, so that the holder of one of several
    /// keys cannot derive it. In that case every plan becomes invalid when a key is added or removed.
    pub fn new(keys: Keys, secret: Option<&Secret>) -> Tokens {
        let secret = match secret {
            Some(secret) => secret.as_bytes().to_vec(),
            None if keys.is_empty() => OPEN_SECRET.to_vec(),
            None => derived(&keys),
        };
        Tokens(Arc::new(Inner { keys, secret }))
    }

    /// Returns a token for an upload that was started with the API key named `kid`. It is valid for [`PLAN_LIFETIME`].
    pub fn sign<C: UploadClaims>(&self, plan: C, kid: Option<&str>) -> Result<String> {
        self.issue(plan, kid).map(|(token, _)| token)
    }

    /// Like [`Tokens::sign`], but also returns when the token expires.
    pub fn issue<C: UploadClaims>(&self, plan: C, kid: Option<&str>) -> Result<(String, SystemTime)> {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_err(|error| Error::Internal(error.into()))?;
        let key = kid.and_then(|kid| self.0.keys.fingerprint(kid));
        let exp = (now + PLAN_LIFETIME).as_secs();
        let claims = Claims { aud: C::AUDIENCE.to_owned(), exp, key, plan };
        let token = jwt::sign(&claims, &self.0.secret, kid).map_err(|error| Error::Internal(error.into()))?;
        Ok((token, expiry(exp)))
    }

    /// Verifies a token. Returns its upload, and the name of the API key with which the upload was started.
    ///
    /// # Errors
    /// Returns [`Error::ExpiredToken`] (401 `expired_token`) or [`Error::InvalidToken`] (401 `invalid_token`). The
    /// latter is also returned if the key was removed or no longer has the scope `upload`.
    pub fn read<C: UploadClaims>(&self, token: &str) -> Result<(C, Option<String>)> {
        self.verify(token).map(|verified| (verified.upload, verified.kid))
    }

    /// Like [`Tokens::read`], but also returns when the token expires.
    pub fn verify<C: UploadClaims>(&self, token: &str) -> Result<VerifiedToken<C>> {
        let read = jwt::read(token, &self.0.secret, C::AUDIENCE, Duration::ZERO);
        let Claims { key, plan, exp, .. } = read.map_err(refusal)?;
        let gone = || Error::InvalidToken(Some("its API key was removed or no longer has the scope upload".into()));
        let kid = match key {
            None if self.0.keys.is_empty() => None,
            None => return Err(gone()),
            Some(key) => {
                let key = self.0.keys.by_fingerprint(&key).filter(|key| key.may(Scope::Upload)).ok_or_else(gone)?;
                Some(key.name().to_owned())
            }
        };
        Ok(VerifiedToken { upload: plan, kid, expires_at: expiry(exp) })
    }
}

fn expiry(exp: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(exp)
}

fn refusal(flaw: Flaw) -> Error {
    match flaw {
        Flaw::Expired => Error::ExpiredToken,
        flaw => Error::InvalidToken(Some(BoxError::from(flaw))),
    }
}

/// Returns the HKDF-SHA256 (RFC 5869) of the hashes of all keys, in an order that does not depend on the configuration.
fn derived(keys: &Keys) -> Vec<u8> {
    let mut secret = [0; 32];
    let hkdf = Hkdf::<Sha256>::new(None, &keys.sorted_hashes().concat());
    // This cannot fail: 32 bytes are one block of SHA-256.
    let expanded = hkdf.expand(SECRET_INFO, &mut secret);
    debug_assert!(expanded.is_ok());
    secret.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;

    fn keys(bare: &str) -> Keys {
        Keys::read(Some(&Secret::from(bare.to_owned())), None).unwrap()
    }

    fn open() -> Keys {
        Keys::default()
    }

    fn plan() -> PlanClaims {
        PlanClaims {
            key: "0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png".to_owned(),
            jti: None,
            size: 7,
            content_type: "image/png".to_owned(),
            sha256: None,
            upload: Some("an/id".to_owned()),
            part_size: Some(5),
        }
    }

    fn code(read: Result<(PlanClaims, Option<String>)>) -> &'static str {
        read.map_or_else(|error| error.code(), |_| "accepted")
    }

    /// Returns a token as another program might create it: signed with `secret`, with these claims and header.
    fn forged(secret: &[u8], header: &Header, claims: &serde_json::Value) -> String {
        encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    #[test]
    fn token_contains_the_plan_and_its_key() {
        for (keys, kid) in [(keys("one,two"), Some("key-2")), (open(), None)] {
            let tokens = Tokens::new(keys, None);
            let token = tokens.sign(plan(), kid).unwrap();
            assert_eq!(tokens.read(&token).unwrap(), (plan(), kid.map(str::to_owned)));
        }
    }

    #[test]
    fn token_is_valid_for_a_day() {
        let tokens = Tokens::new(open(), None);
        let (token, expires_at) = tokens.issue(plan(), None).unwrap();
        let left = expires_at.duration_since(SystemTime::now()).unwrap();
        assert!(left <= PLAN_LIFETIME && left > PLAN_LIFETIME - Duration::from_secs(60), "{left:?}");
        let verified = tokens.verify::<PlanClaims>(&token).unwrap();
        assert_eq!(verified, VerifiedToken { upload: plan(), kid: None, expires_at });
    }

    #[test]
    fn tokens_with_a_changed_character_are_rejected() {
        let tokens = Tokens::new(keys("one"), None);
        let token = tokens.sign(plan(), Some("key-1")).unwrap();
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            // The last character of a base64 text may have unused bits.
            if at + 1 < token.len() {
                assert_eq!(code(tokens.read(&other)), "invalid_token", "{at}");
            }
        }
        for other in ["", ".", "..", &token[..token.len() - 1], &format!("{token}A"), &format!("{token}.")] {
            assert_eq!(code(tokens.read(other)), "invalid_token", "{other}");
        }
    }

    #[test]
    fn tokens_of_other_kinds_and_algorithms_are_rejected() {
        let secret = "a secret of thirty-two bytes and more";
        let tokens = Tokens::new(open(), Some(&Secret::from(secret.to_owned())));
        let hs256 = Header::new(Algorithm::HS256);
        let claims = |aud: &str, exp: u64| json!({"aud": aud, "exp": exp, "plan": plan()});
        let later = jsonwebtoken::get_current_timestamp() + 60;
        let sign = |header: &Header, claims: &serde_json::Value| forged(secret.as_bytes(), header, claims);
        assert_eq!(code(tokens.read(&sign(&hs256, &claims(PlanClaims::AUDIENCE, later)))), "accepted");
        assert_eq!(code(tokens.read(&sign(&hs256, &claims(PlanClaims::AUDIENCE, later - 120)))), "expired_token");
        assert_eq!(code(tokens.read(&sign(&hs256, &claims("image-store", later)))), "invalid_token");
        let hs512 = Header::new(Algorithm::HS512);
        assert_eq!(code(tokens.read(&sign(&hs512, &claims(PlanClaims::AUDIENCE, later)))), "invalid_token");
        for missing in ["aud", "exp", "plan"] {
            let mut claims = claims(PlanClaims::AUDIENCE, later);
            claims.as_object_mut().unwrap().remove(missing);
            assert_eq!(code(tokens.read(&sign(&hs256, &claims))), "invalid_token", "{missing}");
        }
        let mut unknown = claims(PlanClaims::AUDIENCE, later);
        unknown["plan"]["other"] = json!(1);
        assert_eq!(code(tokens.read(&sign(&hs256, &unknown))), "invalid_token");
        // No signature at all: {"alg":"none"}.
        let token = sign(&hs256, &claims(PlanClaims::AUDIENCE, later));
        let body = token.split('.').nth(1).unwrap();
        assert_eq!(code(tokens.read(&format!("eyJhbGciOiJub25lIn0.{body}."))), "invalid_token");
    }

    #[test]
    fn removing_a_key_invalidates_its_plans() {
        let secret = Secret::from("a secret of thirty-two bytes and more".to_owned());
        let token = Tokens::new(keys("one,two"), Some(&secret)).sign(plan(), Some("key-2")).unwrap();
        assert_eq!(code(Tokens::new(keys("one,two"), Some(&secret)).read(&token)), "accepted");
        assert_eq!(code(Tokens::new(keys("one"), Some(&secret)).read(&token)), "invalid_token");
        // A name is only a position in the list. It does not identify the key.
        assert_eq!(code(Tokens::new(keys("one,other"), Some(&secret)).read(&token)), "invalid_token");
        let moved = Tokens::new(keys("two"), Some(&secret)).read::<PlanClaims>(&token).unwrap();
        assert_eq!(moved.1.as_deref(), Some("key-1"));
        assert_eq!(code(Tokens::new(open(), Some(&secret)).read(&token)), "invalid_token");
        let read_only = tempfile::NamedTempFile::new().unwrap();
        let two = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3";
        std::fs::write(read_only.path(), format!("key-2 {two} read")).unwrap();
        let read_only = Keys::read(None, Some(read_only.path())).unwrap();
        assert_eq!(code(Tokens::new(read_only, Some(&secret)).read(&token)), "invalid_token");
        // A token that was signed while no keys were configured.
        let token = Tokens::new(open(), Some(&secret)).sign(plan(), None).unwrap();
        assert_eq!(code(Tokens::new(keys("one"), Some(&secret)).read(&token)), "invalid_token");
    }

    #[test]
    fn derived_secret_does_not_depend_on_key_order() {
        let token = Tokens::new(keys("one,two"), None).sign(plan(), Some("key-1")).unwrap();
        assert_eq!(code(Tokens::new(keys("two,one"), None).read(&token)), "accepted");
        for others in ["one", "one,two,three", "one,other"] {
            assert_eq!(code(Tokens::new(keys(others), None).read(&token)), "invalid_token", "{others}");
        }
        let open_token = Tokens::new(open(), None).sign(plan(), Some("key-1")).unwrap();
        assert_eq!(code(Tokens::new(keys("one"), None).read(&open_token)), "invalid_token");
    }
}
