//! What only the embedded S3 has: CORS, credentials, files.

use image_store::store::embedded::{Embedded, EmbeddedOptions};
use image_store::store::s3::S3Store;
use image_store::store::{PresignOptions, PutConditions, Store};
use reqwest::Method;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::backend::{Backend, Kind, start_embedded, stray_files};
use crate::support::samples::*;

#[tokio::test]
async fn a_page_may_use_a_url() {
    let backend = Backend::embedded().await;
    let preflight = |origin: &'static str| {
        let url = format!("{}/images/any", backend.endpoint);
        let request = reqwest::Client::new().request(Method::OPTIONS, url).header("origin", origin);
        let request = request.header("access-control-request-method", "PUT");
        request.header("access-control-request-headers", "content-type,if-none-match,x-amz-checksum-sha256").send()
    };
    let allowed = preflight("https://pages.example").await.unwrap();
    assert!(allowed.status().is_success());
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://pages.example");
    assert_eq!(allowed.headers()["access-control-allow-methods"], "GET,HEAD,PUT");
    let headers = allowed.headers()["access-control-allow-headers"].to_str().unwrap();
    assert_eq!(headers, "content-type,if-none-match,x-amz-checksum-sha256");
    let other = preflight("https://elsewhere.example").await.unwrap();
    assert!(!other.headers().contains_key("access-control-allow-origin"));

    let name = image();
    backend.store.put(&name, &png(), payload(&noise(1, 10))).await.unwrap();
    let url = backend.store.presign_get(&name, &for_a_minute()).await.unwrap().url;
    let read = reqwest::Client::new().get(url).header("origin", "https://pages.example").send().await.unwrap();
    assert_eq!(read.headers()["access-control-allow-origin"], "https://pages.example");
    let exposed = read.headers()["access-control-expose-headers"].to_str().unwrap();
    assert!(exposed.contains("etag") && exposed.contains("x-amz-checksum-crc64nvme"), "{exposed}");
    backend.store.delete(&name).await.unwrap();
    backend.check_clean().await;
}

#[tokio::test]
async fn objects_uploads_and_urls_outlive_a_restart() {
    let data_dir = tempfile::tempdir().unwrap();
    let (name, other, bytes) = (image(), image(), noise(2, PART + 5));

    let first = start_embedded(data_dir.path()).await;
    let store = S3Store::connect(first.s3_options("a/", Duration::from_secs(20))).await;
    store.put(&name, &png(), payload(&bytes)).await.unwrap();
    let upload = store.create_upload(&other, &png()).await.unwrap();
    let part = store.upload_part(&upload, 1, payload(&bytes.slice(..PART))).await.unwrap();
    let keys = (first.access_key.clone(), first.secret_key.clone());
    let before = stray_files(data_dir.path());
    first.stop().await;

    let second = start_embedded(data_dir.path()).await;
    assert_eq!(keys, (second.access_key.clone(), second.secret_key.clone()));
    assert_eq!(stray_files(data_dir.path()), before, "a start clears nothing that was answered");
    let store = S3Store::connect(second.s3_options("a/", Duration::from_secs(20))).await;
    let head = store.head(&name).await.unwrap();
    assert_eq!((head.size, head.crc64, head.dimensions), (PART as u64 + 5, Some(crc64(&bytes)), Some((640, 480))));
    let last = store.upload_part(&upload, 2, payload(&bytes.slice(PART..))).await.unwrap();
    store.complete_upload(&upload, &[part, last], whole(&bytes)).await.unwrap();
    assert_eq!(store.head(&other).await.unwrap().crc64, Some(crc64(&bytes)));

    store.delete(&name).await.unwrap();
    store.delete(&other).await.unwrap();
    assert_eq!(stray_files(data_dir.path()), Vec::<String>::new());
    second.stop().await;
}

#[tokio::test]
async fn a_start_clears_what_a_killed_process_left() {
    let backend = Backend::embedded().await;
    let Kind::Embedded { running, data_dir } = backend.kind else { panic!() };
    let (name, unfinished) = (image(), image());
    backend.store.put(&name, &png(), payload(&noise(3, 10))).await.unwrap();
    let upload = backend.store.create_upload(&unfinished, &png()).await.unwrap();
    backend.store.upload_part(&upload, 1, payload(&noise(4, 10))).await.unwrap();
    running.stop().await;

    let root = data_dir.path().join("s3");
    let live = stray_files(data_dir.path());
    let gone = uuid::Uuid::new_v4();
    for stray in ["staging/half".to_owned(), ".tmp.7.internal.part".to_owned()]
        .into_iter()
        .chain([format!(".upload-{gone}.json"), format!(".upload_id-{gone}.part-1")])
        .chain([".bucket-aW1hZ2Vz.object-bm9uZS5wbmc.internal.json".to_owned()])
    {
        std::fs::write(root.join(stray), "{}").unwrap();
    }
    let again = start_embedded(data_dir.path()).await;
    assert_eq!(stray_files(data_dir.path()), live);
    again.stop().await;
}

