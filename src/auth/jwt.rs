//! JSON Web Tokens (RFC 7519), HS256 only. All tokens are signed and verified in this module. [`super::tokens`] and
//! [`super::grants`] define their claims.

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Signs tokens if neither API keys nor a secret are configured. Everybody may upload then anyway. These tokens are
/// rejected as soon as API keys are configured, because other secrets are used then.
pub(super) const OPEN_SECRET: &[u8] = b"image-store without keys: this protects nothing";

/// Why a token is rejected.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// Without a source, which would quote the token in the log.
    #[error("it is not a JSON Web Token signed with HS256")]
    Malformed,
    #[error("its signature is invalid")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYet,
    #[error("{0}")]
    Claims(String),
}

/// Returns a signed token with these claims. `kid` is the name of the secret.
pub(super) fn sign(claims: &impl Serialize, secret: &[u8], kid: Option<&str>) -> Result<String, Error> {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
    encode(&header, claims, &EncodingKey::from_secret(secret))
}

/// Verifies a token and returns its claims. It must be signed with `secret`, for `audience`, and be valid now. `leeway`
/// is the tolerance for clock differences.
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

/// Returns the name of the secret in the token's header. It is not verified yet.
pub(super) fn kid(token: &str) -> Result<Option<String>, Flaw> {
    let header = decode_header(token).map_err(|_| Flaw::Malformed)?;
    // RFC 7515, 4.1.11: tokens with critical extensions are rejected, because none is supported.
    if header.alg != Algorithm::HS256 || header.crit.is_some() {
        return Err(Flaw::Malformed);
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
        ErrorKind::InvalidAudience => Flaw::Claims("the claim 'aud' is for another audience".to_owned()),
        // The claims are parsed only after the signature was verified.
        ErrorKind::Json(problem) => Flaw::Claims(format!("its claims cannot be read: {problem}")),
        _ => Flaw::Malformed,
    }
}
