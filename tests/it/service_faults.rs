//! The service with a failing store: which calls are retried, what the client is answered, and that nothing is left.

use std::time::{Duration, Instant};

use image_store::tasks::MAX_TASKS;

use super::support::app::{TestApp, png};
use super::support::faults::{Action, Faults, Operation};
use super::support::raw::{RawClient, form, head, s3_key};

const MIB: usize = 1 << 20;

async fn start() -> (TestApp, Faults) {
    let mut app = TestApp::behind_faults(&["--s3-timeout=1s"]).await;
    let faults = app.faults.take().unwrap();
    (app, faults)
}

async fn status_and_body(answer: reqwest::Response) -> (u16, serde_json::Value) {
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn failed_part_is_sent_again() {
    let (app, faults) = start().await;
    faults.fail(Operation::UploadPart, 2..=2, Action::Status(503));
    let (status, answer) = status_and_body(app.upload("a.png", png(12 * MIB)).await).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(faults.calls(Operation::UploadPart), 4);
    app.end(&[answer["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn failing_store_is_500_and_leaves_nothing() {
    for (operation, size) in [
        (Operation::Put, MIB),
        (Operation::Create, 12 * MIB),
        (Operation::UploadPart, 12 * MIB),
        (Operation::Complete, 12 * MIB),
    ] {
        let (app, faults) = start().await;
        faults.fail_all(operation, Action::Status(500));
        let (status, answer) = status_and_body(app.upload("a.png", png(size)).await).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), (500, "storage_failed"), "{operation:?}");
        // Three attempts a call. Up to three parts are sent at once.
        let most = if operation == Operation::UploadPart { 9 } else { 3 };
        assert!((3..=most).contains(&faults.calls(operation)), "{operation:?}: {}", faults.calls(operation));
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn hanging_store_is_timed_out_and_leaves_nothing() {
    for (operation, size) in [(Operation::Put, MIB), (Operation::UploadPart, 12 * MIB)] {
        let (app, faults) = start().await;
        faults.fail_all(operation, Action::Hang);
        let (status, answer) = status_and_body(app.upload("a.png", png(size)).await).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), (500, "storage_failed"), "{operation:?}");
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn complete_with_lost_response_succeeds_without_second_upload() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::Complete, Action::LoseAnswer);
    let (status, answer) = status_and_body(app.upload("a.png", png(12 * MIB)).await).await;
    assert_eq!(status, 200, "{answer}");
    assert!(faults.calls(Operation::Head) >= 1, "the service must look for the object");
    assert_eq!(faults.calls(Operation::Create), 1);
    app.end(&[answer["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn put_with_lost_response_succeeds() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::Put, Action::LoseAnswer);
    let (status, answer) = status_and_body(app.upload("a.png", png(MIB)).await).await;
    assert_eq!(status, 200, "{answer}");
    app.end(&[answer["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn complete_denied_after_success_deletes_object() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::Complete, Action::LoseAnswer);
    faults.fail_all(Operation::Head, Action::Status(500));
    let (status, answer) = status_and_body(app.upload("a.png", png(12 * MIB)).await).await;
    assert_eq!((status, answer["code"].as_str().unwrap()), (500, "storage_failed"));
    app.end(&[]).await;
}

#[tokio::test]
async fn failed_abort_is_retried() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::UploadPart, Action::Status(500));
    // Every attempt of the first two calls.
    faults.fail(Operation::Abort, 1..=6, Action::Status(500));
    let (status, _) = status_and_body(app.upload("a.png", png(12 * MIB)).await).await;
    assert_eq!(status, 500);
    faults.wait_for(Operation::Abort, 7).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn new_uploads_are_503_while_too_many_clean_ups_run() {
    let app = TestApp::with(&["--direct-put-max=1MiB"]).await;
    let (end, ended) = tokio::sync::watch::channel(());
    for _ in 0..MAX_TASKS {
        let mut ended = ended.clone();
        app.app.uploads.tasks().spawn(async move { drop(ended.changed().await) });
    }
    let request = serde_json::json!({ "filename": "a.png", "size": 12 * MIB });
    let plan = app.client.post(app.at("/uploads")).json(&request).send();
    for refused in [app.upload("a.png", png(MIB)).await, plan.await.unwrap()] {
        assert!(refused.headers().contains_key("retry-after"));
        let (status, answer) = status_and_body(refused).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), (503, "over_capacity"));
    }
    drop(end);
    app.settled().await;
    let (status, answer) = status_and_body(app.upload("a.png", png(MIB)).await).await;
    assert_eq!(status, 200, "{answer}");
    app.end(&[answer["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn disconnect_while_parts_hang_aborts_at_once() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::UploadPart, Action::Hang);
    let body = form("a.png", &png(40 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..12 * MIB]).await;
    faults.wait_for(Operation::UploadPart, 2).await;
    let left = Instant::now();
    drop(client);
    faults.wait_for(Operation::Abort, 1).await;
    assert!(left.elapsed() < Duration::from_millis(900), "before a part's timeout: {:?}", left.elapsed());
    app.end(&[]).await;
}

#[tokio::test]
async fn reset_during_final_call_deletes_object() {
    for (operation, size) in [(Operation::Put, MIB), (Operation::Complete, 12 * MIB)] {
        let (app, faults) = start().await;
        faults.fail_all(operation, Action::Delay(Duration::from_millis(300)));
        let body = form("a.png", &png(size));
        let mut client = RawClient::connect(app.address()).await;
        client.send(head(body.len(), "")).await;
        client.send(&body).await;
        faults.wait_for(operation, 1).await;
        client.reset();
        faults.wait_for(Operation::Delete, 1).await;
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn half_closed_client_is_answered() {
    for (operation, size) in [(Operation::Put, MIB), (Operation::Complete, 12 * MIB)] {
        let (app, faults) = start().await;
        faults.fail_all(operation, Action::Hold);
        let body = form("a.png", &png(size));
        let mut client = RawClient::connect(app.address()).await;
        client.send(head(body.len(), "")).await;
        client.send(&body).await;
        client.finish().await;
        faults.wait_for(operation, 1).await;
        faults.release();
        let answer = client.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        app.end(&[&s3_key(&answer)]).await;
    }
}

#[tokio::test]
async fn client_that_closes_after_whole_request_keeps_its_image() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::Put, Action::Hold);
    let body = form("a.png", &png(MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "")).await;
    client.send(&body).await;
    faults.wait_for(Operation::Put, 1).await;
    drop(client);
    faults.release();
    app.settled().await;
    let stored: Vec<String> = app.objects().await.into_iter().collect();
    assert_eq!(stored.len(), 1, "an upload that was sent completely is stored");
    app.end(&[&stored[0]]).await;
}

#[tokio::test]
async fn store_failure_is_answered_before_the_body_ends() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::UploadPart, Action::Status(500));
    // Clean-up takes a while, and the answer does not wait for it.
    faults.fail_all(Operation::Abort, Action::Hang);
    let body = form("a.png", &png(40 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..12 * MIB]).await;
    // The client sends no more and stays connected. The answer must still arrive well before the idle timeout.
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("storage_failed"), "{answer}");
    assert_eq!(app.app.uploads.open(), 1, "the upload is still being cleaned up");
    faults.heal();
    drop(client);
    app.end(&[]).await;
}

#[tokio::test]
async fn readyz_is_503_while_the_store_fails() {
    let (app, faults) = start().await;
    let ready = async || status_and_body(app.client.get(app.at("/readyz")).send().await.unwrap()).await;
    faults.fail_all(Operation::HeadBucket, Action::Status(503));
    let (status, answer) = ready().await;
    assert_eq!((status, answer["code"].as_str().unwrap()), (503, "not_ready"));
    assert_eq!(answer["detail"], "The service is not ready: the store returned an error");
    faults.heal();
    // The result is cached for a short time only.
    let deadline = Instant::now() + Duration::from_secs(5);
    while ready().await.0 != 200 {
        assert!(Instant::now() < deadline, "the service must be ready again within 5 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn concurrent_readyz_requests_share_one_store_call() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::HeadBucket, Action::Hold);
    let requests = futures::future::join_all((0..50).map(|_| app.client.get(app.at("/readyz")).send()));
    let release = async {
        faults.wait_for(Operation::HeadBucket, 1).await;
        faults.release();
    };
    let (answers, ()) = tokio::join!(requests, release);
    assert!(answers.into_iter().all(|answer| answer.unwrap().status() == 200));
    assert_eq!(faults.calls(Operation::HeadBucket), 1);
    app.end(&[]).await;
}

#[tokio::test]
async fn readyz_is_503_if_the_store_does_not_answer() {
    for action in [Action::Hang, Action::Break] {
        let (app, faults) = start().await;
        faults.fail_all(Operation::HeadBucket, action);
        let (status, answer) = status_and_body(app.client.get(app.at("/readyz")).send().await.unwrap()).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), (503, "not_ready"));
        assert_eq!(answer["detail"], "The service is not ready: no answer from the store");
        app.end(&[]).await;
    }
}
