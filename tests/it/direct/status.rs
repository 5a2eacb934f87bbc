//! The status of an upload, and how to resume it.

use serde_json::json;

use super::*;
use crate::support::app::png;
use crate::support::faults::{Action, Operation};

#[tokio::test]
async fn put_status_is_waiting_then_verifying_then_complete() {
    let app = TestApp::start().await;
    let (plan, bytes) = (plan(&app, 100_000).await, png(100_000));
    let waiting = status(&app, &plan).await;
    assert_eq!(
        (&waiting["state"], &waiting["kind"], &waiting["size"]),
        (&json!("waiting"), &json!("put"), &json!(100_000))
    );
    assert!(waiting.get("url").is_none() && waiting.get("parts").is_none(), "a PUT is never signed again: {waiting}");
    for link in ["complete_url", "status_url", "abort_url"] {
        assert_eq!(waiting[link], plan.0[link], "the status repeats all links");
    }
    put(&app, &plan, &bytes).await;
    assert_eq!(status(&app, &plan).await["state"], "verifying");
    completed(&app, &plan).await;
    assert_eq!(status(&app, &plan).await["state"], "complete");
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn status_has_urls_for_missing_parts_only() {
    let app = TestApp::with(&SMALL).await;
    let (plan, bytes) = (plan(&app, 11 * MIB).await, png(11 * MIB));
    let waiting = status(&app, &plan).await;
    assert_eq!((&waiting["state"], &waiting["kind"]), (&json!("waiting"), &json!("multipart")));
    assert!(waiting["parts"].as_array().unwrap().iter().all(|part| part["url"].is_string()));

    send_parts(&app, plan.parts(), &bytes, |number| number == 2).await;
    let uploading = status(&app, &plan).await;
    assert_eq!(uploading["state"], "uploading");
    assert!(uploading["expires_at"].is_string());
    let parts = uploading["parts"].as_array().unwrap();
    assert_eq!(send_parts(&app, parts, &bytes, |_| true).await, [1, 3], "the part that has arrived has no URL");

    let arrived = status(&app, &plan).await;
    assert_eq!(arrived["state"], "uploading", "complete_url was not called yet");
    assert!(arrived["parts"].as_array().unwrap().iter().all(|part| part.get("url").is_none()), "{arrived}");
    assert!(arrived.get("expires_at").is_none());
    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    let complete = status(&app, &plan).await;
    assert_eq!(complete["state"], "complete");
    assert!(complete.get("parts").is_none());
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn assembled_upload_is_verifying_until_copied() {
    let app = TestApp::behind_faults(&[SMALL[0], SMALL[1], "--complete-wait=20ms"]).await;
    let (plan, bytes) = (plan(&app, 6 * MIB + 1).await, png(6 * MIB + 1));
    send_parts(&app, plan.parts(), &bytes, |_| true).await;
    app.faults().fail(Operation::Copy, 1..=1, Action::Hold);
    let response = complete(&app, &plan).await;
    assert_eq!(response.headers()["retry-after"], "2");
    let later = answer(response, 202).await;
    assert_eq!(later, json!({ "s3_key": plan.key(), "state": "verifying" }));
    app.faults().wait_for(Operation::Copy, 1).await;
    assert_eq!(status(&app, &plan).await["state"], "verifying");
    check_unreadable(&app, plan.key()).await;
    let busy = abort(&app, &plan).await;
    assert!(busy.headers().contains_key("retry-after"));
    refusal(busy, 409, "verifying").await;
    app.faults().release();
    app.settled().await;
    // On a slow machine, more 202s may follow.
    let image = loop {
        let response = complete(&app, &plan).await;
        if response.status() != 202 {
            break answer(response, 200).await;
        }
        app.settled().await;
    };
    check_image(&app, &image, &bytes).await;
    assert_eq!(app.faults().calls(Operation::Copy), 1);
    app.end(&[plan.key()]).await;
}

/// SeaweedFS lists no parts while it processes CompleteMultipartUpload.
#[tokio::test]
async fn assembled_upload_with_hidden_parts_is_verifying() {
    const NO_PARTS: &str = "<ListPartsResult><IsTruncated>false</IsTruncated></ListPartsResult>";
    let app = TestApp::behind_faults(&SMALL).await;
    let (plan, bytes) = (plan(&app, 6 * MIB + 1).await, png(6 * MIB + 1));
    app.faults().fail_once(Operation::ListParts, Action::Answer(200, NO_PARTS));
    let waiting = status(&app, &plan).await;
    assert_eq!((&waiting["state"], waiting["parts"].as_array().unwrap().len()), (&json!("waiting"), 2));
    send_parts(&app, plan.parts(), &bytes, |_| true).await;
    app.faults().fail_once(Operation::Copy, Action::Hold);
    let watching = async {
        app.faults().wait_for(Operation::Copy, 1).await;
        app.faults().fail_once(Operation::ListParts, Action::Answer(200, NO_PARTS));
        let verifying = status(&app, &plan).await;
        app.faults().release();
        verifying
    };
    let (image, verifying) = tokio::join!(completed(&app, &plan), watching);
    assert_eq!(verifying["state"], "verifying");
    assert!(verifying.get("parts").is_none(), "{verifying}");
    check_image(&app, &image, &bytes).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn aborted_multipart_upload_has_no_status() {
    let app = TestApp::with(&SMALL).await;
    let plan = plan(&app, 6 * MIB + 1).await;
    assert_eq!(abort(&app, &plan).await.status(), 204);
    refusal(app.client.get(app.at(plan.link("status_url"))).send().await.unwrap(), 404, "not_found").await;
    app.end(&[]).await;
}
