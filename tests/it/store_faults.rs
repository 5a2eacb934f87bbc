//! The store behind a failing network: which calls are retried, when it looks for an object, and what it sends.

use image_store::store::{Store, StoreError};
use std::sync::Arc;
use std::time::Duration;

use crate::support::backend::Backend;
use crate::support::faults::{Action, Faults, Operation};
use crate::support::samples::*;

async fn behind_faults() -> (Backend, Faults, Arc<dyn Store>) {
    let backend = Backend::strict().await;
    let faults = Faults::before(&backend.endpoint).await;
    let store = backend.store_at(&faults.endpoint).await;
    (backend, faults, store)
}

#[tokio::test]
async fn bodies_are_sent_unsigned_and_unencoded() {
    let (backend, faults, store) = behind_faults().await;
    let (name, bytes) = (image(), noise(1, PART));
    store.put(&name, &png(), payload(&bytes)).await.unwrap();
    let other = image();
    let upload = store.create_upload(&other, &png()).await.unwrap();
    store.upload_part(&upload, 1, payload(&bytes)).await.unwrap();

    for operation in [Operation::Put, Operation::UploadPart] {
        let headers = &faults.headers(operation)[0];
        assert_eq!(headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
        assert_eq!(headers["content-length"], PART.to_string());
        assert!(headers.contains_key("x-amz-checksum-crc64nvme"));
        for absent in ["content-encoding", "transfer-encoding", "x-amz-trailer", "x-amz-sdk-checksum-algorithm"] {
            assert!(!headers.contains_key(absent), "{operation:?} sends {absent}");
        }
    }
    store.abort_upload(&upload).await.unwrap();
    store.delete(&name).await.unwrap();
    backend.check_clean().await;
}

#[tokio::test]
async fn complete_with_lost_response_is_confirmed_by_head() {
    for backend in [Backend::strict().await, Backend::embedded().await] {
        let faults = Faults::before(&backend.endpoint).await;
        let store = backend.store_at(&faults.endpoint).await;
        let (name, bytes) = (image(), noise(2, 100));
        let upload = store.create_upload(&name, &png()).await.unwrap();
        let part = store.upload_part(&upload, 1, payload(&bytes)).await.unwrap();
        faults.fail(Operation::Complete, 1..=1, Action::LoseAnswer);
        store.complete_upload(&upload, &[part], whole(&bytes)).await.unwrap();

        assert!(faults.calls(Operation::Complete) > 1, "the call must be retried");
        assert_eq!(faults.calls(Operation::Head), 1, "the store must look for the object once");
        assert_eq!(store.head(&name).await.unwrap().size, 100);
        store.delete(&name).await.unwrap();
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn complete_that_never_arrived_fails_and_can_be_aborted() {
    let (backend, faults, store) = behind_faults().await;
    let (name, bytes) = (image(), noise(3, 100));
    let upload = store.create_upload(&name, &png()).await.unwrap();
    let part = store.upload_part(&upload, 1, payload(&bytes)).await.unwrap();
    faults.fail_all(Operation::Complete, Action::Break);
    let failed = store.complete_upload(&upload, &[part], whole(&bytes)).await;
    assert!(matches!(failed, Err(StoreError::OutcomeUnknown { .. })), "{failed:?}");
    store.abort_upload(&upload).await.unwrap();
    backend.check_clean().await;
}

#[tokio::test]
async fn put_with_lost_response_is_confirmed() {
    let (backend, faults, store) = behind_faults().await;
    let (name, bytes) = (image(), noise(4, 100_000));
    faults.fail(Operation::Put, 1..=1, Action::LoseAnswer);
    store.put(&name, &png(), payload(&bytes)).await.unwrap();
    assert_eq!(faults.calls(Operation::Put), 1, "it is looked for, and not sent again");
    assert_eq!(backend.strict_s3().calls("PutObject"), 1);
    let stored = backend.strict_s3().object(&name.object_key(&backend.options.prefix)).unwrap();
    assert_eq!(stored.bytes, bytes);
    store.delete(&name).await.unwrap();
    backend.check_clean().await;
}

#[tokio::test]
async fn failed_part_is_sent_again_as_a_whole() {
    let (backend, faults, store) = behind_faults().await;
    let (name, bytes) = (image(), noise(5, PART));
    let upload = store.create_upload(&name, &png()).await.unwrap();
    faults.fail(Operation::UploadPart, 1..=1, Action::Status(503));
    faults.fail(Operation::UploadPart, 2..=2, Action::Break);
    let part = store.upload_part(&upload, 1, payload(&bytes)).await.unwrap();
    assert_eq!(faults.calls(Operation::UploadPart), 3);
    store.complete_upload(&upload, &[part], whole(&bytes)).await.unwrap();
    store.delete(&name).await.unwrap();
    backend.check_clean().await;
}

#[tokio::test]
async fn repeated_rejection_is_returned_with_its_code() {
    let (backend, faults, store) = behind_faults().await;
    faults.fail_all(Operation::Put, Action::Status(503));
    let failed = store.put(&image(), &png(), payload(&noise(6, 10))).await;
    assert!(matches!(&failed, Err(StoreError::Rejected { code, .. }) if code == "SlowDown"), "{failed:?}");
    assert_eq!(faults.calls(Operation::Put), 3);
    faults.heal();
    backend.check_clean().await;
}

/// The first attempt may still take effect, whatever the answer to the last one is.
#[tokio::test]
async fn outcome_is_unknown_if_any_attempt_had_no_response() {
    let (backend, faults, store) = behind_faults().await;
    for (last, operation) in [(403, Operation::Put), (503, Operation::Put), (403, Operation::Create)] {
        let first = faults.calls(operation) + 1;
        faults.fail(operation, first..=first, Action::Break);
        faults.fail_all(operation, Action::Status(last));
        let failed = match operation {
            Operation::Put => store.put(&image(), &png(), payload(&noise(8, 10))).await.map(drop),
            _ => store.create_upload(&image(), &png()).await.map(drop),
        };
        assert!(matches!(failed, Err(StoreError::OutcomeUnknown { .. })), "{operation:?} {last}: {failed:?}");
        faults.heal();
    }
    backend.check_clean().await;
}

#[tokio::test]
async fn hanging_store_times_out_with_unknown_outcome() {
    let backend = Backend::strict().await;
    let faults = Faults::before(&backend.endpoint).await;
    let endpoint = faults.endpoint.clone();
    let store = backend.store_with(|options| {
        options.endpoint = Some(endpoint);
        options.attempt_timeout = Duration::from_millis(100);
    });
    let store = store.await;
    faults.fail_all(Operation::Head, Action::Hang);
    let failed = store.head(&image()).await;
    assert!(matches!(failed, Err(StoreError::OutcomeUnknown { .. })), "{failed:?}");
    faults.wait_for(Operation::Head, 3).await;
    backend.check_clean().await;
}

#[tokio::test]
async fn attempt_that_times_out_is_retried() {
    let backend = Backend::strict().await;
    let faults = Faults::before(&backend.endpoint).await;
    let endpoint = faults.endpoint.clone();
    let store = backend.store_with(|options| {
        options.endpoint = Some(endpoint);
        options.attempt_timeout = Duration::from_secs(2);
    });
    faults.fail(Operation::Create, 1..=1, Action::Delay(Duration::from_secs(60)));
    let store = store.await;
    let upload = store.create_upload(&image(), &png()).await.unwrap();
    assert_eq!(faults.calls(Operation::Create), 2);
    store.abort_upload(&upload).await.unwrap();
    backend.check_clean().await;
}

#[tokio::test]
async fn wrong_checksum_is_rejected() {
    for backend in [Backend::strict().await, Backend::embedded().await] {
        let mut body = payload(&noise(7, 1_000));
        body.crc64 ^= 1;
        let refused = backend.store.put(&image(), &png(), body.clone()).await;
        assert!(matches!(&refused, Err(StoreError::Rejected { code, .. }) if code == "BadDigest"), "{refused:?}");
        let upload = backend.store.create_upload(&image(), &png()).await.unwrap();
        let refused = backend.store.upload_part(&upload, 1, body).await;
        assert!(matches!(&refused, Err(StoreError::Rejected { code, .. }) if code == "BadDigest"), "{refused:?}");
        assert!(backend.store.list_parts(&upload).await.unwrap().is_empty());
        backend.store.abort_upload(&upload).await.unwrap();
        backend.check_clean().await;
    }
}
