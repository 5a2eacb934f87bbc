//! A store that fails or does not answer causes no false success, and a later complete succeeds.

use super::*;
use crate::support::app::png;
use crate::support::faults::{Action, Operation};

#[tokio::test]
async fn copy_with_lost_response_is_retried() {
    let app = TestApp::behind_faults(&[]).await;
    let (plan, bytes) = (plan(&app, 100_000).await, png(100_000));
    put(&app, &plan, &bytes).await;
    app.faults().fail_all(Operation::Copy, Action::LoseAnswer);
    refusal(complete(&app, &plan).await, 500, "storage_failed").await;
    check_unreadable(&app, plan.key()).await;
    app.faults().heal();
    app.faults().fail_once(Operation::Copy, Action::LoseAnswer);
    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn lost_response_to_final_complete_is_a_success() {
    for lost in [1..=1, 1..=usize::MAX] {
        let app = TestApp::behind_faults(&[]).await;
        let (plan, bytes) = (plan(&app, 100_000).await, png(100_000));
        put(&app, &plan, &bytes).await;
        app.faults().fail(Operation::Complete, lost, Action::LoseAnswer);
        check_image(&app, &completed(&app, &plan).await, &bytes).await;
        app.end(&[plan.key()]).await;
    }
}

#[tokio::test]
async fn rejection_is_returned_if_marker_cannot_be_written() {
    let app = TestApp::behind_faults(&[]).await;
    let plan = plan(&app, 1_000).await;
    put(&app, &plan, &[b'x'; 1_000]).await;
    app.faults().fail_all(Operation::Put, Action::Status(500));
    for _ in 0..2 {
        refusal(complete(&app, &plan).await, 400, "invalid_file_type").await;
    }
    app.faults().heal();
    refusal(complete(&app, &plan).await, 400, "invalid_file_type").await;
    refusal(complete(&app, &plan).await, 404, "not_found").await;
    app.end(&[]).await;
}

#[tokio::test]
async fn lost_response_to_assembly_is_a_success() {
    for lost in [1..=1, 1..=usize::MAX] {
        let app = TestApp::behind_faults(&SMALL).await;
        let (plan, bytes) = (plan(&app, 6 * MIB + 1).await, png(6 * MIB + 1));
        send_parts(&app, plan.parts(), &bytes, |_| true).await;
        app.faults().fail(Operation::Complete, lost, Action::LoseAnswer);
        check_image(&app, &completed(&app, &plan).await, &bytes).await;
        app.end(&[plan.key()]).await;
    }
}

async fn fails_and_works_later(operation: Operation) {
    let app = TestApp::behind_faults(&SMALL).await;
    let (plan, bytes) = (plan(&app, 6 * MIB + 1).await, png(6 * MIB + 1));
    send_parts(&app, plan.parts(), &bytes, |_| true).await;
    app.faults().fail_all(operation, Action::Status(500));
    let refused = refusal(complete(&app, &plan).await, 500, "storage_failed").await;
    assert!(!refused.to_string().contains("InternalError"), "the store's error must not be shown: {refused}");
    app.faults().heal();
    check_unreadable(&app, plan.key()).await;
    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn complete_fails_once_if_head_fails() {
    fails_and_works_later(Operation::Head).await;
}

#[tokio::test]
async fn complete_fails_once_if_list_parts_fails() {
    fails_and_works_later(Operation::ListParts).await;
}

#[tokio::test]
async fn complete_fails_once_if_assembly_fails() {
    fails_and_works_later(Operation::Complete).await;
}

#[tokio::test]
async fn complete_fails_once_if_read_fails() {
    fails_and_works_later(Operation::Get).await;
}

#[tokio::test]
async fn complete_fails_once_if_copy_fails() {
    fails_and_works_later(Operation::Copy).await;
}

#[tokio::test]
async fn next_complete_writes_the_missing_marker() {
    let app = TestApp::behind_faults(&[]).await;
    let (plan, bytes) = (plan(&app, 100_000).await, png(100_000));
    put(&app, &plan, &bytes).await;
    app.faults().fail_all(Operation::Put, Action::Status(500));
    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    assert_eq!(app.objects().await.len(), 2);
    app.faults().heal();
    completed(&app, &plan).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn complete_fails_if_store_hangs() {
    let app = TestApp::behind_faults(&["--s3-timeout=200ms"]).await;
    let (plan, bytes) = (plan(&app, 100_000).await, png(100_000));
    put(&app, &plan, &bytes).await;
    app.faults().fail_all(Operation::Get, Action::Hang);
    refusal(complete(&app, &plan).await, 500, "storage_failed").await;
    app.faults().heal();
    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn multipart_plan_fails_if_store_fails() {
    let app = TestApp::behind_faults(&SMALL).await;
    app.faults().fail_all(Operation::Create, Action::Status(503));
    let request = serde_json::json!({ "filename": "a.png", "size": 6 * MIB + 1 });
    refusal(request_plan(&app, request).await, 500, "storage_failed").await;
    app.end(&[]).await;
}

#[tokio::test]
async fn failed_abort_can_be_retried() {
    let app = TestApp::behind_faults(&SMALL).await;
    let plan = plan(&app, 6 * MIB + 1).await;
    app.faults().fail_all(Operation::Abort, Action::Status(500));
    refusal(abort(&app, &plan).await, 500, "storage_failed").await;
    app.faults().heal();
    assert_eq!(abort(&app, &plan).await.status(), 204);
    app.end(&[]).await;
}

#[tokio::test]
async fn unknown_uploads_are_aborted_after_the_image_exists() {
    for (action, at_once) in [(Action::LoseAnswer, 3), (Action::Late, 0)] {
        let app = TestApp::behind_faults(&["--s3-timeout=300ms"]).await;
        let (plan, bytes) = (plan(&app, 100_000).await, png(100_000));
        put(&app, &plan, &bytes).await;
        app.faults().fail_all(Operation::Create, action);
        refusal(complete(&app, &plan).await, 500, "storage_failed").await;
        assert_eq!(app.faults().calls(Operation::Create), 3);
        // Until then they may belong to another process that is about to create the image.
        app.faults().wait_for(Operation::Head, app.faults().calls(Operation::Head) + 2).await;
        assert_eq!(app.store.unfinished_uploads().await.unwrap().len(), at_once);
        assert_eq!(app.faults().calls(Operation::Abort), 0);

        app.faults().heal();
        check_image(&app, &completed(&app, &plan).await, &bytes).await;
        app.faults().release();
        app.faults().wait_for(Operation::Abort, 3).await;
        app.end(&[plan.key()]).await;
    }
}
