//! Requests and objects that S3 or the service rejects leave nothing readable and nothing in the store.

use serde_json::json;

use super::*;
use crate::support::app::{fixture, png};
use crate::support::raw::RawClient;

const SIZE: usize = 100_000;

/// Asserts that S3 stored nothing: complete answers 404 and the store is empty.
async fn check_nothing_there(app: &TestApp, plan: &Plan) {
    check_unreadable(app, plan.key()).await;
    refusal(complete(app, plan).await, 404, "not_found").await;
    assert_eq!(app.objects().await.len(), 0);
}

#[tokio::test]
async fn s3_accepts_only_the_planned_put() {
    let app = TestApp::start().await;
    let plan = plan(&app, SIZE).await;
    let url = plan.link("url");
    let bare = || app.client.put(url).body(png(SIZE));
    let other_key = url.replace(plan.key(), "00000000-0000-4000-8000-000000000000.png");
    let final_key = url.replace("incoming/", "");
    let with = |url: &str| {
        app.client.put(url).header("content-type", "image/png").header("if-none-match", "*").body(png(SIZE))
    };
    for (what, request) in [
        ("a byte too many", signed(&app, &plan.0).body(png(SIZE + 1))),
        ("a byte too few", signed(&app, &plan.0).body(png(SIZE - 1))),
        ("nothing", signed(&app, &plan.0)),
        ("another type", bare().header("content-type", "text/html").header("if-none-match", "*")),
        ("no type", bare().header("if-none-match", "*")),
        ("no if-none-match", bare().header("content-type", "image/png")),
        ("no header at all", bare()),
        ("another key", with(&other_key)),
        ("the final key", with(&final_key)),
        ("a longer lifetime", with(&url.replace("X-Amz-Expires=900", "X-Amz-Expires=9000"))),
    ] {
        let refused = request.send().await.unwrap();
        assert_eq!(refused.status(), 403, "{what}");
        check_nothing_there(&app, &plan).await;
    }
    put(&app, &plan, &png(SIZE)).await;
    completed(&app, &plan).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn s3_accepts_only_parts_of_planned_size() {
    let app = TestApp::with(&SMALL).await;
    let plan = plan(&app, 6 * MIB + 1).await;
    let part = &plan.parts()[1];
    let url = part["url"].as_str().unwrap();
    for (what, url, size) in [
        ("a byte too many", url.to_owned(), MIB + 2),
        ("a byte too few", url.to_owned(), MIB),
        ("another number", url.replace("partNumber=2", "partNumber=3"), MIB + 1),
        ("another upload", url.replace("uploadId=", "uploadId=0"), MIB + 1),
    ] {
        let refused = app.client.put(url).body(vec![0; size]).send().await.unwrap();
        assert_eq!(refused.status(), 403, "{what}");
    }
    assert_eq!(status(&app, &plan).await["state"], "waiting");
    assert_eq!(abort(&app, &plan).await.status(), 204);
    app.end(&[]).await;
}

#[tokio::test]
async fn s3_accepts_only_the_body_with_signed_digest() {
    let app = TestApp::start().await;
    let bytes = fixture("plain.png");
    let request = json!({ "filename": "a.png", "size": bytes.len(), "sha256": SHA256_OF_PLAIN_PNG });
    let plan = plan_for(&app, request).await;
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    let refused = signed(&app, &plan.0).body(other).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    check_nothing_there(&app, &plan).await;
    let unsigned = signed(
        &app,
        &json!({ "url": plan.0["url"], "headers": { "content-type": "image/png", "if-none-match": "*" } }),
    );
    assert_eq!(unsigned.body(bytes).send().await.unwrap().status(), 403, "the signed digest must be sent");
    check_nothing_there(&app, &plan).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn expired_url_is_rejected() {
    let app = TestApp::with(&[SMALL[0], "--upload-url-ttl=1s"]).await;
    let large = plan(&app, 6 * MIB + 1).await;
    let small = plan(&app, SIZE).await;
    loop {
        let sent = signed(&app, &small.0).body(png(SIZE)).send().await.unwrap();
        match sent.status().as_u16() {
            403 => break,
            200 | 412 => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(abort(&app, &small).await.status(), 204);
    check_nothing_there(&app, &small).await;
    let late = signed(&app, &large.parts()[1]).body(vec![0; MIB + 1]).send().await.unwrap();
    assert_eq!(late.status(), 403, "signed earlier");
    assert_eq!(status(&app, &large).await["state"], "waiting");
    assert_eq!(abort(&app, &large).await.status(), 204);
    app.end(&[]).await;
}

#[tokio::test]
async fn rejected_object_is_deleted() {
    let app = TestApp::with(&["--header-scan-limit=64KiB"]).await;
    let mut huge = fixture("plain.png");
    huge[16..24].copy_from_slice(&[60_000_u32.to_be_bytes(), 60_000_u32.to_be_bytes()].concat());
    let plain = fixture("plain.jpg");
    let late = [&plain[..2], &[&[0xff, 0xe2, 0xff, 0xff][..], &[0; 65_533]].concat(), &plain[2..]].concat();
    for (name, bytes, code, detail) in [
        (
            "a.png",
            b"I am not an image at all, whatever my name says.".to_vec(),
            "invalid_file_type",
            "Invalid file type",
        ),
        ("a.png", fixture("lossy.webp"), "invalid_file_type", "Invalid file type"),
        ("a.png", fixture("plain.png")[..20].to_vec(), "invalid_file_type", "Invalid file type"),
        ("a.jpg", late, "invalid_file_type", "Invalid file type"),
        ("a.png", huge, "too_many_pixels", "60000 x 60000"),
    ] {
        let plan = plan_for(&app, json!({ "filename": name, "size": bytes.len() })).await;
        put(&app, &plan, &bytes).await;
        let refused = refusal(complete(&app, &plan).await, 400, code).await;
        assert!(refused["detail"].as_str().unwrap().contains(detail), "{refused}");
        check_nothing_there(&app, &plan).await;
        let over = refusal(complete(&app, &plan).await, 404, "not_found").await;
        let text = over["detail"].as_str().unwrap();
        assert!(
            text.contains(code) && text.contains("POST /uploads"),
            "the error must give the reason and the next step: {over}"
        );
        refusal(app.client.get(app.at(plan.link("status_url"))).send().await.unwrap(), 404, "not_found").await;
        let again = signed(&app, &plan.0).body(bytes).send().await.unwrap();
        assert_eq!(again.status(), 412, "its URL must not work again");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn rejected_multipart_object_is_deleted() {
    let app = TestApp::with(&SMALL).await;
    let plan = plan(&app, 6 * MIB + 1).await;
    send_parts(&app, plan.parts(), &vec![b'x'; 6 * MIB + 1], |_| true).await;
    refusal(complete(&app, &plan).await, 400, "invalid_file_type").await;
    refusal(complete(&app, &plan).await, 404, "not_found").await;
    app.end(&[]).await;
}

#[tokio::test]
async fn invalid_plan_requests_are_rejected() {
    let app = TestApp::with(&SMALL).await;
    let sha256 = SHA256_OF_PLAIN_PNG;
    for (request, status, code) in [
        (json!({ "filename": "a.svg", "size": 1 }), 400, "invalid_file_type"),
        (json!({ "filename": "a.webp", "size": 1 }), 400, "invalid_file_type"),
        (json!({ "filename": "a.png", "content_type": "text/html", "size": 1 }), 400, "invalid_file_type"),
        (json!({ "filename": "a", "size": 1 }), 400, "invalid_file_type"),
        (json!({ "filename": "a.png", "size": 0 }), 400, "invalid_request"),
        (json!({ "filename": "a.png", "size": -1 }), 400, "invalid_request"),
        (json!({ "filename": "a.png", "size": "1" }), 400, "invalid_request"),
        (json!({ "filename": "a.png", "size": 1.5 }), 400, "invalid_request"),
        (json!({ "filename": "a.png" }), 400, "invalid_request"),
        (json!({ "size": 1 }), 400, "invalid_request"),
        (json!({ "filename": "a.png", "size": 1, "sha256": "12" }), 400, "invalid_request"),
        (json!({ "filename": "a.png", "size": 6 * MIB + 1, "sha256": sha256 }), 400, "invalid_request"),
        (json!({ "filename": "a.png", "size": 1, "acl": "public-read" }), 400, "invalid_request"),
        (json!([1]), 400, "invalid_request"),
        (json!({ "filename": "a".repeat(20_000), "size": 1 }), 400, "invalid_request"),
        (json!({ "filename": "a.png", "size": u64::MAX }), 413, "payload_too_large"),
    ] {
        refusal(request_plan(&app, request).await, status, code).await;
    }
    let post = || app.client.post(app.at("/uploads"));
    refusal(post().header("content-type", "application/json").body("{").send().await.unwrap(), 400, "invalid_request")
        .await;
    let request = r#"{"filename":"a.png","size":1}"#;
    for request in [post().body(request), post().header("content-type", "text/plain").body(request)] {
        let refused = refusal(request.send().await.unwrap(), 415, "unsupported_media_type").await;
        assert!(refused["detail"].as_str().unwrap().contains("application/json"), "{refused}");
    }
    refusal(app.client.get(app.at("/uploads")).send().await.unwrap(), 405, "method_not_allowed").await;
    app.end(&[]).await;
}

#[tokio::test]
async fn stalled_plan_request_is_408() {
    let app = TestApp::with(&["--body-idle-timeout=200ms"]).await;
    let mut client = RawClient::connect(app.address()).await;
    let head =
        "POST /uploads HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    client.send(head).await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("client_too_slow"), "{answer}");
    app.end(&[]).await;
}

#[tokio::test]
async fn missing_parts_are_named() {
    let app = TestApp::with(&SMALL).await;
    let (plan, bytes) = (plan(&app, 11 * MIB).await, png(11 * MIB));
    let missing = |expected: &'static [u32]| {
        let (app, plan) = (&app, &plan);
        async move {
            let refused = refusal(complete(app, plan).await, 409, "parts_missing").await;
            assert_eq!(refused["parts"], json!(expected));
        }
    };
    missing(&[1, 2, 3]).await;
    send_parts(&app, plan.parts(), &bytes, |number| number == 2).await;
    missing(&[1, 3]).await;
    send_parts(&app, plan.parts(), &bytes, |number| number == 1).await;
    missing(&[3]).await;
    check_unreadable(&app, plan.key()).await;
    send_parts(&app, plan.parts(), &bytes, |number| number == 3).await;
    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn unexpected_part_is_named() {
    use crate::support::samples::{noise, payload};
    use image_store::store::{ImageKey, ObjectName, Upload};
    let app = TestApp::with(&SMALL).await;
    let plan = plan(&app, 6 * MIB + 1).await;
    send_parts(&app, plan.parts(), &png(6 * MIB + 1), |_| true).await;
    let name = ObjectName::Incoming(ImageKey::parse(plan.key()).unwrap());
    let upload = Upload { name, id: plan.link("upload_id").to_owned() };
    app.store.upload_part(&upload, 3, payload(&noise(1, 10))).await.unwrap();
    let refused = refusal(complete(&app, &plan).await, 409, "parts_unexpected").await;
    assert_eq!(refused["parts"], json!([3]));
    assert!(refused["detail"].as_str().unwrap().contains("abort"), "{refused}");
    assert_eq!(abort(&app, &plan).await.status(), 204);
    app.end(&[]).await;
}
