//! Grants in events, in the path and in a form, whoever sends them.

use image_store::auth::grants::{Claims, DEFAULT_LIFETIME, sign_offline};

use super::*;

const KEY: &str = "a-key-that-is-long-enough";

#[tokio::test]
async fn a_grant_is_found_behind_every_base_path() {
    let setup = Setup::with_environment(&[("API_KEYS", KEY)]).await;
    let limited = Claims { max_size: Some(1000), ..Claims::lasting(DEFAULT_LIFETIME) };
    let grant = sign_offline(&limited, KEY, None).unwrap();
    let file = fixture("plain.png");
    let field = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"grant\"\r\n\r\n{grant}\r\n");
    let mut keys = Vec::new();
    for shape in SHAPES {
        let in_path = post_to(shape, &format!("/g/{grant}/upload-image"), &form(&file));
        let in_form = post(shape, &[field.as_bytes(), &form(&file)].concat());
        for upload in [in_path, in_form] {
            let answer = setup.function.invoke(&upload).await.response();
            assert_eq!(answer["statusCode"], 200, "{shape}: {answer}");
            keys.push(body(&answer)["s3_key"].as_str().unwrap().to_owned());
        }
        let large = post_to(shape, &format!("/g/{grant}/upload-image"), &form(&png(1001)));
        refused(&setup.function.invoke(&large).await.response(), 413, "payload_too_large");
        let wrong = post_to(shape, &format!("/g/{grant}x/upload-image"), &form(&file));
        refused(&setup.function.invoke(&wrong).await.response(), 401, "invalid_token");
        refused(&setup.function.invoke(&post(shape, &form(&file))).await.response(), 401, "unauthorized");
        let limits = request(shape, "GET", &format!("/g/{grant}/limits"));
        let limits = setup.function.invoke(&limits).await.response();
        assert_eq!(header(&limits, "cache-control"), "no-store");
        let limits = body(&limits);
        assert_eq!((&limits["max_upload_size"], &limits["max_stream_size"]), (&1000.into(), &1000.into()));
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let log = setup.end(&keys).await;
    assert!(!log.contains(grant.rsplit('.').next().unwrap()), "{log}");
}
