//! Multipart uploads, including parts that are copied from objects.

use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};
use std::ops::RangeInclusive;

use super::super::body::{Declared, receive};
use super::super::conditions::{WriteConditions, matches};
use super::super::disk::{self, Disk, failed};
use super::super::file::{Content, Digests, Draft, Meta, StoredFile};
use super::{BUCKET, Bucket, check_bucket};
use crate::crc64;
use crate::store::limits::{MAX_PARTS, MIN_PART_SIZE};

const PART_NUMBERS: RangeInclusive<i32> = 1..=MAX_PARTS.cast_signed();

impl Bucket {
    pub(super) async fn create_upload(
        &self,
        input: CreateMultipartUploadInput,
    ) -> S3Result<CreateMultipartUploadOutput> {
        check_bucket(&input.bucket)?;
        let algorithm = input.checksum_algorithm;
        let upload = Meta {
            content_type: input.content_type,
            metadata: input.metadata.unwrap_or_default(),
            part_checksum: algorithm.as_ref().map(|algorithm| algorithm.as_str().to_owned()),
            ..Meta::new(&input.key)
        };
        let id = self.on_disk(move |disk| disk.create_upload(empty(disk, &upload)?)).await?;
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: algorithm,
            checksum_type: input.checksum_type,
            ..Default::default()
        })
    }

    pub(super) async fn put_part(&self, req: S3Request<UploadPartInput>) -> S3Result<UploadPartOutput> {
        let (id, key, number) = (req.input.upload_id.clone(), req.input.key.clone(), req.input.part_number);
        let upload = self.upload_for_part(&req.input.bucket, &id, &key, number).await?;
        let mut input = as_object(req.input);
        let body = input.body.take();
        let declared = Declared::new(&mut input, &req.headers, req.trailing_headers);
        declared.check_algorithm(upload.part_checksum.as_deref())?;
        let (digests, content) = receive(&self.0, body, declared).await?;
        let part = described(&key, &digests);
        let output = UploadPartOutput {
            e_tag: Some(ETag::Strong(part.etag.clone())),
            checksum_crc64nvme: part.crc64nvme.clone(),
            checksum_sha256: part.sha256.clone(),
            ..Default::default()
        };
        self.on_disk(move |disk| disk.put_part(&id, &key, number, content.seal(&part).map_err(failed)?)).await?;
        Ok(output)
    }

    pub(super) async fn copy_part(&self, input: UploadPartCopyInput) -> S3Result<UploadPartCopyOutput> {
        let number = input.part_number;
        self.upload_for_part(&input.bucket, &input.upload_id, &input.key, number).await?;
        let (source, condition) = (key_of(&input.copy_source)?, input.copy_source_if_match);
        let (range, key, id) = (input.copy_source_range, input.key, input.upload_id);
        let part = self.on_disk(move |disk| {
            let (digests, content) = copied(disk, &source, condition.as_ref(), range.as_deref())?;
            let meta = described(&key, &digests);
            disk.put_part(&id, &key, number, content.seal(&meta).map_err(failed)?)?;
            Ok(meta)
        });
        let part = part.await?;
        let result = CopyPartResult {
            last_modified: Some(part.created().into()),
            e_tag: Some(ETag::Strong(part.etag)),
            checksum_crc64nvme: part.crc64nvme,
            ..Default::default()
        };
        Ok(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    async fn upload_for_part(&self, bucket: &str, id: &str, key: &str, number: i32) -> S3Result<Meta> {
        check_bucket(bucket)?;
        if !PART_NUMBERS.contains(&number) {
            return Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"));
        }
        let (id, key) = (id.to_owned(), key.to_owned());
        self.on_disk(move |disk| disk.upload(&id, &key)).await
    }

    pub(super) async fn complete(
        &self,
        mut input: CompleteMultipartUploadInput,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        check_bucket(&input.bucket)?;
        let conditions = WriteConditions::new(input.if_match.take(), input.if_none_match.take())?;
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let object = self.on_disk(move |disk| {
            let (id, key) = (&input.upload_id, &input.key);
            let upload = disk.upload(id, key)?;
            let parts = select_parts(disk.parts(id)?, &input)?;
            conditions.check(disk.object(key)?.map(|existing| existing.meta).as_ref())?;
            let object = Meta { etag: joined_etag(&parts)?, crc64nvme: joined_crc64(&parts, &input)?, ..upload };
            // A concurrent Abort removes the parts. The error is then NoSuchUpload.
            let joined = disk.join(id, &parts).or_else(|error| disk.upload(id, key).and(Err(error)))?;
            let joined = joined.seal(&object).map_err(failed)?;
            disk.complete(id, key, joined, &|existing| conditions.check(existing))?;
            Ok(object)
        });
        let object = object.await?;
        Ok(CompleteMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            e_tag: Some(ETag::Strong(object.etag)),
            checksum_crc64nvme: object.crc64nvme,
            ..Default::default()
        })
    }

    pub(super) async fn abort(&self, input: AbortMultipartUploadInput) -> S3Result<()> {
        check_bucket(&input.bucket)?;
        self.on_disk(move |disk| disk.abort(&input.upload_id, &input.key)).await
    }
}

