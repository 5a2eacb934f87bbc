//! A deleted image or an aborted upload never comes back, even if another process was promoting it.

use super::*;
use crate::support::app::png;
use crate::support::faults::{Action, Operation};

async fn delete(app: &TestApp, base: &str, plan: &Plan) -> u16 {
    app.client.delete(format!("{base}/delete/{}", plan.key())).send().await.unwrap().status().as_u16()
}

/// Holds a complete at its first call of `operation` until `meanwhile` is done in another process.
async fn held<T>(
    app: &TestApp,
    plan: &Plan,
    operation: Operation,
    meanwhile: impl Future<Output = T>,
) -> (Response, T) {
    app.faults().fail_once(operation, Action::Hold);
    let calls = app.faults().calls(operation) + 1;
    let work = async {
        app.faults().wait_for(operation, calls).await;
        let done = meanwhile.await;
        app.faults().release();
        done
    };
    tokio::join!(complete(app, plan), work)
}

#[tokio::test]
async fn abort_in_another_process_stops_promotion_at_every_step() {
    for operation in [Operation::Head, Operation::Get, Operation::Create, Operation::Copy, Operation::Complete] {
        let app = TestApp::behind_faults(&["--s3-timeout=30s"]).await;
        let other = app.another().await;
        let plan = plan(&app, 100_000).await;
        put(&app, &plan, &png(100_000)).await;
        let abort = async { app.client.delete(format!("{other}{}", plan.link("abort_url"))).send().await.unwrap() };
        let (response, aborted) = held(&app, &plan, operation, abort).await;
        assert_eq!(aborted.status(), 204, "{operation:?}");
        refusal(response, 404, "not_found").await;
        check_unreadable(&app, plan.key()).await;
        refusal(complete(&app, &plan).await, 404, "not_found").await;
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn deleted_image_is_not_restored_by_put_or_promotion() {
    for operation in [Operation::Head, Operation::Get, Operation::Create, Operation::Copy, Operation::Complete] {
        let app = TestApp::behind_faults(&["--s3-timeout=30s"]).await;
        let other = app.another().await;
        let plan = plan(&app, 100_000).await;
        put(&app, &plan, &png(100_000)).await;
        let overtaken = async {
            let response = app.client.post(format!("{other}{}", plan.link("complete_url"))).send().await.unwrap();
            answer(response, 200).await;
            delete(&app, &other, &plan).await
        };
        let (late, deleted) = held(&app, &plan, operation, overtaken).await;
        assert_eq!(deleted, 200, "{operation:?}");
        refusal(late, 404, "not_found").await;
        let again = signed(&app, &plan.0).body(png(100_000)).send().await.unwrap();
        assert_eq!(again.status(), 412, "the plan's URL must not work again");
        refusal(complete(&app, &plan).await, 404, "not_found").await;
        check_unreadable(&app, plan.key()).await;
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn delete_before_complete_is_404_and_ends_the_upload() {
    let app = TestApp::start().await;
    let plan = plan(&app, 100_000).await;
    assert_eq!(delete(&app, &app.url, &plan).await, 404);
    put(&app, &plan, &png(100_000)).await;
    assert_eq!(delete(&app, &app.url, &plan).await, 404);
    let over = refusal(complete(&app, &plan).await, 404, "not_found").await;
    assert!(over["detail"].as_str().unwrap().contains("aborted, or its image was deleted"), "{over}");
    app.end(&[]).await;
}

#[tokio::test]
async fn failed_delete_can_be_retried() {
    for operation in [Operation::Head, Operation::Put, Operation::ListUploads, Operation::Delete] {
        let app = TestApp::behind_faults(&[]).await;
        let plan = plan(&app, 100_000).await;
        put(&app, &plan, &png(100_000)).await;
        completed(&app, &plan).await;
        app.faults().fail_all(operation, Action::Status(500));
        assert_eq!(delete(&app, &app.url, &plan).await, 500, "{operation:?}");
        app.faults().heal();
        assert_eq!(delete(&app, &app.url, &plan).await, 200, "{operation:?}");
        assert_eq!(delete(&app, &app.url, &plan).await, 404, "{operation:?}");
        app.end(&[]).await;
    }
}
