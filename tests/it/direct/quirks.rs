//! Promotion on stores that differ from AWS: what is published is what was checked, everywhere.

use image_store::direct::plan::Expected;
use image_store::direct::promote::Verified;
use image_store::direct::verify::Verifier;
use image_store::error::{Error, Result};
use image_store::format::Format;
use image_store::policy::Policy;
use image_store::store::{ImageKey, Marker, Metadata, ObjectName};
use image_store::tasks::Tasks;
use image_store::upload::budget::Budget;
use sha2::{Digest, Sha256};
use std::sync::Arc;

use crate::support::app::png;
use crate::support::backend::Backend;
use crate::support::faults::{Action, Faults, Operation};
use crate::support::samples::payload;
use crate::support::strict::Quirk;

const SIZE: usize = 100_000;

fn verifier(store: Arc<dyn image_store::store::Store>) -> Verifier {
    let policy = Policy {
        formats: vec![Format::Png],
        key_format: None,
        max_upload_size: 5_000_000_000,
        max_pixels: 1 << 28,
        header_scan_limit: 1 << 20,
    };
    let budget = Budget::new(64 << 20, None, 5 << 20, 4);
    Verifier::new(store, Arc::new(policy), budget, Tasks::default())
}

/// A strict S3 with these quirks, and a PNG that a client has put under `incoming/`.
async fn arrived(quirks: &[Quirk]) -> (Backend, ImageKey) {
    let backend = Backend::strict().await;
    quirks.iter().for_each(|quirk| backend.strict_s3().take_up(*quirk));
    let key = ImageKey::random("png");
    lay(&backend, &key, &png(SIZE)).await;
    (backend, key)
}

async fn lay(backend: &Backend, key: &ImageKey, bytes: &[u8]) {
    let plain = Metadata { content_type: "image/png".to_owned(), dimensions: None };
    let name = ObjectName::Incoming(key.clone());
    backend.store.delete(&name).await.unwrap();
    backend.store.put(&name, &plain, payload(&bytes.to_vec().into())).await.unwrap();
}

async fn promote(verifier: &Verifier, key: &ImageKey, expected: Expected) -> Result<Verified> {
    verifier.promote(key, expected, &|| true).await
}

#[tokio::test]
async fn every_quirk_lets_a_plain_upload_through() {
    let none: &[Quirk] = &[];
    for quirks in [
        none,
        &[Quirk::CephCopyCondition, Quirk::ListPartsNoSuchKey, Quirk::NoSha256],
        &[Quirk::NoCopyCondition],
        &[Quirk::NoSmallCopies],
        &[Quirk::OpaqueEtags],
    ] {
        let (backend, key) = arrived(quirks).await;
        let made = promote(&verifier(backend.store.clone()), &key, Expected::default()).await.unwrap();
        assert_eq!(
            (made.new, made.image.size, made.image.dimensions),
            (true, SIZE as u64, Some((16, 12))),
            "{quirks:?}"
        );
        let closed = backend.store.head(&ObjectName::Incoming(key.clone())).await.unwrap();
        assert_eq!(closed.marker, Some(Marker::Spent), "{quirks:?}");
        assert_eq!(backend.strict_s3().open_uploads(), Vec::<String>::new(), "{quirks:?}");
    }
}

/// Other bytes of the same length that are put between the check and the copy, on a store that lets them replace the first.
async fn swapped(quirks: &[Quirk]) -> (Backend, ImageKey, Result<Verified>) {
    let (backend, key) = arrived(quirks).await;
    let faults = Faults::before(&backend.endpoint).await;
    let verifier = verifier(backend.store_at(&faults.endpoint).await);
    faults.fail_once(Operation::Copy, Action::Hold);
    let swap = async {
        faults.wait_for(Operation::Copy, 1).await;
        lay(&backend, &key, &vec![b'x'; SIZE]).await;
        faults.release();
    };
    let (made, ()) = tokio::join!(promote(&verifier, &key, Expected::default()), swap);
    (backend, key, made)
}

#[tokio::test]
async fn bytes_that_were_not_checked_are_never_published() {
    let none: &[Quirk] = &[];
    for quirks in [none, &[Quirk::CephCopyCondition], &[Quirk::NoCopyCondition], &[Quirk::OpaqueEtags]] {
        let (backend, key, made) = swapped(quirks).await;
        let error = made.unwrap_err();
        assert_eq!(error.code(), "invalid_file_type", "{quirks:?}: looked at anew");
        assert!(matches!(
            backend.store.head(&ObjectName::Image(key)).await,
            Err(image_store::store::StoreError::NotFound)
        ));
        assert_eq!(backend.strict_s3().open_uploads(), Vec::<String>::new(), "{quirks:?}");
    }
}

#[tokio::test]
async fn a_planned_digest_that_the_store_does_not_keep_is_checked_by_reading() {
    for quirks in [&[][..], &[Quirk::NoSha256]] {
        let (backend, key) = arrived(quirks).await;
        let verifier = verifier(backend.store.clone());
        let planned = |sha256: [u8; 32]| Expected { size: Some(SIZE as u64), sha256: Some(sha256) };
        let refused = promote(&verifier, &key, planned([7; 32])).await.unwrap_err();
        assert!(matches!(refused, Error::InvalidRequest(_)), "{refused:?}");
        // A wrong upload is over: another one needs another plan.
        let over = promote(&verifier, &key, planned([7; 32])).await.unwrap_err();
        assert_eq!(over.code(), "not_found");
        let (backend, key) = arrived(quirks).await;
        let right = Sha256::digest(png(SIZE)).into();
        assert!(promote(&self::verifier(backend.store.clone()), &key, planned(right)).await.unwrap().new);
    }
}

#[tokio::test]
async fn an_object_of_another_size_than_planned_is_rejected() {
    let (backend, key) = arrived(&[]).await;
    let planned = Expected { size: Some(SIZE as u64 + 1), sha256: None };
    let refused = promote(&verifier(backend.store.clone()), &key, planned).await.unwrap_err();
    assert!(matches!(refused, Error::InvalidRequest(_)), "{refused:?}");
    let closed = backend.store.head(&ObjectName::Incoming(key)).await.unwrap();
    assert_eq!(closed.marker, Some(Marker::Rejected("invalid_request".to_owned())));
}

#[tokio::test]
async fn parts_of_an_upload_that_is_over_are_none_also_in_cephs_words() {
    let backend = Backend::strict().await;
    backend.strict_s3().take_up(Quirk::ListPartsNoSuchKey);
    let name = ObjectName::Incoming(ImageKey::random("png"));
    let plain = Metadata { content_type: "image/png".to_owned(), dimensions: None };
    let upload = backend.store.create_upload(&name, &plain).await.unwrap();
    backend.store.abort_upload(&upload).await.unwrap();
    let listed = backend.store.list_parts(&upload).await;
    assert!(matches!(listed, Err(image_store::store::StoreError::NoSuchUpload)), "{listed:?}");
}