fn empty(disk: &Disk, meta: &Meta) -> S3Result<tempfile::NamedTempFile> {
    Content::empty(disk.tmp()).and_then(|content| content.seal(meta)).map_err(failed)
}

fn described(key: &str, digests: &Digests) -> Meta {
    Meta {
        etag: digests.etag(),
        crc64nvme: digests.checksums.checksum_crc64nvme.clone(),
        sha256: digests.checksums.checksum_sha256.clone(),
        ..Meta::new(key)
    }
}

/// Returns the fields that UploadPart and PutObject have in common.
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

fn key_of(source: &CopySource) -> S3Result<String> {
    let CopySource::Bucket { bucket, key, version_id: None } = source else {
        return Err(s3_error!(NotImplemented));
    };
    if **bucket == *BUCKET { Ok(key.to_string()) } else { Err(s3_error!(NoSuchBucket)) }
}

/// Copies the content of an object, or of a range of it.
fn copied(
    disk: &Disk,
    source: &str,
    condition: Option<&ETagCondition>,
    range: Option<&str>,
) -> S3Result<(Digests, Content)> {
    let StoredFile { file, size, meta } = disk.object(source)?.ok_or_else(|| s3_error!(NoSuchKey))?;
    if condition.is_some_and(|condition| !matches(condition, &meta)) {
        return Err(s3_error!(PreconditionFailed));
    }
    let range = match range {
        Some(text) => Range::parse(text).map_err(|_| s3_error!(InvalidArgument))?.check(size)?,
        None => 0..size,
    };
    let mut draft = Draft::new(disk.tmp(), Default::default()).map_err(failed)?;
    draft.copy(&file, range.start, range.end - range.start).map_err(failed)?;
    Ok(draft.end())
}

/// Returns the parts that a Complete lists.
///
/// Checks as on AWS that they are in order, exist, are unchanged and large enough, and have the declared total size.
fn select_parts(stored: Vec<disk::Part>, input: &CompleteMultipartUploadInput) -> S3Result<Vec<disk::Part>> {
    let named = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref()).unwrap_or_default();
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    let (mut stored, mut parts) = (stored.into_iter(), Vec::<disk::Part>::with_capacity(named.len()));
    for name in named {
        let number = name.part_number.ok_or_else(|| s3_error!(MalformedXML))?;
        if parts.last().is_some_and(|before| before.number >= number) {
            return Err(s3_error!(InvalidPartOrder));
        }
        let found = stored.find(|part| part.number == number).filter(|part| is_named(part, name));
        parts.push(found.ok_or_else(|| s3_error!(InvalidPart))?);
    }
    if parts.iter().rev().skip(1).any(|part| part.size < MIN_PART_SIZE) {
        return Err(s3_error!(EntityTooSmall));
    }
    let size: u64 = parts.iter().map(|part| part.size).sum();
    if input.mpu_object_size.is_some_and(|expected| u64::try_from(expected) != Ok(size)) {
        return Err(s3_error!(InvalidRequest, "The object's size differs from x-amz-mp-object-size"));
    }
    Ok(parts)
}

/// Whether a stored part has the ETag and the checksums that the Complete lists.
fn is_named(part: &disk::Part, name: &CompletedPart) -> bool {
    let meta = &part.meta;
    let differs =
        |named: &Option<String>, stored: &Option<String>| named.is_some() && stored.is_some() && named != stored;
    name.e_tag.as_ref().is_some_and(|etag| etag.value() == meta.etag)
        && !differs(&name.checksum_crc64nvme, &meta.crc64nvme)
        && !differs(&name.checksum_sha256, &meta.sha256)
}

/// Returns the ETag of a multipart object: the MD5 of the parts' MD5s, and the number of parts.
fn joined_etag(parts: &[disk::Part]) -> S3Result<String> {
    let mut all = Md5::new();
    for part in parts {
        let md5 = u128::from_str_radix(&part.meta.etag, 16);
        all.update(&md5.map_err(s3s::S3Error::internal_error)?.to_be_bytes());
    }
    Ok(format!("{}-{}", hex::encode(all.finalize()), parts.len()))
}

