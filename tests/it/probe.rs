//! What the start-up probe detects on stores other than AWS, and what it logs.

use image_store::commands::probe;
use image_store::store::reconcile::Reconciler;
use image_store::store::s3::S3Store;
use image_store::store::{CustomMetadata, ImageKey, Metadata, ObjectName, Store};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::process::{Process, binary};
use super::support::app::until;
use super::support::backend::Backend;
use super::support::faults::{Action, Faults, Operation};
use super::support::samples::payload;
use super::support::strict::Quirk;

/// Starts the service on a strict S3 that it reaches at `endpoint`.
fn serve(backend: &Backend, endpoint: &str) -> Process {
    let (access_key, secret_key) = backend.options.credentials.clone().unwrap();
    let mut command: Command = binary();
    command
        .args(["--s3-force-path-style=true", "--s3-bucket", &backend.options.bucket])
        .env("AWS_ENDPOINT_URL_S3", endpoint)
        .env("AWS_ACCESS_KEY_ID", access_key)
        .env("AWS_SECRET_ACCESS_KEY", secret_key);
    Process::spawn(command, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_store_with_unprotected_copies_logs_a_warning() {
    for (quirks, warnings) in [
        (&[][..], 0),
        (&[Quirk::CephCopyCondition], 0),
        (&[Quirk::NoCopyCondition], 0),
        (&[Quirk::NoSmallCopies], 0),
        (&[Quirk::OpaqueEtags], 0),
        (&[Quirk::NoCopyCondition, Quirk::OpaqueEtags], 1),
    ] {
        let backend = Backend::strict().await;
        let strict = backend.strict_s3();
        quirks.iter().for_each(|quirk| strict.take_up(*quirk));
        let process = serve(&backend, &backend.endpoint);
        until("the probe's objects are deleted", || strict.calls("DeleteObject") == 1).await;
        process.terminate();
        let (status, log) = process.end().await;
        assert!(status.success(), "{log}");
        assert_eq!(log.matches("image-store doctor").count(), warnings, "{quirks:?}: {log}");
        assert_eq!(log.matches("does not show what it copied").count(), warnings, "{quirks:?}: {log}");
        assert_eq!(strict.calls("CreateMultipartUpload"), 1, "the probe must have run");
        backend.check_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_probe_logs_a_warning_and_leaves_nothing() {
    for operation in [Operation::Put, Operation::Create, Operation::Copy] {
        let backend = Backend::strict().await;
        let faults = Faults::before(&backend.endpoint).await;
        faults.fail_all(operation, Action::Status(403));
        let process = serve(&backend, &faults.endpoint);
        faults.wait_for(Operation::Delete, 1).await;
        process.terminate();
        let (status, log) = process.end().await;
        assert!(status.success(), "{log}");
        assert_eq!(log.matches("could not be tested: run `image-store doctor`").count(), 1, "{operation:?}: {log}");
        assert!(!log.contains("ERROR"), "{log}");
        backend.check_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_ends_during_probe_leaves_nothing() {
    let backend = Backend::strict().await;
    let faults = Faults::before(&backend.endpoint).await;
    faults.fail_all(Operation::Copy, Action::Hang);
    let process = serve(&backend, &faults.endpoint);
    faults.wait_for(Operation::Copy, 1).await;
    process.terminate();
    let (status, log) = process.end().await;
    assert!(status.success(), "{log}");
    backend.check_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_put_of_the_probe_is_removed_at_shutdown() {
    let backend = Backend::strict().await;
    let faults = Faults::before(&backend.endpoint).await;
    faults.fail_all(Operation::Put, Action::Late);
    let mut options = backend.options.clone();
    options.endpoint = Some(faults.endpoint.clone());
    options.attempt_timeout = Duration::from_millis(300);
    let s3 = Arc::new(S3Store::connect(options).await);
    let reconciler = Reconciler::new(s3.clone());
    let probe = probe::start(s3, reconciler.clone());
    faults.wait_for(Operation::Delete, 1).await;
    probe.end().await;
    assert_eq!(backend.strict_s3().calls("PutObject"), 0);
    faults.release();
    until("the call has arrived", || backend.strict_s3().calls("PutObject") == 1).await;
    reconciler.conclude().await;
    backend.check_clean().await;
}

#[tokio::test]
async fn probe_result_is_not_detected_again_at_each_promotion() {
    let plain = Metadata::unverified("image/png", CustomMetadata::new());
    for is_probed in [false, true] {
        let backend = Backend::strict().await;
        let strict = backend.strict_s3();
        strict.take_up(Quirk::OpaqueEtags);
        let s3 = Arc::new(S3Store::connect(backend.options.clone()).await);
        if is_probed {
            let probe = probe::start(Arc::clone(&s3), Reconciler::new(s3.clone()));
            until("the probe's objects are deleted", || strict.calls("DeleteObject") == 1).await;
            probe.end().await;
        }
        let key = ImageKey::random("png");
        let (from, to) = (ObjectName::Incoming(key.clone()), ObjectName::Image(key));
        s3.put(&from, &plain, payload(&bytes::Bytes::from_static(b"an image"))).await.unwrap();
        let source = s3.head(&from).await.unwrap();
        let upload = s3.create_upload(&to, &plain).await.unwrap();
        // Without the probe, the first copy detects it.
        for copies in [if is_probed { 1 } else { 2 }, 1] {
            let earlier = strict.calls("UploadPartCopy");
            s3.copy_part(&upload, &from, &source).await.unwrap();
            assert_eq!(strict.calls("UploadPartCopy") - earlier, copies, "probed at the start: {is_probed}");
        }
    }
}
