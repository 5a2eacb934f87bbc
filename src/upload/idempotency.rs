//! Idempotency keys: a client sends the same value with every attempt of an upload, so that only one image is stored.
//!
//! The service keeps no record of the values. The image's UUID is derived from the value, so that the store shows
//! whether the image exists.
//!
//! <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::{Builder, Uuid};

use crate::error::{Error, Result};

/// Maximum length of a value in characters.
const MAX_LENGTH: usize = 255;
/// The HMAC key if no API keys are configured. All clients then share one namespace of values.
const OPEN_KEY: &[u8; 32] = b"image-store without any API keys";

/// The namespace of a value. The same value under another API key or another grant is a different value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyScope {
    /// The SHA-256 of the API key.
    pub key_hash: [u8; 32],
    /// The ID (`jti`) of the grant, if the upload is authorized by a grant that has one.
    pub jti: Option<String>,
}

impl Default for IdempotencyScope {
    /// Returns the scope for a service without API keys.
    fn default() -> Self {
        IdempotencyScope { key_hash: *OPEN_KEY, jti: None }
    }
}

/// The value of an `Idempotency-Key` header, without its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Parses the header's value: a string in quotes (RFC 8941, 3.3.3), or the same without quotes.
    ///
    /// # Errors
    /// Returns [`Error::InvalidRequest`] (400 `invalid_request`).
    pub fn parse(value: &[u8]) -> Result<IdempotencyKey> {
        let value = std::str::from_utf8(value).ok().map(str::trim);
        let text = value.and_then(|value| match value.strip_prefix('"') {
            Some(rest) => unquoted(rest),
            None => Some(value.to_owned()).filter(|value| value.bytes().all(is_bare)),
        });
        let text = text.filter(|text| (1..=MAX_LENGTH).contains(&text.len()));
        text.map(IdempotencyKey).ok_or_else(|| {
            Error::InvalidRequest(format!(
                "Idempotency-Key must be one string of 1 to {MAX_LENGTH} ASCII characters, ideally a UUID in quotes"
            ))
        })
    }

    /// Returns the UUID of the image for this value: a UUID of version 8 (RFC 9562, 5.8) from an HMAC-SHA256.
    pub fn image_id(&self, scope: &IdempotencyScope) -> Uuid {
        // HMAC accepts keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&scope.key_hash) else { unreachable!() };
        mac.update(self.0.as_bytes());
        if let Some(jti) = &scope.jti {
            // No value contains a zero byte, so that no two pairs of value and `jti` have the same input.
            mac.update(&[0]);
            mac.update(jti.as_bytes());
        }
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        let (id, _) = digest.split_at(16);
        Builder::from_custom_bytes(id.try_into().unwrap_or_default()).into_uuid()
    }
}

/// Returns the text between the opening quote, which was consumed, and the closing quote at the end.
fn unquoted(rest: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => return characters.next().is_none().then_some(text),
            '\\' => text.push(characters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            character @ ' '..='~' => text.push(character),
            _ => return None,
        }
    }
}

/// Returns whether a value without quotes may contain `byte`. A comma would separate values, and a semicolon would
/// start parameters.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b',' | b';')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &[u8]) -> Option<String> {
        IdempotencyKey::parse(value).ok().map(|IdempotencyKey(text)| text)
    }

    #[test]
    fn value_is_parsed_with_and_without_quotes() {
        for (value, text) in [
            (&br#""8e03978e-40d5-43dd-bc93-6894a57f9324""#[..], "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            (b"8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            (b" a+b/c== ", "a+b/c=="),
            (br#""with spaces, and; more""#, "with spaces, and; more"),
            (br#""a\"b\\c""#, r#"a"b\c"#),
        ] {
            assert_eq!(read(value).as_deref(), Some(text));
        }
        assert_eq!(read(&[b'a'; MAX_LENGTH]).map(|text| text.len()), Some(MAX_LENGTH));
    }

    #[test]
    fn invalid_values_are_rejected() {
        for wrong in [
            &b""[..],
            b"  ",
            br#""""#,
            br#"""#,
            br#""a"#,
            br#"a""#,
            br#""a"b"#,
            br#""a"; b=c"#,
            br#""a", "b""#,
            br#""a\b""#,
            b"a b",
            b"a,b",
            b"a;b",
            b"a\\b",
            b"\"a\tb\"",
            b"\xff",
            "\u{fc}".as_bytes(),
            "\"\u{fc}\"".as_bytes(),
            &[b'a'; MAX_LENGTH + 1],
        ] {
            let rejected = IdempotencyKey::parse(wrong).unwrap_err();
            assert_eq!(rejected.code(), "invalid_request", "{wrong:?}");
        }
    }

    #[test]
    fn uuid_depends_on_value_api_key_and_grant() {
        let key = IdempotencyKey::parse(b"\"one\"").unwrap();
        let scope = IdempotencyScope { key_hash: [7; 32], jti: None };
        // printf one | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707…07, with the version and the variant set.
        let id = key.image_id(&scope);
        assert_eq!((id.get_version_num(), id.get_variant()), (8, uuid::Variant::RFC4122));
        assert_eq!(id, IdempotencyKey::parse(b"one").unwrap().image_id(&scope), "quotes are not part of the value");
        let granted = |jti: &str| IdempotencyScope { jti: Some(jti.to_owned()), ..scope.clone() };
        let others = [
            IdempotencyKey::parse(b"two").unwrap().image_id(&scope),
            key.image_id(&IdempotencyScope::default()),
            key.image_id(&granted("")),
            key.image_id(&granted("a")),
            key.image_id(&granted("b")),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(*other != id && !others[..at].contains(other), "{at}");
        }
    }
}
