//! Clients that disconnect, stall, send too much or wait for 100 Continue.

use std::time::{Duration, Instant};

use super::support::app::{TestApp, png, until};
use super::support::faults::{Action, Operation};
use super::support::raw::{RawClient, form, head, s3_key};

const MIB: usize = 1 << 20;

async fn uploads_in_store(app: &TestApp) -> usize {
    app.store.leftovers().await.unwrap().iter().filter(|leftover| leftover.upload_id.is_some()).count()
}

async fn until_uploads_in_store(app: &TestApp, expected: usize) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while uploads_in_store(app).await != expected {
        assert!(Instant::now() < deadline, "not {expected} uploads in the store within 5 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn disconnect_during_upload_leaves_nothing() {
    let app = TestApp::start().await;
    let body = form("a.png", &png(40 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..12 * MIB]).await;
    until_uploads_in_store(&app, 1).await;
    drop(client);
    until_uploads_in_store(&app, 0).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn stalled_client_is_408_and_leaves_nothing() {
    let app = TestApp::with(&["--body-idle-timeout=300ms"]).await;
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..11 * MIB]).await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("client_too_slow"), "{answer}");
    app.end(&[]).await;
}

#[tokio::test]
async fn request_deadline_ends_a_steady_upload() {
    let app = TestApp::with(&["--request-timeout=400ms"]).await;
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..6 * MIB]).await;
    let mut sent = 6 * MIB;
    // The idle timeout is 30 s, so only the deadline can end this request.
    while sent < body.len() - MIB && client.try_send(&body[sent..sent + 1024]).await.is_ok() {
        sent += 1024;
        if app.app.uploads.open() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after") && answer.contains("\"deadline\""), "{answer}");
    app.end(&[]).await;
}

#[tokio::test]
async fn form_without_a_closing_boundary_is_rejected() {
    let app = TestApp::start().await;
    let body = form("a.png", &png(6 * MIB));
    let cut = &body[..body.len() - 8];
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(cut.len(), "connection: close\r\n")).await;
    client.send(cut).await;
    let answer = client.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("malformed_form"), "{answer}");
    app.end(&[]).await;
}

#[tokio::test]
async fn rejection_reaches_client_that_sends_200_megabytes() {
    let app = TestApp::with(&["--max-upload-size=6MiB"]).await;
    let wrong_type = form("a.png", &vec![b'x'; 200_000_000]);
    let too_large = form("a.png", &png(200_000_000));
    for (body, status) in [(&wrong_type[..5 << 20], "400"), (&wrong_type, "413"), (&too_large, "413")] {
        let mut client = RawClient::connect(app.address()).await;
        client.send(head(body.len(), "")).await;
        client.send(body).await;
        let answer = client.read_to_end().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn expect_100_continue_is_rejected_before_the_body() {
    let app = TestApp::with(&["--max-upload-size=6MiB"]).await;
    let expect = "expect: 100-continue\r\n";
    let mut refused = RawClient::connect(app.address()).await;
    refused.send(head(200_000_000, expect)).await;
    let answer = refused.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 413"), "no 100 Continue before it: {answer}");

    let body = form("a.txt", b"text");
    let mut accepted = RawClient::connect(app.address()).await;
    accepted.send(head(body.len(), expect)).await;
    assert_eq!(accepted.read_answer().await, "HTTP/1.1 100 Continue\r\n\r\n");
    accepted.send(&body).await;
    assert!(accepted.read_answer().await.starts_with("HTTP/1.1 400"));
    app.end(&[]).await;
}

#[tokio::test]
async fn connection_is_reused_after_small_rejection() {
    let app = TestApp::start().await;
    let mut client = RawClient::connect(app.address()).await;
    for (name, bytes, status) in [("a.txt", png(1000), "400"), ("a.png", b"text".to_vec(), "400")] {
        let body = form(name, &bytes);
        client.send(head(body.len(), "")).await;
        client.send(&body).await;
        let answer = client.read_answer().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        if answer.contains("connection: close") {
            client = RawClient::connect(app.address()).await;
        }
    }
    client.send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(client.read_answer().await.starts_with("HTTP/1.1 200"));
    app.end(&[]).await;
}

#[tokio::test]
async fn embedded_link_has_the_host_of_the_request() {
    let app = TestApp::start().await;
    let body = form("a.png", &png(1000));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "connection: close\r\n")).await;
    client.send(&body).await;
    let answer = client.read_to_end().await;
    assert!(answer.contains("\"url\":\"http://localhost/_store/images/"), "{answer}");
    app.end(&[&s3_key(&answer)]).await;
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Opens `count` connections. Each has been answered once.
async fn take_connections(app: &TestApp, count: usize) -> Vec<RawClient> {
    let mut served = Vec::new();
    for _ in 0..count {
        let mut client = RawClient::connect(app.address()).await;
        client.send(HEALTH).await;
        let answer = client.read_answer().await;
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("connection: close"), "{answer}");
        served.push(client);
    }
    served
}

