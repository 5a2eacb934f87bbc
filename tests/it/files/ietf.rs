//! The IETF's resumable uploads (interop version 8), without the status code 104.

use super::*;
use crate::support::app::{fixture, png};
use crate::support::raw::RawClient;

const PARTIAL: &str = "application/partial-upload";
const PROBLEM: &str = "https://iana.org/assignments/http-problem-types#";

fn post(app: &TestApp, complete: &str) -> RequestBuilder {
    let request = app.client.post(app.at("/files")).header("upload-draft-interop-version", "8");
    request.header("upload-complete", complete).header("content-type", "image/png")
}

/// A request without the headers of tus.
fn request(upload: &Upload, method: Method) -> RequestBuilder {
    upload.client.request(method, &upload.url).header("upload-draft-interop-version", "8")
}

fn patch(upload: &Upload, offset: usize, complete: &str, bytes: &[u8]) -> RequestBuilder {
    let request = request(upload, Method::PATCH).header("content-type", PARTIAL).header("upload-offset", offset);
    request.header("upload-complete", complete).body(bytes.to_vec())
}

/// Asserts the headers that the state of an upload consists of.
fn check_state(response: &Response, offset: usize, complete: &str) {
    assert_eq!(header(response, "upload-offset"), offset.to_string());
    assert_eq!(header(response, "upload-complete"), complete);
    assert_eq!(header(response, "upload-draft-interop-version"), "8");
    assert!(!response.headers().contains_key("tus-resumable"));
    let limit = header(response, "upload-limit");
    assert!(limit.starts_with("max-size=5000000000, min-size=1, max-age=86"), "{limit}");
}

