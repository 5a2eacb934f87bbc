//! The one bucket: s3s-fs does the work in a staging bucket, this checks before and publishes after.
//!
//! Bodies go to the staging bucket, where s3s-fs verifies them; only a whole object is renamed to its key. What must not
//! stop half-way when a client hangs up runs on a task of its own.

use crc_fast::{CrcAlgorithm, Digest};
use futures::StreamExt;
use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::disk::{BUCKET, Disk, STAGING, Staged};
use super::locks::Locks;
use super::uploads::{self, PartRecord};

/// The longest key whose side files still have names of at most 255 bytes.
const LONGEST_KEY: usize = 120;
/// s3s-fs reads 4 KiB at a time.
const READ_SIZE: usize = 256 * 1024;
/// The most parts and uploads one page of a list holds, as on AWS.
const PAGE: usize = 1_000;

/// Cheap to clone: what runs on after a client is gone takes one along.
#[derive(Clone)]
pub(super) struct Bucket(Arc<Inner>);

struct Inner {
    files: FileSystem,
    disk: Disk,
    keys: Locks,
    uploads: Locks,
}

impl Bucket {
    pub(super) fn new(files: FileSystem, disk: Disk) -> Bucket {
        Bucket(Arc::new(Inner { files, disk, keys: Locks::default(), uploads: Locks::default() }))
    }

