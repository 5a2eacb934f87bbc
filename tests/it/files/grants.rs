//! Resumable uploads with grants and API keys, and what the address of an upload permits.

use image_store::auth::grants::{Claims, DEFAULT_LIFETIME, sign_offline};
use std::time::{Duration, SystemTime};

use super::*;
use crate::support::app::{fixture, png};
use crate::support::backend::Backend;
use crate::support::strict::Quirk;

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
    // The same bytes are the same image.
    second.append(500, &bytes[500..]).await;
    second.check(&bytes).await;
    rejected(post(&app, &path, bytes.len()), 409, "already_exists").await;
    app.end(&[IMAGE_KEY]).await;
}

/// On stores that keep checksums and on one that does not, in two processes.
#[tokio::test]
async fn equal_uploads_of_one_key_are_complete_and_others_are_rejected() {
    let client = Client::new();
    let without_checksums = Backend::strict().await;
    without_checksums.strict_s3().take_up(Quirk::NoCrc64);
    for backend in [Backend::embedded().await, Backend::strict().await, without_checksums] {
        let bases = [TestApp::serve(backend.store.clone()).await, TestApp::serve(backend.store.clone()).await];
        for length in [1000, PART + 7] {
            let minted = client.post(format!("{}/grants", bases[0])).json(&serde_json::json!({ "filename": "a.png" }));
            let minted: Value = expect(minted, 201).await.json().await.unwrap();
            let create = async |body: &[u8]| {
                let request = client.post(format!("{}/g/{}/files", bases[0], minted["grant"].as_str().unwrap()));
                let request = request.header("tus-resumable", "1.0.0").header("upload-length", length);
                let request = request.header("content-type", "application/offset+octet-stream").body(body.to_vec());
                let created = expect(request.header("upload-metadata", PNG), 201).await;
                Upload { client: client.clone(), url: header(&created, "location").to_owned() }
            };
            let (bytes, mut other) = (png(length), png(length));
            other[length - 1] ^= 1;
            let uploads = [create(b"").await, create(b"").await, create(b"").await];
            uploads[0].append(0, &bytes).await;
            uploads[1].at(&bases[1]).append(0, &bytes).await;
            rejected(uploads[2].patch(0, &other), 409, "already_exists").await;
            for base in &bases {
                let [first, second, different] = [0, 1, 2].map(|at| uploads[at].at(base));
                let image = first.check(&bytes).await;
                assert_eq!(second.offset().await, length);
                assert_eq!(without_url(second.check(&bytes).await), without_url(image));
                second.append(length, b"").await;
                rejected(second.request(Method::DELETE), 409, "already_complete").await;
                rejected(different.request(Method::GET), 409, "already_exists").await;
                expect(different.request(Method::HEAD), 409).await;
            }
            expect(uploads[2].request(Method::DELETE), 204).await;
            let key = uploads[0].key();
            expect(client.delete(format!("{}/images/{key}", bases[1])), 200).await;
            // An address is good for its own upload only.
            expect(uploads[1].request(Method::HEAD), 410).await;
        }
        assert_eq!(backend.open_uploads().await, 0);
    }
}

/// The whole file comes with the creation, several times.
#[tokio::test]
async fn whole_file_under_one_key_is_complete_as_often_as_it_is_sent() {
    let app = TestApp::with(&[KEYS]).await;
    let other = app.another().await;
    let path = format!("/g/{}/files", grant(|claims| claims.key = Some(IMAGE_KEY.to_owned())));
    let bytes = png(1000);
    let whole = |bytes: Vec<u8>| {
        post(&app, &path, bytes.len()).header("content-type", "application/offset+octet-stream").body(bytes)
    };
    for _ in 0..3 {
        let upload = Upload::of(&app, &expect(whole(bytes.clone()), 201).await);
        for upload in [upload.at(&other), upload] {
            assert_eq!(upload.offset().await, bytes.len());
            upload.check(&bytes).await;
            rejected(upload.request(Method::DELETE), 409, "already_complete").await;
        }
    }
    let mut different = bytes.clone();
    different[999] ^= 1;
    rejected(whole(different), 409, "already_exists").await;
    app.end(&[IMAGE_KEY]).await;
}

/// Returns an image without its URL, whose signature differs between responses.
fn without_url(mut image: Value) -> Value {
    image["url"].take();
    image
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
