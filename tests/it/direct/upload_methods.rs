//! Both upload methods, PUT and multipart, without failures, and how the service selects one.

use reqwest::Method;
use serde_json::json;

use super::*;
use crate::support::app::{fixture, png};
use crate::support::samples::crc64;

#[tokio::test]
async fn image_is_put_completed_opened_and_deleted() {
    let app = TestApp::start().await;
    let bytes = fixture("plain.png");
    let plan = plan_for(&app, json!({ "filename": "a.png", "content_type": "image/png", "size": bytes.len() })).await;
    assert_eq!((&plan.0["kind"], &plan.0["method"]), (&json!("put"), &json!("PUT")));
    let expected =
        json!({ "content-length": bytes.len().to_string(), "content-type": "image/png", "if-none-match": "*" });
    assert_eq!(plan.0["headers"], expected, "exactly the headers that must be sent");
    assert!(plan.link("expires_at").ends_with('Z'));
    assert!(plan.link("complete_url").starts_with(&format!("/uploads/{}/complete?", plan.key())));

    check_unreadable(&app, plan.key()).await;
    put(&app, &plan, &bytes).await;
    check_unreadable(&app, plan.key()).await;
    assert_eq!(app.objects().await.into_iter().collect::<Vec<_>>(), [plan.incoming()]);

    let image = completed(&app, &plan).await;
    assert_eq!((&image["s3_key"], &image["content_type"]), (&json!(plan.key()), &json!("image/png")));
    assert_eq!((&image["width"], &image["height"]), (&json!(16), &json!(12)));
    assert!(image["checksum"].is_string() || image["checksum"].is_null(), "the checksum that the store keeps: {image}");
    check_image(&app, &image, &bytes).await;
    let opened = app.client.get(app.at(&format!("/images/{}", plan.key()))).send().await.unwrap();
    assert_eq!(opened.status(), 307);

    let again = completed(&app, &plan).await;
    assert_eq!(again["s3_key"], image["s3_key"]);
    let deleted = app.client.delete(app.at(&format!("/delete/{}", plan.key()))).send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    refusal(complete(&app, &plan).await, 404, "not_found").await;
    app.end(&[]).await;
}