/// Computes the CRC64NVME of the whole object from those of its parts, without reading them again, and compares it with
/// the one that the client expects.
fn joined_crc64(parts: &[disk::Part], input: &CompleteMultipartUploadInput) -> S3Result<Option<String>> {
    let others = [&input.checksum_crc32, &input.checksum_crc32c, &input.checksum_sha1, &input.checksum_sha256];
    if others.iter().any(|checksum| checksum.is_some()) {
        return Err(s3_error!(NotImplemented, "The checksum of a whole multipart upload must be CRC64NVME"));
    }
    let joined = parts.iter().try_fold(0, |whole, part| {
        let crc64 = crc64::from_base64(part.meta.crc64nvme.as_deref()?)?;
        Some(crc64::combine(whole, crc64, part.size))
    });
    let joined = joined.map(crc64::to_base64);
    if input.checksum_crc64nvme.is_some() && input.checksum_crc64nvme != joined {
        return Err(s3_error!(BadDigest, "The object's CRC64NVME differs from x-amz-checksum-crc64nvme"));
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::S3ErrorCode;

    fn stored(number: i32, size: u64, crc64: Option<u64>) -> disk::Part {
        let etag = format!("{number:032x}");
        let meta = Meta { etag, crc64nvme: crc64.map(crc64::to_base64), ..Meta::new("k") };
        disk::Part { number, size, meta }
    }

    fn named(number: i32) -> CompletedPart {
        let e_tag = Some(ETag::Strong(format!("{number:032x}")));
        CompletedPart { part_number: Some(number), e_tag, ..Default::default() }
    }

    fn complete(parts: &[CompletedPart]) -> CompleteMultipartUploadInput {
        let multipart_upload = Some(CompletedMultipartUpload { parts: Some(parts.to_vec()) });
        CompleteMultipartUploadInput { multipart_upload, ..Default::default() }
    }

    /// Returns the numbers of the selected parts. Parts 1, 3 and 4 exist and have these sizes.
    fn select(sizes: &[u64], input: &CompleteMultipartUploadInput) -> Result<Vec<i32>, S3ErrorCode> {
        let numbers = [1, 3, 4];
        let all = numbers.iter().zip(sizes).map(|(number, size)| stored(*number, *size, None)).collect();
        match select_parts(all, input) {
            Ok(parts) => Ok(parts.iter().map(|part| part.number).collect()),
            Err(error) => Err(error.code().clone()),
        }
    }

    #[test]
    fn parts_must_be_in_order_and_unchanged_and_may_have_gaps() {
        let sizes = [MIN_PART_SIZE, MIN_PART_SIZE, 1];
        assert_eq!(select(&sizes, &complete(&[named(1), named(3), named(4)])), Ok(vec![1, 3, 4]));
        assert_eq!(select(&sizes, &complete(&[named(1), named(4)])), Ok(vec![1, 4]));
        assert_eq!(select(&sizes, &complete(&[named(3), named(1)])), Err(S3ErrorCode::InvalidPartOrder));
        assert_eq!(select(&sizes, &complete(&[named(1), named(1)])), Err(S3ErrorCode::InvalidPartOrder));
        assert_eq!(select(&sizes, &complete(&[named(1), named(2)])), Err(S3ErrorCode::InvalidPart));
        assert_eq!(select(&sizes, &complete(&[])), Err(S3ErrorCode::MalformedXML));
        let crc64 = Some(crc64::to_base64(1));
        for other in [
            CompletedPart { e_tag: named(3).e_tag, ..named(1) },
            CompletedPart { e_tag: None, ..named(1) },
            CompletedPart { part_number: Some(4), checksum_crc64nvme: crc64, ..named(1) },
        ] {
            assert_eq!(select(&sizes, &complete(&[other])), Err(S3ErrorCode::InvalidPart));
        }
        let wrong_size = CompleteMultipartUploadInput { mpu_object_size: Some(2), ..complete(&[named(4)]) };
        assert_eq!(select(&sizes, &wrong_size), Err(S3ErrorCode::InvalidRequest));
    }

    #[test]
    fn parts_except_the_last_must_have_the_minimum_size() {
        let both = complete(&[named(1), named(3)]);
        assert_eq!(select(&[MIN_PART_SIZE, 1], &both), Ok(vec![1, 3]));
        assert_eq!(select(&[MIN_PART_SIZE - 1, 1], &both), Err(S3ErrorCode::EntityTooSmall));
        assert_eq!(select(&[MIN_PART_SIZE - 1], &complete(&[named(1)])), Ok(vec![1]));
    }

    #[test]
    fn joined_checksum_and_etag_are_those_of_the_object() {
        let parts = [stored(1, 5, Some(crc64::checksum(b"12345"))), stored(2, 4, Some(crc64::checksum(b"6789")))];
        let whole = Some(crc64::to_base64(crc64::checksum(b"123456789")));
        assert_eq!(joined_crc64(&parts, &complete(&[])).unwrap(), whole);
        assert_eq!(joined_crc64(&[stored(1, 5, Some(1)), stored(2, 4, None)], &complete(&[])).unwrap(), None);
        let expected = |checksum| CompleteMultipartUploadInput { checksum_crc64nvme: checksum, ..complete(&[]) };
        assert!(joined_crc64(&parts, &expected(whole)).is_ok());
        let other = joined_crc64(&parts, &expected(Some(crc64::to_base64(1)))).unwrap_err();
        assert_eq!(other.code(), &S3ErrorCode::BadDigest);
        let md5s: Vec<u8> = [1_u128, 2].iter().flat_map(|md5| md5.to_be_bytes()).collect();
        assert_eq!(joined_etag(&parts).unwrap(), format!("{}-2", hex::encode(Md5::checksum(&md5s))));
    }
}
