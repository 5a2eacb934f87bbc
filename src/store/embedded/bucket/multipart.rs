//! Multipart uploads, and copies into them.

use crc_fast::{CrcAlgorithm, checksum_combine};
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};
use std::ops::RangeInclusive;

use super::super::body::{Announced, receive};
use super::super::conditions::{WriteConditions, matches};
use super::super::disk::{self, Disk, failed};
use super::super::file::{Content, Digests, Draft, Meta, StoredFile, hex};
use super::{BUCKET, Bucket, check_bucket};
use crate::store::s3::{crc64_from_base64, crc64_to_base64};

const PART_NUMBERS: RangeInclusive<i32> = 1..=10_000;
/// What S3 wants of every part but the last, in bytes.
const SMALLEST_PART: u64 = 5 << 20;

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
        let announced = Announced::new(&mut input, &req.headers, req.trailing_headers);
        announced.check_algorithm(upload.part_checksum.as_deref())?;
        let (digests, content) = receive(&self.0, body, announced).await?;
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
            let parts = chosen(disk.parts(id)?, &input)?;
            conditions.check(disk.object(key)?.map(|there| there.meta).as_ref())?;
            let object = Meta { etag: joined_etag(&parts)?, crc64nvme: joined_crc64(&parts, &input)?, ..upload };
            // An Abort meanwhile takes the parts away.
            let joined = disk.join(id, &parts).or_else(|error| disk.upload(id, key).and(Err(error)))?;
            let joined = joined.seal(&object).map_err(failed)?;
            disk.complete(id, key, joined, &|there| conditions.check(there))?;
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

/// What the two kinds of PUT have in common.
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

/// The content of an object, or of a range of it.
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

/// The parts that a Complete names, checked as on AWS: in order, there, unchanged, large enough, and of the whole's size.
fn chosen(held: Vec<disk::Part>, input: &CompleteMultipartUploadInput) -> S3Result<Vec<disk::Part>> {
    let named = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref()).unwrap_or_default();
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    let (mut held, mut parts) = (held.into_iter(), Vec::<disk::Part>::with_capacity(named.len()));
    for name in named {
        let number = name.part_number.ok_or_else(|| s3_error!(MalformedXML))?;
        if parts.last().is_some_and(|before| before.number >= number) {
            return Err(s3_error!(InvalidPartOrder));
        }
        let found = held.find(|part| part.number == number).filter(|part| is_named(part, name));
        parts.push(found.ok_or_else(|| s3_error!(InvalidPart))?);
    }
    if parts.iter().rev().skip(1).any(|part| part.size < SMALLEST_PART) {
        return Err(s3_error!(EntityTooSmall));
    }
    let size: u64 = parts.iter().map(|part| part.size).sum();
    if input.mpu_object_size.is_some_and(|expected| u64::try_from(expected) != Ok(size)) {
        return Err(s3_error!(InvalidRequest, "The object's size is not x-amz-mp-object-size"));
    }
    Ok(parts)
}

/// Whether a part is still the one that was named.
fn is_named(part: &disk::Part, name: &CompletedPart) -> bool {
    let meta = &part.meta;
    let differs = |named: &Option<String>, held: &Option<String>| named.is_some() && held.is_some() && named != held;
    name.e_tag.as_ref().is_some_and(|etag| etag.value() == meta.etag)
        && !differs(&name.checksum_crc64nvme, &meta.crc64nvme)
        && !differs(&name.checksum_sha256, &meta.sha256)
}

/// The MD5 of the parts' MD5s, and their number.
fn joined_etag(parts: &[disk::Part]) -> S3Result<String> {
    let mut all = Md5::new();
    for part in parts {
        let md5 = u128::from_str_radix(&part.meta.etag, 16);
        all.update(&md5.map_err(s3s::S3Error::internal_error)?.to_be_bytes());
    }
    Ok(format!("{}-{}", hex(&all.finalize()), parts.len()))
}

