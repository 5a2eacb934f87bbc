//! Appending to uploads, asking for their state and ending them, with tus 1.0.

use super::*;
use crate::support::app::{fixture, png};

#[tokio::test]
async fn file_in_several_chunks_is_stored_when_the_last_has_arrived() {
    let app = TestApp::start().await;
    let bytes = png(3 * PART + 7);
    let upload = create(&app, bytes.len()).await;
    let mut offset = 0;
    for chunk in [1, 999, PART - 1000, PART + 1, 3, PART - 4] {
        let response = upload.append(offset, &bytes[offset..offset + chunk]).await;
        assert_eq!(header(&response, "tus-resumable"), "1.0.0");
        httpdate::parse_http_date(header(&response, "upload-expires")).unwrap();
        offset += chunk;
        assert_eq!(upload.offset().await, offset);
        expect(upload.request(Method::GET), 204).await;
        expect(app.client.get(app.at(&format!("/images/{}", upload.key()))), 404).await;
    }
    let last = upload.append(offset, &bytes[offset..]).await;
    assert_eq!(last.text().await.unwrap(), "");
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn state_has_offset_and_length_and_is_not_cached() {
    let app = TestApp::start().await;
    let bytes = png(1000);
    let upload = create(&app, bytes.len()).await;
    for offset in [0, 400, 1000] {
        let head = expect(upload.request(Method::HEAD), 200).await;
        for (name, value) in [
            ("upload-offset", offset.to_string()),
            ("upload-length", "1000".to_owned()),
            ("cache-control", "no-store".to_owned()),
            ("tus-resumable", "1.0.0".to_owned()),
        ] {
            assert_eq!(header(&head, name), value);
        }
        assert_eq!(head.headers().contains_key("upload-expires"), offset < 1000, "an image does not expire");
        let next = (offset + 600).min(if offset == 0 { 400 } else { 1000 });
        upload.append(offset, &bytes[offset..next]).await;
    }
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn state_has_the_metadata_of_the_creation() {
    let app = TestApp::start().await;
    let bytes = png(1000);
    let longest = format!("filename YS5wbmc=,notes {}", "A".repeat(3 << 10)).split_at(3 << 10).0.to_owned();
    for metadata in ["filename YS5wbmc=, type aW1hZ2UvcG5n,is_confidential", "name YS5wbmc", &longest] {
        let post = || {
            let request = tus(&app, Method::POST, &app.at("/files")).header("upload-length", bytes.len());
            request.header("upload-metadata", metadata)
        };
        let upload = Upload::of(&app, &expect(post(), 201).await);
        assert!(upload.url.len() < 6 << 10, "proxies accept the address: {} bytes", upload.url.len());
        for offset in [0, 600] {
            let head = expect(upload.request(Method::HEAD), 200).await;
            assert_eq!(header(&head, "upload-metadata"), metadata);
            upload.append(offset, &bytes[offset..if offset == 0 { 600 } else { 1000 }]).await;
        }
        assert_eq!(header(&expect(upload.request(Method::HEAD), 200).await, "upload-metadata"), metadata);
        let ietf = expect(app.client.head(&upload.url), 204).await;
        assert!(!ietf.headers().contains_key("upload-metadata"));

        let whole = post().header("content-type", "application/offset+octet-stream").body(bytes.clone());
        let whole = Upload::of(&app, &expect(whole, 201).await);
        assert_eq!(header(&expect(whole.request(Method::HEAD), 200).await, "upload-metadata"), metadata);
        for upload in [upload, whole] {
            expect(app.client.delete(app.at(&format!("/images/{}", upload.key()))), 200).await;
        }
    }
    let longer = tus(&app, Method::POST, &app.at("/files")).header("upload-length", 1000);
    let refused = rejected(longer.header("upload-metadata", format!("{longest}AAAA")), 400, "invalid_request").await;
    assert!(
        refused["detail"].as_str().unwrap().contains("Upload-Metadata exceeds the limit of 3072 bytes"),
        "{refused}"
    );
    app.end(&[]).await;
}

#[tokio::test]
async fn last_response_is_json_if_the_client_names_it() {
    let app = TestApp::start().await;
    let bytes = fixture("plain.jpg");
    let request = tus(&app, Method::POST, &app.at("/files")).header("upload-metadata", "filename YS5qcGc=");
    let upload = Upload::of(&app, &expect(request.header("upload-length", bytes.len()), 201).await);
    let last = upload.patch(0, &bytes).header("accept", "text/html, application/json");
    let last = expect(last, 200).await;
    assert_eq!(header(&last, "upload-offset"), bytes.len().to_string());
    let image: Value = last.json().await.unwrap();
    let expected = app.upload("a.jpg", bytes.clone()).await.json::<Value>().await.unwrap();
    for field in ["content_type", "size", "width", "height", "checksum"] {
        assert_eq!(image[field], expected[field], "{field}");
    }
    let again = upload.check(&bytes).await;
    for field in ["s3_key", "content_type", "size", "width", "height", "checksum"] {
        assert_eq!(image[field], again[field], "{field}");
    }
    app.end(&[upload.key(), expected["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn finished_upload_is_answered_the_same_again() {
    let app = TestApp::start().await;
    let bytes = png(PART + 1);
    let upload = create(&app, bytes.len()).await;
    upload.append(0, &bytes).await;
    upload.append(bytes.len(), &[]).await;
    rejected(upload.patch(bytes.len(), b"x"), 400, "inconsistent_length").await;
    assert_eq!(upload.offset().await, bytes.len());
    let conflict = expect(upload.patch(0, &bytes), 409).await;
    assert_eq!(header(&conflict, "upload-offset"), bytes.len().to_string());
    rejected(upload.request(Method::DELETE), 409, "already_complete").await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn length_may_follow_later() {
    let app = TestApp::start().await;
    let bytes = png(PART + 1000);
    let created = tus(&app, Method::POST, &app.at("/files")).header("upload-metadata", PNG);
    let upload = Upload::of(&app, &expect(created.header("upload-defer-length", "1"), 201).await);
    let head = expect(upload.request(Method::HEAD), 200).await;
    assert_eq!(header(&head, "upload-defer-length"), "1");
    assert!(!head.headers().contains_key("upload-length"));
    upload.append(0, &bytes[..1000]).await;
    let length = |length: usize| upload.patch(1000, &bytes[1000..2000]).header("upload-length", length);
    expect(length(bytes.len()), 204).await;
    let head = expect(upload.request(Method::HEAD), 200).await;
    assert_eq!(header(&head, "upload-length"), bytes.len().to_string());
    assert!(!head.headers().contains_key("upload-defer-length"));
    let other = upload.patch(2000, &bytes[2000..]).header("upload-length", bytes.len() + 1);
    let body = rejected(other, 400, "inconsistent_length").await;
    assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#inconsistent-upload-length");
    upload.append(2000, &bytes[2000..]).await;
    upload.check(&bytes).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn deferred_length_above_the_limit_is_rejected() {
    let app = TestApp::with(&["--max-upload-size=6MiB"]).await;
    let bytes = png(6 * MIB + 1);
    let deferred = async || {
        let created = tus(&app, Method::POST, &app.at("/files")).header("upload-metadata", PNG);
        Upload::of(&app, &expect(created.header("upload-defer-length", "1"), 201).await)
    };
    let upload = deferred().await;
    let stated = upload.patch(0, &bytes[..1000]).header("upload-length", bytes.len());
    let rejection = expect(stated, 413).await;
    assert!(header(&rejection, "upload-limit").contains("max-size=6291456"));
    expect(upload.patch(0, &bytes), 413).await;
    expect(upload.request(Method::DELETE), 204).await;

    let upload = deferred().await;
    expect(upload.patch(0, &bytes[..6 * MIB]).header("upload-length", 6 * MIB), 204).await;
    upload.check(&bytes[..6 * MIB]).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn sizes_at_the_limit() {
    let app = TestApp::with(&["--max-upload-size=6MiB"]).await;
    let bytes = png(6 * MIB);
    let upload = create(&app, bytes.len()).await;
    upload.append(0, &bytes).await;
    upload.check(&bytes).await;
    let larger = tus(&app, Method::POST, &app.at("/files")).header("upload-metadata", PNG);
    let rejection = expect(larger.header("upload-length", bytes.len() + 1), 413).await;
    assert!(header(&rejection, "upload-limit").contains("max-size=6291456"));
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn wrong_offset_is_409_with_the_right_one() {
    let app = TestApp::start().await;
    let bytes = png(2000);
    let upload = create(&app, bytes.len()).await;
    upload.append(0, &bytes[..700]).await;
    for offset in [0, 699, 701, 2000] {
        let conflict = expect(upload.patch(offset, &bytes[..10]), 409).await;
        assert_eq!(header(&conflict, "upload-offset"), "700");
        let body: Value = conflict.json().await.unwrap();
        assert_eq!(body["code"], "offset_mismatch");
        assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#mismatching-upload-offset");
        assert_eq!(body["expected-offset"], 700);
    }
    assert_eq!(upload.offset().await, 700);
    expect(upload.request(Method::DELETE), 204).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn invalid_appends_change_nothing() {
    let app = TestApp::start().await;
    let bytes = png(1000);
    let upload = create(&app, bytes.len()).await;
    let request = |content_type: &'static str, offset: &'static str| {
        let request = upload.request(Method::PATCH).header("content-type", content_type);
        request.header("upload-offset", offset).body(bytes.clone())
    };
    rejected(request("image/png", "0"), 415, "unsupported_media_type").await;
    for offset in ["", "-1", "1.5", "x"] {
        rejected(request("application/offset+octet-stream", offset), 400, "invalid_request").await;
    }
    let without = upload.request(Method::PATCH).header("content-type", "application/offset+octet-stream");
    rejected(without.body(bytes.clone()), 400, "invalid_request").await;
    assert_eq!(upload.offset().await, 0);
    expect(upload.request(Method::DELETE), 204).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn more_bytes_than_the_length_are_rejected() {
    let app = TestApp::start().await;
    let bytes = png(1001);
    let upload = create(&app, 1000).await;
    rejected(upload.patch(0, &bytes), 400, "inconsistent_length").await;
    upload.append(upload.offset().await, &bytes[upload.offset().await..1000]).await;
    upload.check(&bytes[..1000]).await;
    app.end(&[upload.key()]).await;
}

#[tokio::test]
async fn deleted_upload_is_gone() {
    let app = TestApp::start().await;
    let bytes = png(PART + 1000);
    for offset in [0, 1000, PART + 10] {
        let upload = create(&app, bytes.len()).await;
        upload.append(0, &bytes[..offset]).await;
        let deleted = expect(upload.request(Method::DELETE), 204).await;
        assert_eq!(header(&deleted, "tus-resumable"), "1.0.0");
        upload.check_gone().await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn other_files_are_rejected_by_the_first_request_that_shows_it() {
    let app = TestApp::start().await;
    let jpeg = fixture("plain.jpg");
    let text = vec![b'x'; 100_000];
    for (first, wrong) in [(0, &text), (0, &jpeg), (10, &text)] {
        let upload = create(&app, wrong.len()).await;
        if first > 0 {
            // The signature of a PNG, and then something else.
            let head = fixture("plain.png");
            upload.append(0, &head[..first]).await;
        }
        let request = upload.patch(first, &wrong[first..]);
        let body = rejected(request, 400, "invalid_file_type").await;
        assert_eq!(body["detail"], "Invalid file type");
        upload.check_gone().await;
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn other_version_is_412() {
    let app = TestApp::start().await;
    let upload = create(&app, 1000).await;
    for (method, url) in [
        (Method::POST, app.at("/files")),
        (Method::HEAD, upload.url.clone()),
        (Method::PATCH, upload.url.clone()),
        (Method::DELETE, upload.url.clone()),
    ] {
        let request = app.client.request(method, url).header("tus-resumable", "0.2.2");
        let answer = expect(request.header("upload-length", "9"), 412).await;
        assert_eq!((header(&answer, "tus-version"), header(&answer, "tus-resumable")), ("1.0.0", "1.0.0"));
    }
    assert_eq!(upload.offset().await, 0);
    expect(upload.request(Method::DELETE), 204).await;
    app.end(&[]).await;
}

#[tokio::test]
async fn method_may_be_overridden() {
    let app = TestApp::start().await;
    let bytes = png(1000);
    let upload = create(&app, bytes.len()).await;
    let post = |method: &'static str| upload.request(Method::POST).header("x-http-method-override", method);
    let patch = post("PATCH").header("content-type", "application/offset+octet-stream").header("upload-offset", "0");
    let patched = expect(patch.body(bytes[..10].to_vec()), 204).await;
    assert_eq!(header(&patched, "upload-offset"), "10");
    expect(post("DELETE"), 204).await;
    upload.check_gone().await;
    expect(post("PUT"), 405).await;
    expect(upload.request(Method::POST), 405).await;
    app.end(&[]).await;
}
