//! Aborted uploads, and clients that disconnect.

use serde_json::json;

use super::*;
use crate::support::app::{png, until};
use crate::support::faults::{Action, Operation};
use crate::support::raw::RawClient;

#[tokio::test]
async fn aborted_upload_is_gone() {
    let app = TestApp::with(&SMALL).await;
    let small = plan(&app, 100_000).await;
    put(&app, &small, &png(100_000)).await;
    let large = plan(&app, 11 * MIB).await;
    send_parts(&app, large.parts(), &png(11 * MIB), |number| number < 3).await;
    let unsent = plan(&app, 100_000).await;
    for plan in [&small, &large, &unsent] {
        assert_eq!(abort(&app, plan).await.status(), 204);
        assert_eq!(abort(&app, plan).await.status(), 204, "again");
        refusal(complete(&app, plan).await, 404, "not_found").await;
        check_unreadable(&app, plan.key()).await;
    }
    let late = signed(&app, &large.parts()[2]).body(vec![0; MIB]).send().await.unwrap();
    assert_eq!(late.status(), 404, "parts are rejected after the abort");
    app.end(&[]).await;
}

#[tokio::test]
async fn complete_upload_cannot_be_aborted() {
    let app = TestApp::with(&SMALL).await;
    let (small, large) = (plan(&app, 100_000).await, plan(&app, 6 * MIB + 1).await);
    put(&app, &small, &png(100_000)).await;
    send_parts(&app, large.parts(), &png(6 * MIB + 1), |_| true).await;
    for plan in [&small, &large] {
        let image = completed(&app, plan).await;
        let refused = refusal(abort(&app, plan).await, 409, "already_complete").await;
        assert!(refused["detail"].as_str().unwrap().contains("DELETE /delete/"), "{refused}");
        assert_eq!(app.client.get(image["url"].as_str().unwrap()).send().await.unwrap().status(), 200);
    }
    app.end(&[small.key(), large.key()]).await;
}

#[tokio::test]
async fn abort_removes_assembled_upload() {
    let app = TestApp::behind_faults(&SMALL).await;
    let plan = plan(&app, 6 * MIB + 1).await;
    send_parts(&app, plan.parts(), &png(6 * MIB + 1), |_| true).await;
    app.faults().fail_all(Operation::Get, Action::Status(403));
    refusal(complete(&app, &plan).await, 500, "storage_failed").await;
    assert_eq!(app.objects().await.into_iter().collect::<Vec<_>>(), [plan.incoming()]);
    assert_eq!(abort(&app, &plan).await.status(), 204);
    app.end(&[]).await;
}

#[tokio::test]
async fn abort_waits_for_running_complete() {
    let app = TestApp::behind_faults(&[]).await;
    let plan = plan(&app, 100_000).await;
    put(&app, &plan, &png(100_000)).await;
    app.faults().fail(Operation::Copy, 1..=1, Action::Hold);
    let release = async {
        app.faults().wait_for(Operation::Copy, 1).await;
        let heads = app.faults().calls(Operation::Head);
        let aborting = abort(&app, &plan);
        let later = async {
            for _ in 0..3 {
                assert_eq!(app.client.get(app.at("/healthz")).send().await.unwrap().status(), 200);
            }
            assert_eq!(app.faults().calls(Operation::Head), heads, "the abort must wait for the complete");
            app.faults().release();
        };
        tokio::join!(aborting, later).0
    };
    let (completed, aborted) = tokio::join!(complete(&app, &plan), release);
    answer(completed, 200).await;
    refusal(aborted, 409, "already_complete").await;
    app.end(&[plan.key()]).await;
}

/// Requests a multipart plan and leaves before the response.
async fn request_and_hold(app: &TestApp) -> RawClient {
    app.faults().fail(Operation::Create, 1..=1, Action::Hold);
    let body = json!({ "filename": "a.png", "size": 6 * MIB + 1 }).to_string();
    let mut client = RawClient::connect(app.address()).await;
    let head = "POST /uploads HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    client.send(format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
    app.faults().wait_for(Operation::Create, 1).await;
    client
}

async fn check_aborted(app: &TestApp) {
    app.faults().release();
    app.faults().wait_for(Operation::Abort, 1).await;
    until("the upload is aborted", || app.app.uploads.open() == 0).await;
}

#[tokio::test]
async fn plan_of_disconnected_client_leaves_no_upload() {
    let app = TestApp::behind_faults(&SMALL).await;
    request_and_hold(&app).await.reset();
    // The service has noticed the closed connection once it has answered later requests.
    for _ in 0..3 {
        assert_eq!(app.client.get(app.at("/healthz")).send().await.unwrap().status(), 200);
    }
    check_aborted(&app).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn plan_after_deadline_leaves_no_upload() {
    let app = TestApp::behind_faults(&[SMALL[0], SMALL[1], "--request-timeout=200ms"]).await;
    let mut client = request_and_hold(&app).await;
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("deadline"), "{answer}");
    check_aborted(&app).await;
    app.end(&[]).await;
}
