//! Security headers of every response, and the limits and rules for request heads.

use reqwest::{Method, StatusCode, header};
use std::time::{Duration, Instant};

use super::support::app::{TestApp, fixture};
use super::support::raw::RawClient;

const ORIGIN: &str = "http://page.example";
/// A malformed head must be rejected earlier than a head that never ends (10 s).
const AT_ONCE: Duration = Duration::from_secs(5);

/// The headers of every response that has no policy of its own.
pub const HEADERS: [(&str, &str); 4] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cross-origin-resource-policy", "same-origin"),
];

fn value<'a>(answer: &'a reqwest::Response, name: &str) -> &'a str {
    let values: Vec<_> = answer.headers().get_all(name).iter().collect();
    assert_eq!(values.len(), 1, "{name} of {} {}", answer.status(), answer.url());
    values[0].to_str().unwrap()
}

#[tokio::test]
async fn every_response_has_security_headers() {
    let app = TestApp::with(&["--api-keys=the-key", "--max-upload-size=1000"]).await;
    for (method, path, length, status) in [
        (Method::GET, "/healthz", 0, 200),
        (Method::GET, "/readyz", 0, 200),
        (Method::GET, "/limits", 0, 200),
        (Method::GET, "/nothing", 0, 404),
        (Method::PUT, "/limits", 0, 405),
        (Method::DELETE, "/upload-image", 0, 405),
        (Method::OPTIONS, "/upload-image", 0, 200),
        (Method::POST, "/upload-image", 10, 415),
        (Method::POST, "/uploads", 10, 415),
        (Method::HEAD, "/images/none.png", 0, 404),
        (Method::GET, "/images/none.png/url", 0, 404),
        (Method::DELETE, "/delete/none.png", 0, 404),
    ] {
        let request = app.client.request(method.clone(), app.at(path)).header("origin", ORIGIN);
        let request = request.header("access-control-request-method", "POST").header("x-api-key", "the-key");
        let answer = request.body(vec![0; length]).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        assert_eq!(value(&answer, "access-control-allow-origin"), ORIGIN, "{method} {path}");
        for (name, expected) in HEADERS {
            assert_eq!(value(&answer, name), expected, "{method} {path}");
        }
    }
    let refused = app.client.post(app.at("/upload-image")).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), value(&refused, "x-content-type-options")), (401, "nosniff"));
    app.end(&[]).await;
}