/// The whole object's CRC64NVME, from its parts' and without reading them again; as the client expects it to be.
fn joined_crc64(parts: &[disk::Part], input: &CompleteMultipartUploadInput) -> S3Result<Option<String>> {
    let others = [&input.checksum_crc32, &input.checksum_crc32c, &input.checksum_sha1, &input.checksum_sha256];
    if others.iter().any(|checksum| checksum.is_some()) {
        return Err(s3_error!(NotImplemented, "The checksum of a whole multipart upload must be CRC64NVME"));
    }
    let joined = parts.iter().try_fold(0, |whole, part| {
        let crc64 = crc64_from_base64(part.meta.crc64nvme.as_deref()?)?;
        Some(checksum_combine(CrcAlgorithm::Crc64Nvme, whole, crc64, part.size))
    });
    let joined = joined.map(crc64_to_base64);
    if input.checksum_crc64nvme.is_some() && input.checksum_crc64nvme != joined {
        return Err(s3_error!(BadDigest, "The object's CRC64NVME is another"));
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::S3ErrorCode;

    fn held(number: i32, size: u64, crc64: Option<u64>) -> disk::Part {
        let etag = format!("{number:032x}");
        let meta = Meta { etag, crc64nvme: crc64.map(crc64_to_base64), ..Meta::new("k") };
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

    /// The numbers that are chosen of parts with these sizes, numbered from 1 but for 2.
    fn choose(sizes: &[u64], input: &CompleteMultipartUploadInput) -> Result<Vec<i32>, S3ErrorCode> {
        let numbers = [1, 3, 4];
        let held = numbers.iter().zip(sizes).map(|(number, size)| held(*number, *size, None)).collect();
        match chosen(held, input) {
            Ok(parts) => Ok(parts.iter().map(|part| part.number).collect()),
            Err(error) => Err(error.code().clone()),
        }
    }

    #[test]
    fn parts_are_chosen_in_order_with_gaps_and_as_they_are() {
        let sizes = [SMALLEST_PART, SMALLEST_PART, 1];
        assert_eq!(choose(&sizes, &complete(&[named(1), named(3), named(4)])), Ok(vec![1, 3, 4]));
        assert_eq!(choose(&sizes, &complete(&[named(1), named(4)])), Ok(vec![1, 4]));
        assert_eq!(choose(&sizes, &complete(&[named(3), named(1)])), Err(S3ErrorCode::InvalidPartOrder));
        assert_eq!(choose(&sizes, &complete(&[named(1), named(1)])), Err(S3ErrorCode::InvalidPartOrder));
        assert_eq!(choose(&sizes, &complete(&[named(1), named(2)])), Err(S3ErrorCode::InvalidPart));
        assert_eq!(choose(&sizes, &complete(&[])), Err(S3ErrorCode::MalformedXML));
        let crc64 = Some(crc64_to_base64(1));
        for other in [
            CompletedPart { e_tag: named(3).e_tag, ..named(1) },
            CompletedPart { e_tag: None, ..named(1) },
            CompletedPart { part_number: Some(4), checksum_crc64nvme: crc64, ..named(1) },
        ] {
            assert_eq!(choose(&sizes, &complete(&[other])), Err(S3ErrorCode::InvalidPart));
        }
        let wrong_size = CompleteMultipartUploadInput { mpu_object_size: Some(2), ..complete(&[named(4)]) };
        assert_eq!(choose(&sizes, &wrong_size), Err(S3ErrorCode::InvalidRequest));
    }

    #[test]
    fn all_but_the_last_part_have_the_smallest_size() {
        let both = complete(&[named(1), named(3)]);
        assert_eq!(choose(&[SMALLEST_PART, 1], &both), Ok(vec![1, 3]));
        assert_eq!(choose(&[SMALLEST_PART - 1, 1], &both), Err(S3ErrorCode::EntityTooSmall));
        assert_eq!(choose(&[SMALLEST_PART - 1], &complete(&[named(1)])), Ok(vec![1]));
    }

    #[test]
    fn the_joined_checksum_and_etag_are_the_whole_s() {
        let crc64 = |bytes: &[u8]| crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes);
        let parts = [held(1, 5, Some(crc64(b"12345"))), held(2, 4, Some(crc64(b"6789")))];
        let whole = Some(crc64_to_base64(crc64(b"123456789")));
        assert_eq!(joined_crc64(&parts, &complete(&[])).unwrap(), whole);
        assert_eq!(joined_crc64(&[held(1, 5, Some(1)), held(2, 4, None)], &complete(&[])).unwrap(), None);
        let expected = |checksum| CompleteMultipartUploadInput { checksum_crc64nvme: checksum, ..complete(&[]) };
        assert!(joined_crc64(&parts, &expected(whole)).is_ok());
        let other = joined_crc64(&parts, &expected(Some(crc64_to_base64(1)))).unwrap_err();
        assert_eq!(other.code(), &S3ErrorCode::BadDigest);
        let md5s: Vec<u8> = [1_u128, 2].iter().flat_map(|md5| md5.to_be_bytes()).collect();
        assert_eq!(joined_etag(&parts).unwrap(), format!("{}-2", hex(&Md5::checksum(&md5s))));
    }
}
