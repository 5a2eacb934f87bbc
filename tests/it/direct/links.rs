//! Links are input like any other: altered, they are refused or do no harm, and the original goes on working.

use super::*;
use crate::support::app::{fixture, png};
use serde_json::json;

/// A link with one parameter of its query changed, added (it had none) or removed (`value` is none).
fn altered(link: &str, name: &str, value: Option<&str>) -> String {
    let (path, query) = link.split_once('?').unwrap();
    let pairs = query.split('&').filter(|pair| !pair.starts_with(&format!("{name}=")));
    let new = value.map(|value| format!("{name}={value}"));
    let pairs: Vec<String> = pairs.map(str::to_owned).chain(new).collect();
    format!("{path}?{}", pairs.join("&"))
}

type Alteration<'a> = (&'a str, Option<&'a str>, u16, &'a str);

/// Completes by altered links, which must be refused as said; the object that is there stays.
async fn check_refused(app: &TestApp, plan: &Plan, alterations: &[Alteration<'_>]) {
    let before = app.objects().await;
    for (name, value, status, code) in alterations {
        let link = altered(plan.link("complete_url"), name, *value);
        let refused = refusal(post(app, &link).await, *status, code).await;
        assert!(!refused.to_string().contains("incoming/"), "{refused}");
    }
    assert_eq!(app.objects().await, before);
    check_unreadable(app, plan.key()).await;
}

#[tokio::test]
async fn the_link_of_a_put() {
    let app = TestApp::start().await;
    let bytes = fixture("plain.png");
    let size = bytes.len();
    let wished = json!({ "filename": "a.png", "size": size, "sha256": SHA256_OF_PLAIN_PNG });
    let plan = plan_for(&app, wished).await;
    put(&app, &plan, &bytes).await;
    let (over, under) = ((size + 1).to_string(), (size - 1).to_string());
    let other = "0".repeat(64);
    let alterations: [Alteration<'_>; 17] = [
        ("size", Some(&over), 400, "invalid_request"),
        ("size", Some(&under), 400, "invalid_request"),
        ("size", Some("0"), 400, "invalid_request"),
        ("size", Some("x"), 400, "invalid_request"),
        ("size", None, 400, "invalid_request"),
        ("size", Some("5000000001"), 413, "payload_too_large"),
        ("content_type", Some("text/html"), 400, "invalid_file_type"),
        ("content_type", Some("image/webp"), 400, "invalid_file_type"),
        ("content_type", None, 400, "invalid_request"),
        ("sha256", Some(&other), 400, "invalid_request"),
        ("sha256", Some("12"), 400, "invalid_request"),
        ("upload_id", Some("00000000-0000-4000-8000-000000000000"), 400, "invalid_request"),
        ("part_size", Some("5242880"), 400, "invalid_request"),
        ("part_size", Some("0"), 400, "invalid_request"),
        ("key", Some("other"), 400, "invalid_request"),
        ("size", Some(""), 400, "invalid_request"),
        ("size", Some("%ff"), 400, "invalid_request"),
    ];
    check_refused(&app, &plan, &alterations).await;

    // These lose what the plan said, and nothing else: the bytes tell their type, and S3 has checked the digest.
    for (name, value) in [("content_type", Some("image/jpeg")), ("sha256", None)] {
        let image = answer(post(&app, &altered(plan.link("complete_url"), name, value)).await, 200).await;
        assert_eq!(image["content_type"], "image/png");
    }
    let image = completed(&app, &plan).await;
    check_image(&app, &image, &bytes).await;
    refusal(post(&app, &altered(plan.link("complete_url"), "size", Some(&over))).await, 400, "invalid_request").await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn the_link_of_a_multipart_upload() {
    let app = TestApp::with(&SMALL).await;
    let (size, sha256) = (11 * MIB, "0".repeat(64));
    let (plan, other, bytes) = (plan(&app, size).await, plan(&app, size).await, png(size));
    send_parts(&app, plan.parts(), &bytes, |_| true).await;
    let (over, under, less) = ((size + 1).to_string(), (size - 1).to_string(), (10 * MIB).to_string());
    let alterations: [Alteration<'_>; 15] = [
        ("size", Some(&over), 409, "parts_missing"),
        ("size", Some(&under), 409, "parts_missing"),
        ("size", Some(&less), 409, "parts_unexpected"),
        ("size", Some("12582913"), 413, "payload_too_large"),
        ("part_size", Some("6291456"), 409, "parts_missing"),
        ("part_size", Some("5242879"), 400, "invalid_request"),
        ("part_size", Some("18446744073709551615"), 409, "parts_missing"),
        ("part_size", None, 400, "invalid_request"),
        ("upload_id", Some("00000000-0000-4000-8000-000000000000"), 404, "not_found"),
        ("upload_id", Some("..%2F..%2Fetc"), 404, "not_found"),
        ("upload_id", Some(other.link("upload_id")), 404, "not_found"),
        ("upload_id", Some(""), 400, "invalid_request"),
        ("upload_id", None, 400, "invalid_request"),
        ("content_type", Some("text/html"), 400, "invalid_file_type"),
        ("sha256", Some(&sha256), 400, "invalid_request"),
    ];
    check_refused(&app, &plan, &alterations).await;

    let get = |link: String| app.client.get(app.at(&link)).send();
    let elsewhere = altered(plan.link("status_url"), "upload_id", Some(other.link("upload_id")));
    refusal(get(elsewhere.clone()).await.unwrap(), 404, "not_found").await;
    let resized = answer(get(altered(plan.link("status_url"), "size", Some(&under))).await.unwrap(), 200).await;
    assert_eq!(resized["state"], "uploading");
    // An upload of another key is not there to be aborted.
    assert_eq!(app.client.delete(app.at(&elsewhere)).send().await.unwrap().status(), 204);
    assert_eq!(status(&app, &other).await["state"], "waiting");

    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    assert_eq!(abort(&app, &other).await.status(), 204);
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn a_key_that_is_none_is_not_there() {
    let app = TestApp::start().await;
    let plan = plan(&app, 100_000).await;
    put(&app, &plan, &png(100_000)).await;
    for key in ["..%2F..%2Fa.png", "incoming%2Fa.png", "00000000-0000-4000-8000-000000000000.png", "%ff.png"] {
        let link = plan.link("complete_url").replace(plan.key(), key);
        refusal(post(&app, &link).await, 404, "not_found").await;
    }
    completed(&app, &plan).await;
    app.end(&[plan.key()]).await;
}
