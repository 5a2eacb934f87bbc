//! CreateMultipartUpload is called while the first part arrives, if the file is certainly larger than one part.

use image_store::auth::grants::{Claims, DEFAULT_LIFETIME, sign_offline};
use std::time::Duration;

use super::support::app::{TestApp, fixture, png, until};
use super::support::faults::{Action, Operation};
use super::support::raw::{BOUNDARY, RawClient, form, head, s3_key};

const MIB: usize = 1 << 20;
/// The bytes that a client sends before it stops: the beginning of the image, and much less than a part.
const FIRST: usize = 64 << 10;
/// No call is repeated because the machine is busy.
const PATIENT: &str = "--s3-timeout=30s";

fn raw_head(length: usize, extra: &str) -> String {
    format!(
        "POST /upload-image HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: {length}\r\n\
         {extra}\r\n"
    )
}

/// Sends the head of a request and the first bytes of its body.
async fn begin(app: &TestApp, head: String, body: &[u8]) -> RawClient {
    let mut client = RawClient::connect(app.address()).await;
    client.send(head).await;
    client.send(&body[..FIRST]).await;
    client
}

/// Waits until the upload has begun, and until everything that it calls without further bytes was called.
async fn until_begun(app: &TestApp) {
    until("the upload has begun", || app.app.uploads.open() == 1).await;
    app.go_round().await;
}

#[tokio::test]
async fn upload_is_created_before_its_first_part_is_full() {
    let image = png(12 * MIB);
    let form = form("a.png", &image);
    let heads = [raw_head(image.len(), ""), raw_head(image.len(), "idempotency-key: a\r\n"), head(form.len(), "")];
    for (head, body) in heads.into_iter().zip([&image, &image, &form]) {
        let app = TestApp::behind_faults(&[PATIENT]).await;
        let mut client = begin(&app, head, body).await;
        app.faults().wait_for(Operation::Create, 1).await;
        client.send(&body[FIRST..]).await;
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let calls = [Operation::Create, Operation::UploadPart, Operation::Complete, Operation::Put, Operation::Abort];
        assert_eq!(calls.map(|operation| app.faults().calls(operation)), [1, 3, 1, 0, 0]);
        app.end(&[&s3_key(&answer)]).await;
    }
}

#[tokio::test]
async fn upload_is_not_created_early_if_file_may_fit_one_part() {
    let image = png(5 * MIB);
    let chunked = "POST /upload-image HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n\
                   transfer-encoding: chunked\r\n\r\n600000\r\n";
    let encoded: String = fixture("plain.gif").iter().map(|byte| format!("={byte:02x}=\r\n")).collect();
    let encoded = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.gif\"\r\n\
         Content-Transfer-Encoding: quoted-printable\r\n\r\n{encoded}{}",
        "=\r\n".repeat(FIRST)
    );
    let unnamed = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n");
    let unnamed = [unnamed.as_bytes(), &image].concat();
    for (head, body) in [
        (raw_head(image.len(), ""), &image[..]),
        (chunked.to_owned(), &image),
        // The fields after the file may be as large as this form is larger than a part.
        (head(7 * MIB, ""), &form("a.png", &image)),
        (head(20 * MIB, ""), encoded.as_bytes()),
        // A file with a name may replace it.
        (head(20 * MIB, ""), &unnamed),
    ] {
        let app = TestApp::behind_faults(&[]).await;
        let client = begin(&app, head.clone(), body).await;
        until_begun(&app).await;
        drop(client);
        app.settled().await;
        assert_eq!([Operation::Create, Operation::Abort].map(|call| app.faults().calls(call)), [0, 0], "{head}");
        app.end(&[]).await;
    }
}

