//! Direct uploads of images as real programs write them.

use super::*;
use crate::support::app::fixture;

/// Sends the file that a plan is for, and completes the upload.
async fn uploaded(app: &TestApp, plan: &Plan, bytes: &[u8]) -> Value {
    assert!(signed(app, &plan.0).body(bytes.to_vec()).send().await.unwrap().status().is_success());
    answer(app.client.post(app.at(plan.link("complete_url"))).send().await.unwrap(), 200).await
}

/// Builds a grey TIFF whose directory follows the pixels, as libtiff and ImageMagick write it.
fn tiff(width: u32, height: u32) -> Vec<u8> {
    let entry = |tag: u16, value: u32| [&tag.to_le_bytes()[..], &[4, 0, 1, 0, 0, 0], &value.to_le_bytes()].concat();
    let directory = [&[2, 0][..], &entry(256, width), &entry(257, height), &[0; 4]].concat();
    let size = width * height;
    [b"II*\0", &(size + 8).to_le_bytes()[..], &vec![0; size as usize], &directory].concat()
}

#[tokio::test]
async fn direct_upload_reads_tiff_directory_at_the_end() {
    let app = TestApp::with(&["--allowed-formats=tiff", "--header-scan-limit=1MiB"]).await;
    let image = tiff(1500, 1000);
    let refused = refusal(app.upload("scan.tif", image.clone()).await, 400, "invalid_file_type").await;
    assert!(refused["hint"].as_str().unwrap().contains("direct uploads"), "{refused}");

    let plan = plan_for(&app, json!({ "filename": "scan.tif", "size": image.len() })).await;
    let stored = uploaded(&app, &plan, &image).await;
    assert_eq!(
        (&stored["width"], &stored["height"], &stored["content_type"]),
        (&1500.into(), &1000.into(), &"image/tiff".into())
    );
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn plan_needs_only_name_and_empty_type() {
    let app = TestApp::with(&["--allowed-formats=jpg,heic"]).await;
    let mut keys = Vec::new();
    for (filename, file, extension) in [
        ("IMG_1.heic", "plain.heic", ".heic"),
        ("DSC0001.HIF", "plain.heic", ".heic"),
        ("photo.jfif", "plain.jpg", ".jpg"),
    ] {
        let image = fixture(file);
        let plan = plan_for(&app, json!({ "filename": filename, "content_type": "", "size": image.len() })).await;
        assert!(plan.key().ends_with(extension), "{filename}: {}", plan.key());
        uploaded(&app, &plan, &image).await;
        keys.push(plan.key().to_owned());
    }
    let unknown = request_plan(&app, json!({ "filename": "photo", "content_type": "", "size": 1 })).await;
    refusal(unknown, 400, "invalid_file_type").await;
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn status_has_etags_of_received_parts() {
    let app = TestApp::with(&SMALL).await;
    let plan = plan(&app, 6 * MIB + 1).await;
    let sent = signed(&app, &plan.parts()[0]).body(crate::support::app::png(5 * MIB)).send().await.unwrap();
    let etag = sent.headers()["etag"].to_str().unwrap().to_owned();
    let status = answer(app.client.get(app.at(plan.link("status_url"))).send().await.unwrap(), 200).await;
    let etags: Vec<&Value> = status["parts"].as_array().unwrap().iter().map(|part| &part["etag"]).collect();
    let unquoted = |text: &str| text.trim_matches('"').to_owned();
    assert_eq!((unquoted(etags[0].as_str().unwrap()), etags[1]), (unquoted(&etag), &Value::Null));
    assert_eq!(app.client.delete(app.at(plan.link("abort_url"))).send().await.unwrap().status(), 204);
    app.end(&[]).await;
}

#[tokio::test]
async fn plan_errors_name_no_rust_types() {
    let app = TestApp::start().await;
    for body in ["[]", "{\"filename\":\"a.png\",\"size\":\"1\"}", "{\"size\":1}", "{", "null"] {
        let request = app.client.post(app.at("/uploads")).header("content-type", "application/json").body(body);
        let refused = refusal(request.send().await.unwrap(), 400, "invalid_request").await;
        let detail = refused["detail"].as_str().unwrap();
        for rust in ["UploadRequest", "struct", "u64", "target type"] {
            assert!(!detail.contains(rust), "{body}: {detail}");
        }
    }
    app.end(&[]).await;
}
