//! What the service requires of a store, tested against each S3: embedded, strict, and one that the environment names.

use bytes::Bytes;
use clap::Parser;
use futures::TryStreamExt;
use image_store::cli::Cli;
use image_store::config::Config;
use image_store::format::Format;
use image_store::resumable::{Append, NewUpload, Progress, ResumableUpload, ResumableUploads};
use image_store::store::{
    CustomMetadata, ImageKey, Kept, Marker, Metadata, ObjectDigest, ObjectInfo, ObjectName, Part, PresignOptions,
    Presigned, PutConditions, Store, StoreError, Upload, Written,
};
use image_store::upload::UploadManager;
use reqwest::{Method, StatusCode};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::support::backend::Backend;
use crate::support::samples::*;
use crate::support::strict::Quirk;

macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        mod embedded_s3 {
            $(#[tokio::test]
            async fn $test() {
                let backend = super::Backend::embedded().await;
                super::$test(&backend).await;
                backend.check_clean().await;
            })*
        }
        mod embedded_s3_in_process {
            $(#[tokio::test]
            async fn $test() {
                let backend = super::Backend::in_process().await;
                super::$test(&backend).await;
                backend.check_clean().await;
            })*
        }
        mod strict_s3 {
            $(#[tokio::test]
            async fn $test() {
                let backend = super::Backend::strict().await;
                super::$test(&backend).await;
                backend.check_clean().await;
            })*
        }
        mod external_s3 {
            $(#[tokio::test]
            async fn $test() {
                let Some(backend) = super::Backend::external().await else { return };
                super::$test(&backend).await;
                backend.check_clean().await;
            })*
        }
    };
}

contract! {
    object_is_read_as_it_was_put,
    custom_metadata_and_origin_are_returned,
    images_of_uuid_are_listed,
    object_is_never_overwritten,
    range_read_requires_matching_etag,
    parts_become_one_object,
    second_complete_succeeds,
    complete_with_wrong_parts_or_checksum_is_rejected,
    complete_with_wrong_size_creates_no_wrong_object,
    aborted_upload_is_gone,
    uploads_without_checksums_work,
    copied_part_has_metadata_of_its_upload,
    copy_of_changed_source_is_rejected,
    uploads_of_lists_only_uploads_of_that_name,
    marker_prevents_later_puts,
    state_of_resumable_uploads_is_kept_by_name,
    image_has_the_id_of_its_resumable_upload,
    resumable_upload_becomes_an_image,
    stream_requires_matching_etag,
    presigned_get_reads_the_object,
    presigned_put_writes_the_signed_object,
    presigned_put_rejects_anything_else,
    presigned_put_works_once,
    expired_url_is_rejected,
    presigned_parts_become_one_object,
    leftovers_lists_only_unfinished_uploads,
    ping_reports_wrong_bucket_and_endpoint,
}

async fn object_is_read_as_it_was_put(backend: &Backend) {
    for len in [0, 1, 70_000] {
        let (name, bytes) = (image(), noise(len, len as usize));
        backend.store.put(&name, &png(), payload(&bytes)).await.unwrap();

        let head = backend.store.head(&name).await.unwrap();
        assert_eq!((head.size, head.content_type.as_deref()), (len, Some("image/png")));
        assert_eq!(head.dimensions, Some((640, 480)));
        assert!(head.last_modified.is_some());
        if backend.is_exact() {
            assert_eq!(head.crc64, Some(crc64(&bytes)));
        }
        let read = backend.store.read(&name, 0..len, head.etag.as_deref().unwrap()).await.unwrap();
        assert_eq!(read, bytes);

        backend.store.delete(&name).await.unwrap();
        assert!(matches!(backend.store.head(&name).await, Err(StoreError::NotFound)));
        backend.store.delete(&name).await.unwrap();
    }
}

