//! Copies objects inside the store with a multipart upload, which is invisible and can be aborted until it is
//! completed.

use aws_sdk_s3::operation::upload_part_copy::UploadPartCopyOutput;
use parking_lot::MutexGuard;
use percent_encoding::{AsciiSet, utf8_percent_encode};

use super::errors::{classify, rejected};
use super::{RESERVED, S3Store, convert};
use crate::crc64;
use crate::store::{ObjectInfo, ObjectName, Part, Result, Store, StoreError, Upload};

/// Characters that must be encoded in a copy source.
const COPY_SOURCE: &AsciiSet = &RESERVED.remove(b'/');
/// The header in which Ceph RGW expects the condition. It ignores `x-amz-copy-source-if-match`.
const CEPH_CONDITION: &str = "x-amz-copy-if-match";
/// An ETag that no object has, to test whether a store honours the condition.
const NO_ETAG: &str = "\"00000000000000000000000000000000\"";

/// How the service verifies that a copy contains the bytes that were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyProtection {
    /// The store rejects a copy if the source does not have the ETag of the condition.
    Condition,
    /// The store ignores the condition, but the ETag of a copied part equals that of its source.
    Etag,
    /// Neither. No direct upload with a single PUT can be promoted.
    Nothing,
}

/// The result of a copy of a test object ([`S3Store::try_copy`]).
#[derive(Debug)]
pub struct TriedCopy {
    pub protection: CopyProtection,
    /// The part, or an error if the store rejects the copy, as some stores do for small sources.
    pub part: Result<Part>,
}

/// What is known about the store from earlier copies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CopyFacts {
    /// Whether the store rejects the header in which Ceph expects the condition.
    ceph_name_rejected: bool,
    protection: Option<CopyProtection>,
}

impl S3Store {
    /// Calls UploadPartCopy and checks the result. Some stores ignore the condition and may copy other bytes.
    pub(super) async fn copy_whole(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo) -> Result<Part> {
        let etag = etag_of(source)?;
        let part = self.copy_as_part(upload, from, source, etag).await?;
        if self.is_aws() || self.is_of_source(upload, from, &part, etag).await? {
            return Ok(part);
        }
        Err(StoreError::Precondition)
    }

    /// Copies `from` into `upload` with a condition that is false, and with one that is true. The result is remembered,
    /// so that promotions need not test it.
    ///
    /// # Errors
    /// Returns an error if the store rejects the copies so that nothing can be determined.
    pub async fn try_copy(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo) -> Result<TriedCopy> {
        let etag = etag_of(source)?;
        let is_condition_honoured = self.honours_copy_condition(upload, from).await?;
        let (protection, part) = match self.copy_as_part(upload, from, source, etag).await {
            part if is_condition_honoured => (CopyProtection::Condition, part),
            Ok(part) if has_etag(&part, etag) => (CopyProtection::Etag, Ok(part)),
            Ok(part) => (CopyProtection::Nothing, Ok(part)),
            Err(error) => return Err(error),
        };
        self.copy_facts().protection = Some(protection);
        Ok(TriedCopy { protection, part })
    }