    /// Runs blocking work, to its end also when nobody waits any more.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> std::io::Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let bucket = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&bucket.0.disk)).await;
        done.map_err(S3Error::internal_error)?.map_err(S3Error::internal_error)
    }

    /// Renames a staged object to its key, unless something is there that must not be.
    async fn publish(&self, staged: Staged, key: String, only_new: bool) -> S3Result<()> {
        let guard = self.0.keys.write(&key).await;
        if only_new && self.0.disk.object(&key).exists() {
            return Err(s3_error!(PreconditionFailed, "Object already exists"));
        }
        self.blocking(move |disk| {
            let _guard = guard;
            disk.publish(&staged, &key)
        })
        .await
    }

    /// Writes a body to the staging bucket, where s3s-fs checks it against every checksum that came with it.
    ///
    /// On a task of its own: s3s-fs dropped half-way may still rename its file after we have cleaned up. The task ends
    /// with the body, which ends with the connection.
    async fn stage(&self, req: S3Request<PutObjectInput>) -> S3Result<(Staged, S3Response<PutObjectOutput>)> {
        to_the_end(self.clone().write_staged(req)).await
    }

    async fn write_staged(self, mut req: S3Request<PutObjectInput>) -> S3Result<(Staged, S3Response<PutObjectOutput>)> {
        let staged = Staged::fresh(&self.0.disk);
        let crc64 = Arc::new(Mutex::new(Digest::new(CrcAlgorithm::Crc64Nvme)));
        req.input.body = req.input.body.map(|body| hashed(body, crc64.clone()));
        (req.input.bucket, req.input.key) = (STAGING.to_owned(), staged.key.clone());
        let response = self.0.files.put_object(req).await?;
        let crc64 = crc64.lock().unwrap_or_else(PoisonError::into_inner).finalize();
        self.0.disk.note_crc64(&staged, crc64).map_err(S3Error::internal_error)?;
        Ok((staged, response))
    }

    async fn take_part(&self, req: S3Request<UploadPartInput>) -> S3Result<UploadPartOutput> {
        let (id, key, number) = (req.input.upload_id.clone(), req.input.key.clone(), req.input.part_number);
        if !(1..=10_000).contains(&number) {
            return Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"));
        }
        self.0.disk.upload(&id, &key)?;
        let (staged, response) = self.stage(req.map_input(as_object)).await?;
        let guard = self.0.uploads.write(&id).await;
        // It may have been completed or aborted while the body came in.
        self.0.disk.upload(&id, &key)?;
        self.blocking(move |disk| {
            let _guard = guard;
            disk.adopt_part(&staged, &id, number)
        })
        .await?;
        let put = response.output;
        Ok(UploadPartOutput {
            e_tag: put.e_tag,
            checksum_crc64nvme: put.checksum_crc64nvme,
            checksum_sha256: put.checksum_sha256,
            ..Default::default()
        })
    }

    async fn complete(
        self,
        mut req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let (id, key) = (req.input.upload_id.clone(), req.input.key.clone());
        let only_new = req.input.if_none_match.take().is_some_and(|condition| condition.is_any());
        // Two uploads of one key would meet in the staging bucket.
        let _key = self.0.keys.write(&format!("{STAGING}/{key}")).await;
        let _upload = self.0.uploads.write(&id).await;
        self.0.disk.upload(&id, &key)?;
        let (chosen, crc64) = self.review(&id, &req.input)?;
        if only_new && self.0.disk.object(&key).exists() {
            return Err(s3_error!(PreconditionFailed, "Object already exists"));
        }
        let staged = Staged::at(&self.0.disk, key.clone());
        req.input.bucket = STAGING.to_owned();
        req.input.multipart_upload = Some(CompletedMultipartUpload { parts: Some(named(&chosen)) });
        let joined = self.0.files.complete_multipart_upload(req).await?.output;
        let joined = match joined.future {
            Some(future) => future.await?,
            None => joined,
        };
        if let Some(crc64) = crc64 {
            self.0.disk.note_crc64(&staged, crc64).map_err(S3Error::internal_error)?;
        }
        self.publish(staged, key.clone(), only_new).await?;
        self.0.disk.forget_upload(&id).map_err(S3Error::internal_error)?;
        Ok(CompleteMultipartUploadOutput {
            bucket: Some(BUCKET.to_owned()),
            key: Some(key),
            e_tag: joined.e_tag,
            checksum_crc64nvme: crc64.map(uploads::to_base64),
            ..Default::default()
        })
    }

    /// Everything that can be wrong with a Complete, before anything is changed.
    fn review(&self, id: &str, input: &CompleteMultipartUploadInput) -> S3Result<(Vec<PartRecord>, Option<u64>)> {
        let named = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref()).unwrap_or_default();
        let held = self.0.disk.parts(id).map_err(S3Error::internal_error)?;
        let chosen = uploads::choose(&held, named)?;
        let size: u64 = chosen.iter().map(|part| part.size).sum();
        if input.mpu_object_size.is_some_and(|expected| u64::try_from(expected) != Ok(size)) {
            return Err(s3_error!(InvalidRequest, "The object's size is not x-amz-mp-object-size"));
        }
        let crc64 = uploads::joined_crc64(&chosen);
        let expected = input.checksum_crc64nvme.as_deref();
        if expected.is_some_and(|expected| crc64.map(uploads::to_base64).as_deref() != Some(expected)) {
            return Err(s3_error!(BadDigest, "The object's CRC64NVME is another"));
        }
        Ok((chosen, crc64))
    }

    async fn abort(self, mut req: S3Request<AbortMultipartUploadInput>) -> S3Result<()> {
        let id = req.input.upload_id.clone();
        let _upload = self.0.uploads.write(&id).await;
        self.0.disk.upload(&id, &req.input.key)?;
        req.input.bucket = STAGING.to_owned();
        self.0.files.abort_multipart_upload(req).await?;
        self.0.disk.forget_upload(&id).map_err(S3Error::internal_error)
    }
}

/// Runs `work` to its end also when the client that asked for it is gone.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = S3Result<T>> + Send + 'static) -> S3Result<T> {
    tokio::spawn(work).await.map_err(S3Error::internal_error)?
}

fn hashed(body: StreamingBlob, crc64: Arc<Mutex<Digest>>) -> StreamingBlob {
    let stream = body.map(move |chunk| {
        if let Ok(bytes) = &chunk {
            crc64.lock().unwrap_or_else(PoisonError::into_inner).update(bytes);
        }
        chunk.map_err(std::io::Error::other)
    });
    StreamingBlob::wrap(stream)
}

/// Staged as an object, a part is checked against its checksums, which s3s-fs does not do for parts.
fn as_object(part: UploadPartInput) -> PutObjectInput {
    PutObjectInput {
        body: part.body,
        content_length: part.content_length,
        content_md5: part.content_md5,
        checksum_algorithm: part.checksum_algorithm,
        checksum_crc32: part.checksum_crc32,
        checksum_crc32c: part.checksum_crc32c,
        checksum_crc64nvme: part.checksum_crc64nvme,
        checksum_sha1: part.checksum_sha1,
        checksum_sha256: part.checksum_sha256,
        ..Default::default()
    }
}

