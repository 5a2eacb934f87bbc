//! The only bucket: S3's operations on the [`Disk`].
//!
//! Bodies are written to temporary files. The store is then changed in one blocking step, which runs to its end even if
//! the request is dropped.

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use std::io::SeekFrom;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::body::{Declared, blocking, receive};
use super::conditions::{ReadConditions, WriteConditions};
use super::disk::{Disk, failed};
use super::file::{Meta, StoredFile};

mod lists;
mod multipart;

/// The bucket's name.
pub(super) const BUCKET: &str = "images";
/// Number of bytes of an object that are read at once.
const READ_SIZE: usize = 32 << 10;

/// The bucket. Cheap to clone.
#[derive(Clone)]
pub(super) struct Bucket(pub(super) Arc<Disk>);

impl Bucket {
    /// Runs blocking work on the disk. It runs to its end even if its request is dropped.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> S3Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let disk = Arc::clone(&self.0);
        blocking(move || work(&disk)).await
    }

    async fn find(&self, bucket: &str, key: String, conditions: ReadConditions) -> S3Result<StoredFile> {
        check_bucket(bucket)?;
        let found = self.on_disk(move |disk| disk.object(&key)).await?.ok_or_else(|| s3_error!(NoSuchKey))?;
        conditions.check(&found.meta)?;
        Ok(found)
    }

    async fn put(&self, mut req: S3Request<PutObjectInput>) -> S3Result<PutObjectOutput> {
        check_bucket(&req.input.bucket)?;
        let input = &mut req.input;
        let conditions = WriteConditions::new(input.if_match.take(), input.if_none_match.take())?;
        let key = std::mem::take(&mut input.key);
        let described = Meta {
            content_type: input.content_type.take(),
            metadata: input.metadata.take().unwrap_or_default(),
            ..Meta::new(&key)
        };
        // Check before the body is read, so that a client that waits for `100 Continue` need not send it.
        let (early, name) = (conditions.clone(), key.clone());
        self.on_disk(move |disk| early.check(disk.object(&name)?.map(|existing| existing.meta).as_ref())).await?;

        let body = input.body.take();
        let declared = Declared::new(input, &req.headers, req.trailing_headers);
        let (digests, content) = receive(&self.0, body, declared).await?;
        let meta = Meta {
            etag: digests.etag(),
            crc64nvme: digests.checksums.checksum_crc64nvme,
            sha256: digests.checksums.checksum_sha256,
            ..described
        };
        let output = PutObjectOutput {
            e_tag: Some(ETag::Strong(meta.etag.clone())),
            checksum_crc64nvme: meta.crc64nvme.clone(),
            checksum_sha256: meta.sha256.clone(),
            ..Default::default()
        };
        self.on_disk(move |disk| {
            let file = content.seal(&meta).map_err(failed)?;
            disk.put(&key, file, &|existing| conditions.check(existing))
        })
        .await?;
        Ok(output)
    }

    async fn get(&self, input: GetObjectInput) -> S3Result<S3Response<GetObjectOutput>> {
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let StoredFile { file, size, meta } = self.find(&input.bucket, input.key, conditions).await?;
        let range = match input.range {
            Some(_) if size == 0 => return Err(s3_error!(InvalidRange)),
            Some(range) => range.check(size)?,
            None => 0..size,
        };
        let (created, length) = (meta.created(), range.end - range.start);
        let whole = length == size && wants_checksums(input.checksum_mode.as_ref());
        let mut file = tokio::fs::File::from_std(file);
        file.seek(SeekFrom::Start(range.start)).await.map_err(failed)?;
        let body = ReaderStream::with_capacity(file.take(length), READ_SIZE);
        let content_range = input.range.map(|_| format!("bytes {}-{}/{size}", range.start, range.end - 1));
        let status = content_range.as_ref().map(|_| http::StatusCode::PARTIAL_CONTENT);
        let output = GetObjectOutput {
            body: Some(StreamingBlob::wrap(body)),
            content_length: signed(length),
            content_range,
            accept_ranges: Some("bytes".to_owned()),
            content_type: meta.content_type,
            e_tag: Some(ETag::Strong(meta.etag)),
            last_modified: Some(created.into()),
            metadata: Some(meta.metadata),
            checksum_crc64nvme: meta.crc64nvme.filter(|_| whole),
            checksum_sha256: meta.sha256.filter(|_| whole),
            ..Default::default()
        };
        let mut response = S3Response::new(output);
        response.status = status;
        Ok(response)
    }

    async fn head(&self, input: HeadObjectInput) -> S3Result<HeadObjectOutput> {
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let StoredFile { size, meta, .. } = self.find(&input.bucket, input.key, conditions).await?;
        let checksums = wants_checksums(input.checksum_mode.as_ref());
        Ok(HeadObjectOutput {
            content_length: signed(size),
            accept_ranges: Some("bytes".to_owned()),
            last_modified: Some(meta.created().into()),
            content_type: meta.content_type,
            e_tag: Some(ETag::Strong(meta.etag)),
            metadata: Some(meta.metadata),
            checksum_crc64nvme: meta.crc64nvme.filter(|_| checksums),
            checksum_sha256: meta.sha256.filter(|_| checksums),
            ..Default::default()
        })
    }

    async fn delete(&self, input: DeleteObjectInput) -> S3Result<()> {
        check_bucket(&input.bucket)?;
        let conditions = WriteConditions::new(input.if_match, None)?;
        self.on_disk(move |disk| disk.remove(&input.key, &|existing| conditions.check(existing))).await
    }
}

fn check_bucket(bucket: &str) -> S3Result<()> {
    if bucket == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
}

/// Whether the request asks for checksums. S3 does not return them otherwise.
fn wants_checksums(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

/// Converts a size to the signed type of the S3 schema.
fn signed(size: u64) -> Option<i64> {
    i64::try_from(size).ok()
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        check_bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.put(req).await.map(S3Response::new)
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.head(req.input).await.map(S3Response::new)
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.get(req.input).await
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.delete(req.input).await?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.create_upload(req.input).await.map(S3Response::new)
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        self.put_part(req).await.map(S3Response::new)
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        self.copy_part(req.input).await.map(S3Response::new)
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.complete(req.input).await.map(S3Response::new)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.abort(req.input).await?;
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.parts(req.input).await.map(S3Response::new)
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        self.uploads(req.input).await.map(S3Response::new)
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.objects(req.input).await.map(S3Response::new)
    }
}