#[tokio::test]
async fn over_the_connection_limit_only_healthz_is_answered() {
    let app = TestApp::with(&["--max-connections=2"]).await;
    let mut served = take_connections(&app, 2).await;
    let mut healthy = RawClient::connect(app.address()).await;
    healthy.send(HEALTH).await;
    let answer = healthy.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    let body = form("a.png", &png(MIB));
    let limits = "GET /limits HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned();
    for request in [limits, head(body.len(), ""), head(body.len(), "expect: 100-continue\r\n")] {
        let mut late = RawClient::connect(app.address()).await;
        late.send(request).await;
        let answer = late.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"over_capacity\""), "{answer}");
        assert!(answer.contains("connection: close") && answer.contains("retry-after: 1"), "{answer}");
    }
    drop(served.pop());
    until("a connection is released", || app.scrape("image_store_connections_open") == 1.0).await;
    served.extend(take_connections(&app, 1).await);
    app.end(&[]).await;
}

#[tokio::test]
async fn healthz_is_answered_despite_silent_connections_over_limit() {
    let app = TestApp::with(&["--max-connections=1"]).await;
    let served = take_connections(&app, 1).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(RawClient::connect(app.address()).await);
    }
    let mut healthy = RawClient::connect(app.address()).await;
    healthy.send(HEALTH).await;
    let answer = healthy.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(app.scrape("image_store_connections_open") <= 1.0 + 32.0);
    until("silent connections are closed", || app.scrape("image_store_connections_open") <= 1.0).await;
    drop((served, silent));
    app.end(&[]).await;
}

#[tokio::test]
async fn http_2_preface_closes_the_connection() {
    let app = TestApp::start().await;
    let mut client = RawClient::connect(app.address()).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let answer = client.read_to_end().await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 505"), "{answer}");
    app.end(&[]).await;
}

#[tokio::test]
async fn silent_clients_reserve_no_memory() {
    // Enough memory for one upload.
    let app = TestApp::with(&["--memory-budget=10MiB", "--spill-budget=0"]).await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        let mut client = RawClient::connect(app.address()).await;
        client.send(head(20 * MIB, "expect: 100-continue\r\n")).await;
        assert_eq!(client.read_answer().await, "HTTP/1.1 100 Continue\r\n\r\n", "memory must be available");
        silent.push(client);
    }
    app.released().await;
    let stored: serde_json::Value = app.upload("a.png", png(6 * MIB)).await.json().await.unwrap();
    drop(silent);
    app.end(&[stored["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn full_budget_is_503_before_100_continue() {
    let app = TestApp::with(&["--memory-budget=10MiB", "--spill-budget=0"]).await;
    let first = hold_all_memory(&app).await;
    let mut late = RawClient::connect(app.address()).await;
    late.send(head(MIB, "expect: 100-continue\r\n")).await;
    let answer = late.read_to_end().await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"),
        "no 100 Continue before it: {answer}"
    );
    assert!(answer.contains("over_capacity"), "{answer}");
    drop(first);
    app.end(&[]).await;
}

#[tokio::test]
async fn truncated_body_is_rejected_in_every_framing() {
    let app = TestApp::start().await;
    let post = |path: &str, content_type: &str, framing: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n{framing}\r\n\r\n")
    };
    let image = png(1000);
    let chunk = [b"3e8\r\n", &image[..], b"\r\n"].concat();
    let request = br#"{"filename":"a.png","size":1000}"#;
    let json_chunk = [format!("{:x}\r\n", request.len()).as_bytes(), request, b"\r\n"].concat();
    for (head, body) in [
        (post("/upload-image", "image/png", "content-length: 1001"), &image[..]),
        (post("/upload-image", "image/png", "transfer-encoding: chunked"), &chunk),
        (post("/upload-image", "image/png", "transfer-encoding: chunked"), &[&chunk[..], b"5\r\nab"].concat()),
        (post("/upload-image", "image/png", "transfer-encoding: chunked"), &[&chunk[..], b"0\r\n"].concat()),
        (post("/uploads", "application/json", "content-length: 33"), request),
        (post("/uploads", "application/json", "transfer-encoding: chunked"), &json_chunk),
    ] {
        let mut client = RawClient::connect(app.address()).await;
        client.send(&head).await;
        client.send(body).await;
        client.finish().await;
        let answer = client.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("truncated_body"), "{head}{answer}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn full_budget_is_503_until_an_upload_ends() {
    let app = TestApp::with(&["--memory-budget=10MiB", "--spill-budget=0"]).await;
    let body = form("a.png", &png(12 * MIB));
    let mut first = RawClient::connect(app.address()).await;
    first.send(head(body.len(), "")).await;
    first.send(&body[..6 * MIB]).await;
    until_uploads_in_store(&app, 1).await;
    let refused = app.upload("b.png", png(6 * MIB)).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    assert!(refused.text().await.unwrap().contains("over_capacity"));
    // Errors in the request head are reported, because a retry would not help.
    for (content_type, status) in [("text/plain", 415), ("multipart/form-data", 400), ("image/svg+xml", 400)] {
        let post = app.client.post(app.at("/upload-image")).header("content-type", content_type);
        assert_eq!(post.body(png(MIB)).send().await.unwrap().status(), status, "{content_type}");
    }
    // The upload has memory for one part only, and still succeeds.
    first.send(&body[6 * MIB..]).await;
    let answer = first.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    app.settled().await;
    let second = app.upload("b.png", png(6 * MIB)).await.text().await.unwrap();
    app.end(&[&s3_key(&answer), &s3_key(&second)]).await;
}

/// Connects a client that stops in the middle of its upload and holds all the memory for parts (5 of 10 MiB).
async fn hold_all_memory(app: &TestApp) -> RawClient {
    let body = form("a.png", &png(12 * MIB));
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(body.len(), "")).await;
    client.send(&body[..4 * MIB]).await;
    until("the client holds all the memory", || app.app.uploads.used().0 == 5 << 20).await;
    client
}

