//! Sizes and parts: S3 does not limit what is sent to the parts' URLs, so the service checks them before it joins the parts.

use super::*;

const SMALL: [&str; 1] = ["--max-upload-size=6MiB"];

#[tokio::test]
async fn file_that_is_too_large_is_refused_before_its_parts_are_joined() {
    let app = TestApp::with(&SMALL).await;
    let uppy = Uppy::of(&app);
    let started = uppy.start().await;
    let parts = uppy.send_parts(&started, &png(6 * MIB + 1)).await;
    let refusal = refused(uppy.complete(&started, &parts).await, 413, "payload_too_large").await;
    assert!(refusal["message"].as_str().unwrap().contains("6291456"), "{refusal}");
    // The upload is closed: nothing more can be sent to its URLs.
    assert!(app.store.unfinished_uploads().await.unwrap().is_empty());
    refused(uppy.complete(&started, &parts).await, 404, "not_found").await;
    app.end(&[]).await;
}

#[tokio::test]
async fn one_part_that_is_too_large_is_refused() {
    let app = TestApp::with(&SMALL).await;
    let uppy = Uppy::of(&app);
    let started = uppy.start().await;
    let part = uppy.send_part(&started, 1, &png(6 * MIB + 1)).await;
    refused(uppy.complete(&started, &json!([part])).await, 413, "payload_too_large").await;
    app.end(&[]).await;
}

#[tokio::test]
async fn number_of_parts_is_limited_by_the_size() {
    let app = TestApp::with(&SMALL).await;
    let uppy = Uppy::of(&app);
    let started = uppy.start().await;
    ok(uppy.sign(&started, 2).await).await;
    refused(uppy.sign(&started, 3).await, 413, "payload_too_large").await;
    refused(uppy.sign(&started, 10_001).await, 413, "payload_too_large").await;
    for bad in ["0", "-1", "x", "1.5", "99999999999"] {
        let asked = uppy.of_upload(Method::GET, &started, &format!("/{bad}")).send().await.unwrap();
        refused(asked, 400, "invalid_request").await;
    }
    ok(uppy.abort(&started).await).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn parts_must_be_those_that_the_client_reports() {
    let app = TestApp::start().await;
    let (uppy, bytes) = (Uppy::of(&app), png(PART + 7));
    let started = uppy.start().await;
    let first = uppy.send_part(&started, 1, &bytes[..PART]).await;
    let missing =
        refused(uppy.complete(&started, &json!([first, { "PartNumber": 2, "ETag": "x" }])).await, 409, "parts_missing")
            .await;
    assert_eq!(missing["parts"], json!([2]));
    let second = uppy.send_part(&started, 2, &bytes[PART..]).await;
    let unexpected = refused(uppy.complete(&started, &json!([first])).await, 409, "parts_unexpected").await;
    assert_eq!(unexpected["parts"], json!([2]));
    let other = json!([first, { "PartNumber": 2, "ETag": first["ETag"] }]);
    assert_eq!(refused(uppy.complete(&started, &other).await, 409, "parts_missing").await["parts"], json!([2]));
    for bad in [json!([]), json!([second]), json!([first, first, second])] {
        refused(uppy.complete(&started, &bad).await, 400, "invalid_request").await;
    }
    // Nothing of this ends the upload. The order does not matter.
    let image = ok(uppy.complete(&started, &json!([second, first])).await).await;
    check_image(&app, &image["location"], &started.key, &bytes).await;
    app.end(&[&started.key]).await;
}

#[tokio::test]
async fn only_the_last_part_may_be_small() {
    let app = TestApp::start().await;
    let uppy = Uppy::of(&app);
    let started = uppy.start().await;
    let parts = [uppy.send_part(&started, 1, &png(1_000)).await, uppy.send_part(&started, 2, &png(1_000)).await];
    let refusal = refused(uppy.complete(&started, &json!(parts)).await, 400, "invalid_request").await;
    assert!(refusal["message"].as_str().unwrap().contains("part 1"), "{refusal}");
    ok(uppy.abort(&started).await).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn bytes_of_another_type_are_refused_and_the_upload_is_over() {
    let app = TestApp::start().await;
    for bytes in [crate::support::app::fixture("plain.gif"), b"no image at all".to_vec()] {
        let uppy = Uppy::of(&app);
        let started = uppy.start().await;
        let parts = uppy.send_parts(&started, &bytes).await;
        let refusal = refused(uppy.complete(&started, &parts).await, 400, "invalid_file_type").await;
        assert_eq!(refusal["message"], "Invalid file type");
        let over = refused(uppy.complete(&started, &parts).await, 404, "not_found").await;
        assert!(over["message"].as_str().unwrap().contains("rejected (invalid_file_type)"), "{over}");
        refused(uppy.list(&started).await, 404, "not_found").await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn report_of_the_largest_image_is_accepted() {
    let app = TestApp::start().await;
    let uppy = Uppy::of(&app);
    let started = uppy.start().await;
    uppy.send_part(&started, 1, &png(1_000)).await;
    let parts = |count: u32| -> Value {
        (1..=count)
            .map(|number| json!({ "PartNumber": number, "ETag": "\"9a0364b9e99bb480dd25e1f0284c8555\"" }))
            .collect()
    };
    let missing = refused(uppy.complete(&started, &parts(954)).await, 409, "parts_missing").await;
    assert_eq!(missing["parts"].as_array().unwrap().len(), 954);
    refused(uppy.complete(&started, &parts(3_000)).await, 400, "invalid_request").await;
    for bad in ["{}", "[]", "{\"parts\":1}", "{\"parts\":[{}]}", "x"] {
        let request = uppy.of_upload(Method::POST, &started, "/complete").header("content-type", "application/json");
        refused(request.body(bad).send().await.unwrap(), 400, "invalid_request").await;
    }
    ok(uppy.abort(&started).await).await;
    app.end(&[]).await;
}
