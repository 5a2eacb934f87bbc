//! Resumable uploads with grants and API keys, and what the address of an upload permits.

use image_store::auth::grants::{Claims, DEFAULT_LIFETIME, sign_offline};
use std::time::{Duration, SystemTime};

use super::*;
use crate::support::app::{fixture, png};

const API_KEY: &str = "a-key-that-is-long-enough";
const KEYS: &str = "--api-keys=a-key-that-is-long-enough";
const IMAGE_KEY: &str = "0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png";

fn grant(change: impl FnOnce(&mut Claims)) -> String {
    let mut claims = Claims::lasting(DEFAULT_LIFETIME);
    change(&mut claims);
    sign_offline(&claims, API_KEY, None).unwrap()
}

fn post(app: &TestApp, path: &str, length: usize) -> RequestBuilder {
    tus(app, Method::POST, &app.at(path)).header("upload-length", length).header("upload-metadata", PNG)
}

#[tokio::test]
async fn creation_requires_a_key_or_a_grant_and_the_address_nothing_else() {
    let app = TestApp::with(&[KEYS]).await;
    rejected(post(&app, "/files", 1000), 401, "unauthorized").await;
    let bytes = png(1000);
    let right = grant(|_| {});
    let mut keys = Vec::new();
    for request in [
        post(&app, "/files", bytes.len()).bearer_auth(API_KEY),
        post(&app, "/files", bytes.len()).bearer_auth(&right),
        post(&app, &format!("/g/{right}/files"), bytes.len()),
    ] {
        let created = expect(request, 201).await;
        let upload = Upload::of(&app, &created);
        assert!(!upload.url.contains("/g/"), "{}", upload.url);
        upload.append(0, &bytes[..10]).await;
        upload.append(upload.offset().await, &bytes[10..]).await;
        upload.check(&bytes).await;
        keys.push(upload.key().to_owned());
    }
    let expired = grant(|claims| claims.exp = (SystemTime::now() - Duration::from_secs(120)).into());
    rejected(post(&app, &format!("/g/{expired}/files"), 9), 401, "expired_token").await;
    rejected(post(&app, "/files", 9).bearer_auth(format!("{right}x")), 401, "invalid_token").await;
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn limits_of_a_grant_apply() {
    let app = TestApp::with(&[KEYS]).await;
    let limited = grant(|claims| {
        claims.max_size = Some(1000);
        claims.formats = Some(vec!["png".to_owned()]);
        claims.metadata = [("owner".to_owned(), "7".to_owned())].into();
    });
    let path = format!("/g/{limited}/files");
    let options = expect(tus(&app, Method::OPTIONS, &app.at(&path)), 204).await;
    assert_eq!(header(&options, "tus-max-size"), "1000");
    let rejection = expect(post(&app, &path, 1001), 413).await;
    assert!(header(&rejection, "upload-limit").contains("max-size=1000"));
    let jpeg = tus(&app, Method::POST, &app.at(&path)).header("upload-length", "9");
    rejected(jpeg.header("upload-metadata", "filename YS5qcGc="), 400, "invalid_file_type").await;

    let deferred = tus(&app, Method::POST, &app.at(&path)).header("upload-defer-length", "1");
    let upload = Upload::of(&app, &expect(deferred.header("upload-metadata", PNG), 201).await);
    expect(upload.patch(0, &png(1001)), 413).await;
    expect(upload.request(Method::DELETE), 204).await;

    let bytes = png(1000);
    let upload = Upload::of(&app, &expect(post(&app, &path, bytes.len()), 201).await);
    upload.append(0, &bytes).await;
    let image = upload.check(&bytes).await;
    assert_eq!(image["metadata"], serde_json::json!({ "owner": "7" }));
    // The whole file in one request.
    let whole = post(&app, &path, bytes.len()).header("content-type", "application/offset+octet-stream");
    let whole = Upload::of(&app, &expect(whole.body(bytes.clone()), 201).await);
    assert_eq!(whole.check(&bytes).await["metadata"], serde_json::json!({ "owner": "7" }));
    app.end(&[upload.key(), whole.key()]).await;
}

#[tokio::test]
async fn grant_with_a_key_makes_exactly_that_image() {
    let app = TestApp::with(&[KEYS]).await;
    let keyed = grant(|claims| claims.key = Some(IMAGE_KEY.to_owned()));
    let path = format!("/g/{keyed}/files");
    let bytes = png(1000);
    let first = Upload::of(&app, &expect(post(&app, &path, bytes.len()), 201).await);
    let second = Upload::of(&app, &expect(post(&app, &path, bytes.len()), 201).await);
    assert_eq!((first.key(), second.key()), (IMAGE_KEY, IMAGE_KEY));
    assert_ne!(first.url, second.url);
    // The name need not be that of the key's format, but the bytes must.
    let jpeg = fixture("plain.jpg");
    let wrong = Upload::of(&app, &expect(post(&app, &path, jpeg.len()), 201).await);
    rejected(wrong.patch(0, &jpeg), 400, "invalid_file_type").await;

    second.append(0, &bytes[..500]).await;
    first.append(0, &bytes).await;
    first.check(&bytes).await;
    // The same bytes are the same image, and other bytes are not.
    second.append(500, &bytes[500..]).await;
    let mut other = bytes.clone();
    other[999] ^= 1;
    rejected(post(&app, &path, bytes.len()), 409, "already_exists").await;
    app.end(&[IMAGE_KEY]).await;
}

#[tokio::test]
async fn altered_and_foreign_addresses_are_rejected_before_the_body() {
    let app = TestApp::with(&[KEYS]).await;
    let created = async || {
        let request = post(&app, "/files", 1000).bearer_auth(API_KEY);
        Upload::of(&app, &expect(request, 201).await)
    };
    let (upload, other) = (created().await, created().await);
    let (path, token) = upload.url.split_once("?upload=").unwrap();
    let (_, foreign) = other.url.split_once("?upload=").unwrap();
    let plan = serde_json::json!({ "filename": "a.png", "size": 1000 });
    let plan = expect(app.client.post(app.at("/uploads")).bearer_auth(API_KEY).json(&plan), 201).await;
    let plan: Value = plan.json().await.unwrap();
    let plan = plan["status_url"].as_str().unwrap().split_once("?plan=").unwrap().1;
    for query in [
        String::new(),
        "?upload=".to_owned(),
        format!("?upload={token}x"),
        format!("?upload={foreign}"),
        format!("?upload={plan}"),
        format!("?upload={}", grant(|_| {})),
        format!("?plan={token}"),
        format!("?upload={token}&length=1"),
    ] {
        let wrong = Upload { client: app.client.clone(), url: format!("{path}{query}") };
        for request in [wrong.request(Method::GET), wrong.patch(0, b"text"), wrong.request(Method::DELETE)] {
            // An API key does not replace the token.
            let body = rejected(request.bearer_auth(API_KEY), 401, "invalid_token").await;
            assert!(body["detail"].as_str().unwrap().contains("POST /files"), "{body}");
        }
        expect(wrong.request(Method::HEAD), 401).await;
    }
    let elsewhere = Upload { client: app.client.clone(), url: app.at("/files/no-key?upload=x") };
    rejected(elsewhere.request(Method::GET), 404, "not_found").await;
    for upload in [upload, other] {
        assert_eq!(upload.offset().await, 0);
        expect(upload.request(Method::DELETE), 204).await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn log_and_metrics_contain_no_tokens() {
    let app = TestApp::start().await;
    let bytes = png(1000);
    let upload = create(&app, bytes.len()).await;
    upload.append(0, &bytes).await;
    let metrics = app.app.scrape();
    assert!(metrics.contains(r#"route="/files/{s3_key}",method="PATCH",status="204""#), "{metrics}");
    assert!(metrics.contains(r#"image_store_upload_size_bytes_sum{method="resumable"} 1000"#), "{metrics}");
    assert!(!metrics.contains(upload.key()));
    app.end(&[upload.key()]).await;
}