#[tokio::test]
async fn large_image_is_planned_in_parts() {
    let app = TestApp::with(&SMALL).await;
    let bytes = png(11 * MIB + 7);
    let plan = plan(&app, bytes.len()).await;
    assert_eq!((&plan.0["kind"], &plan.0["part_size"]), (&json!("multipart"), &json!(5 * MIB)));
    assert!(plan.0["upload_id"].is_string());
    let sizes: Vec<_> = plan.parts().iter().map(|part| (part["part_number"].clone(), part["size"].clone())).collect();
    let expected = [(1, 5 * MIB), (2, 5 * MIB), (3, MIB + 7)].map(|(number, size)| (json!(number), json!(size)));
    assert_eq!(sizes, expected);
    for part in plan.parts() {
        assert_eq!(part["headers"], json!({ "content-length": part["size"].to_string() }));
    }
    assert_eq!(send_parts(&app, plan.parts(), &bytes, |_| true).await, [1, 2, 3]);
    check_unreadable(&app, plan.key()).await;
    let image = completed(&app, &plan).await;
    check_image(&app, &image, &bytes).await;
    let checksum = image["checksum"].as_str();
    let whole = image_store::crc64::labelled(crc64(&bytes));
    assert!(checksum.is_none_or(|checksum| checksum == whole), "{image}");
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn method_depends_on_exact_size() {
    let app = TestApp::with(&SMALL).await;
    let mut keys = Vec::new();
    for (size, kind, parts) in [
        (6 * MIB - 1, "put", 0),
        (6 * MIB, "put", 0),
        (6 * MIB + 1, "multipart", 2),
        (10 * MIB, "multipart", 2),
        (10 * MIB + 1, "multipart", 3),
        (12 * MIB, "multipart", 3),
    ] {
        let (plan, bytes) = (plan(&app, size).await, png(size));
        assert_eq!(plan.0["kind"], kind, "{size}");
        if kind == "put" {
            put(&app, &plan, &bytes).await;
        } else {
            assert_eq!(send_parts(&app, plan.parts(), &bytes, |_| true).await.len(), parts, "{size}");
        }
        check_image(&app, &completed(&app, &plan).await, &bytes).await;
        keys.push(plan.key().to_owned());
    }
    let too_large = refusal(
        request_plan(&app, json!({ "filename": "a.png", "size": 12 * MIB + 1 })).await,
        413,
        "payload_too_large",
    );
    assert!(too_large.await["detail"].as_str().unwrap().contains(&(12 * MIB).to_string()));
    refusal(request_plan(&app, json!({ "filename": "a.png", "size": 0 })).await, 400, "invalid_request").await;
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn sha256_is_signed_and_verified() {
    let app = TestApp::start().await;
    let bytes = fixture("plain.png");
    let plan = plan_for(&app, json!({ "filename": "a.png", "size": bytes.len(), "sha256": SHA256_OF_PLAIN_PNG })).await;
    assert_eq!(plan.0["headers"]["x-amz-checksum-sha256"].as_str().unwrap().len(), 44, "32 bytes in base64");
    put(&app, &plan, &bytes).await;
    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn jpeg_with_late_dimensions_is_accepted() {
    let app = TestApp::start().await;
    let plain = fixture("plain.jpg");
    let segment = [&[0xff, 0xe2, 0xff, 0xff][..], &[0; 65_533]].concat();
    let bytes = [&plain[..2], &segment.repeat(11), &plain[2..]].concat();
    assert!(bytes.len() > 700_000);
    let plan = plan_for(&app, json!({ "filename": "a.jpg", "size": bytes.len() })).await;
    put(&app, &plan, &bytes).await;
    let image = completed(&app, &plan).await;
    assert_eq!((&image["width"], &image["height"]), (&json!(16), &json!(12)));
    check_image(&app, &image, &bytes).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn bytes_must_have_the_format_of_the_key() {
    let app = TestApp::start().await;
    let bytes = fixture("plain.jpg");
    let plan = plan_for(&app, json!({ "filename": "a.png", "content_type": "image/png", "size": bytes.len() })).await;
    assert!(plan.key().ends_with(".png"));
    put(&app, &plan, &bytes).await;
    let refused = refusal(complete(&app, &plan).await, 400, "invalid_file_type").await;
    assert_eq!((&refused["detected"], &refused["accepted"]), (&json!("jpeg"), &json!(["png"])));
    // Both extensions of a format are one.
    let plan = plan_for(&app, json!({ "filename": "a.JPEG", "size": bytes.len() })).await;
    assert!(plan.key().ends_with(".jpeg"));
    put(&app, &plan, &bytes).await;
    assert_eq!(completed(&app, &plan).await["content_type"], "image/jpeg");
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn s3_prefix_is_not_part_of_keys_or_links() {
    let app = TestApp::with(&["--s3-prefix=a/b/", SMALL[0], SMALL[1]]).await;
    let mut objects = Vec::new();
    for size in [100_000, 6 * MIB + 1] {
        let (plan, bytes) = (plan(&app, size).await, png(size));
        assert!(!plan.key().contains('/') && !plan.link("status_url").contains("a/b"), "{}", plan.0);
        if plan.0["kind"] == "put" {
            put(&app, &plan, &bytes).await;
            assert!(app.objects().await.contains(&format!("a/b/{}", plan.incoming())));
        } else {
            send_parts(&app, plan.parts(), &bytes, |_| true).await;
        }
        assert_ne!(status(&app, &plan).await["state"], "complete");
        let image = completed(&app, &plan).await;
        assert_eq!(image["s3_key"], plan.key());
        check_image(&app, &image, &bytes).await;
        objects.push(format!("a/b/{}", plan.key()));
    }
    app.end(&[&objects[0], &objects[1]]).await;
}

#[tokio::test]
async fn urls_and_links_have_configured_addresses() {
    let public = ["--s3-public-endpoint-url=https://s3.example:9443", "--public-url=https://images.example/up"];
    let app = TestApp::behind_faults(&[SMALL[0], "--s3-bucket=images", public[0], public[1]]).await;
    let small = plan(&app, 100).await;
    assert!(small.link("url").starts_with("https://s3.example:9443/images/incoming/"), "{}", small.0);
    let large = plan(&app, 6 * MIB + 1).await;
    for part in large.parts() {
        assert!(part["url"].as_str().unwrap().starts_with("https://s3.example:9443/images/incoming/"), "{part}");
    }
    for (plan, path) in [(&small, "/uploads"), (&large, "/uploads")] {
        for link in ["complete_url", "status_url", "abort_url"] {
            assert!(plan.link(link).starts_with(&format!("https://images.example/up{path}/{}", plan.key())));
        }
        let abort = plan.link("abort_url").strip_prefix("https://images.example/up").unwrap();
        assert_eq!(app.client.delete(app.at(abort)).send().await.unwrap().status(), 204);
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn browser_may_put_to_the_urls() {
    let app = TestApp::with(&SMALL).await;
    let (small, large) = (plan(&app, 100_000).await, plan(&app, 6 * MIB + 1).await);
    for target in [&small.0, &large.parts()[0]] {
        let names: Vec<&str> = target["headers"].as_object().unwrap().keys().map(String::as_str).collect();
        let preflight = app
            .client
            .request(Method::OPTIONS, target["url"].as_str().unwrap())
            .header("origin", "http://page.example")
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", names.join(","));
        let allowed = preflight.send().await.unwrap();
        assert!(allowed.status().is_success());
        assert_eq!(allowed.headers()["access-control-allow-origin"], "*");
        assert!(allowed.headers()["access-control-allow-methods"].to_str().unwrap().contains("PUT"));
        assert_eq!(allowed.headers()["access-control-allow-headers"], names.join(",").as_str());
    }
    let sent = signed(&app, &small.0).header("origin", "http://page.example").body(png(100_000)).send().await.unwrap();
    assert_eq!(sent.headers()["access-control-allow-origin"], "*");
    completed(&app, &small).await;
    assert_eq!(abort(&app, &large).await.status(), 204);
    app.end(&[small.key()]).await;
}