/// Under such a key, multipart uploads without parts may be aborted as those of lost promotions.
#[tokio::test]
async fn upload_under_the_key_of_a_grant_is_created_with_its_first_part() {
    let mut claims = Claims::lasting(DEFAULT_LIFETIME);
    claims.key = Some("0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png".to_owned());
    let grant = sign_offline(&claims, "a-key-that-is-long-enough", None).unwrap();
    let app = TestApp::behind_faults(&["--api-keys=a-key-that-is-long-enough", "--public-read=true"]).await;
    let image = png(12 * MIB);
    let head = raw_head(image.len(), &format!("authorization: Bearer {grant}\r\n"));
    let mut client = begin(&app, head, &image).await;
    until_begun(&app).await;
    assert_eq!(app.faults().calls(Operation::Create), 0);
    client.send(&image[FIRST..]).await;
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    app.end(&[&s3_key(&answer)]).await;
}

/// No known client sends a long epilogue. The file is stored nevertheless, and nothing is aborted.
#[tokio::test]
async fn short_file_before_a_long_epilogue_is_stored_as_one_part() {
    let app = TestApp::behind_faults(&[PATIENT]).await;
    let image = png(FIRST + 1);
    let body = [form("a.png", &image), vec![b'x'; 20 * MIB]].concat();
    // The end of the file has not arrived.
    let mut client = begin(&app, head(body.len(), ""), &body).await;
    app.faults().wait_for(Operation::Create, 1).await;
    client.send(&body[FIRST..]).await;
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("\"size\":{}", image.len())), "{answer}");
    let calls = [Operation::Create, Operation::UploadPart, Operation::Complete, Operation::Put, Operation::Abort];
    assert_eq!(calls.map(|operation| app.faults().calls(operation)), [1, 1, 1, 0, 0]);
    drop(client);
    app.end(&[&s3_key(&answer)]).await;
}

#[tokio::test]
async fn rejected_uploads_are_aborted_before_their_first_part() {
    let image = png(FIRST / 2);
    let second = form("b.png", &fixture("plain.png"));
    let with_second = [&form("a.png", &image)[..form("a.png", &image).len() - BOUNDARY.len() - 6], &second].concat();
    let stalled = png(FIRST);
    for (head, body, code) in
        [(head(20 * MIB, ""), &with_second, "malformed_form"), (raw_head(20 * MIB, ""), &stalled, "client_too_slow")]
    {
        let app = TestApp::behind_faults(&["--body-idle-timeout=300ms"]).await;
        let mut client = RawClient::connect(app.address()).await;
        client.send(&head).await;
        // The rest of the form follows only after the upload was created.
        client.send(&body[..FIRST / 4]).await;
        app.faults().wait_for(Operation::Create, 1).await;
        client.send(&body[FIRST / 4..]).await;
        let answer = client.read_answer().await;
        assert!(answer.contains(code), "{answer}");
        app.settled().await;
        assert_eq!(app.faults().calls(Operation::Abort), 1, "{code}");
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn client_that_leaves_while_upload_is_created_leaves_nothing() {
    for (action, timeout, created) in [
        (Action::Delay(Duration::from_millis(200)), PATIENT, 1),
        // Each of the three attempts creates an upload.
        (Action::LoseAnswer, PATIENT, 3),
        (Action::Late, "--s3-timeout=300ms", 3),
    ] {
        let app = TestApp::behind_faults(&[timeout]).await;
        app.faults().fail_all(Operation::Create, action);
        let image = png(12 * MIB);
        let client = begin(&app, raw_head(image.len(), ""), &image).await;
        app.faults().wait_for(Operation::Create, 1).await;
        client.reset();
        app.settled().await;
        app.faults().release();
        app.faults().wait_for(Operation::Abort, created).await;
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn failed_create_is_answered_before_the_first_part_was_sent() {
    let app = TestApp::behind_faults(&[]).await;
    app.faults().fail_all(Operation::Create, Action::Status(403));
    let image = png(12 * MIB);
    let mut client = begin(&app, raw_head(image.len(), ""), &image).await;
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("storage_failed"), "{answer}");
    drop(client);
    app.end(&[]).await;
}