    fn copy_facts(&self) -> MutexGuard<'_, CopyFacts> {
        self.copy_facts.lock()
    }

    async fn copy_as_part(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo, etag: &str) -> Result<Part> {
        let copied = self.send_copy(upload, 1, from, etag).await?.copy_part_result;
        let crc64 = copied.as_ref().and_then(|copied| crc64::from_base64(copied.checksum_crc64_nvme()?));
        Ok(Part { number: 1, size: source.size, etag: copied.and_then(|copied| copied.e_tag), crc64 })
    }

    async fn send_copy(
        &self,
        upload: &Upload,
        number: u32,
        from: &ObjectName,
        etag: &str,
    ) -> Result<UploadPartCopyOutput> {
        let ceph = !self.is_aws() && !self.copy_facts().ceph_name_rejected;
        match self.send_copy_if(upload, number, from, etag, ceph).await {
            // The store does not support the Ceph header. If it rejected the source instead, it will reject it again.
            Err(error) if ceph && error.is_unsupported() => {
                let copied = self.send_copy_if(upload, number, from, etag, false).await?;
                // Results with the Ceph header are not valid for copies without it.
                *self.copy_facts() = CopyFacts { ceph_name_rejected: true, protection: None };
                Ok(copied)
            }
            done => done,
        }
    }

    async fn send_copy_if(
        &self,
        upload: &Upload,
        number: u32,
        from: &ObjectName,
        etag: &str,
        ceph: bool,
    ) -> Result<UploadPartCopyOutput> {
        let source = format!("{}/{}", self.bucket, self.key(from));
        let call = self
            .client
            .upload_part_copy()
            .bucket(&self.bucket)
            .key(self.key(&upload.name))
            .upload_id(&upload.id)
            .part_number(convert::part_number(number))
            .copy_source(utf8_percent_encode(&source, COPY_SOURCE).to_string())
            .copy_source_if_match(etag);
        let mut call = call.customize().config_override(self.slow_call());
        if ceph {
            let etag = etag.to_owned();
            call = call.mutate_request(move |request| {
                request.headers_mut().insert(CEPH_CONDITION, etag.clone());
            });
        }
        call.send().await.map_err(|error| classify("UploadPartCopy", error))
    }

    /// Whether a copied part contains the bytes that had the ETag `etag`.
    ///
    /// The ETag of a part is its MD5, like that of an object from a single PUT. The ETag of a multipart object is of
    /// another kind. Such an object is the plan's own, because an upload can be completed only once. If a marker has
    /// replaced it, the size differs.
    async fn is_of_source(&self, upload: &Upload, from: &ObjectName, part: &Part, etag: &str) -> Result<bool> {
        if etag.contains('-') {
            let held = self.list_parts(upload).await?;
            return Ok(held.iter().any(|held| held.number == part.number && held.size == part.size));
        }
        if has_etag(part, etag) {
            return Ok(true);
        }
        // With some encryption ETags are not MD5s and always differ. Then the condition must protect the copy.
        match self.known_protection(upload, from).await? {
            Some(CopyProtection::Condition) => Ok(true),
            Some(CopyProtection::Etag) => Ok(false),
            Some(CopyProtection::Nothing) | None => {
                tracing::warn!(
                    s3_key = %upload.name.key(),
                    "cannot verify what the store copied, so no direct upload is promoted; run `image-store doctor`"
                );
                Ok(false)
            }
        }
    }

    /// Returns the result of [`S3Store::try_copy`]. If there is none, tests whether the store honours the condition,
    /// and returns `None` if it does not.
    async fn known_protection(&self, upload: &Upload, from: &ObjectName) -> Result<Option<CopyProtection>> {
        if let known @ Some(_) = self.copy_facts().protection {
            return Ok(known);
        }
        match self.honours_copy_condition(upload, from).await {
            Err(error @ (StoreError::OutcomeUnknown { .. } | StoreError::NoSuchUpload)) => Err(error),
            Ok(true) => {
                self.copy_facts().protection = Some(CopyProtection::Condition);
                Ok(Some(CopyProtection::Condition))
            }
            Ok(false) | Err(_) => Ok(None),
        }
    }

    /// Whether the store rejects a copy whose condition does not hold. Tries it as part 2 of `upload`.
    async fn honours_copy_condition(&self, upload: &Upload, from: &ObjectName) -> Result<bool> {
        match self.send_copy(upload, 2, from, NO_ETAG).await {
            Err(StoreError::Precondition) => Ok(true),
            Err(error) => Err(error),
            Ok(_) => Ok(false),
        }
    }
}

fn etag_of(source: &ObjectInfo) -> Result<&str> {
    source.etag.as_deref().ok_or_else(|| rejected("UploadPartCopy", "the source has no ETag"))
}

/// Whether a part has this ETag. Stores differ in quotes and case.
fn has_etag(part: &Part, etag: &str) -> bool {
    let bare = |etag: &str| etag.trim_matches('"').to_ascii_lowercase();
    part.etag.as_deref().is_some_and(|found| bare(found) == bare(etag))
}