async fn custom_metadata_and_origin_are_returned(backend: &Backend) {
    let custom =
        CustomMetadata::from([("owner".to_owned(), "J\u{fc}rgen \"J\"\n".to_owned()), ("n".to_owned(), String::new())]);
    let origin = Some(uuid::Uuid::new_v4());
    let (metadata, bytes) = (Metadata { custom: custom.clone(), origin, ..png() }, noise(20, 1_000));
    let (by_put, by_parts, by_url) = (image(), image(), incoming());
    backend.store.put(&by_put, &metadata, payload(&bytes)).await.unwrap();
    let upload = backend.store.create_upload(&by_parts, &metadata).await.unwrap();
    let part = backend.store.upload_part(&upload, 1, payload(&bytes)).await.unwrap();
    backend.store.complete_upload(&upload, &[part], whole(&bytes)).await.unwrap();
    let bound = PutConditions { custom: custom.clone(), origin, ..conditions(&bytes) };
    let signed = backend.store.presign_put(&by_url, &bound, &for_a_minute()).await.unwrap();
    assert_eq!(send(Method::PUT, &signed, bytes.clone(), as_is).await.status(), StatusCode::OK);
    for name in ["x-amz-meta-image-store", "x-amz-meta-upload"] {
        assert!(signed.headers.iter().any(|(signed, _)| signed == name), "{:?}", signed.headers);
        let unsigned = |headers: &mut reqwest::header::HeaderMap| drop(headers.remove(name));
        assert_eq!(send(Method::PUT, &signed, bytes.clone(), unsigned).await.status(), StatusCode::FORBIDDEN);
        let other = |headers: &mut reqwest::header::HeaderMap| drop(headers.insert(name, "e30".parse().unwrap()));
        assert_eq!(send(Method::PUT, &signed, bytes.clone(), other).await.status(), StatusCode::FORBIDDEN);
    }

    for (name, dimensions) in [(&by_put, true), (&by_parts, true), (&by_url, false)] {
        let found = backend.store.head(name).await.unwrap();
        assert_eq!((&found.custom, found.origin), (&custom, origin), "{name:?}");
        assert_eq!(found.dimensions.is_some(), dimensions, "{name:?}");
        backend.store.delete(name).await.unwrap();
    }
    let noted = backend.store.put(&by_put, &png(), payload(&bytes)).await.unwrap();
    assert_eq!(noted, Written::Now);
    let found = backend.store.head(&by_put).await.unwrap();
    assert_eq!((found.noted_crc64, found.custom.len()), (Some(crc64(&bytes)), 0));
    backend.store.delete(&by_put).await.unwrap();
}

async fn state_of_resumable_uploads_is_kept_by_name(backend: &Backend) {
    let (key, id) = (ImageKey::random("png"), uuid::Uuid::new_v4());
    let name = |kept| ObjectName::Resumable { key: key.clone(), id, kept };
    let (tail, longer) = (Kept::Tail { base: 0, len: 70_000 }, Kept::Tail { base: PART as u64, len: 1 });
    let (bytes, empty) = (noise(30, 70_000), noise(0, 0));
    let other = ObjectName::Resumable { key: key.clone(), id: uuid::Uuid::new_v4(), kept: tail };
    assert_eq!(backend.store.list_kept(&key, id).await.unwrap(), []);
    for (name, bytes, before) in [
        (name(tail), &noise(31, 70_000), None),
        // The same name is written again.
        (name(tail), &bytes, None),
        (name(longer), &noise(32, 1), Some(7)),
        (name(Kept::Length(9)), &empty, None),
        (other.clone(), &bytes, None),
    ] {
        backend.store.put_kept(&name, payload(bytes), before).await.unwrap();
    }
    let mut listed = backend.store.list_kept(&key, id).await.unwrap();
    listed.sort_unstable();
    assert_eq!(listed, [tail, longer, Kept::Length(9)]);

    let read = backend.store.read_kept(&name(tail)).await.unwrap();
    assert_eq!((read.crc64, read.crc64_before), (Some(crc64(&bytes)), None));
    assert_eq!(read.bytes.try_collect::<Vec<_>>().await.unwrap().concat(), bytes);
    let read = backend.store.read_kept(&name(longer)).await.unwrap();
    assert_eq!((read.crc64, read.crc64_before), (Some(crc64(&noise(32, 1))), Some(7)));
    let missing = backend.store.read_kept(&name(Kept::Length(1))).await;
    assert!(matches!(missing, Err(StoreError::NotFound)));
    for name in [tail, longer, Kept::Length(9)].map(name).iter().chain([&other]) {
        backend.store.delete(name).await.unwrap();
    }
}

async fn image_has_the_id_of_its_resumable_upload(backend: &Backend) {
    let id = uuid::Uuid::new_v4();
    let (metadata, bytes) = (Metadata { origin: Some(id), ..png() }, noise(33, 1_000));
    let (by_put, by_parts, other) = (image(), image(), image());
    backend.store.put(&by_put, &metadata, payload(&bytes)).await.unwrap();
    backend.store.put(&other, &png(), payload(&bytes)).await.unwrap();
    let upload = backend.store.create_upload(&by_parts, &metadata).await.unwrap();
    let part = backend.store.upload_part(&upload, 1, payload(&bytes)).await.unwrap();
    // The checksum of the whole object may be unknown.
    let size = ObjectDigest { crc64: None, ..whole(&bytes) };
    backend.store.complete_upload(&upload, &[part], size).await.unwrap();
    for (name, expected) in [(&by_put, Some(id)), (&by_parts, Some(id)), (&other, None)] {
        assert_eq!(backend.store.head(name).await.unwrap().origin, expected);
        backend.store.delete(name).await.unwrap();
    }
}

/// Returns the part of the service that uses the store for resumable uploads.
fn resumable(store: &Arc<dyn Store>) -> ResumableUploads {
    let config = Config::new(&Cli::parse_from(["image-store", "--s3-bucket=b"]).settings).unwrap();
    let uploads = UploadManager::new(Arc::clone(store), &config.upload, None);
    ResumableUploads::new(Arc::clone(store), uploads, Arc::new(config.policy), config.upload.part_size)
}

