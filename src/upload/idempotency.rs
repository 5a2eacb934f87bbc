//! Idempotency keys: a value that a client sends with every attempt of one upload, so that all of them make one image.
//!
//! Nothing is remembered: the image's UUID is derived from the value, so the store itself knows whether the image is there.
//!
//! <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::{Builder, Uuid};

use crate::error::{Error, Result};

/// The longest value, in characters.
const MAX_LENGTH: usize = 255;
/// Derives the UUIDs while there are no API keys: then all clients share one space of values.
const OPEN_KEY: &[u8; 32] = b"image-store without any API keys";

/// Whose values they are: those of another API key or another grant are others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyScope {
    /// The SHA-256 of the API key.
    pub key_hash: [u8; 32],
    /// The id of the grant, if the upload is made by one that has an id.
    pub jti: Option<String>,
}

impl Default for IdempotencyScope {
    /// Of a service without API keys.
    fn default() -> Self {
        IdempotencyScope { key_hash: *OPEN_KEY, jti: None }
    }
}

/// The value of an `Idempotency-Key` header, without its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Reads the header's value: a string in quotes (RFC 8941, 3.3.3), or the same without quotes.
    ///
    /// # Errors
    /// 400 `invalid_request`.
    pub fn parse(value: &[u8]) -> Result<IdempotencyKey> {
        let value = std::str::from_utf8(value).ok().map(str::trim);
        let text = value.and_then(|value| match value.strip_prefix('"') {
            Some(rest) => unquoted(rest),
            None => Some(value.to_owned()).filter(|value| value.bytes().all(is_bare)),
        });
        let text = text.filter(|text| (1..=MAX_LENGTH).contains(&text.len()));
        text.map(IdempotencyKey).ok_or_else(|| {
            Error::InvalidRequest(format!(
                "Idempotency-Key must be one string of 1 to {MAX_LENGTH} ASCII characters, best a UUID in quotes"
            ))
        })
    }

    /// The UUID of the image that this value is for: version 8 (RFC 9562, 5.8), of an HMAC-SHA256.
    pub fn image_id(&self, scope: &IdempotencyScope) -> Uuid {
        // HMAC takes a key of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&scope.key_hash) else { unreachable!() };
        mac.update(self.0.as_bytes());
        if let Some(jti) = &scope.jti {
            // No value has a zero, so that no value and jti together are those of others.
            mac.update(&[0]);
            mac.update(jti.as_bytes());
        }
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        let (id, _) = digest.split_at(16);
        Builder::from_custom_bytes(id.try_into().unwrap_or_default()).into_uuid()
    }
}

/// What follows the opening quote, up to the closing one at the end.
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

/// What a value may have that is not in quotes. A comma would make it a list, and a semicolon begin parameters.
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
    fn a_value_is_read_with_and_without_quotes() {
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
    fn other_values_are_rejected() {
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
    fn the_uuid_depends_on_the_value_the_key_and_the_grant() {
        let key = IdempotencyKey::parse(b"\"one\"").unwrap();
        let scope = IdempotencyScope { key_hash: [7; 32], jti: None };
        // printf one | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707…07, and then the version and the variant.
        let id = key.image_id(&scope);
        assert_eq!((id.get_version_num(), id.get_variant()), (8, uuid::Variant::RFC4122));
        assert_eq!(id, IdempotencyKey::parse(b"one").unwrap().image_id(&scope), "quotes are no part of the value");
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
