//! Completes and aborts at the same time, lost answers, and a store that fails.

use futures::future::join_all;

use super::*;
use crate::support::app::until;
use crate::support::faults::{Action, Operation};
use crate::support::raw::RawClient;

#[tokio::test]
async fn completes_at_the_same_time_make_one_image() {
    let app = TestApp::start().await;
    let (uppy, bytes) = (Uppy::of(&app), png(PART + 7));
    let other = Uppy::new(Release::V5, &app.another().await);
    let started = uppy.start().await;
    let parts = uppy.send_parts(&started, &bytes).await;
    let completes = (0..8).map(|number| if number % 2 == 0 { &uppy } else { &other }.complete(&started, &parts));
    for answer in join_all(completes).await {
        assert_eq!(ok(answer).await["key"], *started.key);
    }
    let image = ok(uppy.complete(&started, &parts).await).await;
    check_image(&app, &image["location"], &started.key, &bytes).await;
    app.end(&[&started.key]).await;
}

#[tokio::test]
async fn abort_during_a_complete_decides_nothing_twice() {
    let app = TestApp::behind_faults(&[]).await;
    let (uppy, bytes) = (Uppy::of(&app), png(PART + 7));
    let other = Uppy::new(Release::V6, &app.another().await);
    let started = uppy.start().await;
    let parts = other.send_parts(&started, &bytes).await;
    app.faults().fail(Operation::Copy, 1..=1, Action::Hold);
    let aborting = async {
        app.faults().wait_for(Operation::Copy, 1).await;
        // In another process: it does not wait for this promotion, but revokes it.
        let aborted = other.abort(&started).await;
        app.faults().release();
        aborted
    };
    let (completed, aborted) = tokio::join!(uppy.complete(&started, &parts), aborting);
    assert_eq!(ok(aborted).await, json!({}));
    refused(completed, 404, "not_found").await;
    refused(uppy.complete(&started, &parts).await, 404, "not_found").await;
    app.end(&[]).await;
}

/// 5.x aborts an upload whose complete request has failed.
#[tokio::test]
async fn abort_waits_for_a_complete_in_the_same_process() {
    let app = TestApp::behind_faults(&[]).await;
    let (uppy, bytes) = (Uppy::of(&app), png(PART + 7));
    let started = uppy.start().await;
    let other = Uppy::new(Release::V6, &app.another().await);
    let parts = other.send_parts(&started, &bytes).await;
    app.faults().fail(Operation::Copy, 1..=1, Action::Hold);
    let aborting = async {
        app.faults().wait_for(Operation::Copy, 1).await;
        let aborting = uppy.abort(&started);
        let release = async { app.faults().release() };
        tokio::join!(aborting, release).0
    };
    let (completed, aborted) = tokio::join!(uppy.complete(&started, &parts), aborting);
    let image = ok(completed).await;
    refused(aborted, 409, "already_complete").await;
    check_image(&app, &image["location"], &started.key, &bytes).await;
    app.end(&[&started.key]).await;
}

/// Uppy takes every 2xx for a stored image.
#[tokio::test]
async fn complete_is_never_answered_before_the_image_exists() {
    let app = TestApp::behind_faults(&["--request-timeout=2s", "--complete-wait=100ms", "--s3-timeout=30s"]).await;
    let (uppy, bytes) = (Uppy::of(&app), png(PART + 7));
    let other = Uppy::new(Release::V6, &app.another().await);
    let started = uppy.start().await;
    let parts = other.send_parts(&started, &bytes).await;
    app.faults().fail(Operation::Copy, 1..=1, Action::Hold);
    let late = uppy.complete(&started, &parts).await;
    assert_eq!(late.headers()["retry-after"], "1");
    refused(late, 503, "deadline").await;
    // A client that resumes the upload has nothing more to send.
    let listed = ok(uppy.list(&started).await).await;
    assert_eq!(
        listed.as_array().unwrap().iter().map(|part| part["Size"].as_u64().unwrap()).sum::<u64>(),
        bytes.len() as u64
    );
    app.faults().release();
    let image = ok(uppy.complete(&started, &parts).await).await;
    check_image(&app, &image["location"], &started.key, &bytes).await;
    app.end(&[&started.key]).await;
}