#[tokio::test]
async fn uploads_without_memory_spill_to_disk() {
    let app = TestApp::with(&["--memory-budget=10MiB", "--spill-budget=10MiB"]).await;
    let held = app.app.uploads.budget().lend(5 << 20).await.unwrap();
    let mut keys = Vec::new();
    for (name, image) in [("b.png", png(17 * MIB + 1)), ("c.jpg", jpeg_with_long_metadata())] {
        let spilled: serde_json::Value = app.upload(name, image.clone()).await.json().await.unwrap();
        let opened = app.client.get(spilled["url"].as_str().unwrap()).send().await.unwrap();
        assert!(opened.bytes().await.unwrap() == image);
        assert_eq!((&spilled["width"], &spilled["height"]), (&16.into(), &12.into()));
        until("only the memory is still held", || app.app.uploads.used() == (5 << 20, 0)).await;
        keys.push(spilled["s3_key"].as_str().unwrap().to_owned());
    }
    drop(held);
    app.released().await;
    app.end(&[&keys[0], &keys[1]]).await;
}

#[tokio::test]
async fn concurrent_spilled_files_are_limited() {
    // Calls that are held must not time out and be retried.
    let flags = ["--memory-budget=10MiB", "--spill-budget=64MiB", "--s3-timeout=30s"];
    let app = TestApp::behind_faults(&flags).await;
    let held = app.app.uploads.budget().lend(5 << 20).await.unwrap();
    app.faults().fail_all(Operation::Put, Action::Hold);
    let work = async {
        until("64 files are being sent", || app.faults().calls(Operation::Put) == 64).await;
        until("all other uploads wait", || app.app.uploads.open() == 70).await;
        app.go_round().await;
        assert_eq!(app.faults().calls(Operation::Put), 64, "the limit on concurrent files must hold");
        app.faults().heal();
        app.faults().release();
    };
    let uploads = (0..70).map(|_| app.upload("b.png", png(64 << 10)));
    let (answers, ()) = tokio::join!(futures::future::join_all(uploads), work);
    let mut keys = Vec::new();
    for answer in answers {
        let stored: serde_json::Value = answer.json().await.unwrap();
        keys.push(stored["s3_key"].as_str().unwrap().to_owned());
    }
    drop(held);
    app.released().await;
    app.end(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn stalled_client_moves_to_disk_and_leaves_memory_to_others() {
    let app = TestApp::with(&["--memory-budget=10MiB", "--spill-budget=5MiB"]).await;
    let mut stalled = hold_all_memory(&app).await;
    until("the stalled client holds a file and no memory", || app.app.uploads.used() == (0, 5 << 20)).await;
    let fast: serde_json::Value = app.upload("b.png", png(12 * MIB)).await.json().await.unwrap();
    let image = png(12 * MIB);
    stalled.send(&form("a.png", &image)[4 * MIB..]).await;
    let answer = stalled.read_answer().await;
    let key = s3_key(&answer);
    let stored = app.client.get(app.at(&format!("/images/{key}/url"))).send().await.unwrap();
    let stored: serde_json::Value = stored.json().await.unwrap();
    let read = app.client.get(stored["url"].as_str().unwrap()).send().await.unwrap();
    assert!(read.bytes().await.unwrap() == image, "the part was moved completely");
    app.end(&[fast["s3_key"].as_str().unwrap(), &key]).await;
}

/// Builds a JPEG as cameras write it: its dimensions come after about 1 MB of metadata.
fn jpeg_with_long_metadata() -> Vec<u8> {
    let image = include_bytes!("../fixtures/plain.jpg");
    let segment = [&[0xff, 0xe2, 0xff, 0xff][..], &[7; 0xfffd]].concat();
    [&image[..2], &segment.repeat(15), &image[2..]].concat()
}
