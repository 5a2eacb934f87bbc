//! Promotion on stores that differ from AWS: only bytes that were checked are published, on every store.

use image_store::direct::plan::{Expected, Plan, UploadMethod};
use image_store::direct::promote::Verified;
use image_store::direct::verify::Verifier;
use image_store::error::{Error, Result};
use image_store::format::Format;
use image_store::policy::Policy;
use image_store::store::reconcile::Reconciler;
use image_store::store::{CustomMetadata, ImageKey, Marker, Metadata, ObjectName};
use image_store::tasks::Tasks;
use image_store::upload::budget::Budget;
use image_store::upload::turns::Turns;
use sha2::{Digest, Sha256};
use std::sync::Arc;

use crate::support::app::{png, until};
use crate::support::backend::Backend;
use crate::support::faults::{Action, Faults, Operation};
use crate::support::samples::payload;
use crate::support::strict::Quirk;

const SIZE: usize = 100_000;

pub fn verifier(store: Arc<dyn image_store::store::Store>) -> Verifier {
    let policy = Policy {
        formats: vec![Format::Png],
        key_format: None,
        max_upload_size: 5_000_000_000,
        max_pixels: 1 << 28,
        header_scan_limit: 1 << 20,
    };
    let budget = Budget::new(64 << 20, None, 5 << 20, 4);
    let reconciler = Reconciler::new(Arc::clone(&store));
    Verifier::new(store, reconciler, Arc::new(policy), budget, Tasks::default(), Turns::default())
}

/// Creates a strict S3 with these quirks and a PNG that a client has put under `incoming/`.
async fn arrived(quirks: &[Quirk]) -> (Backend, ImageKey) {
    let backend = Backend::strict().await;
    quirks.iter().for_each(|quirk| backend.strict_s3().take_up(*quirk));
    let key = ImageKey::random("png");
    replace_incoming(&backend, &key, &png(SIZE)).await;
    (backend, key)
}

async fn replace_incoming(backend: &Backend, key: &ImageKey, bytes: &[u8]) {
    let plain = Metadata::unverified("image/png", CustomMetadata::new());
    let name = ObjectName::Incoming(key.clone());
    backend.store.delete(&name).await.unwrap();
    backend.store.put(&name, &plain, payload(&bytes.to_vec().into())).await.unwrap();
}

async fn promote(verifier: &Verifier, key: &ImageKey, expected: Expected) -> Result<Verified> {
    verifier.promote(key, expected, &|| true).await
}

#[tokio::test]
async fn uploads_work_with_every_quirk() {
    let none: &[Quirk] = &[];
    for quirks in [
        none,
        &[Quirk::CephCopyCondition, Quirk::ListPartsNoSuchKey, Quirk::NoSha256],
        &[Quirk::NoCopyCondition],
        &[Quirk::NoSmallCopies],
        &[Quirk::OpaqueEtags],
    ] {
        let (backend, key) = arrived(quirks).await;
        let promoted = promote(&verifier(backend.store.clone()), &key, Expected::default()).await.unwrap();
        assert_eq!(
            (promoted.new, promoted.image.size, promoted.image.dimensions),
            (true, SIZE as u64, Some((16, 12))),
            "{quirks:?}"
        );
        let closed = backend.store.head(&ObjectName::Incoming(key.clone())).await.unwrap();
        assert_eq!(closed.marker, Some(Marker::Spent(None)), "{quirks:?}");
        assert_eq!(backend.strict_s3().open_uploads(), Vec::<String>::new(), "{quirks:?}");
    }
}

/// Replaces the object with other bytes of the same length between the check and the copy. The store has ignored
/// If-None-Match.
async fn swapped(quirks: &[Quirk]) -> (Backend, ImageKey, Result<Verified>) {
    let (backend, key) = arrived(quirks).await;
    let faults = Faults::before(&backend.endpoint).await;
    let verifier = verifier(backend.store_at(&faults.endpoint).await);
    faults.fail_once(Operation::Copy, Action::Hold);
    let swap = async {
        faults.wait_for(Operation::Copy, 1).await;
        replace_incoming(&backend, &key, &vec![b'x'; SIZE]).await;
        faults.release();
    };
    let (promoted, ()) = tokio::join!(promote(&verifier, &key, Expected::default()), swap);
    (backend, key, promoted)
}

#[tokio::test]
async fn unchecked_bytes_are_never_published() {
    let none: &[Quirk] = &[];
    for quirks in [none, &[Quirk::CephCopyCondition], &[Quirk::NoCopyCondition], &[Quirk::OpaqueEtags]] {
        let (backend, key, promoted) = swapped(quirks).await;
        let error = promoted.unwrap_err();
        assert_eq!(error.code(), "invalid_file_type", "{quirks:?}: the new bytes must be checked");
        assert!(matches!(
            backend.store.head(&ObjectName::Image(key)).await,
            Err(image_store::store::StoreError::NotFound)
        ));
        assert_eq!(backend.strict_s3().open_uploads(), Vec::<String>::new(), "{quirks:?}");
    }
}

