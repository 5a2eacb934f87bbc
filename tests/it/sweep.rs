//! What a kill leaves behind is removed once it is old enough, and nothing else.

use image_store::commands::sweep::{AGE, Swept, sweep};
use image_store::store::{Content, CustomMetadata, ImageKey, Metadata, ObjectName, Payload};
use std::time::Duration;

use super::process::binary;
use super::support::app::{TestApp, fixture};
use super::support::faults::{Action, Operation};
use super::support::samples::{image, incoming, noise, payload, png};

#[tokio::test]
async fn a_sweep_removes_what_is_old_and_not_an_image() {
    let app = TestApp::with(&["--s3-prefix=a/"]).await;
    let answer: serde_json::Value = app.upload("a.png", fixture("plain.png")).await.json().await.unwrap();
    let metadata = Metadata::unverified("image/png", CustomMetadata::new());
    let unverified = ObjectName::Incoming(ImageKey::random("png"));
    let bytes = bytes::Bytes::from_static(b"unverified");
    let crc64 = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
    let payload = Payload { len: bytes.len() as u64, content: Content::Memory(bytes), crc64 };
    app.store.put(&unverified, &metadata, payload).await.unwrap();
    app.store.create_upload(&ObjectName::Image(ImageKey::random("png")), &metadata).await.unwrap();

    assert_eq!(sweep(app.store.as_ref(), AGE).await, Swept::default());
    assert_eq!(app.store.leftovers().await.unwrap().len(), 2);
    let swept = sweep(app.store.as_ref(), Duration::ZERO).await;
    assert_eq!(swept, Swept { uploads: 1, objects: 1, ..Swept::default() });
    app.end(&[&format!("a/{}", answer["s3_key"].as_str().unwrap())]).await;
}

/// The binary's sweep of the store of `app`, behind its faults: its exit code, and what it printed and logged.
fn sweep_process(app: &TestApp) -> (Option<i32>, String, String) {
    let (access_key, secret_key) = app.credentials();
    let output = binary()
        .args(["sweep", "--older-than=0s", "--s3-force-path-style=true", "--s3-bucket", &app.bucket])
        .env("AWS_ENDPOINT_URL_S3", &app.faults().endpoint)
        .env("AWS_ACCESS_KEY_ID", access_key)
        .env("AWS_SECRET_ACCESS_KEY", secret_key)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// s3rver answers a list of uploads with a list of objects; others with an error.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_listed_is_removed_and_what_cannot_is_named() {
    const OBJECTS: &str = "<ListBucketResult><Name>images</Name></ListBucketResult>";
    let uploads = (
        Operation::ListUploads,
        "aborted 0 unfinished uploads, deleted 1 unverified objects; could not list unfinished uploads\n",
    );
    let objects = (
        Operation::ListObjects,
        "aborted 1 unfinished uploads, deleted 0 unverified objects; could not list unverified objects\n",
    );
    for ((operation, told), action) in [
        (uploads, Action::Answer(200, OBJECTS)),
        (uploads, Action::Answer(501, "<Error><Code>NotImplemented</Code></Error>")),
        (uploads, Action::Status(403)),
        (uploads, Action::Break),
        (objects, Action::Status(403)),
    ] {
        let app = TestApp::behind_faults(&[]).await;
        app.store.put(&incoming(), &png(), payload(&noise(1, 100))).await.unwrap();
        app.store.create_upload(&image(), &png()).await.unwrap();
        app.faults().fail_all(operation, action);
        let (code, printed, log) = sweep_process(&app);
        assert_eq!((code, printed.as_str()), (Some(1), told), "{action:?}: {log}");
        assert!(log.contains("could not list"), "{log}");
        app.faults().heal();
        let (code, printed, log) = sweep_process(&app);
        assert_eq!(code, Some(0), "{printed} {log}");
        app.end(&[]).await;
    }
}