#[tokio::test]
async fn lost_answers_of_the_store_are_no_failures() {
    for (operation, nth) in [
        (Operation::Create, 1..=1),
        (Operation::Complete, 1..=1),
        (Operation::Complete, 1..=usize::MAX),
        (Operation::ListParts, 1..=1),
    ] {
        let app = TestApp::behind_faults(&[]).await;
        let (uppy, bytes) = (Uppy::of(&app), png(PART + 7));
        let sender = Uppy::new(Release::V6, &app.another().await);
        app.faults().fail(operation, nth, Action::LoseAnswer);
        let started = uppy.start().await;
        let parts = sender.send_parts(&started, &bytes).await;
        let image = ok(uppy.complete(&started, &parts).await).await;
        check_image(&app, &image["location"], &started.key, &bytes).await;
        app.end(&[&started.key]).await;
    }
}

#[tokio::test]
async fn failed_complete_can_be_sent_again() {
    for operation in [Operation::ListParts, Operation::Complete, Operation::Head, Operation::Get, Operation::Copy] {
        let app = TestApp::behind_faults(&[]).await;
        let (uppy, bytes) = (Uppy::of(&app), png(PART + 7));
        let started = uppy.start().await;
        let parts = Uppy::new(Release::V6, &app.another().await).send_parts(&started, &bytes).await;
        app.faults().fail_all(operation, Action::Status(500));
        refused(uppy.complete(&started, &parts).await, 500, "storage_failed").await;
        app.faults().heal();
        let image = ok(uppy.complete(&started, &parts).await).await;
        check_image(&app, &image["location"], &started.key, &bytes).await;
        app.end(&[&started.key]).await;
    }
}

#[tokio::test]
async fn upload_whose_id_no_client_received_is_aborted() {
    let app = TestApp::behind_faults(&["--s3-timeout=30s"]).await;
    app.faults().fail(Operation::Create, 1..=1, Action::Hold);
    let body = json!({ "filename": "photo.png", "type": TYPE }).to_string();
    let mut client = RawClient::connect(app.address()).await;
    let head = format!(
        "POST /s3/multipart HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(format!("{head}{body}")).await;
    app.faults().wait_for(Operation::Create, 1).await;
    client.reset();
    app.faults().release();
    app.faults().wait_for(Operation::Abort, 1).await;
    until("the upload is aborted", || app.app.uploads.tasks().is_empty()).await;
    app.end(&[]).await;
}

/// The same part again while the upload is completed: what was listed is what counts.
#[tokio::test]
async fn part_that_is_sent_again_does_not_change_the_checked_image() {
    let app = TestApp::behind_faults(&["--max-upload-size=6MiB"]).await;
    let (uppy, bytes) = (Uppy::of(&app), png(PART + 7));
    let sender = Uppy::new(Release::V6, &app.another().await);
    let started = uppy.start().await;
    let parts = sender.send_parts(&started, &bytes).await;
    app.faults().fail(Operation::Complete, 1..=1, Action::Hold);
    let again = async {
        app.faults().wait_for(Operation::Complete, 1).await;
        sender.send_part(&started, 2, &png(3 * MIB)).await;
        app.faults().release();
    };
    let (completed, ()) = tokio::join!(uppy.complete(&started, &parts), again);
    let status = completed.status().as_u16();
    assert_ne!(status, 200, "{}", completed.text().await.unwrap());
    let head = app.client.head(app.at(&format!("/images/{}", started.key))).send().await.unwrap();
    assert_eq!(head.status(), 404);
    uppy.abort(&started).await;
    app.end(&[]).await;
}
