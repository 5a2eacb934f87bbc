//! Sweep removes what a killed process left, once it is old enough, and nothing else.

use image_store::auth::tokens::PLAN_LIFETIME;
use image_store::commands::sweep::{AGE, Swept, safe_age, sweep};
use image_store::store::{Content, CustomMetadata, ImageKey, Kept, Marker, Metadata, ObjectName, Payload};
use std::time::Duration;

use super::process::binary;
use super::support::app::{TestApp, fixture};
use super::support::faults::{Action, Operation};
use super::support::samples::{image, incoming, noise, payload, png};

#[tokio::test]
async fn sweep_removes_old_leftovers_and_no_images() {
    let app = TestApp::with(&["--s3-prefix=a/"]).await;
    let answer: serde_json::Value = app.upload("a.png", fixture("plain.png")).await.json().await.unwrap();
    let metadata = Metadata::unverified("image/png", CustomMetadata::new());
    let unverified = ObjectName::Incoming(ImageKey::random("png"));
    let bytes = bytes::Bytes::from_static(b"unverified");
    let crc64 = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
    let payload = Payload { len: bytes.len() as u64, content: Content::Memory(bytes), crc64 };
    app.store.put(&unverified, &metadata, payload).await.unwrap();
    app.store.create_upload(&ObjectName::Image(ImageKey::random("png")), &metadata).await.unwrap();

    assert_eq!(sweep(app.store.as_ref(), AGE, Duration::ZERO).await, Swept::default());
    assert_eq!(app.store.leftovers().await.unwrap().len(), 2);
    let swept = sweep(app.store.as_ref(), Duration::ZERO, Duration::ZERO).await;
    assert_eq!(swept, Swept { uploads: 1, objects: 1, ..Swept::default() });
    app.end(&[&format!("a/{}", answer["s3_key"].as_str().unwrap())]).await;
}

/// A request of an upload may begin just before the upload's token expires.
#[tokio::test]
async fn sweep_removes_what_resumable_uploads_have_kept() {
    let app = TestApp::with(&["--s3-prefix=a/"]).await;
    let (key, id) = (ImageKey::random("png"), uuid::Uuid::new_v4());
    for kept in [Kept::Tail { base: 0, len: 10 }, Kept::Length(10)] {
        let name = ObjectName::Resumable { key: key.clone(), id, kept };
        app.store.put_kept(&name, payload(&noise(1, 10)), None).await.unwrap();
    }
    let request_timeout = Duration::from_secs(3600);
    assert_eq!(safe_age(request_timeout), PLAN_LIFETIME + request_timeout);
    assert_eq!(sweep(app.store.as_ref(), safe_age(request_timeout), Duration::ZERO).await, Swept::default());
    assert_eq!(app.store.list_kept(&key, id).await.unwrap().len(), 2);
    let swept = sweep(app.store.as_ref(), Duration::ZERO, Duration::ZERO).await;
    assert_eq!(swept, Swept { objects: 2, ..Swept::default() });
    app.end(&[]).await;
}

/// Until its URL expires, a PUT would succeed if the marker were removed.
#[tokio::test]
async fn sweep_keeps_markers_until_urls_expire() {
    let app = TestApp::start().await;
    let (unverified, closed) = (incoming(), incoming());
    app.store.put(&unverified, &png(), payload(&noise(1, 100))).await.unwrap();
    app.store.put_marker(&closed, &Marker::Withdrawn, None).await.unwrap();
    let swept = sweep(app.store.as_ref(), Duration::ZERO, Duration::from_secs(900)).await;
    assert_eq!(swept, Swept { objects: 1, ..Swept::default() });
    assert_eq!(app.store.head(&closed).await.unwrap().marker, Some(Marker::Withdrawn));
    let swept = sweep(app.store.as_ref(), Duration::ZERO, Duration::ZERO).await;
    assert_eq!(swept, Swept { objects: 1, ..Swept::default() });
    app.end(&[]).await;
}

/// Runs the binary's sweep on the store of `app`, behind its faults. Returns its exit code, stdout and log.
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

/// s3rver answers ListMultipartUploads with a list of objects, other stores with an error.
#[tokio::test(flavor = "multi_thread")]
async fn sweep_reports_what_it_cannot_list() {
    const OBJECTS: &str = "<ListBucketResult><Name>images</Name></ListBucketResult>";
    let uploads = (
        Operation::ListUploads,
        "aborted 0 unfinished uploads, deleted 1 unverified objects; could not list unfinished uploads\n",
    );
    let objects = (
        Operation::ListObjects,
        "aborted 1 unfinished uploads, deleted 0 unverified objects; could not list unverified objects\n",
    );
    for ((operation, expected), action) in [
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
        assert_eq!((code, printed.as_str()), (Some(1), expected), "{action:?}: {log}");
        assert!(log.contains("could not list"), "{log}");
        app.faults().heal();
        let (code, printed, log) = sweep_process(&app);
        assert_eq!(code, Some(0), "{printed} {log}");
        app.end(&[]).await;
    }
}
