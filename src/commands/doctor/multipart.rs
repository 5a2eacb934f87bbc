//! Multipart uploads, as the service makes them of a stream.

use bytes::Bytes;
use crc_fast::checksum_combine;
use futures::join;

use super::context::{Context, LONGER, SAMPLE, verified};
use super::hints::{is_denied, told};
use super::objects::{find, says};
use super::report::{Finding, Outcome};
use crate::store::s3::Checksum;
use crate::store::{ObjectDigest, ObjectName, Part, StoreError, Upload, Written};
use crate::upload::parts::payload;

/// The smallest part S3 takes, but for the last.
const PART: usize = 5 << 20;

pub async fn multipart(context: &Context<'_>) -> Outcome {
    let store = context.store;
    let name = context.scratch.image();
    let created = context.scratch.upload(store, &name, &verified()).await;
    let upload = created.map_err(context.failed("s3:PutObject"))?;
    let mut parts = Vec::new();
    let mut whole = ObjectDigest { size: 0, crc64: Some(0) };
    for (number, bytes) in [(1, Bytes::from(vec![0; PART])), (2, Bytes::from_static(SAMPLE))] {
        let body = payload(bytes);
        whole = joined(whole, body.crc64, body.len);
        parts.push(store.upload_part(&upload, number, body).await.map_err(context.failed("s3:PutObject"))?);
    }
    store.complete_upload(&upload, &parts, whole).await.map_err(context.failed("s3:PutObject"))?;
    let found = find(context, &name).await?;
    says(&found, PART + SAMPLE.len(), &verified())?;
    match found.crc64 {
        _ if context.s3.checksum() == Checksum::None => Ok("two parts made one".to_owned()),
        None => Ok("two parts made one (the store does not keep the CRC64NVME of the whole)".to_owned()),
        kept if kept == whole.crc64 => Ok("two parts made one, with the CRC64NVME of the whole".to_owned()),
        Some(_) => Err(Finding::fail("the CRC64NVME of the whole is another than was sent", "set S3_CHECKSUM=none")),
    }
}

fn joined(whole: ObjectDigest, crc64: u64, size: u64) -> ObjectDigest {
    let before = whole.crc64.unwrap_or_default();
    ObjectDigest {
        size: whole.size + size,
        crc64: Some(checksum_combine(crc_fast::CrcAlgorithm::Crc64Nvme, before, crc64, size)),
    }
}

/// What the service asks of direct uploads in parts, and of those only.
pub async fn list_parts(context: &Context<'_>) -> Outcome {
    let (upload, part) = begun(context, &context.scratch.image(), SAMPLE).await?;
    let listed = context.store.list_parts(&upload).await.map_err(unlisted(context))?;
    if !listed.iter().map(|listed| (listed.number, listed.size)).eq([(part.number, part.size)]) {
        return Err(Finding::fail("ListParts does not say what was sent", WITHOUT_PARTS));
    }
    Ok("a part is listed as sent".to_owned())
}

const WITHOUT_PARTS: &str =
    "set DIRECT_PUT_MAX=5GB, so that every direct upload is one PUT and no part has to be listed";

/// A denied call is a matter of permission; any other way to fail is the store's.
fn unlisted(context: &Context<'_>) -> impl Fn(StoreError) -> Finding {
    let failed = context.failed("s3:ListMultipartUploadParts");
    move |error| match &error {
        StoreError::Rejected { code, .. } if is_denied(code) => failed(error),
        _ => Finding::fail(told(&error), WITHOUT_PARTS),
    }
}

pub async fn abort(context: &Context<'_>) -> Outcome {
    let (upload, _) = begun(context, &context.scratch.image(), SAMPLE).await?;
    context.store.abort_upload(&upload).await.map_err(context.failed("s3:AbortMultipartUpload"))?;
    match context.store.list_parts(&upload).await {
        // Ceph RGW says that the key is not there.
        Err(StoreError::NoSuchUpload | StoreError::NotFound) => Ok("and its part is gone".to_owned()),
        Ok(parts) if parts.is_empty() => Ok("and its part is gone".to_owned()),
        Ok(_) => Err(Finding::fail("an aborted upload still has its part", "look what answers for the store")),
        // That is `list-parts`' business.
        Err(_) => Ok("the store says so, and cannot list its parts".to_owned()),
    }
}

/// If-None-Match at Complete.
pub async fn complete_once(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    let (upload, part) = begun(context, &name, LONGER).await?;
    match complete(context, &upload, part).await {
        Err(StoreError::Precondition) => Ok("an upload to a key that is there is refused".to_owned()),
        Err(error) => Err(context.failed("s3:PutObject")(error)),
        Ok(_) => Err(Finding::warn(
            "If-None-Match is ignored at Complete: an upload replaced what was there",
            "run a single process, or use another store: two replicas can overwrite each other's images under one \
             Idempotency-Key or one grant's key",
        )),
    }
}

/// An upload ends once, by Complete or by Abort: promotions rest on it.
pub async fn ends_once(context: &Context<'_>) -> Outcome {
    const FIX: &str = "use another store: what is aborted or deleted while it is promoted may come back or be lost";
    let fails = |seen: &str| Err(Finding::fail(seen, FIX));
    let kept = async |name: &ObjectName| is_there(context, name).await;
    let store = context.store;

    let name = context.scratch.image();
    let (upload, part) = begun(context, &name, SAMPLE).await?;
    complete(context, &upload, part).await.map_err(context.failed("s3:PutObject"))?;
    // Whatever it answers.
    let _ = store.abort_upload(&upload).await;
    if !kept(&name).await? {
        return fails("an abort after Complete removed the object");
    }

    let name = context.scratch.image();
    let (upload, part) = begun(context, &name, SAMPLE).await?;
    store.abort_upload(&upload).await.map_err(context.failed("s3:AbortMultipartUpload"))?;
    let completed = complete(context, &upload, part).await;
    if completed.is_ok() || kept(&name).await? {
        return fails("an upload was completed after it had been aborted");
    }

    let name = context.scratch.image();
    let (upload, part) = begun(context, &name, SAMPLE).await?;
    let (completed, aborted) = join!(complete(context, &upload, part), store.abort_upload(&upload));
    if completed.is_ok() && aborted.is_ok() && !kept(&name).await? {
        return Err(Finding::warn(
            "Complete and Abort at the same time both succeeded, and nothing was kept",
            "nothing: the service looks for the object after every Complete",
        ));
    }
    Ok("by Complete or by Abort, also when both are called at once".to_owned())
}

/// An upload that has one part.
async fn begun(context: &Context<'_>, name: &ObjectName, content: &'static [u8]) -> Result<(Upload, Part), Finding> {
    let created = context.scratch.upload(context.store, name, &verified()).await;
    let upload = created.map_err(context.failed("s3:PutObject"))?;
    let part = context.store.upload_part(&upload, 1, payload(Bytes::from_static(content))).await;
    Ok((upload, part.map_err(context.failed("s3:PutObject"))?))
}

async fn complete(context: &Context<'_>, upload: &Upload, part: Part) -> Result<Written, StoreError> {
    let whole = ObjectDigest { size: part.size, crc64: part.crc64 };
    context.store.complete_upload(upload, &[part], whole).await
}

async fn is_there(context: &Context<'_>, name: &ObjectName) -> Result<bool, Finding> {
    match context.store.head(name).await {
        Ok(_) => Ok(true),
        Err(StoreError::NotFound) => Ok(false),
        Err(error) => Err(context.failed("s3:GetObject")(error)),
    }
}