#[tokio::test]
async fn upload_is_created_appended_to_and_completed() {
    let app = TestApp::start().await;
    let bytes = png(2 * PART + 7);
    let created = expect(post(&app, "?0").header("upload-length", bytes.len()), 201).await;
    check_state(&created, 0, "?0");
    let upload = Upload::of(&app, &created);
    assert!(upload.url.starts_with(&app.at("/files/")) && upload.key().ends_with(".png"));
    let mut offset = 0;
    for chunk in [1000, PART] {
        let appended = expect(patch(&upload, offset, "?0", &bytes[offset..offset + chunk]), 204).await;
        offset += chunk;
        check_state(&appended, offset, "?0");
        let head = expect(request(&upload, Method::HEAD), 204).await;
        check_state(&head, offset, "?0");
        assert_eq!(header(&head, "upload-length"), bytes.len().to_string());
        assert_eq!(header(&head, "cache-control"), "no-store");
    }
    let last = expect(patch(&upload, offset, "?1", &bytes[offset..]).header("accept", "application/json"), 200).await;
    check_state(&last, bytes.len(), "?1");
    let image: Value = last.json().await.unwrap();
    assert_eq!(image["s3_key"], upload.key());
    check_state(&expect(request(&upload, Method::HEAD), 204).await, bytes.len(), "?1");
    check_state(&expect(request(&upload, Method::GET), 200).await, bytes.len(), "?1");
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn whole_file_in_the_first_request_is_a_raw_upload() {
    let app = TestApp::start().await;
    let bytes = png(PART + 7);
    let stored = expect(post(&app, "?1").header("upload-length", bytes.len()).body(bytes.clone()), 200).await;
    assert_eq!(header(&stored, "upload-complete"), "?1");
    assert_eq!(header(&stored, "upload-offset"), bytes.len().to_string());
    let first: Value = stored.json().await.unwrap();
    assert_eq!((&first["size"], &first["width"]), (&bytes.len().into(), &16.into()));

    // The name and the bytes determine the type if there is no Content-Type.
    let bare = app.client.post(app.at("/files")).header("upload-complete", "?1");
    let named = bare.try_clone().unwrap().header("content-disposition", "inline; filename=\"a.jpg\"");
    let second: Value = expect(named.body(fixture("plain.jpg")), 200).await.json().await.unwrap();
    assert_eq!(second["content_type"], "image/jpeg");
    let wrong = bare.try_clone().unwrap().header("content-disposition", "inline; filename=\"a.svg\"");
    rejected(wrong.body(fixture("plain.jpg")), 400, "invalid_file_type").await;
    rejected(bare.try_clone().unwrap().header("content-type", "text/plain").body("a"), 415, "unsupported_media_type")
        .await;
    rejected(bare.body("text"), 400, "invalid_file_type").await;
    app.end(&[first["s3_key"].as_str().unwrap(), second["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn interrupted_whole_file_leaves_nothing() {
    let app = TestApp::start().await;
    let bytes = png(3 * PART);
    for head in [
        "upload-complete: ?1\r\n",
        "tus-resumable: 1.0.0\r\nupload-length: 15728640\r\nupload-metadata: filename YS5wbmc=\r\n",
    ] {
        let content_type = if head.starts_with("tus") { "application/offset+octet-stream" } else { "image/png" };
        let mut client = RawClient::connect(app.address()).await;
        let lines = format!("host: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n", bytes.len());
        client.send(format!("POST /files HTTP/1.1\r\n{lines}{head}\r\n")).await;
        client.send(&bytes[..2 * PART + 1]).await;
        drop(client);
        app.settled().await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn length_may_follow_from_the_last_request() {
    let app = TestApp::start().await;
    let bytes = png(PART + 1000);
    let upload = Upload::of(&app, &expect(post(&app, "?0"), 201).await);
    let head = expect(request(&upload, Method::HEAD), 204).await;
    assert!(!head.headers().contains_key("upload-length"));
    expect(patch(&upload, 0, "?0", &bytes[..1000]), 204).await;
    let last = expect(patch(&upload, 1000, "?1", &bytes[1000..]), 204).await;
    check_state(&last, bytes.len(), "?1");
    let head = expect(request(&upload, Method::HEAD), 204).await;
    assert_eq!(header(&head, "upload-length"), bytes.len().to_string());
    upload.check(&bytes).await;

    // The file may also end with an empty request.
    let other = Upload::of(&app, &expect(post(&app, "?0"), 201).await);
    expect(patch(&other, 0, "?0", &bytes), 204).await;
    check_state(&expect(request(&other, Method::HEAD), 204).await, bytes.len(), "?0");
    check_state(&expect(patch(&other, bytes.len(), "?1", &[]), 204).await, bytes.len(), "?1");
    other.check(&bytes).await;
    app.end(&[upload.key(), other.key()]).await;
}

#[tokio::test]
async fn interrupted_last_request_does_not_end_the_file() {
    let app = TestApp::start().await;
    let bytes = png(PART + 1000);
    let upload = Upload::of(&app, &expect(post(&app, "?0"), 201).await);
    let path = &upload.url[app.url.len()..];
    let mut client = RawClient::connect(app.address()).await;
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {PARTIAL}\r\nupload-offset: 0\r\nupload-complete: ?1\r\n\
         content-length: {}\r\n\r\n",
        bytes.len()
    );
    client.send(head).await;
    client.send(&bytes[..PART + 10]).await;
    client.finish().await;
    client.read_to_end().await;
    let head = expect(request(&upload, Method::HEAD), 204).await;
    check_state(&head, PART + 10, "?0");
    expect(patch(&upload, PART + 10, "?1", &bytes[PART + 10..]), 204).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn inconsistent_lengths_are_rejected() {
    let app = TestApp::start().await;
    let bytes = png(1000);
    let whole = post(&app, "?1").header("upload-length", 1001).body(bytes.clone());
    let rejection = expect(whole, 400).await;
    assert_eq!(header(&rejection, "upload-complete"), "?0");
    let body: Value = rejection.json().await.unwrap();
    assert_eq!(
        (body["code"].as_str(), body["type"].as_str()),
        (Some("inconsistent_length"), Some(&*format!("{PROBLEM}inconsistent-upload-length")))
    );

    let upload = Upload::of(&app, &expect(post(&app, "?0").header("upload-length", 1000), 201).await);
    rejected(patch(&upload, 0, "?0", &bytes[..10]).header("upload-length", 999), 400, "inconsistent_length").await;
    rejected(patch(&upload, 0, "?1", &bytes[..10]), 400, "inconsistent_length").await;
    assert_eq!(header(&expect(request(&upload, Method::HEAD), 204).await, "upload-offset"), "0");
    // An upload that was sent more than its length is invalid from then on.
    rejected(patch(&upload, 0, "?0", &png(1001)), 400, "inconsistent_length").await;
    upload.check_gone().await;
    app.end(&[]).await;
}

#[tokio::test]
async fn wrong_offset_is_409_with_the_right_one() {
    let app = TestApp::start().await;
    let bytes = png(1000);
    let upload = Upload::of(&app, &expect(post(&app, "?0").header("upload-length", 1000), 201).await);
    expect(patch(&upload, 0, "?0", &bytes[..600]), 204).await;
    let conflict = expect(patch(&upload, 99, "?0", &bytes[99..]), 409).await;
    assert_eq!((header(&conflict, "upload-offset"), header(&conflict, "upload-complete")), ("600", "?0"));
    let body: Value = conflict.json().await.unwrap();
    assert_eq!(body["type"], format!("{PROBLEM}mismatching-upload-offset"));
    assert_eq!((&body["expected-offset"], &body["provided-offset"]), (&600.into(), &99.into()));
    expect(request(&upload, Method::DELETE), 204).await;
    upload.check_gone().await;
    app.end(&[]).await;
}

#[tokio::test]
async fn invalid_requests_change_nothing() {
    let app = TestApp::start().await;
    let bytes = png(1000);
    let upload = Upload::of(&app, &expect(post(&app, "?0").header("upload-length", 1000), 201).await);
    let without = |missing: &str| {
        let mut request = request(&upload, Method::PATCH);
        for (name, value) in [("content-type", PARTIAL), ("upload-offset", "0"), ("upload-complete", "?0")] {
            if name != missing {
                request = request.header(name, value);
            }
        }
        request.body(bytes[..10].to_vec())
    };
    rejected(without("content-type"), 415, "unsupported_media_type").await;
    for missing in ["upload-offset", "upload-complete"] {
        rejected(without(missing), 400, "invalid_request").await;
    }
    for name in ["upload-offset", "upload-complete"] {
        expect(request(&upload, Method::HEAD).header(name, "?0"), 400).await;
    }
    rejected(post(&app, "true"), 400, "invalid_request").await;
    assert_eq!(header(&expect(request(&upload, Method::HEAD), 204).await, "upload-offset"), "0");
    expect(request(&upload, Method::DELETE), 204).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn large_creation_is_413_with_the_limits() {
    let app = TestApp::with(&["--max-upload-size=1MiB"]).await;
    for request in [
        post(&app, "?0").header("upload-length", MIB + 1),
        post(&app, "?1").header("upload-length", MIB + 1).body(png(MIB + 1)),
        post(&app, "?1").body(png(MIB + 1)),
    ] {
        let rejection = expect(request, 413).await;
        assert_eq!(header(&rejection, "upload-limit"), "max-size=1048576, min-size=1, max-age=86400");
        assert_eq!(header(&rejection, "upload-complete"), "?0");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn upload_may_be_continued_with_the_other_protocol() {
    let app = TestApp::start().await;
    let bytes = png(2000);
    let upload = create(&app, bytes.len()).await;
    expect(patch(&upload, 0, "?0", &bytes[..500]), 204).await;
    upload.append(500, &bytes[500..1500]).await;
    expect(patch(&upload, 1500, "?1", &bytes[1500..]), 204).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}