fn named(parts: &[PartRecord]) -> Vec<CompletedPart> {
    let name = |part: &PartRecord| CompletedPart { part_number: Some(part.number), ..Default::default() };
    parts.iter().map(name).collect()
}

fn check_bucket(bucket: &str) -> S3Result<()> {
    if bucket == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
}

/// Keys are file names here: none may lead elsewhere, be hidden, or be longer than a file name can be.
fn check(bucket: &str, key: &str) -> S3Result<()> {
    check_bucket(bucket)?;
    if key.len() > LONGEST_KEY {
        return Err(s3_error!(KeyTooLongError));
    }
    let plain = Path::new(key).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || key.is_empty() || key.split('/').any(str::is_empty) || key.contains(['\\', '\0']) {
        return Err(s3_error!(InvalidArgument, "This store does not take such a key"));
    }
    Ok(())
}

fn check_conditions(
    e_tag: Option<&ETag>,
    wanted: Option<&ETagCondition>,
    known: Option<&ETagCondition>,
) -> S3Result<()> {
    let is = |condition: &ETagCondition| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(condition) => e_tag.is_some_and(|e_tag| e_tag.weak_cmp(condition)),
    };
    if wanted.is_some_and(|condition| !is(condition)) {
        return Err(s3_error!(PreconditionFailed));
    }
    if known.is_some_and(is) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        check_bucket(&req.input.bucket)?;
        self.0.files.head_bucket(req).await
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        if req.input.if_match.is_some() {
            return Err(s3_error!(NotImplemented, "If-Match is not implemented here"));
        }
        let key = req.input.key.clone();
        let only_new = req.input.if_none_match.take().is_some_and(|condition| condition.is_any());
        if only_new && self.0.disk.object(&key).exists() {
            return Err(s3_error!(PreconditionFailed, "Object already exists"));
        }
        let (staged, response) = self.stage(req).await?;
        self.publish(staged, key, only_new).await?;
        Ok(response)
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        let _guard = self.0.keys.read(&req.input.key).await;
        let (wanted, known) = (req.input.if_match.clone(), req.input.if_none_match.clone());
        let mut response = self.0.files.head_object(req).await?;
        check_conditions(response.output.e_tag.as_ref(), wanted.as_ref(), known.as_ref())?;
        response.output.accept_ranges = Some("bytes".to_owned());
        Ok(response)
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        let (wanted, known) = (req.input.if_match.clone(), req.input.if_none_match.clone());
        let (key, range) = (req.input.key.clone(), req.input.range);
        let _guard = self.0.keys.read(&key).await;
        let mut response = self.0.files.get_object(req).await?;
        check_conditions(response.output.e_tag.as_ref(), wanted.as_ref(), known.as_ref())?;
        let mut file = tokio::fs::File::open(self.0.disk.object(&key)).await.map_err(S3Error::internal_error)?;
        let size = file.metadata().await.map_err(S3Error::internal_error)?.len();
        let range = range.map_or(Ok(0..size), |range| range.check(size))?;
        file.seek(std::io::SeekFrom::Start(range.start)).await.map_err(S3Error::internal_error)?;
        let body = ReaderStream::with_capacity(file.take(range.end - range.start), READ_SIZE);
        response.output.body = Some(StreamingBlob::wrap(body));
        response.output.accept_ranges = Some("bytes".to_owned());
        Ok(response)
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        if req.input.if_match.is_some() {
            return Err(s3_error!(NotImplemented, "If-Match is not implemented here"));
        }
        let key = req.input.key;
        let guard = self.0.keys.write(&key).await;
        self.blocking(move |disk| {
            let _guard = guard;
            disk.remove_object(&key)
        })
        .await?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn copy_object(&self, mut req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        let CopySource::Bucket { bucket, key: source, .. } = req.input.copy_source.clone() else {
            return Err(s3_error!(NotImplemented));
        };
        check(&bucket, &source)?;
        let key = req.input.key.clone();
        // s3s does not know this condition of CopyObject.
        let only_new = req.headers.get(http::header::IF_NONE_MATCH).is_some_and(|value| value == "*");
        if only_new && self.0.disk.object(&key).exists() {
            return Err(s3_error!(PreconditionFailed, "Object already exists"));
        }
        let staged = Staged::fresh(&self.0.disk);
        (req.input.bucket, req.input.key) = (STAGING.to_owned(), staged.key.clone());
        let bucket = self.clone();
        to_the_end(async move {
            let response = {
                let _source = bucket.0.keys.read(&source).await;
                bucket.0.files.copy_object(req).await?
            };
            bucket.publish(staged, key, only_new).await?;
            Ok(response)
        })
        .await
    }

    async fn create_multipart_upload(
        &self,
        mut req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        let key = req.input.key.clone();
        let (algorithm, kind) = (req.input.checksum_algorithm.clone(), req.input.checksum_type.clone());
        req.input.bucket = STAGING.to_owned();
        let bucket = self.clone();
        // Whole, or s3s-fs would know of an upload that nothing lists.
        let id = to_the_end(async move {
            let created = bucket.0.files.create_multipart_upload(req).await?;
            let id = created.output.upload_id.unwrap_or_default();
            bucket.0.disk.begin_upload(&id, &key).map_err(S3Error::internal_error)?;
            Ok((id, key))
        })
        .await;
        let (upload_id, key) = id?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(BUCKET.to_owned()),
            key: Some(key),
            upload_id: Some(upload_id),
            checksum_algorithm: algorithm,
            checksum_type: kind,
            ..Default::default()
        }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        self.take_part(req).await.map(S3Response::new)
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        to_the_end(self.clone().complete(req)).await.map(S3Response::new)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        to_the_end(self.clone().abort(req)).await?;
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        check(&input.bucket, &input.key)?;
        let _upload = self.0.uploads.read(&input.upload_id).await;
        self.0.disk.upload(&input.upload_id, &input.key)?;
        let after = input.part_number_marker.unwrap_or_default();
        let mut parts = self.0.disk.parts(&input.upload_id).map_err(S3Error::internal_error)?;
        parts.retain(|part| part.number > after);
        let page = page_size(input.max_parts);
        let truncated = parts.len() > page;
        parts.truncate(page);
        let next = parts.last().filter(|_| truncated).map(|part| part.number);
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(truncated),
            next_part_number_marker: next,
            parts: Some(parts.into_iter().map(listed_part).collect()),
            ..Default::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        check_bucket(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let mut uploads = self.blocking(Disk::all_uploads).await?;
        uploads.retain(|(record, id)| record.key.starts_with(&prefix) && is_after(&input, &record.key, id));
        let page = page_size(input.max_uploads);
        let truncated = uploads.len() > page;
        uploads.truncate(page);
        let (next_key, next_id) =
            uploads.last().filter(|_| truncated).map(|(record, id)| (record.key.clone(), id.clone())).unzip();
        let listed = uploads.into_iter().map(|(record, id)| MultipartUpload {
            key: Some(record.key),
            upload_id: Some(id),
            initiated: Some(record.initiated.into()),
            ..Default::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            is_truncated: Some(truncated),
            next_key_marker: next_key,
            next_upload_id_marker: next_id,
            uploads: Some(listed.collect()),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        check_bucket(&req.input.bucket)?;
        self.0.files.list_objects_v2(req).await
    }
}

fn page_size(asked: Option<i32>) -> usize {
    asked.and_then(|asked| usize::try_from(asked).ok()).unwrap_or(PAGE).clamp(1, PAGE)
}

fn listed_part(part: PartRecord) -> Part {
    Part {
        part_number: Some(part.number),
        size: i64::try_from(part.size).ok(),
        e_tag: Some(ETag::Strong(part.e_tag)),
        checksum_crc64nvme: part.checksum_crc64nvme,
        ..Default::default()
    }
}

/// Whether an upload lies after a page's markers. <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>
fn is_after(input: &ListMultipartUploadsInput, key: &str, id: &str) -> bool {
    let Some(marker) = input.key_marker.as_deref() else { return true };
    key > marker || (key == marker && input.upload_id_marker.as_deref().is_some_and(|marker| id > marker))
}
