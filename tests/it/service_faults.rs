//! The service before a store that fails: what is retried, what the client is told, and that nothing is left.

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

async fn told(answer: reqwest::Response) -> (u16, serde_json::Value) {
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_part_that_is_refused_once_is_sent_again() {
    let (app, faults) = start().await;
    faults.fail(Operation::UploadPart, 2..=2, Action::Status(503));
    let (status, answer) = told(app.upload("a.png", png(12 * MIB)).await).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(faults.calls(Operation::UploadPart), 4);
    app.end(&[answer["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn a_store_that_fails_every_time_is_a_500_and_nothing_is_left() {
    for (operation, size) in [
        (Operation::Put, MIB),
        (Operation::Create, 12 * MIB),
        (Operation::UploadPart, 12 * MIB),
        (Operation::Complete, 12 * MIB),
    ] {
        let (app, faults) = start().await;
        faults.fail_all(operation, Action::Status(500));
        let (status, answer) = told(app.upload("a.png", png(size)).await).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), (500, "storage_failed"), "{operation:?}");
        // Three tries a call; of parts, up to three are on their way at once.
        let most = if operation == Operation::UploadPart { 9 } else { 3 };
        assert!((3..=most).contains(&faults.calls(operation)), "{operation:?}: {}", faults.calls(operation));
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn a_store_that_hangs_is_timed_out_and_nothing_is_left() {
    for (operation, size) in [(Operation::Put, MIB), (Operation::UploadPart, 12 * MIB)] {
        let (app, faults) = start().await;
        faults.fail_all(operation, Action::Hang);
        let (status, answer) = told(app.upload("a.png", png(size)).await).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), (500, "storage_failed"), "{operation:?}");
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn a_lost_answer_to_complete_is_found_out_and_makes_no_second_copy() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::Complete, Action::LoseAnswer);
    let (status, answer) = told(app.upload("a.png", png(12 * MIB)).await).await;
    assert_eq!(status, 200, "{answer}");
    assert!(faults.calls(Operation::Head) >= 1, "it looked");
    assert_eq!(faults.calls(Operation::Create), 1);
    app.end(&[answer["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn a_lost_answer_to_put_is_found_out_too() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::Put, Action::LoseAnswer);
    let (status, answer) = told(app.upload("a.png", png(MIB)).await).await;
    assert_eq!(status, 200, "{answer}");
    app.end(&[answer["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn a_complete_that_was_done_and_is_denied_leaves_no_object_nobody_was_told_of() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::Complete, Action::LoseAnswer);
    faults.fail_all(Operation::Head, Action::Status(500));
    let (status, answer) = told(app.upload("a.png", png(12 * MIB)).await).await;
    assert_eq!((status, answer["code"].as_str().unwrap()), (500, "storage_failed"));
    app.end(&[]).await;
}

#[tokio::test]
async fn an_abort_that_fails_at_first_is_tried_again() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::UploadPart, Action::Status(500));
    // Every try of the first two calls.
    faults.fail(Operation::Abort, 1..=6, Action::Status(500));
    let (status, _) = told(app.upload("a.png", png(12 * MIB)).await).await;
    assert_eq!(status, 500);
    faults.wait_for(Operation::Abort, 7).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn while_too_many_clean_ups_are_under_way_nothing_new_is_begun() {
    let app = TestApp::with(&["--direct-put-max=1MiB"]).await;
    let (end, ended) = tokio::sync::watch::channel(());
    for _ in 0..MAX_TASKS {
        let mut ended = ended.clone();
        app.app.uploads.tasks().spawn(async move { drop(ended.changed().await) });
    }
    let wish = serde_json::json!({ "filename": "a.png", "size": 12 * MIB });
    let plan = app.client.post(app.at("/uploads")).json(&wish).send();
    for refused in [app.upload("a.png", png(MIB)).await, plan.await.unwrap()] {
        assert!(refused.headers().contains_key("retry-after"));
        let (status, answer) = told(refused).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), (503, "over_capacity"));
    }
    drop(end);
    app.settled().await;
    let (status, answer) = told(app.upload("a.png", png(MIB)).await).await;
    assert_eq!(status, 200, "{answer}");
    app.end(&[answer["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_parts_hang_is_noticed_at_once() {
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
async fn a_client_that_resets_while_the_object_is_made_leaves_none() {
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
async fn a_client_that_closes_its_half_while_the_object_is_made_is_answered() {
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
async fn a_client_that_closes_both_halves_after_its_whole_request_has_only_lost_its_answer() {
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
    assert_eq!(stored.len(), 1, "what was sent whole is stored");
    app.end(&[&stored[0]]).await;
}

#[tokio::test]
async fn a_store_that_fails_is_told_to_a_client_that_would_send_on() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::UploadPart, Action::Status(500));
    // Cleaning up takes a while, and the answer does not wait for it.
    faults.fail_all(Operation::Abort, Action::Hang);
    let body = form("a.png", &png(40 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..12 * MIB]).await;
    // It sends no more, and does not leave: the answer must come all the same, well before the idle timeout.
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("storage_failed"), "{answer}");
    assert_eq!(app.app.uploads.open(), 1, "it is still being cleaned up");
    faults.heal();
    drop(client);
    app.end(&[]).await;
}

#[tokio::test]
async fn readiness_is_503_while_the_store_is_out_of_reach() {
    let (app, faults) = start().await;
    let ready = async || told(app.client.get(app.at("/readyz")).send().await.unwrap()).await;
    faults.fail_all(Operation::HeadBucket, Action::Status(503));
    let (status, answer) = ready().await;
    assert_eq!((status, answer["code"].as_str().unwrap()), (503, "not_ready"));
    assert_eq!(answer["detail"], "The service is not ready: the store returned an error");
    faults.heal();
    // The result is used again for a while, and not for long.
    let deadline = Instant::now() + Duration::from_secs(5);
    while ready().await.0 != 200 {
        assert!(Instant::now() < deadline, "it is ready again within 5 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn readiness_asks_the_store_once_for_all_who_ask_at_once() {
    let (app, faults) = start().await;
    faults.fail_all(Operation::HeadBucket, Action::Hold);
    let asked = futures::future::join_all((0..50).map(|_| app.client.get(app.at("/readyz")).send()));
    let release = async {
        faults.wait_for(Operation::HeadBucket, 1).await;
        faults.release();
    };
    let (answers, ()) = tokio::join!(asked, release);
    assert!(answers.into_iter().all(|answer| answer.unwrap().status() == 200));
    assert_eq!(faults.calls(Operation::HeadBucket), 1);
    app.end(&[]).await;
}

#[tokio::test]
async fn a_store_that_hangs_is_no_answer() {
    for action in [Action::Hang, Action::Break] {
        let (app, faults) = start().await;
        faults.fail_all(Operation::HeadBucket, action);
        let (status, answer) = told(app.client.get(app.at("/readyz")).send().await.unwrap()).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), (503, "not_ready"));
        assert_eq!(answer["detail"], "The service is not ready: no answer from the store");
        app.end(&[]).await;
    }
}
