//! Multipart uploads, as the service makes them of a stream.

use bytes::Bytes;
use crc_fast::checksum_combine;

use super::objects::{find, says};
use super::report::{Finding, Outcome};
use super::subject::{SAMPLE, Subject, verified};
use crate::sink::parts::payload;
use crate::store::s3::Checksum;
use crate::store::{StoreError, Whole};

/// The smallest part S3 takes, but for the last.
const PART: usize = 5 << 20;

pub async fn multipart(subject: &Subject<'_>) -> Outcome {
    let store = subject.store;
    let name = subject.scratch.image();
    let created = subject.scratch.upload(store, &name, &verified()).await;
    let upload = created.map_err(subject.failed("s3:PutObject"))?;
    let mut parts = Vec::new();
    let mut whole = Whole { size: 0, crc64: Some(0) };
    for (number, bytes) in [(1, Bytes::from(vec![0; PART])), (2, Bytes::from_static(SAMPLE))] {
        let body = payload(bytes);
        whole = joined(whole, body.crc64, body.len);
        parts.push(store.upload_part(&upload, number, body).await.map_err(subject.failed("s3:PutObject"))?);
    }
    let listed = store.list_parts(&upload).await.map_err(subject.failed("s3:ListMultipartUploadParts"))?;
    if !listed.iter().map(|part| (part.number, part.size)).eq(parts.iter().map(|part| (part.number, part.size))) {
        return Err(Finding::fail(
            "ListParts does not say what was sent",
            "use another store: direct uploads rest on it",
        ));
    }
    store.complete_upload(&upload, &parts, whole).await.map_err(subject.failed("s3:PutObject"))?;
    let found = find(subject, &name).await?;
    says(&found, PART + SAMPLE.len(), &verified())?;
    match found.crc64 {
        _ if subject.s3.checksum() == Checksum::None => Ok("two parts, listed and made one".to_owned()),
        None => Ok("two parts, listed and made one (the store does not keep the CRC64NVME of the whole)".to_owned()),
        kept if kept == whole.crc64 => Ok("two parts, listed and made one, with the CRC64NVME of the whole".to_owned()),
        Some(_) => Err(Finding::fail("the CRC64NVME of the whole is another than was sent", "set S3_CHECKSUM=none")),
    }
}

fn joined(whole: Whole, crc64: u64, size: u64) -> Whole {
    let before = whole.crc64.unwrap_or_default();
    Whole {
        size: whole.size + size,
        crc64: Some(checksum_combine(crc_fast::CrcAlgorithm::Crc64Nvme, before, crc64, size)),
    }
}

pub async fn abort(subject: &Subject<'_>) -> Outcome {
    let store = subject.store;
    let created = subject.scratch.upload(store, &subject.scratch.image(), &verified()).await;
    let upload = created.map_err(subject.failed("s3:PutObject"))?;
    let part = store.upload_part(&upload, 1, payload(Bytes::from_static(SAMPLE))).await;
    part.map_err(subject.failed("s3:PutObject"))?;
    store.abort_upload(&upload).await.map_err(subject.failed("s3:AbortMultipartUpload"))?;
    match store.list_parts(&upload).await {
        Err(StoreError::NoSuchUpload) => Ok("and its part is gone".to_owned()),
        Ok(parts) if parts.is_empty() => Ok("and its part is gone".to_owned()),
        Ok(_) => Err(Finding::fail("an aborted upload still has its part", "look what answers for the store")),
        Err(error) => Err(subject.failed("s3:ListMultipartUploadParts")(error)),
    }
}