async fn create_resumable(uploads: &ResumableUploads) -> ResumableUpload {
    let (key, custom) = (ImageKey::random("png"), CustomMetadata::from([("n".to_owned(), "1".to_owned())]));
    let (format, max_size) = (Format::Png, 1 << 30);
    let new = NewUpload { key, format, length: None, max_size, custom, tus_metadata: None, is_fixed_key: false };
    let created = uploads.create(new).await.unwrap();
    let upload = created.upload().clone();
    created.acknowledged();
    upload
}

/// Sends the bytes of a file in requests that end at these offsets. The last one says that it is the last.
async fn send_in_pieces(
    uploads: &ResumableUploads,
    upload: &ResumableUpload,
    file: &Bytes,
    ends: &[usize],
) -> image_store::error::Result<Progress> {
    let mut last = uploads.status(upload).await;
    for &end in ends {
        let Ok(Progress::Unfinished { offset, .. }) = last else { return last };
        let append = Append { offset, completes: end == file.len(), ..Append::default() };
        let chunks =
            file.slice(offset as usize..end).chunks(64 << 10).map(Bytes::copy_from_slice).map(Ok).collect::<Vec<_>>();
        last = uploads.append(upload, append, futures::stream::iter(chunks)).await;
        if end < file.len() {
            assert_eq!(last.as_ref().unwrap(), &Progress::Unfinished { offset: end as u64, length: None });
            assert_eq!(
                uploads.status(upload).await.unwrap(),
                Progress::Unfinished { offset: end as u64, length: None }
            );
        }
    }
    last
}

/// Returns a PNG as far as its header says, of `len` bytes.
fn large_png(len: usize) -> Bytes {
    let header = &include_bytes!("../fixtures/plain.png")[..33];
    [header, &noise(40, len - header.len())].concat().into()
}

async fn resumable_upload_becomes_an_image(backend: &Backend) {
    check_resumable(&backend.store).await;
}

async fn check_resumable(store: &Arc<dyn Store>) {
    let uploads = resumable(store);
    let file = large_png(2 * PART + 1_000);
    for ends in [&[file.len()][..], &[10, PART - 1, PART + 1, 2 * PART, file.len()]] {
        let upload = create_resumable(&uploads).await;
        let Progress::Complete(image) = send_in_pieces(&uploads, &upload, &file, ends).await.unwrap() else {
            panic!("the upload is unfinished");
        };
        assert!(image.crc64.is_none_or(|known| known == crc64(&file)), "{ends:?}");
        assert_eq!((image.object.size, image.object.origin), (file.len() as u64, Some(upload.id)));
        assert_eq!((image.object.content_type.as_deref(), image.object.custom.len()), (Some("image/png"), 1));
        assert_eq!(uploads.inspect(&image).await.unwrap().format, Format::Png);
        let read = store.stream(&upload.image(), image.object.etag.as_deref().unwrap()).await.unwrap();
        assert!(read.try_collect::<Vec<_>>().await.unwrap().concat() == file, "{ends:?}");
        assert!(matches!(uploads.status(&upload).await, Ok(Progress::Complete(_))));
        assert_eq!(uploads.delete(&upload).await.unwrap_err().code(), "already_complete");
        assert_eq!(store.list_kept(&upload.key, upload.id).await.unwrap(), []);
        store.delete(&upload.image()).await.unwrap();
    }
    let upload = create_resumable(&uploads).await;
    send_in_pieces(&uploads, &upload, &file, &[PART + 1]).await.unwrap();
    uploads.delete(&upload).await.unwrap();
    assert_eq!(uploads.status(&upload).await.unwrap_err().code(), "upload_gone");
    let upload = create_resumable(&uploads).await;
    let refused = send_in_pieces(&uploads, &upload, &noise(41, PART + 1), &[PART + 1]).await;
    assert_eq!(refused.unwrap_err().code(), "invalid_file_type");
}

#[tokio::test]
async fn resumable_uploads_work_with_quirks_of_other_stores() {
    for quirk in [Quirk::ListPartsNoSuchKey, Quirk::NoCrc64, Quirk::OpaqueEtags, Quirk::NoIfNoneMatch] {
        let backend = Backend::strict().await;
        backend.strict_s3().take_up(quirk);
        check_resumable(&backend.store).await;
        backend.check_clean().await;
    }
}

async fn images_of_uuid_are_listed(backend: &Backend) {
    let id = uuid::Uuid::new_v4();
    let name = |extension| ObjectName::Image(ImageKey::derived(id, extension));
    assert_eq!(backend.store.images_of(id).await.unwrap(), []);
    let others = [image(), incoming(), ObjectName::Incoming(ImageKey::derived(id, "png"))];
    let ours = ["bmp", "gif", "png"].map(name);
    for name in ours.iter().chain(&others) {
        backend.store.put(name, &png(), payload(&noise(21, 10))).await.unwrap();
    }
    let found = backend.store.images_of(id).await.unwrap();
    assert_eq!(found, ours.each_ref().map(|name| name.key().clone()));
    for name in ours.iter().chain(&others) {
        backend.store.delete(name).await.unwrap();
    }
}