#[tokio::test]
async fn sha256_is_verified_if_the_store_keeps_none() {
    for quirks in [&[][..], &[Quirk::NoSha256]] {
        let (backend, key) = arrived(quirks).await;
        let verifier = verifier(backend.store.clone());
        let planned =
            |sha256: [u8; 32]| Expected { size: Some(SIZE as u64), sha256: Some(sha256), ..Expected::default() };
        let refused = promote(&verifier, &key, planned([7; 32])).await.unwrap_err();
        assert!(matches!(refused, Error::InvalidRequest(_)), "{refused:?}");
        // A rejected upload is over. Another attempt requires another plan.
        let over = promote(&verifier, &key, planned([7; 32])).await.unwrap_err();
        assert_eq!(over.code(), "not_found");
        let (backend, key) = arrived(quirks).await;
        let right = Sha256::digest(png(SIZE)).into();
        assert!(promote(&self::verifier(backend.store.clone()), &key, planned(right)).await.unwrap().new);
    }
}

#[tokio::test]
async fn object_of_unplanned_size_is_rejected() {
    let (backend, key) = arrived(&[]).await;
    let planned = Expected { size: Some(SIZE as u64 + 1), ..Expected::default() };
    let refused = promote(&verifier(backend.store.clone()), &key, planned).await.unwrap_err();
    assert!(matches!(refused, Error::InvalidRequest(_)), "{refused:?}");
    let closed = backend.store.head(&ObjectName::Incoming(key)).await.unwrap();
    assert_eq!(closed.marker, Some(Marker::Rejected("invalid_request".to_owned())));
}

#[tokio::test]
async fn complete_without_parts_promotes_object_assembled_by_another() {
    let backend = Backend::strict().await;
    let strict = backend.strict_s3();
    strict.take_up(Quirk::PartsHiddenByComplete);
    let (key, bytes) = (ImageKey::random("png"), png(SIZE));
    let plain = Metadata::unverified("image/png", CustomMetadata::new());
    let upload = backend.store.create_upload(&ObjectName::Incoming(key.clone()), &plain).await.unwrap();
    backend.store.upload_part(&upload, 1, payload(&bytes.into())).await.unwrap();
    let method = UploadMethod::Multipart { upload_id: upload.id, part_size: 5 << 20 };
    let upload = (&Plan { key: key.clone(), id: None, size: SIZE as u64, format: Format::Png, method }).into();
    let (one, other) = (verifier(backend.store.clone()), verifier(backend.store.clone()));
    let second = async {
        until("the first has assembled it", || strict.objects().iter().any(|object| object.contains("incoming/")))
            .await;
        // The Complete of the copy is held as well.
        let second = other.complete(&upload, &|| true);
        let answer = async {
            until("the second has copied it", || strict.calls("UploadPartCopy") > 0).await;
            strict.answer_completes();
        };
        tokio::join!(second, answer).0
    };
    let (first, second) = tokio::join!(one.complete(&upload, &|| true), second);
    assert_eq!([first.unwrap(), second.unwrap()].map(|promoted| promoted.image.size), [SIZE as u64; 2]);
    assert_eq!(strict.open_uploads(), Vec::<String>::new());
}

/// The marker of an abort remains, whenever the Complete arrives.
#[tokio::test]
async fn late_complete_does_not_replace_marker_of_abort() {
    let backend = Backend::strict().await;
    let faults = Faults::before(&backend.endpoint).await;
    let (key, bytes) = (ImageKey::random("png"), png(SIZE));
    let (incoming, plain) =
        (ObjectName::Incoming(key.clone()), Metadata::unverified("image/png", CustomMetadata::new()));
    let upload = backend.store.create_upload(&incoming, &plain).await.unwrap();
    backend.store.upload_part(&upload, 1, payload(&bytes.into())).await.unwrap();
    let method = UploadMethod::Multipart { upload_id: upload.id, part_size: 5 << 20 };
    let upload = (&Plan { key, id: None, size: SIZE as u64, format: Format::Png, method }).into();
    faults.fail_once(Operation::Complete, Action::Hold);
    let verifier = verifier(backend.store_at(&faults.endpoint).await);
    let aborting = async {
        faults.wait_for(Operation::Complete, 1).await;
        // On a store that aborts an upload late, the upload still exists after the marker is written.
        backend.store.put_marker(&incoming, &Marker::Withdrawn, None).await.unwrap();
        faults.release();
    };
    let (completed, ()) = tokio::join!(verifier.complete(&upload, &|| true), aborting);
    assert_eq!(completed.unwrap_err().code(), "not_found");
    assert_eq!(backend.store.head(&incoming).await.unwrap().marker, Some(Marker::Withdrawn));
    let conditions: Vec<_> =
        faults.headers(Operation::Complete).iter().map(|sent| sent["if-none-match"].clone()).collect();
    assert_eq!(conditions, ["*"]);
}

#[tokio::test]
async fn ceph_no_such_key_for_parts_means_no_such_upload() {
    let backend = Backend::strict().await;
    backend.strict_s3().take_up(Quirk::ListPartsNoSuchKey);
    let name = ObjectName::Incoming(ImageKey::random("png"));
    let plain = Metadata::unverified("image/png", CustomMetadata::new());
    let upload = backend.store.create_upload(&name, &plain).await.unwrap();
    backend.store.abort_upload(&upload).await.unwrap();
    let listed = backend.store.list_parts(&upload).await;
    assert!(matches!(listed, Err(image_store::store::StoreError::NoSuchUpload)), "{listed:?}");
}
