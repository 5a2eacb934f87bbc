//! Signature Version 4, for presigned URLs and for calls that are sent without the SDK's orchestrator.
//!
//! Keys and signatures are computed by the SDK's own signer. Used as a whole, it derives the key again for every request,
//! although a key is valid for a day. So the request is written in its canonical form here, and the key is kept.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use aws_credential_types::Credentials;
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// In place of the hash of a body that is not hashed.
pub(super) const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const SERVICE: &str = "s3";
/// Initial capacity of the strings that are signed, which they rarely exceed without a session token.
const CAPACITY: usize = 512;
/// Length of the day at the start of a date.
const DAY: usize = "20260101".len();

/// The last signing key that was derived.
#[derive(Default)]
pub(super) struct SigningKeys(Mutex<Option<SigningKey>>);

struct SigningKey {
    credentials: Credentials,
    day: String,
    region: String,
    key: Arc<[u8]>,
}

impl SigningKeys {
    fn get(&self, credentials: &Credentials, region: &str, time: SystemTime, day: &str) -> Arc<[u8]> {
        let mut last = self.0.lock();
        let same = |last: &&SigningKey| last.credentials == *credentials && last.day == day && last.region == region;
        if let Some(last) = last.as_ref().filter(same) {
            return Arc::clone(&last.key);
        }
        let key = generate_signing_key(credentials.secret_access_key(), time, region, SERVICE);
        let key: Arc<[u8]> = key.as_ref().into();
        let (credentials, day, region) = (credentials.clone(), day.to_owned(), region.to_owned());
        *last = Some(SigningKey { credentials, day, region, key: Arc::clone(&key) });
        key
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeys")
    }
}

/// Signs requests of one moment.
pub(super) struct Signer<'a> {
    pub(super) credentials: &'a Credentials,
    /// As in `x-amz-date`.
    pub(super) date: String,
    /// What the signing key is valid for.
    scope: String,
    key: Arc<[u8]>,
}

impl<'a> Signer<'a> {
    pub(super) fn new(keys: &SigningKeys, credentials: &'a Credentials, region: &str, time: SystemTime) -> Self {
        let date = format_date(time);
        let day = &date[..DAY];
        let key = keys.get(credentials, region, time, day);
        Signer { credentials, scope: [day, "/", region, "/", SERVICE, "/aws4_request"].concat(), key, date }
    }

    /// Returns the access key and its scope.
    pub(super) fn credential(&self) -> String {
        [self.credentials.access_key_id(), "/", &self.scope].concat()
    }

    /// Returns the signature of a request with an unsigned payload. The path and the query are percent-encoded, the query
    /// by [`canonical_query`]. The headers have lower-case names and are sorted by them; `names` are their [`names`].
    pub(super) fn signature(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        names: &str,
    ) -> String {
        let mut request = String::with_capacity(CAPACITY);
        request.extend([method, "\n", path, "\n", query, "\n"]);
        for (name, value) in headers {
            request.extend([name, ":"]);
            // Spaces at the ends do not count, and several spaces count as one.
            let mut words = value.split(' ').filter(|word| !word.is_empty());
            request.push_str(words.next().unwrap_or_default());
            words.for_each(|word| request.extend([" ", word]));
            request.push('\n');
        }
        request.extend(["\n", names, "\n", UNSIGNED_PAYLOAD]);
        let hash = hex::encode(Sha256::digest(request));
        let to_sign = [ALGORITHM, "\n", &self.date, "\n", &self.scope, "\n", &hash].concat();
        calculate_signature(&self.key, to_sign.as_bytes())
    }

    /// Returns the value of the header `authorization`. The arguments are those of [`Signer::signature`].
    pub(super) fn authorization(&self, method: &str, path: &str, query: &str, headers: &[(&str, &str)]) -> String {
        let names = names(headers);
        let signature = self.signature(method, path, query, headers, &names);
        let access_key = self.credentials.access_key_id();
        [
            ALGORITHM,
            " Credential=",
            access_key,
            "/",
            &self.scope,
            ", SignedHeaders=",
            &names,
            ", Signature=",
            &signature,
        ]
        .concat()
    }
}

/// Returns the region of a header `authorization`. `None` unless it is a signature of this kind for S3.
pub(super) fn region_of(authorization: &str) -> Option<&str> {
    let credential = authorization.strip_prefix(ALGORITHM)?.trim_start().strip_prefix("Credential=")?;
    let mut scope = credential.split(',').next()?.rsplit('/');
    let (end, service, region) = (scope.next()?, scope.next()?, scope.next()?);
    (end == "aws4_request" && service == SERVICE).then_some(region)
}

/// Returns the names of the headers as a signature lists them.
pub(super) fn names(headers: &[(&str, &str)]) -> String {
    let mut names = String::with_capacity(CAPACITY);
    for (at, (name, _)) in headers.iter().enumerate() {
        names.extend([if at == 0 { "" } else { ";" }, name]);
    }
    names
}

/// Joins the parameters of a query in the order in which they are signed. The values are percent-encoded.
pub(super) fn canonical_query(mut parameters: Vec<(&str, Cow<'_, str>)>) -> String {
    parameters.sort_unstable();
    let mut query = String::with_capacity(CAPACITY);
    for (at, (name, value)) in parameters.iter().enumerate() {
        query.extend([if at == 0 { "" } else { "&" }, name, "=", value]);
    }
    query
}

fn format_date(time: SystemTime) -> String {
    let mut date = humantime::format_rfc3339_seconds(time).to_string();
    date.retain(|character| !matches!(character, '-' | ':'));
    date
}

/// Parses the value of `x-amz-date`.
pub(super) fn parse_date(date: &str) -> Option<SystemTime> {
    let field = |range| date.get(range);
    let (year, month, day) = (field(0..4)?, field(4..6)?, field(6..8)?);
    let (hour, minute, second) = (field(9..11)?, field(11..13)?, field(13..15)?);
    humantime::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn credentials(secret: &str) -> Credentials {
        Credentials::new("AKID", secret, None, None, "test")
    }

    #[test]
    fn key_is_derived_once_a_day_and_scope() {
        let (keys, start) = (SigningKeys::default(), UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let key = |secret: &str, region: &str, time| {
            let credentials = credentials(secret);
            Signer::new(&keys, &credentials, region, time).key
        };
        let first = key("a", "eu-north-1", start);
        assert!(Arc::ptr_eq(&first, &key("a", "eu-north-1", start + Duration::from_secs(60))));
        let day = Duration::from_secs(86_400);
        for other in [key("b", "eu-north-1", start), key("a", "eu-west-1", start), key("a", "eu-north-1", start + day)]
        {
            assert_ne!(first, other);
        }
        assert_eq!(first, key("a", "eu-north-1", start));
    }

    #[test]
    fn dates_round_trip() {
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(format_date(time + Duration::from_millis(999)), "20231114T221320Z");
        assert_eq!(parse_date("20231114T221320Z"), Some(time));
        for bad in ["", "20231114", "2023-11-14T22:13:20Z"] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn region_is_read_from_plain_signatures_for_s3_only() {
        let header = |kind, service| {
            format!("{kind} Credential=AKID/20261124/eu-north-1/{service}/aws4_request, SignedHeaders=host")
        };
        assert_eq!(region_of(&header(ALGORITHM, "s3")), Some("eu-north-1"));
        for other in [header(ALGORITHM, "s3express"), header("AWS4-ECDSA-P256-SHA256", "s3"), "Basic eDp5".to_owned()] {
            assert_eq!(region_of(&other), None, "{other}");
        }
    }
}