async fn object_is_never_overwritten(backend: &Backend) {
    let (name, bytes) = (image(), noise(1, 1_000));
    backend.store.put(&name, &png(), payload(&bytes)).await.unwrap();
    backend.store.put(&name, &png(), payload(&bytes)).await.expect("a retry with the same bytes succeeds");
    if backend.is_exact() {
        let refused = backend.store.put(&name, &png(), payload(&noise(2, 1_000))).await;
        assert!(matches!(refused, Err(StoreError::Precondition)), "{refused:?}");
        assert_eq!(backend.store.head(&name).await.unwrap().crc64, Some(crc64(&bytes)));
    }
    backend.store.delete(&name).await.unwrap();
}

async fn range_read_requires_matching_etag(backend: &Backend) {
    let (name, bytes) = (image(), noise(3, 1_000));
    backend.store.put(&name, &png(), payload(&bytes)).await.unwrap();
    let etag = backend.store.head(&name).await.unwrap().etag.unwrap();
    let read = async |range| backend.store.read(&name, range, &etag).await.unwrap();
    assert_eq!(read(0..10).await, bytes[..10]);
    assert_eq!(read(990..2_000).await, bytes[990..]);
    assert_eq!(read(5..5).await, "");
    assert_eq!(read(1_000..1_001).await, "");
    let other = backend.store.read(&name, 0..10, "\"0123456789abcdef0123456789abcdef\"").await;
    assert!(matches!(other, Err(StoreError::Precondition)), "{other:?}");
    backend.store.delete(&name).await.unwrap();
    let gone = backend.store.read(&name, 0..10, &etag).await;
    assert!(matches!(gone, Err(StoreError::NotFound)), "{gone:?}");
}

/// Uploads a part of the minimum size and one of three bytes. Returns the upload, its parts in order, and the whole
/// content.
async fn two_parts(backend: &Backend, name: &ObjectName) -> (Upload, Vec<Part>, bytes::Bytes) {
    let bytes = noise(4, PART + 3);
    let upload = backend.store.create_upload(name, &png()).await.unwrap();
    let second = backend.store.upload_part(&upload, 2, payload(&bytes.slice(PART..))).await.unwrap();
    let first = backend.store.upload_part(&upload, 1, payload(&bytes.slice(..PART))).await.unwrap();
    (upload, vec![first, second], bytes)
}

async fn parts_become_one_object(backend: &Backend) {
    let name = image();
    let (upload, parts, bytes) = two_parts(backend, &name).await;
    let listed = backend.store.list_parts(&upload).await.unwrap();
    let shown: Vec<_> = listed.iter().map(|part| (part.number, part.size)).collect();
    assert_eq!(shown, [(1, PART as u64), (2, 3)]);
    assert!(matches!(backend.store.head(&name).await, Err(StoreError::NotFound)));

    backend.store.complete_upload(&upload, &parts, whole(&bytes)).await.unwrap();
    let head = backend.store.head(&name).await.unwrap();
    assert_eq!((head.size, head.content_type.as_deref()), (PART as u64 + 3, Some("image/png")));
    assert_eq!(head.dimensions, Some((640, 480)));
    if backend.is_exact() {
        assert_eq!(head.crc64, Some(crc64(&bytes)));
    }
    let tail = backend.store.read(&name, PART as u64 - 1..PART as u64 + 3, &head.etag.unwrap()).await.unwrap();
    assert_eq!(tail, bytes[PART - 1..]);
    assert_eq!(backend.open_uploads().await, 0);
    backend.store.delete(&name).await.unwrap();
}

async fn second_complete_succeeds(backend: &Backend) {
    let name = image();
    let (upload, parts, bytes) = two_parts(backend, &name).await;
    backend.store.complete_upload(&upload, &parts, whole(&bytes)).await.unwrap();
    backend.store.complete_upload(&upload, &parts, whole(&bytes)).await.expect("the object exists already");
    let other = ObjectDigest { size: 7, crc64: None };
    let other = backend.store.complete_upload(&upload, &parts, other).await;
    assert!(matches!(other, Err(StoreError::NoSuchUpload | StoreError::Precondition)), "{other:?}");
    backend.store.delete(&name).await.unwrap();
}

