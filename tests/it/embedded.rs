//! Behaviour of the embedded S3 only: access under `/_store/`, credentials, files.

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use image_store::store::embedded::Embedded;
use image_store::store::s3::S3Store;
use image_store::store::{
    Content, CustomMetadata, Payload, PresignOptions, Presigned, PutConditions, ReadAt, Reading, Store, StoreError,
};
use reqwest::{Method, StatusCode};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::process::Process;
use crate::support::app::TestApp;
use crate::support::backend::{Backend, Kind, stray_files};
use crate::support::samples::*;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns presign options for a client that reaches the service at `app.url`.
fn at(app: &TestApp) -> PresignOptions {
    PresignOptions { base: Some(app.url.clone()), ..for_a_minute() }
}

fn sized(size: u64) -> PutConditions {
    let content_type = "image/png".to_owned();
    PutConditions { size, content_type, sha256: None, custom: CustomMetadata::new(), origin: None }
}

fn put(app: &TestApp, signed: &Presigned) -> reqwest::RequestBuilder {
    let request = app.client.put(&signed.url);
    signed.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

#[tokio::test]
async fn objects_of_an_earlier_version_are_reported() {
    for exists in [false, true] {
        let data = tempfile::tempdir().unwrap();
        let former = data.path().join("s3");
        if exists {
            std::fs::create_dir(&former).unwrap();
        }
        let process = Process::start(data.path(), &[]);
        let health = reqwest::get(format!("http://{}/healthz", process.address)).await.unwrap();
        assert_eq!(health.status(), StatusCode::OK);
        process.terminate();
        let (status, log) = process.end().await;
        assert!(status.success(), "{log}");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("they are not served")).collect();
        assert_eq!(lines.len(), usize::from(exists), "{log}");
        assert!(lines.iter().all(|line| line.contains("WARN") && line.contains(former.to_str().unwrap())), "{log}");
    }
}

#[tokio::test]
async fn browser_may_use_presigned_urls() {
    let app = TestApp::start().await;
    let preflight = app.client.request(Method::OPTIONS, app.at("/_store/images/any"));
    let preflight =
        preflight.header("origin", "https://anywhere.example").header("access-control-request-method", "PUT");
    let requested = "content-type,if-none-match,x-amz-checksum-sha256";
    let allowed = preflight.header("access-control-request-headers", requested).send().await.unwrap();
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "*");
    assert_eq!(allowed.headers()["access-control-allow-methods"], "GET,HEAD,PUT");
    assert_eq!(allowed.headers()["access-control-allow-headers"], requested);

    let name = image();
    app.store.put(&name, &png(), payload(&noise(1, 10))).await.unwrap();
    let url = app.store.presign_get(&name, &at(&app)).await.unwrap().url;
    let read = app.client.get(url).header("origin", "https://anywhere.example").send().await.unwrap();
    assert_eq!(read.status(), StatusCode::OK);
    let header = |name: &str| read.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("access-control-allow-origin"), Some("*"));
    let exposed = header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("etag") && exposed.contains("x-amz-checksum-crc64nvme"), "{exposed}");
    assert_eq!(header("x-content-type-options"), Some("nosniff"));
    assert_eq!(header("content-security-policy"), Some("sandbox"));
    // The headers of the service's own answers would prevent other sites from showing the image, and browsers from
    // caching it.
    assert_eq!((header("cross-origin-resource-policy"), header("cache-control")), (None, None));
    assert_eq!(read.bytes().await.unwrap(), noise(1, 10));
    app.end(&[name.key().as_str()]).await;
}