#[cfg(unix)]
#[tokio::test]
async fn the_credentials_are_the_owner_s_alone() {
    use std::os::unix::fs::PermissionsExt;
    let backend = Backend::embedded().await;
    let Kind::Embedded { data_dir, .. } = &backend.kind else { panic!() };
    let mode = std::fs::metadata(data_dir.path().join("credentials.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    backend.check_clean().await;
}

#[tokio::test]
async fn one_process_at_a_time_uses_a_folder() {
    let backend = Backend::embedded().await;
    let Kind::Embedded { data_dir, .. } = &backend.kind else { panic!() };
    let (data_dir, listen) = (data_dir.path().to_owned(), "127.0.0.1:0".parse().unwrap());
    let second = Embedded::start(EmbeddedOptions { data_dir, listen, cors_origins: vec![] }).await;
    let error = second.err().expect("the folder is in use");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(error.to_string().contains("another process"), "{error}");
    backend.check_clean().await;
}

#[tokio::test]
async fn urls_follow_the_request_s_host() {
    let backend = Backend::embedded().await;
    let port = backend.endpoint.rsplit(':').next().unwrap();
    let options = PresignOptions { host: Some("localhost:8000".to_owned()), ..for_a_minute() };
    let url = backend.store.presign_get(&image(), &options).await.unwrap().url;
    assert!(url.starts_with(&format!("http://localhost:{port}/images/")), "{url}");
    assert_eq!(reqwest::get(url).await.unwrap().status(), 404, "its signature holds");
    backend.check_clean().await;
}

#[tokio::test]
async fn nothing_but_its_own_objects_is_in_reach() {
    let backend = Backend::embedded().await;
    let client = backend.client();
    for key in ["../staging/x", "a/../../lock", "a//b", ".."] {
        let put = client.put_object().bucket("images").key(key).body(b"x".to_vec().into()).send().await;
        assert!(put.is_err(), "{key}");
    }
    assert!(client.put_object().bucket("staging").key("x").body(b"x".to_vec().into()).send().await.is_err());
    assert!(client.list_buckets().send().await.is_err());
    assert!(client.create_bucket().bucket("another").send().await.is_err());
    assert_eq!(reqwest::get(format!("{}/images/x", backend.endpoint)).await.unwrap().status(), 403);
    backend.check_clean().await;
}

#[tokio::test]
async fn racing_ends_of_an_upload_leave_one_outcome() {
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
        assert!(matches!(late, Ok(_) | Err(image_store::store::StoreError::NoSuchUpload)), "{late:?}");
        assert_eq!(backend.store.head(&name).await.is_ok(), completed.is_ok());
        backend.store.delete(&name).await.unwrap();
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing() {
    let backend = Backend::embedded().await;
    let Kind::Embedded { data_dir, .. } = &backend.kind else { panic!() };
    let (name, upload_name) = (incoming(), incoming());
    let conditions = PutConditions { size: 1 << 20, content_type: "image/png".to_owned(), sha256: None };
    let put = backend.store.presign_put(&name, &conditions, &for_a_minute()).await.unwrap();
    let upload = backend.store.create_upload(&upload_name, &png()).await.unwrap();
    let before = stray_files(data_dir.path());
    let part = backend.store.presign_part(&upload, 1, 1 << 20, &for_a_minute()).await.unwrap();

    for url in [put, part] {
        let path = url.url.strip_prefix(&backend.endpoint).unwrap();
        let host = backend.endpoint.strip_prefix("http://").unwrap();
        let headers: String = url.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut client = TcpStream::connect(host).await.unwrap();
        client.write_all(format!("PUT {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n").as_bytes()).await.unwrap();
        client.write_all(&noise(5, 100_000)).await.unwrap();
        until(|| stray_files(data_dir.path()) != before).await;
        drop(client);
        until(|| stray_files(data_dir.path()) == before).await;
    }
    assert!(backend.store.list_parts(&upload).await.unwrap().is_empty());
    backend.store.abort_upload(&upload).await.unwrap();
    backend.check_clean().await;
}

async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it comes to hold");
}