async fn complete_with_wrong_parts_or_checksum_is_rejected(backend: &Backend) {
    let name = image();
    let (upload, parts, bytes) = two_parts(backend, &name).await;
    if backend.is_exact() {
        let wrong = ObjectDigest { crc64: Some(1), ..whole(&bytes) };
        let refused = backend.store.complete_upload(&upload, &parts, wrong).await;
        assert!(matches!(&refused, Err(StoreError::Rejected { code, .. }) if code == "BadDigest"), "{refused:?}");
        let small = [Part { number: 1, ..parts[1].clone() }, Part { number: 2, ..parts[0].clone() }];
        let refused = backend.store.complete_upload(&upload, &small, whole(&bytes)).await;
        assert!(matches!(&refused, Err(StoreError::Rejected { code, .. }) if code == "InvalidPart"), "{refused:?}");
    }
    let missing = Part { number: 3, ..parts[1].clone() };
    let refused = backend.store.complete_upload(&upload, &[parts[0].clone(), missing], whole(&bytes)).await;
    assert!(matches!(&refused, Err(StoreError::Rejected { code, .. }) if code == "InvalidPart"), "{refused:?}");
    assert!(matches!(backend.store.head(&name).await, Err(StoreError::NotFound)));
    // The upload survives all of these errors.
    backend.store.complete_upload(&upload, &parts, whole(&bytes)).await.unwrap();
    backend.store.delete(&name).await.unwrap();
}

async fn complete_with_wrong_size_creates_no_wrong_object(backend: &Backend) {
    let name = image();
    let (upload, parts, bytes) = two_parts(backend, &name).await;
    let wrong = ObjectDigest { size: 1, ..whole(&bytes) };
    let refused = backend.store.complete_upload(&upload, &parts, wrong).await;
    if backend.compares_object_size() {
        assert!(matches!(&refused, Err(StoreError::Rejected { code, .. }) if code == "InvalidRequest"), "{refused:?}");
    }
    if refused.is_err() {
        assert!(matches!(backend.store.head(&name).await, Err(StoreError::NotFound)));
        backend.store.complete_upload(&upload, &parts, whole(&bytes)).await.unwrap();
    }
    assert_eq!(backend.store.head(&name).await.unwrap().size, PART as u64 + 3);
    backend.store.delete(&name).await.unwrap();
}

async fn aborted_upload_is_gone(backend: &Backend) {
    let name = image();
    let (upload, parts, bytes) = two_parts(backend, &name).await;
    backend.store.abort_upload(&upload).await.unwrap();
    backend.store.abort_upload(&upload).await.expect("it is gone already");

    let late = backend.store.upload_part(&upload, 3, payload(&noise(5, 10))).await;
    assert!(matches!(late, Err(StoreError::NoSuchUpload)), "{late:?}");
    let late = backend.store.complete_upload(&upload, &parts, whole(&bytes)).await;
    assert!(matches!(late, Err(StoreError::NoSuchUpload)), "{late:?}");
    let late = backend.store.list_parts(&upload).await;
    assert!(matches!(late, Err(StoreError::NoSuchUpload)), "{late:?}");
}

async fn uploads_without_checksums_work(backend: &Backend) {
    let store = backend.store_with(|options| options.checksum = image_store::store::s3::Checksum::None).await;
    let (name, bytes) = (image(), noise(6, PART + 1));
    let upload = store.create_upload(&name, &png()).await.unwrap();
    let first = store.upload_part(&upload, 1, payload(&bytes.slice(..PART))).await.unwrap();
    let second = store.upload_part(&upload, 2, payload(&bytes.slice(PART..))).await.unwrap();
    store.complete_upload(&upload, &[first, second], whole(&bytes)).await.unwrap();
    assert_eq!(store.head(&name).await.unwrap().size, PART as u64 + 1);
    store.delete(&name).await.unwrap();
    store.put(&name, &png(), payload(&bytes.slice(..10))).await.unwrap();
    assert_eq!(store.head(&name).await.unwrap().size, 10);
    store.delete(&name).await.unwrap();
}

/// Puts an object under `incoming/`, as a client's PUT does.
async fn arrived(backend: &Backend, bytes: &bytes::Bytes) -> (ObjectName, String) {
    let name = incoming();
    let plain = Metadata::unverified("application/octet-stream", CustomMetadata::new());
    backend.store.put(&name, &plain, payload(bytes)).await.unwrap();
    let etag = backend.store.head(&name).await.unwrap().etag.unwrap();
    (name, etag)
}

