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

mod multipart;

/// The longest key whose side files still have names of at most 255 bytes.
const LONGEST_KEY: usize = 120;
/// s3s-fs reads 4 KiB at a time.
const READ_SIZE: usize = 256 * 1024;

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
    async fn publish(
        &self,
        staged: Staged,
        key: String,
        only_new: bool,
        expected: Option<ETagCondition>,
    ) -> S3Result<()> {
        let guard = self.0.keys.write(&key).await;
        if expected.is_some() {
            let found = self.e_tag(&key).await?.ok_or_else(|| s3_error!(NoSuchKey))?;
            check_conditions(Some(&found), expected.as_ref(), None)?;
        }
        if only_new && self.0.disk.object(&key).exists() {
            return Err(s3_error!(PreconditionFailed, "Object already exists"));
        }
        self.blocking(move |disk| {
            let _guard = guard;
            disk.publish(&staged, &key)
        })
        .await
    }

    /// The ETag of the object at `key`, which must be locked.
    async fn e_tag(&self, key: &str) -> S3Result<Option<ETag>> {
        if !self.0.disk.object(key).exists() {
            return Ok(None);
        }
        let input = HeadObjectInput { bucket: BUCKET.to_owned(), key: key.to_owned(), ..Default::default() };
        let request = S3Request {
            input,
            method: http::Method::HEAD,
            uri: http::Uri::from_static("/"),
            headers: http::HeaderMap::new(),
            extensions: http::Extensions::new(),
            credentials: None,
            region: None,
            service: None,
            trailing_headers: None,
        };
        Ok(self.0.files.head_object(request).await?.output.e_tag)
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
        let key = req.input.key.clone();
        let expected = req.input.if_match.take();
        let only_new = req.input.if_none_match.take().is_some_and(|condition| condition.is_any());
        if only_new && self.0.disk.object(&key).exists() {
            return Err(s3_error!(PreconditionFailed, "Object already exists"));
        }
        let (staged, response) = self.stage(req).await?;
        self.publish(staged, key, only_new, expected).await?;
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
            bucket.publish(staged, key, only_new, None).await?;
            Ok(response)
        })
        .await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        // Whole, or s3s-fs would know of an upload that nothing lists.
        to_the_end(self.clone().create(req)).await.map(S3Response::new)
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        self.take_part(req).await.map(S3Response::new)
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        check(&req.input.bucket, &req.input.key)?;
        to_the_end(self.clone().copy_part(req)).await.map(S3Response::new)
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
        check(&req.input.bucket, &req.input.key)?;
        self.parts(req.input).await.map(S3Response::new)
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        check_bucket(&req.input.bucket)?;
        self.unfinished(req.input).await.map(S3Response::new)
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        check_bucket(&req.input.bucket)?;
        self.0.files.list_objects_v2(req).await
    }
}