#[tokio::test]
async fn presigned_url_works_under_any_host_and_prefix() {
    let app = TestApp::with(&["--public-url=https://images.example/up"]).await;
    let stored: serde_json::Value =
        app.upload("a.jpg", crate::support::app::fixture("plain.jpg")).await.json().await.unwrap();
    let url = stored["url"].as_str().unwrap();
    // A proxy that terminates TLS and removes the prefix sends this path.
    let path = url.strip_prefix("https://images.example/up").unwrap();
    assert!(path.starts_with("/_store/images/"), "{url}");
    for host in ["images.example", "backend:8080", "127.0.0.1"] {
        let read = app.client.get(app.at(path)).header("host", host).send().await.unwrap();
        assert_eq!(read.status(), StatusCode::OK, "{host}");
        assert_eq!(read.bytes().await.unwrap(), crate::support::app::fixture("plain.jpg"));
    }
    app.end(&[stored["s3_key"].as_str().unwrap()]).await;
}

#[tokio::test]
async fn unsigned_requests_and_headers_are_rejected() {
    let app = TestApp::start().await;
    let (secret, own) = (image(), incoming());
    app.store.put(&secret, &png(), payload(&noise(1, 10))).await.unwrap();
    let signed = app.store.presign_put(&own, &sized(10), &at(&app)).await.unwrap();
    for (name, value) in [
        ("x-amz-copy-source", format!("images/{}", secret.key())),
        ("x-amz-meta-width", "1".to_owned()),
        ("x-amz-checksum-crc32", "AAAAAA==".to_owned()),
    ] {
        let refused = put(&app, &signed).header(name, value).body(noise(2, 10)).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{name}");
        assert!(refused.text().await.unwrap().contains("<Code>AccessDenied</Code>"));
    }
    for (path, method) in [("/_store/images/x", Method::GET), ("/_store/images/x", Method::PUT)] {
        assert_eq!(app.client.request(method, app.at(path)).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    }
    let delete = app.client.delete(&signed.url).send().await.unwrap();
    assert_eq!(delete.status(), StatusCode::METHOD_NOT_ALLOWED);
    let changed = signed.url.replace("X-Amz-Expires=60", "X-Amz-Expires=61");
    let refused = put(&app, &Presigned { url: changed, ..signed.clone() }).body(noise(2, 10)).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(matches!(app.store.head(&own).await, Err(StoreError::NotFound)));

    assert_eq!(put(&app, &signed).body(noise(2, 10)).send().await.unwrap().status(), StatusCode::OK);
    let again = put(&app, &signed).body(noise(3, 10)).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::PRECONDITION_FAILED);
    app.end(&[secret.key().as_str(), &own.object_key("")]).await;
}

/// Only the service itself signs in a header, and it calls the store inside the process.
#[tokio::test]
async fn requests_signed_in_a_header_are_rejected() {
    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
    let app = TestApp::start().await;
    let (access_key, secret_key) = app.credentials();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(access_key, secret_key, None, None, "tests"))
        .endpoint_url(app.at("/_store/"))
        .force_path_style(true);
    let client = aws_sdk_s3::Client::from_conf(config.build());
    let refused = client.get_object().bucket("images").key("x").send().await.unwrap_err();
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 403);
    app.end(&[]).await;
}

