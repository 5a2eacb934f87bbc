//! Grants as other programs sign them, valid and invalid.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};

use super::*;
use crate::auth::Secret;
use crate::auth::tokens::{PlanClaims, Tokens};

const ONE: &str = "the first key, long enough";
const TWO: &str = "the-second-key-of-the-list";
const KEY: &str = "0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.jpg";

/// `key-1` and `key-2`, with every scope.
fn keys(bare: &[&str]) -> Keys {
    let bare: Vec<String> = bare.iter().map(|key| key.replace([' ', ','], "-")).collect();
    Keys::read(Some(&Secret::from(bare.join(","))), None).unwrap()
}

fn of_file(lines: &str) -> Keys {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    Keys::read(None, Some(file.path())).unwrap()
}

fn secret(key: &str) -> Vec<u8> {
    hash(key.replace([' ', ','], "-").as_bytes()).to_vec()
}

fn now() -> u64 {
    get_current_timestamp()
}

/// Returns valid claims, overridden by `more`.
fn claims_with(more: &Value) -> Value {
    let mut claims = json!({ "aud": "image-store", "exp": now() + 600 });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// Returns a token as another program signs it.
fn token(claims: &Value, key: &str, kid: Option<&str>) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
    encode(&header, claims, &EncodingKey::from_secret(&secret(key))).unwrap()
}

fn reason(keys: &Keys, token: &str) -> &'static str {
    Grants::new(keys.clone()).read(token).map_or_else(|refusal| refusal.reason(), |_| "accepted")
}

#[test]
fn verified_grant_contains_all_signed_claims() {
    let grants = Grants::new(keys(&[ONE, TWO]));
    let claims = claims_with(&json!({
        "max_size": 5, "formats": ["jpg", "PNG"], "key": KEY, "metadata": { "user": "7", "": "ü" },
        "iat": now(), "nbf": now(), "iss": "backend", "sub": "user", "jti": "once", "exp": now() as f64 + 600.7,
    }));
    for kid in [None, Some("key-2")] {
        let (grant, hash) = grants.read(&token(&claims, TWO, kid)).unwrap();
        assert_eq!(grant.issuer, "key-2");
        assert_eq!(hash.as_slice(), secret(TWO));
        assert_eq!((grant.key.as_deref(), grant.max_size), (Some(KEY), Some(5)));
        assert_eq!(grant.formats, Some(vec![Format::Jpeg, Format::Png]));
        let metadata: Vec<_> = grant.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(metadata, [("", "ü"), ("user", "7")]);
        assert_eq!(grant.jti.as_deref(), Some("once"));
        let left = grant.expires_at.duration_since(SystemTime::now()).unwrap().as_secs();
        assert!((590..=600).contains(&left), "{left}");
    }
    let (plain, _) = grants.read(&token(&claims_with(&json!({})), ONE, None)).unwrap();
    assert_eq!((plain.key, plain.max_size, plain.formats, plain.jti), (None, None, None, None));
    assert!(plain.metadata.is_empty());
}

#[test]
fn minted_grants_are_accepted() {
    for (keys, issuer) in [(keys(&[ONE, TWO]), "key-2"), (Keys::default(), "")] {
        let grants = Grants::new(keys);
        let claims = Claims { max_size: Some(7), key: Some(KEY.to_owned()), ..Claims::lasting(MAX_LIFETIME) };
        let (token, minted) = grants.mint(claims.clone(), issuer).unwrap();
        assert_eq!(grants.read(&token).unwrap().0, minted);
        assert_eq!(minted.issuer, issuer);
        let too_long = Claims::lasting(MAX_LIFETIME + 2 * LEEWAY);
        let bad_key = Claims { key: Some("a.jpg".to_owned()), ..claims };
        for wrong in [too_long, bad_key] {
            assert_eq!(grants.mint(wrong, issuer).unwrap_err().code(), "invalid_request");
        }
    }
    let offline = sign_offline(&Claims::lasting(DEFAULT_LIFETIME), &TWO.replace(' ', "-"), Some("key-2")).unwrap();
    assert_eq!(reason(&keys(&[ONE, TWO]), &offline), "accepted");
    assert!(sign_offline(&Claims::lasting(2 * MAX_LIFETIME), TWO, None).is_err());
}

