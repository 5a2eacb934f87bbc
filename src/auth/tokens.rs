//! Plan tokens: what the links of direct uploads carry, as JSON Web Tokens.
//!
//! A plan token carries a direct upload that was begun. Nothing is stored: whoever holds the token may go on with exactly
//! that upload until it expires, without an API key, and a token that anything was changed in is worth nothing.

use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::api_keys::{Keys, Scope, Secret};
use super::jwt::{self, Flaw, OPEN_SECRET};
use crate::error::{BoxError, Error, Result};

/// How long a plan's links work: what is older is swept.
pub const PLAN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What tells a plan token from every other kind.
const PLAN_AUDIENCE: &str = "image-store/plan";
/// Separates the derived secret from whatever else may be derived of the same keys (RFC 5869, 3.2).
const SECRET_INFO: &[u8] = b"image-store token secret";
/// A direct upload that was begun, as its links carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanClaims {
    /// The `s3_key`.
    pub key: String,
    /// Bytes, exactly.
    pub size: u64,
    /// The media type that was declared.
    #[serde(rename = "type")]
    pub content_type: String,
    /// SHA-256 in hexadecimal, if the plan has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// S3's upload id of a plan in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Bytes of every part but the last, of a plan in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_size: Option<u64>,
}

/// A token's claims: what it carries, and the registered ones (RFC 7519, 4.1).
#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    /// Seconds since 1970.
    exp: u64,
    /// Which key signed, by its [`Keys::fingerprint`]: a name may become another key's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    plan: PlanClaims,
}

/// Makes and checks tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    keys: Keys,
    secret: Vec<u8>,
}

impl Tokens {
    /// `secret` is `TOKEN_SECRET`. Without it the secret is derived from the keys, which no holder of one key can do; a
    /// key that is added or removed then voids every plan.
    pub fn new(keys: Keys, secret: Option<&Secret>) -> Tokens {
        let secret = match secret {
            Some(secret) => secret.as_bytes().to_vec(),
            None if keys.is_empty() => OPEN_SECRET.to_vec(),
            None => derived(&keys),
        };
        Tokens(Arc::new(Inner { keys, secret }))
    }

    /// A token for a plan that was made with the API key named `kid`, good for [`PLAN_LIFETIME`].
    pub fn sign_plan(&self, plan: PlanClaims, kid: Option<&str>) -> Result<String> {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_err(|error| Error::Internal(error.into()))?;
        let key = kid.and_then(|kid| self.0.keys.fingerprint(kid));
        let claims = Claims { aud: PLAN_AUDIENCE.to_owned(), exp: (now + PLAN_LIFETIME).as_secs(), key, plan };
        jwt::sign(&claims, &self.0.secret, kid).map_err(|error| Error::Internal(error.into()))
    }

    /// The plan that a token carries, and the name of the API key that it was made with.
    ///
    /// # Errors
    /// 401 `expired_token`, or `invalid_token`: also if that key is gone or has lost the scope `upload`.
    pub fn read_plan(&self, token: &str) -> Result<(PlanClaims, Option<String>)> {
        let read = jwt::read(token, &self.0.secret, PLAN_AUDIENCE, Duration::ZERO);
        let Claims { key, plan, .. } = read.map_err(refusal)?;
        let gone = || Error::InvalidToken(Some("its API key is gone, or has lost the scope upload".into()));
        let kid = match key {
            None if self.0.keys.is_empty() => None,
            None => return Err(gone()),
            Some(key) => {
                let key = self.0.keys.by_fingerprint(&key).filter(|key| key.may(Scope::Upload)).ok_or_else(gone)?;
                Some(key.name().to_owned())
            }
        };
        Ok((plan, kid))
    }
}

fn refusal(flaw: Flaw) -> Error {
    match flaw {
        Flaw::Expired => Error::ExpiredToken,
        flaw => Error::InvalidToken(Some(BoxError::from(flaw))),
    }
}

