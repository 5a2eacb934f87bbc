//! Copies objects inside the store with a multipart upload, which is invisible and can be aborted until it is
//! completed.

use aws_sdk_s3::operation::upload_part_copy::UploadPartCopyOutput;
use percent_encoding::{AsciiSet, utf8_percent_encode};
use std::sync::atomic::Ordering;

use super::errors::{classify, rejected};
use super::{RESERVED, S3Store, convert};
use crate::store::{ObjectInfo, ObjectName, Part, Result, Store, StoreError, Upload};

/// Characters that must be encoded in a copy source.
const COPY_SOURCE: &AsciiSet = &RESERVED.remove(b'/');
/// The header in which Ceph RGW expects the condition. It ignores `x-amz-copy-source-if-match`.
const CEPH_CONDITION: &str = "x-amz-copy-if-match";
/// An ETag that no object has, to test whether a store honours the condition.
const NO_ETAG: &str = "\"00000000000000000000000000000000\"";

impl S3Store {
    /// Calls UploadPartCopy and checks the result. Some stores ignore the condition and may copy other bytes.
    pub(super) async fn copy_whole(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo) -> Result<Part> {
        let etag = source.etag.as_deref().ok_or_else(|| rejected("UploadPartCopy", "the source has no ETag"))?;
        let copied = self.send_copy(upload, 1, from, etag).await?.copy_part_result;
        let crc64 = copied.as_ref().and_then(|copied| convert::crc64_from_base64(copied.checksum_crc64_nvme()?));
        let part = Part { number: 1, size: source.size, etag: copied.and_then(|copied| copied.e_tag), crc64 };
        if self.is_aws() || self.is_of_source(upload, from, &part, etag).await? {
            return Ok(part);
        }
        Err(StoreError::Precondition)
    }

    async fn send_copy(
        &self,
        upload: &Upload,
        number: u32,
        from: &ObjectName,
        etag: &str,
    ) -> Result<UploadPartCopyOutput> {
        let ceph = !self.is_aws() && !self.ceph_condition_refused.load(Ordering::Relaxed);
        match self.send_copy_if(upload, number, from, etag, ceph).await {
            // The store does not support the Ceph header. If it rejected the source instead, it will reject it again.
            Err(error) if ceph && error.is_unsupported() => {
                let copied = self.send_copy_if(upload, number, from, etag, false).await?;
                self.ceph_condition_refused.store(true, Ordering::Relaxed);
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
        let unquoted = |etag: &str| etag.trim_matches('"').to_ascii_lowercase();
        let (expected, found) = (unquoted(etag), unquoted(part.etag.as_deref().unwrap_or_default()));
        if expected.contains('-') {
            let stored = self.list_parts(upload).await?;
            return Ok(stored.iter().any(|stored| stored.number == part.number && stored.size == part.size));
        }
        if expected == found {
            return Ok(true);
        }
        // With some kinds of encryption an ETag is not an MD5, so the two always differ. The store must then honour the
        // condition.
        match self.honours_copy_condition(upload, from).await {
            Err(error @ (StoreError::OutcomeUnknown { .. } | StoreError::NoSuchUpload)) => Err(error),
            Ok(true) => Ok(true),
            _ => {
                tracing::warn!(
                    s3_key = %upload.name.key(),
                    "cannot verify what the store copied, so no direct upload is promoted; run `image-store doctor`"
                );
                Ok(false)
            }
        }
    }

    /// Whether the store rejects a copy whose condition is not met. Tests this with part 2 of `upload`.
    pub async fn honours_copy_condition(&self, upload: &Upload, from: &ObjectName) -> Result<bool> {
        match self.send_copy(upload, 2, from, NO_ETAG).await {
            Err(StoreError::Precondition) => Ok(true),
            Err(error) => Err(error),
            Ok(_) => Ok(false),
        }
    }
}