async fn copied_part_has_metadata_of_its_upload(backend: &Backend) {
    let bytes = noise(7, PART + 1);
    let (from, _) = arrived(backend, &bytes).await;
    let (to, source) = (image(), backend.store.head(&from).await.unwrap());
    let upload = backend.store.create_upload(&to, &png()).await.unwrap();
    let part = backend.store.copy_part(&upload, &from, &source).await.unwrap();
    assert_eq!((part.number, part.size), (1, PART as u64 + 1));
    assert!(matches!(backend.store.head(&to).await, Err(StoreError::NotFound)), "invisible until it is complete");
    let copied = ObjectDigest { size: source.size, crc64: part.crc64 };
    backend.store.complete_upload(&upload, &[part], copied).await.unwrap();

    let head = backend.store.head(&to).await.unwrap();
    assert_eq!((head.size, head.content_type.as_deref()), (PART as u64 + 1, Some("image/png")));
    assert_eq!((head.dimensions, head.marker), (Some((640, 480)), None));
    if backend.is_exact() {
        assert_eq!(head.crc64, Some(crc64(&bytes)));
        let second = backend.store.create_upload(&to, &png()).await.unwrap();
        let part = backend.store.copy_part(&second, &from, &source).await.unwrap();
        let other = ObjectDigest { size: 1, crc64: None };
        let late = backend.store.complete_upload(&second, &[part], other).await;
        assert!(late.is_err(), "{late:?}");
        backend.store.abort_upload(&second).await.unwrap();
    }
    assert_eq!(backend.store.read(&to, 0..PART as u64 + 1, &head.etag.unwrap()).await.unwrap(), bytes);
    backend.store.delete(&from).await.unwrap();
    backend.store.delete(&to).await.unwrap();
}

async fn copy_of_changed_source_is_rejected(backend: &Backend) {
    let (from, etag) = arrived(backend, &noise(8, PART)).await;
    let upload = backend.store.create_upload(&image(), &png()).await.unwrap();
    let source = backend.store.head(&from).await.unwrap();
    assert_eq!(source.etag.as_ref(), Some(&etag));
    let other = ObjectInfo { etag: Some("\"0123456789abcdef0123456789abcdef\"".to_owned()), ..source.clone() };
    let other = backend.store.copy_part(&upload, &from, &other).await;
    assert!(matches!(other, Err(StoreError::Precondition)), "{other:?}");
    backend.store.delete(&from).await.unwrap();
    let gone = backend.store.copy_part(&upload, &from, &source).await;
    assert!(matches!(gone, Err(StoreError::NotFound)), "{gone:?}");
    backend.store.abort_upload(&upload).await.unwrap();
    let over = backend.store.copy_part(&upload, &from, &source).await;
    assert!(matches!(over, Err(StoreError::NotFound | StoreError::NoSuchUpload)), "{over:?}");
}

async fn uploads_of_lists_only_uploads_of_that_name(backend: &Backend) {
    let (name, other) = (image(), image());
    let mut ours = Vec::new();
    for _ in 0..3 {
        ours.push(backend.store.create_upload(&name, &png()).await.unwrap());
    }
    let incoming = ObjectName::Incoming(name.key().clone());
    let others = [
        backend.store.create_upload(&other, &png()).await.unwrap(),
        backend.store.create_upload(&incoming, &png()).await.unwrap(),
    ];
    let ids = |uploads: &[Upload]| uploads.iter().map(|upload| upload.id.clone()).collect::<HashSet<_>>();
    let found = backend.store.uploads_of(&name).await.unwrap();
    assert!(found.iter().all(|upload| upload.name == name));
    assert_eq!(ids(&found), ids(&ours));
    for upload in ours.iter().chain(&others) {
        backend.store.abort_upload(upload).await.unwrap();
    }
    assert_eq!(backend.store.uploads_of(&name).await.unwrap(), []);
}

async fn marker_prevents_later_puts(backend: &Backend) {
    let (name, etag) = arrived(backend, &noise(10, 100)).await;
    let put = PutConditions { size: 3, sha256: None, ..conditions(b"png") };
    let url = backend.store.presign_put(&name, &put, &for_a_minute()).await.unwrap();
    let rejected = Marker::Rejected("invalid_file_type".to_owned());
    if backend.is_exact() {
        let other = backend.store.put_marker(&name, &rejected, Some("\"0123456789abcdef0123456789abcdef\"")).await;
        assert!(matches!(other, Err(StoreError::Precondition)), "{other:?}");
        assert_eq!(backend.store.head(&name).await.unwrap().etag, Some(etag.clone()));
    }
    backend.store.put_marker(&name, &rejected, Some(&etag)).await.unwrap();
    let head = backend.store.head(&name).await.unwrap();
    assert_eq!((head.size, head.marker), (0, Some(rejected)));
    backend.store.put_marker(&name, &Marker::Withdrawn, None).await.unwrap();
    assert_eq!(backend.store.head(&name).await.unwrap().marker, Some(Marker::Withdrawn));
    if backend.is_exact() {
        let late = send(Method::PUT, &url, bytes::Bytes::from_static(b"abc"), as_is).await;
        assert_eq!(late.status(), StatusCode::PRECONDITION_FAILED);
    }
    backend.store.delete(&name).await.unwrap();
}

async fn stream_requires_matching_etag(backend: &Backend) {
    let bytes = noise(11, 3_000_000);
    let (name, etag) = arrived(backend, &bytes).await;
    let read: Vec<bytes::Bytes> = backend.store.stream(&name, &etag).await.unwrap().try_collect().await.unwrap();
    assert!(read.concat() == bytes, "the bytes differ");
    let other = backend.store.stream(&name, "\"0123456789abcdef0123456789abcdef\"").await.err();
    assert!(matches!(other, Some(StoreError::Precondition)), "{other:?}");
    backend.store.delete(&name).await.unwrap();
}

