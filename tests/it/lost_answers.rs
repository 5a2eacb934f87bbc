//! Calls whose responses are lost: their effects are removed, even if they take effect after the service gave up.

use image_store::store::reconcile::Reconciler;
use image_store::store::{Store, StoreError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::process::Process;
use super::support::app::{TestApp, png as image_file};
use super::support::backend::Backend;
use super::support::faults::{Action, Faults, Operation};
use super::support::raw::{RawClient, form, head};
use super::support::samples::{image, incoming, png};

const MIB: usize = 1 << 20;
const TIMEOUT: &str = "--s3-timeout=300ms";

async fn status(answer: reqwest::Response) -> (u16, serde_json::Value) {
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Creates for each S3 a store behind faults, and a reconciler for it.
async fn behind_faults() -> Vec<(Backend, Faults, Arc<dyn Store>, Reconciler)> {
    let mut all = Vec::new();
    for backend in [Backend::strict().await, Backend::embedded().await] {
        let faults = Faults::before(&backend.endpoint).await;
        let endpoint = faults.endpoint.clone();
        let store = backend.store_with(|options| {
            options.endpoint = Some(endpoint);
            options.attempt_timeout = Duration::from_millis(500);
        });
        let store = store.await;
        let reconciler = Reconciler::new(Arc::clone(&store));
        all.push((backend, faults, store, reconciler));
    }
    all
}

#[tokio::test]
async fn only_one_of_several_created_uploads_remains() {
    for (backend, faults, store, reconciler) in behind_faults().await {
        for name in [image(), incoming()] {
            let first = faults.calls(Operation::Create) + 1;
            faults.fail(Operation::Create, first..=first + 1, Action::LoseAnswer);
            let upload = reconciler.create_upload(&name, &png()).await.unwrap();
            assert_eq!(backend.open_uploads().await.min(2), 2, "the calls whose responses were lost created uploads");
            reconciler.conclude().await;
            assert_eq!(store.uploads_of(&name).await.unwrap(), std::slice::from_ref(&upload));
            store.abort_upload(&upload).await.unwrap();
        }
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn acknowledged_create_lists_no_uploads() {
    for (backend, faults, store, reconciler) in behind_faults().await {
        let name = image();
        faults.fail(Operation::Create, 1..=1, Action::Status(503));
        let upload = reconciler.create_upload(&name, &png()).await.unwrap();
        reconciler.conclude().await;
        assert_eq!((faults.calls(Operation::Create), faults.calls(Operation::ListUploads)), (2, 0));
        store.abort_upload(&upload).await.unwrap();
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn creates_without_response_leave_no_upload() {
    for action in [Action::LoseAnswer, Action::Hang, Action::Late] {
        for (backend, faults, _, reconciler) in behind_faults().await {
            let name = image();
            faults.fail_all(Operation::Create, action);
            let failed = reconciler.create_upload(&name, &png()).await;
            assert!(matches!(failed, Err(StoreError::OutcomeUnknown { .. })), "{failed:?}");
            reconciler.created_none(&name).await;
            if matches!(action, Action::Late) {
                assert_eq!(faults.calls(Operation::Abort), 0, "no upload exists yet");
                faults.release();
                faults.wait_for(Operation::Abort, 3).await;
            }
            reconciler.conclude().await;
            backend.check_clean().await;
        }
    }
}

#[tokio::test]
async fn upload_without_response_to_create_leaves_nothing() {
    let app = TestApp::behind_faults(&[TIMEOUT]).await;
    app.faults().fail_all(Operation::Create, Action::LoseAnswer);
    let (status, answer) = status(app.upload("a.png", image_file(12 * MIB)).await).await;
    assert_eq!((status, &answer["code"]), (500, &"storage_failed".into()));
    app.settled().await;
    assert!(
        app.store.unfinished_uploads().await.unwrap().is_empty(),
        "the uploads must be aborted before the request counts as settled"
    );
    assert_eq!(app.faults().calls(Operation::Abort), 3);
    app.end(&[]).await;
}

#[tokio::test]
async fn uploads_of_lost_first_creates_are_aborted() {
    let app = TestApp::behind_faults(&[TIMEOUT, "--direct-put-max=1MiB"]).await;
    app.faults().fail(Operation::Create, 1..=1, Action::LoseAnswer);
    let (code, answer) = status(app.upload("a.png", image_file(12 * MIB)).await).await;
    assert_eq!(code, 200, "{answer}");
    app.faults().wait_for(Operation::Abort, 1).await;

    app.faults().fail(Operation::Create, 3..=3, Action::LoseAnswer);
    let request = serde_json::json!({ "filename": "a.png", "size": 12 * MIB });
    let (code, plan) = status(app.client.post(app.at("/uploads")).json(&request).send().await.unwrap()).await;
    assert_eq!(code, 201, "{plan}");
    app.faults().wait_for(Operation::Abort, 2).await;
    app.app.uploads.reconciler().conclude().await;
    let left = app.store.unfinished_uploads().await.unwrap();
    assert_eq!(left.len(), 1, "only the plan's upload: {left:?}");
    let aborted = app.client.delete(app.at(plan["abort_url"].as_str().unwrap())).send().await.unwrap();
    assert_eq!(aborted.status(), 204);
    app.end(&[answer["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn late_put_is_deleted() {
    let app = TestApp::behind_faults(&[TIMEOUT]).await;
    app.faults().fail_all(Operation::Put, Action::Late);
    let (status, answer) = status(app.upload("a.png", image_file(MIB)).await).await;
    assert_eq!((status, &answer["code"]), (500, &"storage_failed".into()));
    app.settled().await;
    assert_eq!(app.faults().calls(Operation::Delete), 1, "the first deletion happens at once");
    app.faults().release();
    // Another deletion follows only if the object exists.
    app.faults().wait_for(Operation::Delete, 2).await;
    app.end(&[]).await;
}

/// Every further call would take until its timeouts.
#[tokio::test]
async fn silent_store_gets_one_put() {
    for keys in [&[][..], &[("idempotency-key", "a")]] {
        let app = TestApp::behind_faults(&[TIMEOUT]).await;
        app.faults().fail_all(Operation::Put, Action::Hang);
        // The first HEAD of the upload under an Idempotency-Key precedes the PUT.
        app.faults().fail(Operation::Head, keys.len() + 1..=usize::MAX, Action::Hang);
        let post = app.client.post(app.at("/upload-image")).header("content-type", "image/png").body(image_file(MIB));
        let post = keys.iter().fold(post, |post, (name, value)| post.header(*name, *value));
        let (status, answer) = status(post.send().await.unwrap()).await;
        let expected = if keys.is_empty() { (500, "storage_failed") } else { (503, "outcome_unknown") };
        assert_eq!((status, answer["code"].as_str().unwrap()), expected);
        let calls = [Operation::Put, Operation::Head].map(|operation| app.faults().calls(operation));
        assert_eq!(calls, [1, 3 + keys.len()], "one PUT, and the three attempts of one HEAD");
        app.faults().heal();
        app.end(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_put_is_deleted_before_shutdown_ends() {
    let app = TestApp::behind_faults(&[]).await;
    let process = Process::on_store_of(&app, &[TIMEOUT]);
    // The start-up probe puts an object and deletes it.
    app.faults().wait_for(Operation::Delete, 1).await;
    app.faults().fail_all(Operation::Put, Action::Late);
    let client = reqwest::Client::new();
    let url = format!("http://{}/upload-image", process.address);
    let post = client.post(url).header("content-type", "image/png").body(image_file(MIB));
    assert_eq!(post.send().await.unwrap().status(), 500);
    app.faults().wait_for(Operation::Delete, 2).await;
    app.faults().release();
    let deadline = Instant::now() + Duration::from_secs(10);
    // A regular check may be faster.
    while app.objects().await.is_empty() && app.faults().calls(Operation::Delete) < 3 {
        assert!(Instant::now() < deadline, "the PUT must take effect within 10 s");
    }
    process.terminate();
    let (status, log) = process.end().await;
    assert!(status.success(), "{log}");
    assert!(log.contains("appeared after its upload had failed"), "{log}");
    app.end(&[]).await;
}

#[tokio::test]
async fn late_complete_is_deleted() {
    let app = TestApp::behind_faults(&[TIMEOUT]).await;
    app.faults().fail_all(Operation::Complete, Action::Late);
    assert_eq!(status(app.upload("a.png", image_file(12 * MIB)).await).await.0, 500);
    app.faults().release();
    app.settled().await;
    app.end(&[]).await;
}

/// A client disconnects while the second attempt creates the object. The first attempt takes effect after that object
/// was deleted.
#[tokio::test]
async fn late_first_attempt_is_deleted_after_second_was_undone() {
    let app = TestApp::behind_faults(&["--s3-timeout=1s"]).await;
    app.faults().fail(Operation::Put, 1..=1, Action::Late);
    app.faults().fail(Operation::Put, 2..=2, Action::Delay(Duration::from_millis(300)));
    let body = form("a.png", &image_file(MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "")).await;
    client.send(&body).await;
    app.faults().wait_for(Operation::Put, 2).await;
    client.reset();
    app.faults().wait_for(Operation::Delete, 1).await;
    app.settled().await;
    app.faults().release();
    // Another deletion follows only if the object exists.
    app.faults().wait_for(Operation::Delete, 2).await;
    app.end(&[]).await;
}

/// The name of the first attempt is given up, so its late arrival restores nothing, whoever deletes the image.
#[tokio::test]
async fn late_first_attempt_does_not_restore_deleted_image() {
    let app = TestApp::behind_faults(&[TIMEOUT]).await;
    app.faults().fail(Operation::Put, 1..=1, Action::Late);
    let (code, answer) = status(app.upload("a.png", image_file(MIB)).await).await;
    assert_eq!((code, app.faults().calls(Operation::Put)), (200, 2), "{answer}");
    let path = format!("/delete/{}", answer["s3_key"].as_str().unwrap());
    let url = format!("{}{path}", app.another().await);
    assert_eq!(app.client.delete(url).send().await.unwrap().status(), 200);
    assert_eq!(app.client.delete(app.at(&path)).send().await.unwrap().status(), 404);
    app.faults().release();
    app.faults().wait_for(Operation::Delete, 1).await;
    app.end(&[]).await;
}

/// The object belongs to someone else, and nothing of this upload is stored.
#[tokio::test]
async fn failed_precondition_deletes_nothing() {
    const EXISTS: &str = "<Error><Code>PreconditionFailed</Code></Error>";
    for (operation, size) in [(Operation::Put, MIB), (Operation::Complete, 12 * MIB)] {
        let app = TestApp::behind_faults(&[TIMEOUT]).await;
        app.faults().fail_all(operation, Action::Answer(412, EXISTS));
        assert_eq!(status(app.upload("a.png", image_file(size)).await).await.0, 500);
        app.settled().await;
        assert_eq!(app.faults().calls(Operation::Delete), 0, "{operation:?}");
        app.end(&[]).await;
    }
}

/// The client has disconnected, so the clean-up comes before the attempt takes effect.
#[tokio::test]
async fn late_attempt_of_disconnected_raw_upload_is_deleted() {
    let app = TestApp::behind_faults(&[TIMEOUT]).await;
    app.faults().fail(Operation::Put, 1..=1, Action::Late);
    let image = image_file(MIB);
    let mut client = RawClient::connect(app.address()).await;
    let head =
        format!("POST /upload-image HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\ncontent-length: {MIB}\r\n\r\n");
    client.send(head).await;
    client.send(&image).await;
    app.faults().wait_for(Operation::Put, 1).await;
    client.reset();
    app.faults().wait_for(Operation::Delete, 1).await;
    assert_eq!(app.faults().calls(Operation::Put), 1);
    app.faults().release();
    app.faults().wait_for(Operation::Delete, 2).await;
    app.end(&[]).await;
}
