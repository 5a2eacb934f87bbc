//! Multipart uploads: s3s-fs keeps and joins the parts in the staging bucket; what it does not know of them is recorded
//! beside them ([`super::super::uploads`]).

use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Result, s3_error};
use tokio_util::io::ReaderStream;

use super::super::disk::{BUCKET, Disk, STAGING, Staged};
use super::super::uploads::{self, PartRecord};
use super::Bucket;

/// The most parts and uploads one page of a list holds, as on AWS.
const PAGE: usize = 1_000;

impl Bucket {
    pub(super) async fn create(
        self,
        mut req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<CreateMultipartUploadOutput> {
        let key = req.input.key.clone();
        let (algorithm, kind) = (req.input.checksum_algorithm.clone(), req.input.checksum_type.clone());
        req.input.bucket = STAGING.to_owned();
        let created = self.0.files.create_multipart_upload(req).await?;
        let id = created.output.upload_id.unwrap_or_default();
        self.0.disk.begin_upload(&id, &key).map_err(S3Error::internal_error)?;
        Ok(CreateMultipartUploadOutput {
            bucket: Some(BUCKET.to_owned()),
            key: Some(key),
            upload_id: Some(id),
            checksum_algorithm: algorithm,
            checksum_type: kind,
            ..Default::default()
        })
    }

    pub(super) async fn take_part(&self, req: S3Request<UploadPartInput>) -> S3Result<UploadPartOutput> {
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

    pub(super) async fn copy_part(self, req: S3Request<UploadPartCopyInput>) -> S3Result<UploadPartCopyOutput> {
        let CopySource::Bucket { bucket, key: source, .. } = req.input.copy_source.clone() else {
            return Err(s3_error!(NotImplemented));
        };
        super::check(&bucket, &source)?;
        let lock = self.0.keys.read(&source).await;
        let e_tag = self.e_tag(&source).await?.ok_or_else(|| s3_error!(NoSuchKey))?;
        super::check_conditions(Some(&e_tag), req.input.copy_source_if_match.as_ref(), None)?;
        let file = tokio::fs::File::open(self.0.disk.object(&source)).await.map_err(S3Error::internal_error)?;
        drop(lock);
        let length = file.metadata().await.map_err(S3Error::internal_error)?.len();
        let body = StreamingBlob::wrap(ReaderStream::with_capacity(file, super::READ_SIZE));
        let part = req.map_input(|copy| UploadPartInput {
            bucket: copy.bucket,
            key: copy.key,
            upload_id: copy.upload_id,
            part_number: copy.part_number,
            body: Some(body),
            content_length: i64::try_from(length).ok(),
            ..Default::default()
        });
        let taken = self.take_part(part).await?;
        let result = CopyPartResult { e_tag: taken.e_tag, ..Default::default() };
        Ok(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    pub(super) async fn complete(
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
        self.publish(staged, key.clone(), only_new, None).await?;
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

    pub(super) async fn abort(self, mut req: S3Request<AbortMultipartUploadInput>) -> S3Result<()> {
        let id = req.input.upload_id.clone();
        let _upload = self.0.uploads.write(&id).await;
        self.0.disk.upload(&id, &req.input.key)?;
        req.input.bucket = STAGING.to_owned();
        self.0.files.abort_multipart_upload(req).await?;
        self.0.disk.forget_upload(&id).map_err(S3Error::internal_error)
    }

    pub(super) async fn parts(&self, input: ListPartsInput) -> S3Result<ListPartsOutput> {
        let _upload = self.0.uploads.read(&input.upload_id).await;
        self.0.disk.upload(&input.upload_id, &input.key)?;
        let after = input.part_number_marker.unwrap_or_default();
        let mut parts = self.0.disk.parts(&input.upload_id).map_err(S3Error::internal_error)?;
        parts.retain(|part| part.number > after);
        let page = page_size(input.max_parts);
        let truncated = parts.len() > page;
        parts.truncate(page);
        let next = parts.last().filter(|_| truncated).map(|part| part.number);
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(truncated),
            next_part_number_marker: next,
            parts: Some(parts.into_iter().map(listed_part).collect()),
            ..Default::default()
        })
    }

    pub(super) async fn unfinished(&self, input: ListMultipartUploadsInput) -> S3Result<ListMultipartUploadsOutput> {
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
        Ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            is_truncated: Some(truncated),
            next_key_marker: next_key,
            next_upload_id_marker: next_id,
            uploads: Some(listed.collect()),
            ..Default::default()
        })
    }
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