/// Uses a URL with its headers, after `change` has edited them.
async fn send(
    method: Method,
    presigned: &Presigned,
    body: bytes::Bytes,
    change: impl FnOnce(&mut reqwest::header::HeaderMap),
) -> reqwest::Response {
    let mut headers = reqwest::header::HeaderMap::new();
    for (name, value) in &presigned.headers {
        headers.insert(reqwest::header::HeaderName::try_from(name.as_str()).unwrap(), value.parse().unwrap());
    }
    // The HTTP client sets this one itself, from the body, as browsers do.
    headers.remove("content-length");
    change(&mut headers);
    reqwest::Client::new().request(method, &presigned.url).headers(headers).body(body).send().await.unwrap()
}

fn as_is(_: &mut reqwest::header::HeaderMap) {}

async fn presigned_get_reads_the_object(backend: &Backend) {
    let (name, bytes) = (image(), noise(9, 600_000));
    backend.store.put(&name, &png(), payload(&bytes)).await.unwrap();
    let url = backend.store.presign_get(&name, &for_a_minute()).await.unwrap();
    assert!(url.headers.is_empty(), "{:?}", url.headers);

    let response = send(Method::GET, &url, "".into(), as_is).await;
    assert_eq!(
        (response.status(), response.headers()["content-type"].to_str().unwrap()),
        (StatusCode::OK, "image/png")
    );
    assert_eq!(response.bytes().await.unwrap(), bytes);

    let tampered = Presigned { url: url.url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"), ..url.clone() };
    assert_eq!(send(Method::GET, &tampered, "".into(), as_is).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(send(Method::PUT, &url, "x".into(), as_is).await.status(), StatusCode::FORBIDDEN);
    backend.store.delete(&name).await.unwrap();
    assert_eq!(send(Method::GET, &url, "".into(), as_is).await.status(), StatusCode::NOT_FOUND);
}

fn conditions(bytes: &[u8]) -> PutConditions {
    let sha256 = s3s::crypto::Sha256::default();
    let sha256 = {
        use s3s::crypto::Checksum;
        let mut sha256 = sha256;
        sha256.update(bytes);
        sha256.finalize().as_ref().try_into().unwrap()
    };
    PutConditions {
        size: bytes.len() as u64,
        content_type: "image/png".to_owned(),
        sha256: Some(sha256),
        custom: CustomMetadata::new(),
        origin: None,
    }
}

async fn presigned_put_writes_the_signed_object(backend: &Backend) {
    let (name, bytes) = (incoming(), noise(10, 20_000));
    let expected = conditions(&bytes);
    let url = backend.store.presign_put(&name, &expected, &for_a_minute()).await.unwrap();
    let mut names: Vec<_> = url.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "if-none-match", "x-amz-checksum-sha256"]);

    assert_eq!(send(Method::PUT, &url, bytes.clone(), as_is).await.status(), StatusCode::OK);
    let head = backend.store.head(&name).await.unwrap();
    assert_eq!((head.size, head.content_type.as_deref()), (20_000, Some("image/png")));
    if backend.is_exact() {
        assert_eq!(head.sha256, expected.sha256);
    }
    backend.store.delete(&name).await.unwrap();
}

async fn presigned_put_rejects_anything_else(backend: &Backend) {
    let (name, bytes) = (incoming(), noise(11, 20_000));
    let url = backend.store.presign_put(&name, &conditions(&bytes), &for_a_minute()).await.unwrap();
    let put = async |body: bytes::Bytes, change: fn(&mut reqwest::header::HeaderMap)| {
        send(Method::PUT, &url, body, change).await.status()
    };
    let forbidden = StatusCode::FORBIDDEN;
    assert_eq!(put(noise(11, 20_001), as_is).await, forbidden, "longer");
    assert_eq!(put(noise(11, 19_999), as_is).await, forbidden, "shorter");
    let gif =
        |headers: &mut reqwest::header::HeaderMap| drop(headers.insert("content-type", "image/gif".parse().unwrap()));
    assert_eq!(put(bytes.clone(), gif).await, forbidden, "another type");
    for header in ["content-type", "if-none-match", "x-amz-checksum-sha256"] {
        let response = send(Method::PUT, &url, bytes.clone(), |headers| drop(headers.remove(header))).await;
        assert_eq!(response.status(), forbidden, "without {header}");
    }
    if backend.is_exact() {
        assert_eq!(put(noise(12, 20_000), as_is).await, StatusCode::BAD_REQUEST, "other bytes of the same length");
    }
    let moved = Presigned { url: url.url.replace(name.key().as_str(), image().key().as_str()), ..url.clone() };
    assert_eq!(send(Method::PUT, &moved, bytes.clone(), as_is).await.status(), forbidden, "another key");
    assert_eq!(backend.objects().await, Vec::<String>::new());
}

