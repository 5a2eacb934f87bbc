//! Creating uploads: what is accepted, which key and address they get, and the advertised limits.

use super::*;
use crate::support::app::{fixture, png};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

fn post(app: &TestApp, length: &str, metadata: &str) -> RequestBuilder {
    tus(app, Method::POST, &app.at("/files")).header("upload-length", length).header("upload-metadata", metadata)
}

fn metadata(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name} {}", STANDARD.encode(value))).collect();
    pairs.join(",")
}

#[tokio::test]
async fn address_is_absolute_and_expires_after_a_day() {
    let app = TestApp::start().await;
    let created = expect(post(&app, "1000", PNG), 201).await;
    assert_eq!((header(&created, "tus-resumable"), header(&created, "upload-offset")), ("1.0.0", "0"));
    assert_eq!(header(&created, "cache-control"), "no-store");
    let expires = httpdate::parse_http_date(header(&created, "upload-expires")).unwrap();
    let left = expires.duration_since(std::time::SystemTime::now()).unwrap().as_secs();
    assert!((86_000..=86_400).contains(&left), "{left}");
    let upload = Upload::of(&app, &created);
    assert!(upload.url.starts_with(&format!("{}/files/{}?upload=", app.url, upload.key())), "{}", upload.url);
    assert!(upload.key().ends_with(".png"));
    assert_eq!(upload.offset().await, 0);
    expect(upload.request(Method::DELETE), 204).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn address_begins_with_the_url_of_the_service() {
    for (flags, name, value, base) in [
        (&["--public-url=https://images.example/up"][..], "x-base-url", "http://other", "https://images.example/up"),
        (&[], "x-base-url", "https://a.example/up/", "https://a.example/up"),
        (&["--trusted-proxies=127.0.0.1"], "x-forwarded-prefix", "/below", "/below"),
        (&[], "host", "b.example:81", "http://b.example:81"),
    ] {
        let app = TestApp::with(flags).await;
        let created = expect(post(&app, "1000", PNG).header(name, value), 201).await;
        let url = header(&created, "location");
        let base = if base.starts_with('/') { format!("{}{base}", app.url) } else { base.to_owned() };
        assert!(url.starts_with(&format!("{base}/files/")), "{url}");
        let upload = Upload::of(&app, &created).at(&app.url);
        expect(upload.request(Method::DELETE), 204).await;
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn key_has_the_extension_of_the_declared_file() {
    let app = TestApp::start().await;
    for (pairs, extension) in [
        (&[("filename", "ü.JPEG")][..], "jpeg"),
        (&[("name", "a.gif"), ("type", "image/gif")], "gif"),
        (&[("filename", "photo"), ("filetype", "image/bmp")], "bmp"),
        (&[("filetype", "image/pjpeg")], "jpg"),
        (&[("filename", "a.jfif"), ("other", "x")], "jpg"),
    ] {
        let created = expect(post(&app, "1000", &metadata(pairs)), 201).await;
        let upload = Upload::of(&app, &created);
        assert!(upload.key().ends_with(&format!(".{extension}")), "{pairs:?}: {}", upload.key());
        expect(upload.request(Method::DELETE), 204).await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn invalid_creations_are_rejected_and_create_nothing() {
    let app = TestApp::with(&["--max-upload-size=1MiB"]).await;
    for (length, metadata, status, code) in [
        ("1000", metadata(&[("filename", "a.svg")]), 400, "invalid_file_type"),
        ("1000", metadata(&[("filename", "a.webp")]), 400, "invalid_file_type"),
        ("1000", metadata(&[("filename", "a"), ("filetype", "text/plain")]), 400, "invalid_file_type"),
        ("1000", String::new(), 400, "invalid_file_type"),
        ("1000", "filename a.png".to_owned(), 400, "invalid_request"),
        ("-1", PNG.to_owned(), 400, "invalid_request"),
        ("0", PNG.to_owned(), 400, "no_file"),
        ("1048577", PNG.to_owned(), 413, "payload_too_large"),
    ] {
        rejected(post(&app, length, &metadata), status, code).await;
    }
    let bare = || tus(&app, Method::POST, &app.at("/files")).header("upload-metadata", PNG);
    rejected(bare(), 400, "invalid_request").await;
    rejected(bare().header("upload-defer-length", "2"), 400, "invalid_request").await;
    rejected(bare().header("upload-length", "9").header("upload-concat", "partial"), 400, "invalid_request").await;
    let typed = bare().header("upload-length", "9").header("content-type", "image/png").body("a");
    rejected(typed, 415, "unsupported_media_type").await;
    // Neither protocol.
    rejected(app.client.post(app.at("/files")).body("a"), 400, "invalid_request").await;
    app.end(&[]).await;
}

#[tokio::test]
async fn options_returns_the_limits_and_preflights_remain() {
    let app = TestApp::with(&["--max-upload-size=7MiB"]).await;
    let upload = create(&app, 1000).await;
    for url in [app.at("/files"), upload.url.clone()] {
        let options = app.client.request(Method::OPTIONS, &url).header("origin", "http://page.example");
        let answer = expect(options.try_clone().unwrap(), 204).await;
        for (name, value) in [
            ("tus-resumable", "1.0.0"),
            ("tus-version", "1.0.0"),
            ("tus-max-size", "7340032"),
            ("tus-extension", "creation,creation-with-upload,creation-defer-length,termination,expiration"),
            ("upload-limit", "max-size=7340032, min-size=1, max-age=86400"),
            ("accept-patch", "application/offset+octet-stream, application/partial-upload"),
            ("access-control-allow-origin", "http://page.example"),
        ] {
            assert_eq!(header(&answer, name), value, "{url}");
        }
        let preflight = options.header("access-control-request-method", "PATCH");
        let answer =
            expect(preflight.header("access-control-request-headers", "tus-resumable,upload-offset"), 200).await;
        assert!(header(&answer, "access-control-allow-methods").contains("PATCH"));
    }
    expect(app.client.request(Method::OPTIONS, app.at("/limits")), 405).await;
    expect(upload.request(Method::DELETE), 204).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn limits_name_the_upload_method() {
    let app = TestApp::start().await;
    let limits: Value = expect(app.client.get(app.at("/limits")), 200).await.json().await.unwrap();
    assert_eq!(
        limits["upload_methods"],
        serde_json::json!(["form", "raw", "put", "multipart", "companion", "resumable"])
    );
    app.end(&[]).await;
}

#[tokio::test]
async fn creation_may_contain_the_whole_file() {
    let app = TestApp::start().await;
    let with_body = |length: usize, bytes: &[u8]| {
        let request = post(&app, &length.to_string(), PNG).header("content-type", "application/offset+octet-stream");
        request.body(bytes.to_vec())
    };
    let mut keys = Vec::new();
    for bytes in [fixture("plain.png"), png(2 * PART + 7)] {
        let created = expect(with_body(bytes.len(), &bytes), 201).await;
        assert_eq!(header(&created, "upload-offset"), bytes.len().to_string());
        let upload = Upload::of(&app, &created);
        assert_eq!(upload.offset().await, bytes.len());
        let image = upload.check(&bytes).await;
        assert_eq!((&image["width"], &image["height"]), (&16.into(), &12.into()));
        rejected(upload.request(Method::DELETE), 409, "already_complete").await;
        keys.push(upload.key().to_owned());
    }
    // JSON is returned at once if the client asks for it.
    let bytes = fixture("plain.png");
    let created = expect(with_body(bytes.len(), &bytes).header("accept", "application/json"), 201).await;
    keys.push(Upload::of(&app, &created).key().to_owned());
    let image: Value = created.json().await.unwrap();
    assert_eq!((&image["s3_key"], &image["size"]), (&(*keys[2]).into(), &bytes.len().into()));

    rejected(with_body(4, b"text"), 400, "invalid_file_type").await;
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn creation_may_contain_the_beginning_of_the_file() {
    let app = TestApp::start().await;
    let bytes = png(2 * PART + 7);
    for first in [1, 1000, PART, PART + 1] {
        let request = post(&app, &bytes.len().to_string(), PNG);
        let request = request.header("content-type", "application/offset+octet-stream").body(bytes[..first].to_vec());
        let created = expect(request, 201).await;
        assert_eq!(header(&created, "upload-offset"), first.to_string());
        let upload = Upload::of(&app, &created);
        assert_eq!(upload.offset().await, first);
        upload.append(first, &bytes[first..]).await;
        upload.check(&bytes).await;
        expect(app.client.delete(app.at(&format!("/images/{}", upload.key()))), 200).await;
    }
    app.end(&[]).await;
}