#[tokio::test]
async fn page_has_its_own_policy_and_images_are_embeddable() {
    let app = TestApp::start().await;
    let stored: serde_json::Value = app.upload("a.png", fixture("plain.png")).await.json().await.unwrap();
    let key = stored["s3_key"].as_str().unwrap();
    let shown = app.client.get(app.at(&format!("/images/{key}"))).send().await.unwrap();
    assert_eq!(shown.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(value(&shown, "cross-origin-resource-policy"), "cross-origin");
    assert_eq!(value(&shown, "x-content-type-options"), "nosniff");
    let page = app.client.get(app.at("/")).send().await.unwrap();
    assert!(value(&page, "content-security-policy").contains("script-src 'self'"));
    for (name, expected) in [HEADERS[0], HEADERS[1], HEADERS[3]] {
        assert_eq!(value(&page, name), expected);
    }
    app.end(&[key]).await;
}

#[tokio::test]
async fn long_uri_is_414() {
    let app = TestApp::start().await;
    let get = async |length: usize| {
        let path = format!("/limits?{}", "a".repeat(length - "/limits?".len()));
        app.client.get(app.at(&path)).header(header::ORIGIN, ORIGIN).send().await.unwrap()
    };
    assert_eq!(get(8192).await.status(), StatusCode::OK);
    let refused = get(8193).await;
    assert_eq!(refused.status(), StatusCode::URI_TOO_LONG);
    assert_eq!(value(&refused, "access-control-allow-origin"), ORIGIN);
    let body: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(body["code"], "uri_too_long");
    assert!(body["detail"].as_str().unwrap().contains("8192 bytes"), "{body}");
    app.end(&[]).await;
}

/// Sends a head. Returns the status of the response.
async fn status_of(app: &TestApp, target: &str, headers: &str) -> String {
    let began = Instant::now();
    let mut client = RawClient::connect(app.address()).await;
    // If the head is too long, the service stops reading before its end.
    let _ = client.try_send(format!("GET {target} HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).await;
    let answer = client.read_answer().await;
    assert!(began.elapsed() < AT_ONCE, "{answer}");
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer}")).to_owned()
}

#[tokio::test]
async fn too_large_head_is_rejected_at_once() {
    let app = TestApp::start().await;
    let many = |count: usize| (1..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let long = |length: usize| format!("x-long: {}\r\n", "a".repeat(length));
    assert_eq!(status_of(&app, "/healthz", &many(100)).await, "200");
    assert_eq!(status_of(&app, "/healthz", &many(101)).await, "431");
    assert_eq!(status_of(&app, "/healthz", &long(30 << 10)).await, "200");
    assert_eq!(status_of(&app, "/healthz", &long(33 << 10)).await, "431");
    // More than a connection reads at once.
    assert_eq!(status_of(&app, "/healthz", &long(300 << 10)).await, "431");
    assert_eq!(status_of(&app, &format!("/{}", "a".repeat(30 << 10)), "").await, "414");
    assert_eq!(status_of(&app, &format!("/{}", "a".repeat(300 << 10)), "").await, "431");
    app.end(&[]).await;
}

#[tokio::test]
async fn overflowing_content_length_is_rejected() {
    let app = TestApp::start().await;
    for length in ["18446744073709551614", "18446744073709551615", "18446744073709551616"] {
        let mut client = RawClient::connect(app.address()).await;
        client.send(format!("POST /uploads HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n")).await;
        let answer = client.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("\"invalid_request\""), "{answer}");
    }
    let longest = "content-type: image/png\r\ncontent-length: 18446744073709551613\r\n";
    let mut client = RawClient::connect(app.address()).await;
    client.send(format!("POST /upload-image HTTP/1.1\r\nhost: a\r\n{longest}\r\n")).await;
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("\"payload_too_large\""), "{answer}");
    drop(client);
    app.end(&[]).await;
}

#[tokio::test]
async fn malformed_chunks_are_400() {
    let app = TestApp::start().await;
    for chunks in ["xyz\r\n", "-1\r\n", "5\r\nabcdefgh\r\n", "fffffffffffffffff\r\n"] {
        for (path, content_type) in [("/upload-image", "image/png"), ("/uploads", "application/json")] {
            let head = format!("host: a\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
            let mut client = RawClient::connect(app.address()).await;
            client.send(format!("POST {path} HTTP/1.1\r\n{head}{chunks}")).await;
            let answer = client.read_to_end().await;
            assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("\"invalid_request\""), "{answer}");
            assert!(answer.contains("chunks are malformed"), "{answer}");
        }
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn body_after_too_large_head_is_drained_so_that_431_arrives() {
    let app = TestApp::start().await;
    let mut client = RawClient::connect(app.address()).await;
    let (long, length) = ("a".repeat(40 << 10), 64 << 20);
    client
        .send(format!("POST /upload-image HTTP/1.1\r\nhost: a\r\nx: {long}\r\ncontent-length: {length}\r\n\r\n"))
        .await;
    client.send(vec![0; length]).await;
    assert!(client.read_to_end().await.starts_with("HTTP/1.1 431"));
    app.end(&[]).await;
}

/// Sends the whole request. Returns the whole response after the connection is closed.
async fn answer_to(app: &TestApp, request: &str) -> String {
    let mut client = RawClient::connect(app.address()).await;
    client.send(request).await;
    client.read_to_end().await
}

#[tokio::test]
async fn request_requires_one_valid_host() {
    let app = TestApp::start().await;
    for bad in
        ["", "host: a\r\nhost: a\r\n", "host:\r\n", "host: a b\r\n", "host: a/b\r\n", "host: u@a\r\n", "host: a:b\r\n"]
    {
        for method in ["GET", "OPTIONS"] {
            let answer = answer_to(&app, &format!("{method} /healthz HTTP/1.1\r\n{bad}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{bad}{answer}");
            assert!(answer.contains("\"invalid_request\"") && answer.contains("connection: close"), "{bad}{answer}");
        }
    }
    for good in ["HTTP/1.0\r\n", "HTTP/1.0\r\nhost: a\r\n", "HTTP/1.1\r\nhost: [::1]:80\r\nconnection: close\r\n"] {
        let answer = answer_to(&app, &format!("GET /healthz {good}\r\n")).await;
        assert!(answer.contains(" 200 OK"), "{good}{answer}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn only_a_single_chunked_transfer_coding_is_accepted() {
    let app = TestApp::start().await;
    let post = |framing: &str| {
        let head = "POST /uploads HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
        format!("{head}{framing}\r\n2\r\n{{}}\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
    };
    for (coding, code) in [
        ("transfer-encoding: gzip, chunked\r\n", "unsupported_transfer_encoding"),
        ("transfer-encoding: chunked, chunked\r\n", "unsupported_transfer_encoding"),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "unsupported_transfer_encoding"),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", "unsupported_transfer_encoding"),
        ("transfer-encoding: gzip\r\n", "invalid_request"),
        ("transfer-encoding: chunked, gzip\r\n", "invalid_request"),
        ("transfer-encoding: identity\r\n", "invalid_request"),
        ("transfer-encoding:\x0bchunked\r\n", "invalid_request"),
        ("content-length: 2\r\ncontent-length: 3\r\n", "invalid_request"),
        ("content-length: 2, 2\r\n", "invalid_request"),
        ("content-length: +2\r\n", "invalid_request"),
        ("content-length: -1\r\n", "invalid_request"),
        ("not a header\r\n", "invalid_request"),
    ] {
        let answer = answer_to(&app, &post(coding)).await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 501"), "{coding}{answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{coding}{answer}");
        assert_eq!(
            answer.matches("HTTP/1.1").count(),
            1,
            "the rest must not be read as another request: {coding}{answer}"
        );
    }
    // RFC 9112, section 6.3, gives precedence to the transfer coding and lets the connection be closed.
    for both in
        ["content-length: 4\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 4\r\n"]
    {
        let answer = answer_to(&app, &post(both)).await;
        assert!(answer.contains("\"invalid_request\"") && answer.contains("connection: close"), "{both}{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{both}{answer}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn content_encoding_is_rejected() {
    let app = TestApp::start().await;
    let post = |coding: &str| {
        let post = app.client.post(app.at("/upload-image")).header("content-type", "image/png");
        post.header("content-encoding", coding).body(fixture("plain.png")).send()
    };
    for coding in ["gzip", "br", "gzip, identity", "aws-chunked", ""] {
        let refused = post(coding).await.unwrap();
        assert_eq!((refused.status().as_u16(), value(&refused, "accept-encoding")), (415, "identity"), "{coding}");
        let body: serde_json::Value = refused.json().await.unwrap();
        assert_eq!(body["code"], "unsupported_content_encoding");
    }
    let stored: serde_json::Value = post("Identity").await.unwrap().json().await.unwrap();
    app.end(&[stored["s3_key"].as_str().unwrap()]).await;
}