#[tokio::test]
async fn objects_and_uploads_survive_a_restart() {
    let data_dir = tempfile::tempdir().unwrap();
    let (name, other, bytes) = (image(), image(), noise(2, PART + 5));

    let first = Embedded::open(data_dir.path()).unwrap();
    let store = S3Store::connect(first.s3_options("a/", TIMEOUT)).await;
    store.put(&name, &png(), payload(&bytes)).await.unwrap();
    let upload = store.create_upload(&other, &png()).await.unwrap();
    let part = store.upload_part(&upload, 1, payload(&bytes.slice(..PART))).await.unwrap();
    let keys = (first.access_key.clone(), first.secret_key.clone());
    let before = stray_files(data_dir.path());
    drop((first, store));

    let second = Embedded::open(data_dir.path()).unwrap();
    assert_eq!(keys, (second.access_key.clone(), second.secret_key.clone()));
    assert_eq!(stray_files(data_dir.path()), before, "a start must keep objects and uploads that were acknowledged");
    let store = S3Store::connect(second.s3_options("a/", TIMEOUT)).await;
    let head = store.head(&name).await.unwrap();
    assert_eq!((head.size, head.crc64, head.dimensions), (PART as u64 + 5, Some(crc64(&bytes)), Some((640, 480))));
    let last = store.upload_part(&upload, 2, payload(&bytes.slice(PART..))).await.unwrap();
    store.complete_upload(&upload, &[part, last], whole(&bytes)).await.unwrap();
    assert_eq!(store.head(&other).await.unwrap().crc64, Some(crc64(&bytes)));

    store.delete(&name).await.unwrap();
    store.delete(&other).await.unwrap();
    assert_eq!(stray_files(data_dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn start_removes_files_of_a_killed_process() {
    let data_dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(data_dir.path()).unwrap();
    let store = S3Store::connect(embedded.s3_options("", TIMEOUT)).await;
    store.put(&image(), &png(), payload(&noise(3, 10))).await.unwrap();
    let upload = store.create_upload(&image(), &png()).await.unwrap();
    store.upload_part(&upload, 1, payload(&noise(4, 10))).await.unwrap();
    drop((embedded, store));

    let live = stray_files(data_dir.path());
    let ended = data_dir.path().join("uploads").join(uuid::Uuid::new_v4().simple().to_string());
    std::fs::create_dir(&ended).unwrap();
    for stray in [ended.join("1"), data_dir.path().join("tmp/half")] {
        std::fs::write(stray, "{}").unwrap();
    }
    let again = Embedded::open(data_dir.path()).unwrap();
    assert_eq!(stray_files(data_dir.path()), live);
    let store = S3Store::connect(again.s3_options("", TIMEOUT)).await;
    assert_eq!(store.leftovers().await.unwrap().len(), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn credentials_file_is_readable_by_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let data_dir = tempfile::tempdir().unwrap();
    Embedded::open(data_dir.path()).unwrap();
    let mode = std::fs::metadata(data_dir.path().join("credentials.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// The folder also stays locked while a store or a request in progress uses it.
#[tokio::test]
async fn data_folder_is_locked_by_one_process() {
    let data_dir = tempfile::tempdir().unwrap();
    let first = Embedded::open(data_dir.path()).unwrap();
    let store = S3Store::connect(first.s3_options("", TIMEOUT)).await;
    drop(first);
    let error = Embedded::open(data_dir.path()).err().expect("the folder is in use");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(error.to_string().contains("another process"), "{error}");
    drop(store);
    assert!(Embedded::open(data_dir.path()).is_ok());
}

#[tokio::test]
async fn keys_cannot_reach_files_outside_the_bucket() {
    let backend = Backend::embedded().await;
    let Kind::Embedded { data_dir, .. } = &backend.kind else { panic!() };
    let client = backend.client();
    for key in ["../tmp/x", "a/../../lock", "a//b", "..", "a/"] {
        let object = || (client.put_object().bucket("images").key(key), client.get_object().bucket("images").key(key));
        object().0.body(key.as_bytes().to_vec().into()).send().await.unwrap();
        let read = object().1.send().await.unwrap().body.collect().await.unwrap();
        assert_eq!(read.into_bytes(), key.as_bytes());
        client.delete_object().bucket("images").key(key).send().await.unwrap();
        assert_eq!(stray_files(data_dir.path()), Vec::<String>::new());
    }
    let long = client.put_object().bucket("images").key("k".repeat(256)).body(b"x".to_vec().into()).send().await;
    assert_eq!(long.unwrap_err().code(), Some("KeyTooLongError"));
    assert!(client.put_object().bucket("tmp").key("x").body(b"x".to_vec().into()).send().await.is_err());
    assert!(client.list_buckets().send().await.is_err());
    assert!(client.create_bucket().bucket("another").send().await.is_err());
    assert_eq!(reqwest::get(format!("{}/images/x", backend.endpoint)).await.unwrap().status(), 403);
    backend.check_clean().await;
}

#[tokio::test]
async fn conditional_put_and_delete_check_etags() {
    let backend = Backend::embedded().await;
    let (client, key) = (backend.client(), format!("{}x", backend.options.prefix));
    let put = |body: &'static [u8]| client.put_object().bucket("images").key(&key).body(body.to_vec().into());
    let status = |error: &aws_sdk_s3::error::SdkError<_, aws_sdk_s3::config::http::HttpResponse>| {
        error.raw_response().unwrap().status().as_u16()
    };
    let missing = put(b"one").if_match("\"00000000000000000000000000000000\"").send().await.unwrap_err();
    assert_eq!(status(&missing), 404);
    let one = put(b"one").if_none_match("*").send().await.unwrap().e_tag.unwrap();
    assert_eq!(one, "\"f97c5d29941bfb1b2fdab0874906ab82\"", "the ETag is the MD5");
    assert_eq!(status(&put(b"two").if_none_match("*").send().await.unwrap_err()), 412);
    let two = put(b"two").if_match(&one).send().await.unwrap().e_tag.unwrap();
    assert_eq!(status(&put(b"three").if_match(&one).send().await.unwrap_err()), 412);
    let delete = || client.delete_object().bucket("images").key(&key);
    assert_eq!(delete().if_match(&one).send().await.unwrap_err().raw_response().unwrap().status().as_u16(), 412);
    let read = client.get_object().bucket("images").key(&key).if_match(&two).send().await.unwrap();
    assert_eq!(read.body.collect().await.unwrap().into_bytes(), "two");
    delete().if_match(&two).send().await.unwrap();
    backend.check_clean().await;
}

#[tokio::test]
async fn copied_part_checks_etag_and_part_numbers_may_have_gaps() {
    let backend = Backend::embedded().await;
    let (client, key) = (backend.client(), format!("{}x", backend.options.prefix));
    let source = client.put_object().bucket("images").key("source").body(b"0123456789".to_vec().into());
    let etag = source.send().await.unwrap().e_tag.unwrap();
    let created = client.create_multipart_upload().bucket("images").key(&key).content_type("image/png").send().await;
    let id = created.unwrap().upload_id.unwrap();
    let copy = |number| {
        let call = client.upload_part_copy().bucket("images").key(&key).upload_id(&id).part_number(number);
        call.copy_source("images/source")
    };
    let other = copy(7).copy_source_if_match("\"00000000000000000000000000000000\"").send().await.unwrap_err();
    assert_eq!(other.raw_response().unwrap().status().as_u16(), 412);
    let whole = copy(7).copy_source_if_match(&etag).send().await.unwrap().copy_part_result.unwrap().e_tag.unwrap();
    assert_eq!(whole, etag, "the part's ETag must be that of the source");
    copy(9).copy_source_range("bytes=2-4").send().await.unwrap();
    let complete = |number: i32, etag: &str| {
        let part = CompletedPart::builder().part_number(number).e_tag(etag).build();
        let call = client.complete_multipart_upload().bucket("images").key(&key).upload_id(&id);
        call.multipart_upload(CompletedMultipartUpload::builder().parts(part).build())
    };
    assert_eq!(complete(8, &whole).send().await.unwrap_err().code(), Some("InvalidPart"));
    let joined = complete(7, &whole).send().await.unwrap().e_tag.unwrap();
    assert!(joined.ends_with("-1\""), "{joined}");
    assert_eq!(
        complete(7, &whole).send().await.unwrap_err().code(),
        Some("NoSuchUpload"),
        "an upload can be completed only once"
    );
    let read = client.get_object().bucket("images").key(&key).send().await.unwrap();
    assert_eq!(read.content_type(), Some("image/png"));
    assert_eq!(read.body.collect().await.unwrap().into_bytes(), "0123456789");
    for key in ["source", &key] {
        client.delete_object().bucket("images").key(key).send().await.unwrap();
    }
    backend.check_clean().await;
}

#[tokio::test]
async fn concurrent_complete_and_abort_have_one_outcome() {
    let backend = Backend::embedded().await;
    for round in 0..10 {
        let (name, bytes) = (image(), noise(round, 100));
        let upload = backend.store.create_upload(&name, &png()).await.unwrap();
        let part = backend.store.upload_part(&upload, 1, payload(&bytes)).await.unwrap();
        let parts = [part];
        let (completed, aborted, late) = tokio::join!(
            backend.store.complete_upload(&upload, &parts, whole(&bytes)),
            backend.store.abort_upload(&upload),
            backend.store.upload_part(&upload, 1, payload(&bytes)),
        );
        aborted.unwrap();
        assert!(matches!(late, Ok(_) | Err(StoreError::NoSuchUpload)), "{late:?}");
        let there = backend.store.head(&name).await;
        assert_eq!(there.is_ok(), completed.is_ok(), "{there:?} {completed:?} {late:?}");
        backend.store.delete(&name).await.unwrap();
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn disconnected_client_leaves_no_files() {
    let app = TestApp::start().await;
    let put = app.store.presign_put(&incoming(), &sized(1 << 20), &at(&app)).await.unwrap();
    let upload = app.store.create_upload(&incoming(), &png()).await.unwrap();
    let before = stray_files(app.data_dir());
    let part = app.store.presign_part(&upload, 1, Some(1 << 20), &at(&app)).await.unwrap();
    for url in [put, part] {
        let mut client = half_sent(&app, &url).await;
        until_files(app.data_dir(), |files| files != before).await;
        client.shutdown().await.unwrap();
        until_files(app.data_dir(), |files| files == before).await;
    }
    assert!(app.store.list_parts(&upload).await.unwrap().is_empty());
    app.store.abort_upload(&upload).await.unwrap();
    app.end(&[]).await;
}

/// Connects a client that sends half of a body and then stops.
async fn half_sent(app: &TestApp, signed: &Presigned) -> TcpStream {
    let path = signed.url.strip_prefix(&app.url).unwrap();
    let headers: String = signed.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut client = TcpStream::connect(app.address()).await.unwrap();
    client.write_all(format!("PUT {path} HTTP/1.1\r\nhost: images\r\n{headers}\r\n").as_bytes()).await.unwrap();
    client.write_all(&noise(5, 100_000)).await.unwrap();
    client
}

#[tokio::test]
async fn stalled_client_gets_request_timeout() {
    let app = TestApp::with(&["--body-idle-timeout=1s"]).await;
    let signed = app.store.presign_put(&incoming(), &sized(1 << 20), &at(&app)).await.unwrap();
    let mut client = half_sent(&app, &signed).await;
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut client, &mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("<Code>RequestTimeout</Code>"), "{answer}");
    app.end(&[]).await;
}

/// A dropped call of the service itself must behave like a broken connection.
#[tokio::test]
async fn dropped_call_leaves_no_files() {
    let app = TestApp::start().await;
    let before = stray_files(app.data_dir());
    let (sender, receiver) = mpsc::channel();
    let bytes =
        Payload { content: Content::File(Arc::new(Stalled(Arc::new(Mutex::new(receiver))))), len: 10 << 20, crc64: 0 };
    let (store, metadata, name) = (app.store.clone(), png(), image());
    let call = tokio::spawn(async move { store.put(&name, &metadata, bytes).await });
    sender.send(()).unwrap();
    until_files(app.data_dir(), |files| files != before).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    until_files(app.data_dir(), |files| files == before).await;
    drop(sender);
    app.end(&[]).await;
}

/// Content that is read piece by piece. Each read waits for a message from the test.
#[derive(Debug)]
struct Stalled(Arc<Mutex<mpsc::Receiver<()>>>);

impl ReadAt for Stalled {
    fn read_at(&self, _: u64, len: usize) -> Reading {
        let messages = Arc::clone(&self.0);
        Box::pin(async move {
            let next = tokio::task::spawn_blocking(move || messages.lock().unwrap().recv()).await?;
            next.map(|()| Bytes::from(vec![0; len])).map_err(io::Error::other)
        })
    }
}

async fn until_files(data_dir: &Path, hold: impl Fn(Vec<String>) -> bool) {
    let waiting = async {
        while !hold(stray_files(data_dir)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the files are as expected within 20 s");
}
