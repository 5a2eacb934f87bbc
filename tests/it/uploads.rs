//! Uploads through the service, and reading and deleting images.

use base64::Engine;
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::support::app::{TestApp, fixture, png};
use super::support::raw::{RawClient, form, head};

const PART: usize = 5 << 20;

async fn json(response: reqwest::Response, status: u16) -> Value {
    let found = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(found.as_u16(), status, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn key(answer: &Value) -> String {
    answer["s3_key"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn image_is_uploaded_opened_and_deleted() {
    let app = TestApp::start().await;
    let image = fixture("plain.png");
    let answer = json(app.upload("holiday.png", image.clone()).await, 200).await;
    let s3_key = key(&answer);
    assert!(s3_key.ends_with(".png"));
    assert_eq!(answer["content_type"], "image/png");
    assert_eq!(answer["size"], image.len());
    assert_eq!((&answer["width"], &answer["height"]), (&16.into(), &12.into()));
    assert!(answer["checksum"].as_str().unwrap().starts_with("crc64nvme:"));

    let opened = app.client.get(answer["url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(opened.headers()[header::CONTENT_TYPE], "image/png");
    assert_eq!(opened.bytes().await.unwrap(), image);

    let redirect = app.client.get(app.at(&format!("/images/{s3_key}"))).send().await.unwrap();
    assert_eq!(redirect.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(redirect.headers()[header::CACHE_CONTROL], "private, max-age=1799");
    // Relative to the request, so that it also works behind a proxy.
    let location = redirect.headers()[header::LOCATION].to_str().unwrap().to_owned();
    assert!(location.starts_with("../_store/"), "{location}");
    let location = redirect.url().join(&location).unwrap();
    assert_eq!(app.client.get(location).send().await.unwrap().bytes().await.unwrap(), image);

    let head = app.client.head(app.at(&format!("/images/{s3_key}"))).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()[header::CONTENT_LENGTH], image.len().to_string().as_str());
    assert_eq!(head.headers()[header::CONTENT_TYPE], "image/png");

    let link = json(app.client.get(app.at(&format!("/images/{s3_key}/url"))).send().await.unwrap(), 200).await;
    assert_eq!((&link["width"], &link["height"], &link["size"]), (&16.into(), &12.into(), &image.len().into()));
    assert!(link["expires_at"].as_str().unwrap().ends_with('Z'));

    let delete = app.at(&format!("/delete/{s3_key}"));
    let deleted = json(app.client.delete(&delete).send().await.unwrap(), 200).await;
    assert_eq!(deleted["detail"], format!("File '{s3_key}' deleted successfully"));
    let again = json(app.client.delete(&delete).send().await.unwrap(), 404).await;
    assert_eq!((&again["detail"], &again["code"]), (&"File not found".into(), &"not_found".into()));
    for path in [format!("/images/{s3_key}"), format!("/images/{s3_key}/url")] {
        assert_eq!(json(app.client.get(app.at(&path)).send().await.unwrap(), 404).await["code"], "not_found");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn sizes_around_a_part_are_stored_completely() {
    let app = TestApp::start().await;
    let mut keys = Vec::new();
    for size in [PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1, 7 * PART + 12345] {
        let image = png(size);
        let answer = json(app.upload("a.png", image.clone()).await, 200).await;
        assert_eq!(answer["size"], size);
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &image);
        assert_eq!(answer["checksum"], image_store::crc64::labelled(crc));
        let opened = app.client.get(answer["url"].as_str().unwrap()).send().await.unwrap();
        assert!(opened.bytes().await.unwrap() == image, "{size} bytes");
        keys.push(key(&answer));
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn raw_body_is_accepted_with_and_without_length() {
    let app = TestApp::with(&["--s3-prefix=a/b/"]).await;
    let image = png(PART + 1);
    let post = || app.client.post(app.at("/upload-image")).header(header::CONTENT_TYPE, "image/png");
    let known = json(post().body(image.clone()).send().await.unwrap(), 200).await;
    let chunks =
        futures::stream::iter(image.chunks(70_001).map(|chunk| Ok::<_, String>(chunk.to_vec())).collect::<Vec<_>>());
    let chunked = json(post().body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap(), 200).await;
    assert_eq!(known["checksum"], chunked["checksum"]);
    let objects = [format!("a/b/{}", key(&known)), format!("a/b/{}", key(&chunked))];
    app.end(&[&objects[0], &objects[1]]).await;
}

#[tokio::test]
async fn key_extension_follows_detected_format() {
    let app = TestApp::start().await;
    let mut keys = Vec::new();
    for (name, file, extension) in [
        ("a.png", "plain.jpg", ".jpg"),
        ("a.JPEG", "plain.jpg", ".jpeg"),
        ("a.jpg", "plain.gif", ".gif"),
        ("no extension", "plain.bmp", ".bmp"),
        ("photo.jfif", "plain.jpg", ".jpg"),
        ("scan.DIB", "plain.bmp", ".bmp"),
    ] {
        let answer = json(app.upload(name, fixture(file)).await, 200).await;
        assert!(key(&answer).ends_with(extension), "{name}: {answer}");
        keys.push(key(&answer));
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    app.end(&keys).await;
}

#[tokio::test]
async fn disallowed_images_are_rejected_and_not_stored() {
    let app = TestApp::with(&["--max-pixels=100", "--max-upload-size=6MiB"]).await;
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec();
    for (name, bytes, status, code, detail) in [
        ("a.svg", svg.clone(), 400, "invalid_file_type", "Invalid file type"),
        ("a.png", svg, 400, "invalid_file_type", "Invalid file type"),
        ("a.webp", fixture("lossy.webp"), 400, "invalid_file_type", "Invalid file type"),
        ("a.png", fixture("lossy.webp"), 400, "invalid_file_type", "Invalid file type"),
        ("a.png", b"just text".to_vec(), 400, "invalid_file_type", "Invalid file type"),
        ("a.png", Vec::new(), 400, "no_file", "No file uploaded"),
        (
            "a.png",
            fixture("plain.png"),
            400,
            "too_many_pixels",
            "The image is 16 x 12 pixels; at most 100 pixels in total are allowed",
        ),
    ] {
        let answer = json(app.upload(name, bytes).await, status).await;
        assert_eq!((&answer["code"], &answer["detail"]), (&code.into(), &detail.into()), "{name}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn too_large_image_is_413_with_and_without_length() {
    let app = TestApp::with(&["--max-upload-size=6MiB"]).await;
    let post = || app.client.post(app.at("/upload-image")).header(header::CONTENT_TYPE, "image/png");
    let image = png((6 << 20) + 1);
    let announced = json(post().body(image.clone()).send().await.unwrap(), 413).await;
    assert!(announced["detail"].as_str().unwrap().contains("POST /uploads"), "{announced}");
    let chunks =
        futures::stream::iter(image.chunks(1 << 20).map(|chunk| Ok::<_, String>(chunk.to_vec())).collect::<Vec<_>>());
    let found = json(post().body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap(), 413).await;
    assert_eq!(found["code"], "payload_too_large");
    assert_eq!(json(app.upload("a.png", image).await, 413).await["code"], "payload_too_large");
    let request = serde_json::json!({ "filename": "a.png", "size": (6 << 20) + 1 });
    let planned = json(app.client.post(app.at("/uploads")).json(&request).send().await.unwrap(), 413).await;
    assert!(!planned["detail"].as_str().unwrap().contains("POST /uploads"), "{planned}");
    let fits = json(app.upload("a.png", png(6 << 20)).await, 200).await;
    app.end(&[&key(&fits)]).await;
}

#[tokio::test]
async fn size_limit_applies_to_the_decoded_file() {
    let app = TestApp::with(&["--max-upload-size=6MiB"]).await;
    let encoded = |image: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(image);
        let lines: String = text.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line) + "\r\n").collect();
        let encoding = [(HeaderName::from_static("content-transfer-encoding"), HeaderValue::from_static("base64"))];
        let part = reqwest::multipart::Part::text(lines).file_name("a.png").headers(HeaderMap::from_iter(encoding));
        let form = reqwest::multipart::Form::new().part("file", part);
        app.client.post(app.at("/upload-image")).multipart(form).send()
    };
    // The encoded body is larger than the limit plus 2 MiB.
    let stored = json(encoded(&png(6 << 20)).await.unwrap(), 200).await;
    assert_eq!(stored["size"], 6 << 20);
    assert_eq!(json(encoded(&png((6 << 20) + 1)).await.unwrap(), 413).await["code"], "payload_too_large");
    // For a file without an encoding, the allowance on top of the limit is only for the form's headers.
    let (body, length) = (form("a.png", &png(1_000)), 9 << 20);
    let mut client = RawClient::connect(app.address()).await;
    client.send(head(length, "")).await;
    client.send(&body[..500]).await;
    let answer = client.read_answer().await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("\"payload_too_large\""), "{answer}");
    drop(client);
    app.end(&[&key(&stored)]).await;
}

#[tokio::test]
async fn every_error_is_json_with_a_code() {
    let app = TestApp::start().await;
    let client = &app.client;
    let key = "00000000-0000-4000-8000-000000000000.png";
    for (request, status, code) in [
        (client.get(app.at("/nowhere")), 404, "not_found"),
        (client.get(app.at("/upload-image")), 405, "method_not_allowed"),
        (client.post(app.at("/upload-image")).body("text"), 415, "unsupported_media_type"),
        (client.post(app.at("/upload-image")).header("content-type", "multipart/form-data"), 400, "malformed_form"),
        (client.delete(app.at("/delete/%ff")), 404, "not_found"),
        (client.delete(app.at("/delete/../../etc/passwd")), 404, "not_found"),
        (client.delete(app.at(&format!("/delete/{}", key.to_uppercase()))), 404, "not_found"),
        (client.delete(app.at("/delete/incoming%2F00000000-0000-4000-8000-000000000000.png")), 404, "not_found"),
        (client.get(app.at(&format!("/images/{key}"))), 404, "not_found"),
    ] {
        let answer = json(request.send().await.unwrap(), status).await;
        assert_eq!(answer["code"], code, "{answer}");
        assert!(answer["detail"].is_string());
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn responses_have_request_id_and_cors_only_for_allowed_origin() {
    let app = TestApp::start().await;
    let get = |path: &str| app.client.get(app.at(path));
    let generated = get("/healthz").send().await.unwrap();
    assert_eq!(generated.headers()["x-request-id"].len(), 36);
    let accepted = get("/nowhere").header("x-request-id", "mine-1").send().await.unwrap();
    assert_eq!(accepted.headers()["x-request-id"], "mine-1");
    let invalid = get("/healthz").header("x-request-id", "a b").send().await.unwrap();
    assert_eq!(invalid.headers()["x-request-id"].len(), 36);

    let other = get("/limits").header("origin", "http://other.example").send().await.unwrap();
    assert!(other.headers().get("access-control-allow-origin").is_none());
    app.end(&[]).await;
}

/// The headers that Dropzone, tus-js-client, Uppy and the service's own page request in their preflights.
#[tokio::test]
async fn cors_allows_headers_of_upload_clients() {
    let app = TestApp::start().await;
    for (method, headers) in [
        ("POST", "cache-control,x-requested-with"),
        ("POST", "authorization,content-type,idempotency-key,x-api-key,x-request-id,traceparent,tracestate"),
        (
            "POST",
            "tus-resumable,upload-concat,upload-defer-length,upload-length,upload-metadata,x-http-method-override",
        ),
        ("PATCH", "content-type,tus-resumable,upload-offset"),
        ("PATCH", "content-type,upload-complete,upload-draft-interop-version,upload-offset"),
        ("DELETE", "x-api-key"),
    ] {
        let preflight = app
            .client
            .request(reqwest::Method::OPTIONS, app.at("/upload-image"))
            .header("origin", "http://page.example")
            .header("access-control-request-method", method)
            .header("access-control-request-headers", headers);
        let answer = preflight.send().await.unwrap();
        assert_eq!(answer.headers()["access-control-allow-origin"], "http://page.example");
        let list = |name: &str| answer.headers()[name].to_str().unwrap().to_lowercase();
        assert!(list("access-control-allow-methods").split(',').any(|known| known == method.to_lowercase()));
        let allowed = list("access-control-allow-headers");
        for header in headers.split(',') {
            assert!(allowed.split(',').any(|known| known == header), "{header} in {allowed}");
        }
    }
    let answer = app.client.get(app.at("/limits")).header("origin", "http://page.example").send().await.unwrap();
    let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap().to_lowercase();
    for header in [
        "etag",
        "location",
        "retry-after",
        "x-request-id",
        "upload-offset",
        "upload-length",
        "upload-expires",
        "upload-metadata",
        "upload-defer-length",
        "tus-version",
        "tus-resumable",
        "tus-max-size",
        "tus-extension",
        "upload-limit",
        "upload-complete",
        "upload-draft-interop-version",
    ] {
        assert!(exposed.split(',').any(|known| known == header), "{header} in {exposed}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn upload_returns_location_and_etag() {
    for (flags, base) in
        [(&[][..], None), (&["--public-url=https://images.example/up"][..], Some("https://images.example/up"))]
    {
        let app = TestApp::with(flags).await;
        let response = app.upload("a.png", fixture("plain.png")).await;
        let [location, etag] =
            [header::LOCATION, header::ETAG].map(|name| response.headers()[name].to_str().unwrap().to_owned());
        let answer = json(response, 200).await;
        let path = format!("/images/{}", key(&answer));
        assert_eq!(location, format!("{}{path}", base.unwrap_or(&app.url)));
        assert_eq!(etag, format!("\"{}\"", answer["checksum"].as_str().unwrap()));
        app.end(&[&key(&answer)]).await;
    }
}

#[tokio::test]
async fn images_can_be_created_and_deleted_under_images() {
    let app = TestApp::start().await;
    let image = fixture("plain.gif");
    let part = reqwest::multipart::Part::bytes(image.clone()).file_name("a.gif");
    let form = app.client.post(app.at("/images")).multipart(reqwest::multipart::Form::new().part("file", part));
    let raw = |path: &str| app.client.post(app.at(path)).header("content-type", "application/octet-stream");
    let bodies = [form, raw("/images").body(image.clone()), raw("/upload-image").body(image.clone())];
    for request in bodies {
        let stated = request.header("x-base-url", "https://images.example/up/").send().await.unwrap();
        let location = stated.headers()[header::LOCATION].to_str().unwrap().to_owned();
        let stored = json(stated, 200).await;
        assert_eq!((&stored["content_type"], &stored["size"]), (&"image/gif".into(), &image.len().into()));
        let s3_key = key(&stored);
        assert_eq!(location, format!("https://images.example/up/images/{s3_key}"));
        let address = app.at(&format!("/images/{s3_key}"));
        let deleted = json(app.client.delete(&address).send().await.unwrap(), 200).await;
        assert_eq!(deleted["detail"], format!("File '{s3_key}' deleted successfully"));
        assert_eq!(json(app.client.delete(&address).send().await.unwrap(), 404).await["code"], "not_found");
    }
    let refused = json(raw("/images").body("no image").send().await.unwrap(), 400).await;
    assert_eq!((&refused["code"], &refused["detected"]), (&"invalid_file_type".into(), &"text".into()));
    assert_eq!(json(app.client.get(app.at("/images")).send().await.unwrap(), 405).await["code"], "method_not_allowed");
    let metrics = app.client.get(app.at("/metrics")).send().await.unwrap().text().await.unwrap();
    for (route, method) in [("/images", "POST"), ("/images/{s3_key}", "DELETE")] {
        assert!(metrics.contains(&format!("route=\"{route}\",method=\"{method}\"")), "{method} {route}");
    }
    app.end(&[]).await;
}

#[tokio::test]
async fn unnamed_file_is_replaced_by_later_named_file() {
    // Memory for one part: the first image must release it before the second is stored.
    for flags in [&[][..], &["--memory-budget=10MiB", "--spill-budget=0"]] {
        let app = TestApp::with(flags).await;
        for size in [1_000, (5 << 20) + 1, 21 << 20] {
            let unnamed = reqwest::multipart::Part::bytes(png(size));
            let named = reqwest::multipart::Part::bytes(fixture("plain.gif")).file_name("a.gif");
            let form = reqwest::multipart::Form::new().part("file", unnamed).part("file", named);
            let answer = app.client.post(app.at("/upload-image")).multipart(form).send().await.unwrap();
            let answer = json(answer, 200).await;
            assert_eq!(answer["content_type"], "image/gif");
            let read = app.client.get(answer["url"].as_str().unwrap()).send().await.unwrap();
            assert_eq!(read.bytes().await.unwrap(), fixture("plain.gif"), "{size}");
            app.client.delete(app.at(&format!("/images/{}", key(&answer)))).send().await.unwrap();
        }
        // Without a second file, the unnamed file is the image.
        let alone = reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::bytes(png(6 << 20)));
        let answer = app.client.post(app.at("/upload-image")).multipart(alone).send().await.unwrap();
        let answer = json(answer, 200).await;
        assert_eq!(answer["size"], 6 << 20);
        app.end(&[&key(&answer)]).await;
    }
}

#[tokio::test]
async fn rejection_lists_accepted_formats_and_limits() {
    let app = TestApp::with(&["--allowed-formats=jpg,tiff", "--header-scan-limit=64KiB"]).await;
    let refused = json(app.upload("a.png", fixture("plain.png")).await, 400).await;
    assert_eq!(
        (&refused["detail"], &refused["accepted"]),
        (&"Invalid file type".into(), &serde_json::json!(["jpeg", "tiff"]))
    );
    assert!(refused.get("limit").is_none() && refused.get("detected").is_none(), "{refused}");
    let seen = json(app.upload("a", fixture("plain.png")).await, 400).await;
    assert_eq!((&seen["detected"], &seen["accepted"]), (&"png".into(), &refused["accepted"]));

    let limit = serde_json::json!({ "setting": "HEADER_SCAN_LIMIT", "bytes": 65_536 });
    let endless = [&fixture("plain.jpg")[..2], &[0xff, 0xfe, 0xff, 0xff].repeat(50_000)].concat();
    let refused = json(app.upload("a.jpg", endless).await, 400).await;
    assert_eq!((&refused["limit"], &refused["detected"]), (&limit, &"jpeg".into()));
    assert!(refused["hint"].as_str().unwrap().contains("HEADER_SCAN_LIMIT"), "{refused}");
    let late = [b"II*\0", &100_000_u32.to_le_bytes()[..], &[0; 100_000]].concat();
    let refused = json(app.upload("a.tiff", late).await, 400).await;
    assert_eq!((&refused["detail"], &refused["limit"]), (&"Invalid file type".into(), &limit));
    assert!(refused["hint"].as_str().unwrap().contains("direct uploads (POST /uploads)"), "{refused}");

    let part = reqwest::multipart::Part::bytes(fixture("plain.jpg")).file_name("a.jpg");
    let form = reqwest::multipart::Form::new().text("title", "x").part("image", part);
    let answer = json(app.client.post(app.at("/upload-image")).multipart(form).send().await.unwrap(), 400).await;
    assert_eq!(
        (&answer["detail"], &answer["fields"]),
        (&"No file uploaded".into(), &serde_json::json!(["title", "image"]))
    );
    assert!(answer["hint"].as_str().unwrap().contains("'file'"), "{answer}");
    app.end(&[]).await;
}

#[tokio::test]
async fn limits_and_readiness_are_returned() {
    let app = TestApp::with(&["--allowed-formats=png,webp"]).await;
    let limits = json(app.client.get(app.at("/limits")).send().await.unwrap(), 200).await;
    assert_eq!(limits["max_upload_size"], 5_000_000_000_u64);
    let names: Vec<&str> = limits["formats"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["png", "webp"]);
    assert_eq!(json(app.client.get(app.at("/healthz")).send().await.unwrap(), 200).await["status"], "ok");
    assert_eq!(json(app.client.get(app.at("/readyz")).send().await.unwrap(), 200).await["status"], "ready");
    app.app.start_draining();
    assert_eq!(json(app.client.get(app.at("/readyz")).send().await.unwrap(), 503).await["code"], "not_ready");
    app.end(&[]).await;
}