#[test]
fn grants_with_invalid_or_unknown_claims_are_rejected() {
    let keys = keys(&[ONE]);
    let long: String = "x".repeat(MAX_METADATA - r#"{"a":""}"#.len());
    assert_eq!(reason(&keys, &token(&claims_with(&json!({ "metadata": { "a": long } })), ONE, None)), "accepted");
    assert_eq!(reason(&keys, &token(&claims_with(&json!({ "aud": ["image-store"] })), ONE, None)), "accepted");
    for wrong in [
        json!({ "aud": "image-store/plan" }),
        json!({ "aud": "other" }),
        json!({ "aud": [] }),
        json!({ "aud": ["image-store", "other"] }),
        json!({ "aud": null }),
        json!({ "exp": null }),
        json!({ "exp": "never" }),
        json!({ "exp": -1 }),
        json!({ "maxsize": 5 }),
        json!({ "max_size": null }),
        json!({ "max_size": -1 }),
        json!({ "max_size": "5" }),
        json!({ "max_size": 5.5 }),
        json!({ "formats": null }),
        json!({ "formats": [] }),
        json!({ "formats": "png" }),
        json!({ "formats": ["png", "svg"] }),
        json!({ "key": null }),
        json!({ "key": "photo.jpg" }),
        json!({ "key": "incoming/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.jpg" }),
        json!({ "key": KEY.to_uppercase() }),
        json!({ "key": KEY.replace(".jpg", ".svg") }),
        json!({ "metadata": { "a": 1 } }),
        json!({ "metadata": "a" }),
        json!({ "metadata": { "a": format!("{long}x") } }),
        json!({ "nbf": "now" }),
        json!({ "jti": 7 }),
    ] {
        let found = reason(&keys, &token(&claims_with(&wrong), ONE, None));
        assert!(["claims", "malformed"].contains(&found), "{wrong}: {found}");
    }
    for missing in ["exp", "aud"] {
        let mut claims = claims_with(&json!({}));
        claims.as_object_mut().unwrap().remove(missing);
        assert_eq!(reason(&keys, &token(&claims, ONE, None)), "claims", "{missing}");
    }
    let misspelt = Grants::new(keys).read(&token(&claims_with(&json!({ "maxsize": 5 })), ONE, None)).unwrap_err();
    assert!(misspelt.to_string().contains("maxsize"), "{misspelt}");
}

#[test]
fn grant_lifetime_is_limited_to_24_hours() {
    let keys = keys(&[ONE]);
    let day = MAX_LIFETIME.as_secs();
    for (times, expected) in [
        (json!({ "exp": now() + day }), "accepted"),
        (json!({ "exp": now() + day + 50 }), "accepted"),
        (json!({ "exp": now() + day + 70 }), "lifetime"),
        (json!({ "exp": now() + 1000 * day }), "lifetime"),
        (json!({ "exp": now() - 50 }), "accepted"),
        (json!({ "exp": now() - 70 }), "expired"),
        (json!({ "exp": 0 }), "expired"),
        (json!({ "nbf": now() + 50 }), "accepted"),
        (json!({ "nbf": now() + 70 }), "not_yet"),
        (json!({ "nbf": now() + day, "exp": now() + day }), "not_yet"),
    ] {
        assert_eq!(reason(&keys, &token(&claims_with(&times), ONE, None)), expected, "{times}");
    }
}

#[test]
fn only_hs256_with_the_key_hash_is_accepted() {
    let keys = keys(&[ONE]);
    let claims = claims_with(&json!({}));
    let right = token(&claims, ONE, None);
    let payload = right.split('.').nth(1).unwrap();
    for header in
        [json!({ "alg": "none" }), json!({ "alg": "None" }), json!({ "alg": "HS256", "crit": ["exp"] }), json!({})]
    {
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        let signature = right.rsplit('.').next().unwrap();
        for signature in ["", signature] {
            assert_eq!(reason(&keys, &format!("{header}.{payload}.{signature}")), "malformed");
        }
    }
    // Algorithm confusion, as if the hash were a public key: the same HMAC with the name of another algorithm.
    for algorithm in ["RS256", "PS256", "ES256", "EdDSA", "HS384", "HS512"] {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": algorithm, "typ": "JWT" }).to_string());
        let message = format!("{header}.{payload}");
        let by_hash = EncodingKey::from_secret(&secret(ONE));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &by_hash, Algorithm::HS256).unwrap();
        assert_eq!(reason(&keys, &format!("{message}.{signature}")), "malformed", "{algorithm}");
    }
    // Signed with the key itself, or with its hash in hexadecimal, instead of its hash.
    for wrong in [ONE.replace(' ', "-").into_bytes(), hex::encode(secret(ONE)).into_bytes(), OPEN_SECRET.to_vec()] {
        let forged = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&wrong)).unwrap();
        assert_eq!(reason(&keys, &forged), "signature");
    }
    for other in ["", ".", "..", "a.b.c", &right[..right.len() - 1], &format!("{right}."), payload] {
        assert_ne!(reason(&keys, other), "accepted", "{other}");
    }
}