/// HKDF-SHA256 (RFC 5869) over the hashes of all keys, in an order that does not depend on the configuration's.
fn derived(keys: &Keys) -> Vec<u8> {
    let mut secret = [0; 32];
    let hkdf = Hkdf::<Sha256>::new(None, &keys.sorted_hashes().concat());
    // 32 bytes are one block of SHA-256: no length that HKDF could refuse.
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
            size: 7,
            content_type: "image/png".to_owned(),
            sha256: None,
            upload: Some("an/id".to_owned()),
            part_size: Some(5),
        }
    }

    fn code(read: Result<(PlanClaims, Option<String>)>) -> &'static str {
        read.map_or_else(|error| error.code(), |_| "taken")
    }

    /// A token as somebody else might make it: signed with `secret`, with these claims and header.
    fn forged(secret: &[u8], header: &Header, claims: &serde_json::Value) -> String {
        encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    #[test]
    fn a_token_gives_back_its_plan_and_its_key() {
        for (keys, kid) in [(keys("one,two"), Some("key-2")), (open(), None)] {
            let tokens = Tokens::new(keys, None);
            let token = tokens.sign_plan(plan(), kid).unwrap();
            assert_eq!(tokens.read_plan(&token).unwrap(), (plan(), kid.map(str::to_owned)));
        }
    }

    #[test]
    fn every_changed_character_voids_a_token() {
        let tokens = Tokens::new(keys("one"), None);
        let token = tokens.sign_plan(plan(), Some("key-1")).unwrap();
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            // The last character of a base64 text may have bits that stand for nothing.
            if at + 1 < token.len() {
                assert_eq!(code(tokens.read_plan(&other)), "invalid_token", "{at}");
            }
        }
        for other in ["", ".", "..", &token[..token.len() - 1], &format!("{token}A"), &format!("{token}.")] {
            assert_eq!(code(tokens.read_plan(other)), "invalid_token", "{other}");
        }
    }

    #[test]
    fn tokens_of_other_kinds_and_algorithms_are_refused() {
        let secret = "a secret of thirty-two bytes and more";
        let tokens = Tokens::new(open(), Some(&Secret::from(secret.to_owned())));
        let hs256 = Header::new(Algorithm::HS256);
        let claims = |aud: &str, exp: u64| json!({"aud": aud, "exp": exp, "plan": plan()});
        let later = jsonwebtoken::get_current_timestamp() + 60;
        let sign = |header: &Header, claims: &serde_json::Value| forged(secret.as_bytes(), header, claims);
        assert_eq!(code(tokens.read_plan(&sign(&hs256, &claims(PLAN_AUDIENCE, later)))), "taken");
        assert_eq!(code(tokens.read_plan(&sign(&hs256, &claims(PLAN_AUDIENCE, later - 120)))), "expired_token");
        assert_eq!(code(tokens.read_plan(&sign(&hs256, &claims("image-store", later)))), "invalid_token");
        let hs512 = Header::new(Algorithm::HS512);
        assert_eq!(code(tokens.read_plan(&sign(&hs512, &claims(PLAN_AUDIENCE, later)))), "invalid_token");
        for missing in ["aud", "exp", "plan"] {
            let mut claims = claims(PLAN_AUDIENCE, later);
            claims.as_object_mut().unwrap().remove(missing);
            assert_eq!(code(tokens.read_plan(&sign(&hs256, &claims))), "invalid_token", "{missing}");
        }
        let mut unknown = claims(PLAN_AUDIENCE, later);
        unknown["plan"]["other"] = json!(1);
        assert_eq!(code(tokens.read_plan(&sign(&hs256, &unknown))), "invalid_token");
        // No signature at all: {"alg":"none"}.
        let token = sign(&hs256, &claims(PLAN_AUDIENCE, later));
        let body = token.split('.').nth(1).unwrap();
        assert_eq!(code(tokens.read_plan(&format!("eyJhbGciOiJub25lIn0.{body}."))), "invalid_token");
    }

    #[test]
    fn a_key_that_goes_takes_its_plans_along() {
        let secret = Secret::from("a secret of thirty-two bytes and more".to_owned());
        let token = Tokens::new(keys("one,two"), Some(&secret)).sign_plan(plan(), Some("key-2")).unwrap();
        assert_eq!(code(Tokens::new(keys("one,two"), Some(&secret)).read_plan(&token)), "taken");
        assert_eq!(code(Tokens::new(keys("one"), Some(&secret)).read_plan(&token)), "invalid_token");
        // A name is a place in the list, and not the key.
        assert_eq!(code(Tokens::new(keys("one,other"), Some(&secret)).read_plan(&token)), "invalid_token");
        let moved = Tokens::new(keys("two"), Some(&secret)).read_plan(&token).unwrap();
        assert_eq!(moved.1.as_deref(), Some("key-1"));
        assert_eq!(code(Tokens::new(open(), Some(&secret)).read_plan(&token)), "invalid_token");
        let read_only = tempfile::NamedTempFile::new().unwrap();
        let two = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3";
        std::fs::write(read_only.path(), format!("key-2 {two} read")).unwrap();
        let read_only = Keys::read(None, Some(read_only.path())).unwrap();
        assert_eq!(code(Tokens::new(read_only, Some(&secret)).read_plan(&token)), "invalid_token");
        // And one that was made while there were none.
        let token = Tokens::new(open(), Some(&secret)).sign_plan(plan(), None).unwrap();
        assert_eq!(code(Tokens::new(keys("one"), Some(&secret)).read_plan(&token)), "invalid_token");
    }

    #[test]
    fn without_a_secret_the_keys_are_one_whatever_their_order() {
        let token = Tokens::new(keys("one,two"), None).sign_plan(plan(), Some("key-1")).unwrap();
        assert_eq!(code(Tokens::new(keys("two,one"), None).read_plan(&token)), "taken");
        for others in ["one", "one,two,three", "one,other"] {
            assert_eq!(code(Tokens::new(keys(others), None).read_plan(&token)), "invalid_token", "{others}");
        }
        let open_token = Tokens::new(open(), None).sign_plan(plan(), Some("key-1")).unwrap();
        assert_eq!(code(Tokens::new(keys("one"), None).read_plan(&open_token)), "invalid_token");
    }
}