async fn presigned_put_works_once(backend: &Backend) {
    let (name, bytes) = (incoming(), noise(13, 500));
    let url = backend.store.presign_put(&name, &conditions(&bytes), &for_a_minute()).await.unwrap();
    assert_eq!(send(Method::PUT, &url, bytes.clone(), as_is).await.status(), StatusCode::OK);
    if backend.is_exact() {
        assert_eq!(send(Method::PUT, &url, bytes, as_is).await.status(), StatusCode::PRECONDITION_FAILED);
    }
    backend.store.delete(&name).await.unwrap();
}

async fn expired_url_is_rejected(backend: &Backend) {
    let name = image();
    backend.store.put(&name, &png(), payload(&noise(14, 10))).await.unwrap();
    let options = PresignOptions { ttl: Duration::from_secs(1), base: None };
    let url = backend.store.presign_get(&name, &options).await.unwrap();
    let refused = async {
        while send(Method::GET, &url, "".into(), as_is).await.status() != StatusCode::FORBIDDEN {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.expect("the URL expires");
    assert!(url.expires_at <= std::time::SystemTime::now());
    backend.store.delete(&name).await.unwrap();
}

async fn presigned_parts_become_one_object(backend: &Backend) {
    let (name, bytes) = (incoming(), noise(15, PART + 9));
    let upload = backend.store.create_upload(&name, &png()).await.unwrap();
    let sizes = [(1, 0..PART), (2, PART..PART + 9)];
    for (number, range) in sizes {
        let body = bytes.slice(range);
        let url = backend.store.presign_part(&upload, number, Some(body.len() as u64), &for_a_minute()).await.unwrap();
        assert_eq!(url.headers, [("content-length".to_owned(), body.len().to_string())]);
        let longer = send(Method::PUT, &url, noise(1, body.len() + 1), as_is).await;
        assert_eq!(longer.status(), StatusCode::FORBIDDEN);
        assert_eq!(send(Method::PUT, &url, body, as_is).await.status(), StatusCode::OK);
    }
    let parts = backend.store.list_parts(&upload).await.unwrap();
    assert_eq!(parts.iter().map(|part| part.size).collect::<Vec<_>>(), [PART as u64, 9]);
    let whole = ObjectDigest { size: PART as u64 + 9, crc64: None };
    backend.store.complete_upload(&upload, &parts, whole).await.unwrap();
    backend.store.complete_upload(&upload, &parts, whole).await.expect("the object exists already");
    assert_eq!(backend.store.head(&name).await.unwrap().size, PART as u64 + 9);
    backend.store.delete(&name).await.unwrap();
}

async fn leftovers_lists_only_unfinished_uploads(backend: &Backend) {
    let (finished, bytes) = (image(), noise(16, 10));
    backend.store.put(&finished, &png(), payload(&bytes)).await.unwrap();
    let mut expected = Vec::new();
    for name in [incoming(), incoming(), incoming()] {
        backend.store.put(&name, &png(), payload(&bytes)).await.unwrap();
        expected.push((name.object_key(&backend.options.prefix), None));
    }
    for name in [image(), incoming(), image()] {
        let upload = backend.store.create_upload(&name, &png()).await.unwrap();
        expected.push((name.object_key(&backend.options.prefix), Some(upload.id)));
    }
    // A name that the service does not use: an object of someone else.
    let foreign = format!("{}incoming/notes.txt", backend.options.prefix);
    let put = backend.client().put_object().bucket(&backend.options.bucket).key(&foreign);
    put.body(b"notes".to_vec().into()).send().await.unwrap();

    let leftovers = backend.store.leftovers().await.unwrap();
    let mut found: Vec<_> = leftovers.iter().map(|left| (left.object_key.clone(), left.upload_id.clone())).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    for leftover in &leftovers {
        assert!(leftover.since <= std::time::SystemTime::now() + Duration::from_secs(5));
        backend.store.remove_leftover(leftover).await.unwrap();
        backend.store.remove_leftover(leftover).await.expect("it is gone already");
    }
    assert!(backend.store.leftovers().await.unwrap().is_empty());
    backend.client().delete_object().bucket(&backend.options.bucket).key(&foreign).send().await.unwrap();
    backend.store.delete(&finished).await.unwrap();
}

async fn ping_reports_wrong_bucket_and_endpoint(backend: &Backend) {
    backend.store.ping().await.unwrap();
    let elsewhere = backend.store_with(|options| options.bucket = "no-such-bucket-here".to_owned()).await;
    let refused = elsewhere.ping().await;
    assert!(matches!(refused, Err(StoreError::Rejected { .. })), "{refused:?}");
    let nowhere = backend.store_at("http://127.0.0.1:1").await.ping().await;
    assert!(matches!(nowhere, Err(StoreError::OutcomeUnknown { .. })), "{nowhere:?}");
}