#[test]
fn kid_must_name_a_key_with_scope_upload() {
    let file = format!("phone {} upload\nreader {} read,delete\n", hex::encode(secret(ONE)), hex::encode(secret(TWO)));
    let keys = of_file(&file);
    let claims = claims_with(&json!({}));
    for (key, kid, expected) in [
        (ONE, Some("phone"), "accepted"),
        (ONE, None, "accepted"),
        (ONE, Some("reader"), "key"),
        (ONE, Some("nobody"), "key"),
        (ONE, Some(""), "key"),
        (TWO, Some("reader"), "key"),
        (TWO, Some("phone"), "signature"),
        (TWO, None, "signature"),
    ] {
        assert_eq!(reason(&keys, &token(&claims, key, kid)), expected, "{key} {kid:?}");
    }
    // No key has the scope `upload`.
    let readers = of_file(&format!("reader {} read\n", hex::encode(secret(TWO))));
    assert_eq!(reason(&readers, &token(&claims, TWO, None)), "key");
}

#[test]
fn removing_a_key_invalidates_its_grants() {
    let claims = claims_with(&json!({}));
    let (named, unnamed) = (token(&claims, TWO, Some("key-2")), token(&claims, TWO, None));
    assert_eq!(reason(&keys(&[ONE, TWO]), &named), "accepted");
    assert_eq!(reason(&keys(&[ONE]), &named), "key");
    assert_eq!(reason(&keys(&[ONE]), &unnamed), "signature");
    // Another key has the name now.
    assert_eq!(reason(&keys(&[ONE, "another key, long enough"]), &named), "signature");
    // A grant that was signed while no keys were configured.
    let (open, _) = Grants::new(Keys::default()).mint(Claims::lasting(DEFAULT_LIFETIME), "").unwrap();
    assert_eq!(reason(&Keys::default(), &open), "accepted");
    assert_eq!(reason(&keys(&[ONE]), &open), "signature");
    assert_eq!(reason(&Keys::default(), &unnamed), "signature");
}

#[test]
fn short_keys_cannot_sign_grants() {
    let short = "fifteen-letters";
    let keys = keys(&[ONE, short]);
    let minted = Grants::new(keys.clone()).mint(Claims::lasting(DEFAULT_LIFETIME), "key-2");
    assert_eq!(minted.unwrap_err().code(), "key_too_short");
    let claims = claims_with(&json!({}));
    assert_eq!(reason(&keys, &token(&claims, short, Some("key-2"))), "key");
    assert_eq!(reason(&keys, &token(&claims, short, None)), "signature");
}

#[test]
fn plans_and_grants_are_not_interchangeable() {
    for keys in [keys(&[ONE]), Keys::default()] {
        let (tokens, grants) = (Tokens::new(keys.clone(), None), Grants::new(keys.clone()));
        let kid = (!keys.is_empty()).then_some("key-1");
        let plan = PlanClaims {
            key: KEY.to_owned(),
            jti: None,
            size: 7,
            content_type: "image/jpeg".to_owned(),
            sha256: None,
            upload: None,
            part_size: None,
        };
        let plan = tokens.sign(plan, kid).unwrap();
        assert_ne!(reason(&keys, &plan), "accepted");
        let (grant, _) = grants.mint(Claims::lasting(DEFAULT_LIFETIME), kid.unwrap_or_default()).unwrap();
        assert_eq!(tokens.read::<PlanClaims>(&grant).unwrap_err().code(), "invalid_token");
        // Even if the claims of a plan are signed with the secret of a grant.
        let secret = if keys.is_empty() { OPEN_SECRET.to_vec() } else { secret(ONE) };
        let as_plan = json!({ "aud": "image-store/plan", "exp": now() + 60, "plan": {} });
        let forged = encode(&Header::new(Algorithm::HS256), &as_plan, &EncodingKey::from_secret(&secret)).unwrap();
        assert_eq!(reason(&keys, &forged), "claims");
    }
}
