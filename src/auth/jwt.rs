//! JSON Web Tokens (RFC 7519), HS256 only: signed and read here and nowhere else. What their claims mean is said by
//! [`super::tokens`] and [`super::grants`].

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Signs tokens while there are no keys and no secret, when everybody may upload anyway. Refused as soon as keys exist,
/// because then other secrets count.
pub(super) const OPEN_SECRET: &[u8] = b"image-store without keys: this protects nothing";

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    #[error("it is not a JSON Web Token signed with HS256")]
    Malformed(#[source] Option<Error>),
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYet,
    #[error("{0}")]
    Claims(String),
}

/// A token with these claims. `kid` names the secret.
pub(super) fn sign(claims: &impl Serialize, secret: &[u8], kid: Option<&str>) -> Result<String, Error> {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
    encode(&header, claims, &EncodingKey::from_secret(secret))
}

/// The claims of a token that is signed with `secret` and meant for `audience`, now. `leeway` is for clocks that differ.
pub(super) fn read<C: DeserializeOwned>(
    token: &str,
    secret: &[u8],
    audience: &str,
    leeway: Duration,
) -> Result<C, Flaw> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "aud"]);
    validation.validate_nbf = true;
    validation.leeway = leeway.as_secs();
    decode(token, &DecodingKey::from_secret(secret), &validation).map(|token| token.claims).map_err(flaw)
}

/// The name of the secret that a token says it is signed with. Nothing proves it yet.
pub(super) fn kid(token: &str) -> Result<Option<String>, Flaw> {
    let header = decode_header(token).map_err(|error| Flaw::Malformed(Some(error)))?;
    // RFC 7515, 4.1.11: no extension that must be understood is known here.
    if header.alg != Algorithm::HS256 || header.crit.is_some() {
        return Err(Flaw::Malformed(None));
    }
    Ok(header.kid)
}

fn flaw(error: Error) -> Flaw {
    match error.kind() {
        ErrorKind::ExpiredSignature => Flaw::Expired,
        ErrorKind::ImmatureSignature => Flaw::NotYet,
        ErrorKind::InvalidSignature => Flaw::Signature,
        ErrorKind::MissingRequiredClaim(claim) => Flaw::Claims(format!("the claim '{claim}' is missing")),
        ErrorKind::InvalidClaimFormat(claim) => Flaw::Claims(format!("the claim '{claim}' has the wrong type")),
        ErrorKind::InvalidAudience => Flaw::Claims("the claim 'aud' names another audience".to_owned()),
        // Of the claims: they are read only after the signature has proved right.
        ErrorKind::Json(problem) => Flaw::Claims(format!("its claims cannot be read: {problem}")),
        _ => Flaw::Malformed(Some(error)),
    }
}
