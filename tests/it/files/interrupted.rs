//! Requests that break off, stall, or meet another request, and a store that fails.

use std::time::Duration;

use super::*;
use crate::support::app::{png, until};
use crate::support::faults::{Action, Operation};
use crate::support::raw::RawClient;

/// Sends the head of a PATCH without an end, and then the bytes.
async fn send_part(app: &TestApp, upload: &Upload, offset: usize, bytes: &[u8]) -> RawClient {
    let mut client = RawClient::connect(app.address()).await;
    let path = &upload.url[app.url.len()..];
    client
        .send(format!(
            "PATCH {path} HTTP/1.1\r\nhost: localhost\r\ntus-resumable: 1.0.0\r\nupload-offset: {offset}\r\n\
             content-type: application/offset+octet-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
            bytes.len() + 1
        ))
        .await;
    client.send(bytes).await;
    until("the service receives the bytes", || app.app.uploads.used().0 > 0).await;
    client
}

#[tokio::test]
async fn what_arrived_of_an_interrupted_request_counts() {
    let app = TestApp::start().await;
    let bytes = png(4 * PART);
    let upload = create(&app, bytes.len()).await;
    let mut offset = 0;
    // Before the first part, in the middle of one, exactly at the end of one, after several.
    for length in [1000, 10, PART - 1010, 2 * PART + 77, 1] {
        let mut client = send_part(&app, &upload, offset, &bytes[offset..offset + length]).await;
        client.finish().await;
        assert!(client.read_to_end().await.contains("\"truncated_body\""));
        offset += length;
        assert_eq!(upload.offset().await, offset);
    }
    upload.append(offset, &bytes[offset..]).await;
    upload.check(&bytes).await;
    app.released().await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn stalled_request_moves_to_disk_if_memory_is_scarce() {
    let app = TestApp::with(&["--memory-budget=10MiB", "--spill-budget=5MiB"]).await;
    let bytes = png(PART + 1000);
    let upload = create(&app, bytes.len()).await;
    let mut client = send_part(&app, &upload, 0, &bytes[..PART - 1]).await;
    until("the request holds a file and no memory", || app.app.uploads.used() == (0, PART as u64)).await;
    client.finish().await;
    assert!(client.read_to_end().await.contains("\"truncated_body\""));
    upload.append(PART - 1, &bytes[PART - 1..]).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn reset_connections_lose_only_what_was_not_received() {
    let app = TestApp::start().await;
    let bytes = png(4 * PART);
    let upload = create(&app, bytes.len()).await;
    let mut offset = 0;
    for length in [PART + 1000, 2 * PART] {
        let client = send_part(&app, &upload, offset, &bytes[offset..offset + length]).await;
        client.reset();
        let stored = upload.offset().await;
        assert!((offset..=offset + length).contains(&stored), "{stored}");
        offset = stored;
    }
    upload.append(offset, &bytes[offset..]).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn newer_request_ends_the_older_one() {
    let app = TestApp::start().await;
    let bytes = png(2 * PART);
    let upload = create(&app, bytes.len()).await;
    let mut silent = send_part(&app, &upload, 0, &bytes[..PART + 5]).await;
    // The older request still waits for its client. It is answered with what it has stored.
    let offset = upload.offset().await;
    assert!(offset <= PART + 5);
    let answer = silent.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 204") && answer.contains(&format!("upload-offset: {offset}\r\n")), "{answer}");
    let mut silent = send_part(&app, &upload, offset, &bytes[offset..PART + 9]).await;
    let conflict = expect(upload.patch(0, &bytes), 409).await;
    let offset: usize = header(&conflict, "upload-offset").parse().unwrap();
    assert!(silent.read_answer().await.contains(&format!("upload-offset: {offset}\r\n")));
    upload.append(offset, &bytes[offset..]).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn delete_ends_a_running_request() {
    let app = TestApp::start().await;
    let bytes = png(2 * PART);
    let upload = create(&app, bytes.len()).await;
    let client = send_part(&app, &upload, 0, &bytes[..PART + 5]).await;
    expect(upload.request(Method::DELETE), 204).await;
    upload.check_gone().await;
    drop(client);
    app.end(&[]).await;
}

#[tokio::test]
async fn client_that_stalls_can_continue() {
    let app = TestApp::with(&["--body-idle-timeout=300ms"]).await;
    let bytes = png(PART + 1000);
    let upload = create(&app, bytes.len()).await;
    let mut client = send_part(&app, &upload, 0, &bytes[..PART + 5]).await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("client_too_slow"), "{answer}");
    assert_eq!(upload.offset().await, PART + 5);
    upload.append(PART + 5, &bytes[PART + 5..]).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn deadline_of_a_request_loses_nothing() {
    let app = TestApp::with(&["--request-timeout=1s"]).await;
    let bytes = png(PART + 1000);
    let upload = create(&app, bytes.len()).await;
    let mut client = send_part(&app, &upload, 0, &bytes[..PART + 5]).await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"deadline\""), "{answer}");
    assert_eq!(upload.offset().await, PART + 5);
    upload.append(PART + 5, &bytes[PART + 5..]).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn service_that_stops_keeps_what_has_arrived() {
    let mut app = TestApp::start().await;
    let bytes = png(PART + 1000);
    let upload = create(&app, bytes.len()).await;
    let other = app.another().await;
    let mut client = send_part(&app, &upload, 0, &bytes[..PART + 5]).await;
    app.stop();
    client.finish().await;
    client.read_to_end().await;
    app.settled().await;
    let upload = upload.at(&other);
    assert_eq!(upload.offset().await, PART + 5);
    upload.append(PART + 5, &bytes[PART + 5..]).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn failing_store_acknowledges_only_what_it_has() {
    let app = TestApp::behind_faults(&[]).await;
    let bytes = png(3 * PART + 10);
    let upload = create(&app, bytes.len()).await;
    app.faults().fail(Operation::UploadPart, 2..=2, Action::Status(403));
    let failed = expect(upload.patch(0, &bytes), 503).await;
    assert!(failed.headers().contains_key("retry-after"));
    let offset = upload.offset().await;
    assert!(offset % PART == 0 && offset < 3 * PART, "{offset}");
    upload.append(offset, &bytes[offset..]).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn tail_that_is_not_stored_is_not_acknowledged() {
    let app = TestApp::behind_faults(&[]).await;
    let bytes = png(PART);
    let upload = create(&app, bytes.len()).await;
    app.faults().fail_once(Operation::Put, Action::Status(403));
    expect(upload.patch(0, &bytes[..1000]), 503).await;
    assert_eq!(upload.offset().await, 0);
    upload.append(0, &bytes).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn lost_answer_of_complete_is_a_success() {
    let app = TestApp::behind_faults(&[]).await;
    let bytes = png(PART + 1);
    let upload = create(&app, bytes.len()).await;
    app.faults().fail_once(Operation::Complete, Action::LoseAnswer);
    upload.append(0, &bytes).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn upload_that_could_not_be_completed_is_completed_by_head() {
    let app = TestApp::behind_faults(&[]).await;
    let bytes = png(2 * PART);
    let upload = create(&app, bytes.len()).await;
    app.faults().fail_all(Operation::Complete, Action::Status(403));
    expect(upload.patch(0, &bytes), 503).await;
    app.faults().heal();
    assert_eq!(upload.offset().await, bytes.len());
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn uploads_at_once_stay_within_the_memory_budget() {
    let app = TestApp::with(&["--memory-budget=16MiB", "--spill-budget=0", "--max-connections=40"]).await;
    let bytes = png(2 * PART + 10);
    let (mut uploads, mut keys) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        uploads.push(create(&app, bytes.len()).await);
    }
    let limit = app.app.uploads.limits().0;
    let watch = async {
        loop {
            assert!(app.app.uploads.used().0 <= limit, "{} of {limit}", app.app.uploads.used().0);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let all = futures::future::join_all(uploads.iter().map(|upload| async {
        // 503 means that no memory is free: the client tries again.
        loop {
            let head = upload.request(Method::HEAD).send().await.unwrap();
            if head.status() == 200 {
                let offset: usize = header(&head, "upload-offset").parse().unwrap();
                let response = upload.patch(offset, &bytes[offset..]).send().await.unwrap();
                if response.status() == 204 {
                    return;
                }
                assert_eq!(response.status(), 503, "{}", response.text().await.unwrap());
            } else {
                assert_eq!(head.status(), 503, "the last bytes need memory, too");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }));
    tokio::select! {
        () = watch => unreachable!("it never ends"),
        _ = all => {}
    }
    for upload in &uploads {
        upload.check(&bytes).await;
        keys.push(upload.key());
    }
    app.released().await;
    app.end(&keys).await;
}
