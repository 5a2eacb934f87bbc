//! Checks of multipart uploads, as the service uses them for streams.

use bytes::Bytes;
use futures::join;

use super::context::{ABORT, Context, LIST_PARTS, LONGER, PUT, SAMPLE, content, verified};
use super::hints::{CHECK_PROXY, describe, is_denied};
use super::objects::check_object;
use super::report::{Finding, Outcome};
use crate::crc64;
use crate::store::s3::Checksum;
use crate::store::{ObjectDigest, ObjectName, Part, StoreError, Upload, Written};
use crate::upload::parts::payload;

/// S3's minimum size of a part, except of the last one.
const PART: usize = 5 << 20;

pub async fn multipart(context: &Context<'_>) -> Outcome {
    let store = context.store;
    let name = context.scratch.image();
    let upload = context.create(&name, &verified()).await?;
    let mut parts = Vec::new();
    let mut whole = ObjectDigest { size: 0, crc64: Some(0) };
    for (number, bytes) in [(1, Bytes::from(vec![0; PART])), (2, Bytes::from_static(SAMPLE))] {
        let body = payload(bytes);
        whole = joined(whole, body.crc64, body.len);
        parts.push(store.upload_part(&upload, number, body).await.map_err(context.failed(PUT))?);
    }
    store.complete_upload(&upload, &parts, whole).await.map_err(context.failed(PUT))?;
    let found = context.find(&name).await?;
    check_object(&found, PART + SAMPLE.len(), &verified())?;
    match found.crc64 {
        _ if context.s3.checksum() == Checksum::None => Ok("two parts became one object".to_owned()),
        None => Ok("two parts became one object (the store does not keep the CRC64NVME of the whole)".to_owned()),
        stored if stored == whole.crc64 => {
            Ok("two parts became one object, with the CRC64NVME of the whole".to_owned())
        }
        Some(_) => {
            Err(Finding::fail("the stored CRC64NVME of the whole differs from the one sent", "set S3_CHECKSUM=none"))
        }
    }
}

fn joined(whole: ObjectDigest, crc64: u64, size: u64) -> ObjectDigest {
    let before = whole.crc64.unwrap_or_default();
    ObjectDigest { size: whole.size + size, crc64: Some(crc64::combine(before, crc64, size)) }
}

/// Checks ListParts, which the service uses for direct uploads in parts only.
pub async fn list_parts(context: &Context<'_>) -> Outcome {
    let (upload, part) = start(context, &context.scratch.image(), SAMPLE).await?;
    let listed = context.store.list_parts(&upload).await.map_err(unlisted(context))?;
    if !listed.iter().map(|listed| (listed.number, listed.size)).eq([(part.number, part.size)]) {
        return Err(Finding::fail("ListParts does not list the part that was sent", WITHOUT_PARTS));
    }
    Ok("a part is listed as it was sent".to_owned())
}

const WITHOUT_PARTS: &str =
    "set DIRECT_PUT_MAX=5GB, so that every direct upload is one PUT and ListParts is not required";

/// Reports the failure of ListParts: either a missing permission or a limitation of the store.
fn unlisted(context: &Context<'_>) -> impl Fn(StoreError) -> Finding {
    let failed = context.failed(LIST_PARTS);
    move |error| match &error {
        StoreError::Rejected { code, .. } if is_denied(code) => failed(error),
        _ => Finding::fail(describe(&error), WITHOUT_PARTS),
    }
}

pub async fn abort(context: &Context<'_>) -> Outcome {
    let (upload, _) = start(context, &context.scratch.image(), SAMPLE).await?;
    context.store.abort_upload(&upload).await.map_err(context.failed(ABORT))?;
    Ok(match context.store.list_parts(&upload).await {
        Ok(parts) if !parts.is_empty() => {
            return Err(Finding::fail("an aborted upload still has its part", CHECK_PROXY));
        }
        // Ceph RGW answers that the key does not exist.
        Ok(_) | Err(StoreError::NoSuchUpload | StoreError::NotFound) => "an upload is aborted and its part is gone",
        // The check `list-parts` reports this error.
        Err(_) => "an upload is aborted according to the store, which cannot list its parts",
    }
    .to_owned())
}

/// Checks If-None-Match on CompleteMultipartUpload.
pub async fn complete_once(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    let (upload, part) = start(context, &name, LONGER).await?;
    let completed = complete(context, &upload, part).await;
    let replaced = Finding::warn(
        "If-None-Match is ignored by CompleteMultipartUpload: an upload replaced an existing object",
        "run a single process, or use another store: two processes can overwrite each other's image under one \
         Idempotency-Key or one grant's key",
    );
    context.rejected(completed, "completing an upload to an existing key is rejected", replaced)
}

/// Checks that an upload ends either by Complete or by Abort, never both. Promotions depend on this.
pub async fn ends_once(context: &Context<'_>) -> Outcome {
    const FIX: &str =
        "use another store: an upload that is aborted or deleted during its promotion may reappear or be lost";
    let fails = |seen: &str| Err(Finding::fail(seen, FIX));
    let store = context.store;

    let name = context.scratch.image();
    let (upload, part) = start(context, &name, SAMPLE).await?;
    complete(context, &upload, part).await.map_err(context.failed(PUT))?;
    // The answer does not matter.
    let _ = store.abort_upload(&upload).await;
    if !context.exists(&name).await? {
        return fails("an abort after Complete removed the object");
    }

    let name = context.scratch.image();
    let (upload, part) = start(context, &name, SAMPLE).await?;
    store.abort_upload(&upload).await.map_err(context.failed(ABORT))?;
    let completed = complete(context, &upload, part).await;
    if completed.is_ok() || context.exists(&name).await? {
        return fails("an upload was completed after it was aborted");
    }

    let name = context.scratch.image();
    let (upload, part) = start(context, &name, SAMPLE).await?;
    let (completed, aborted) = join!(complete(context, &upload, part), store.abort_upload(&upload));
    if completed.is_ok() && aborted.is_ok() && !context.exists(&name).await? {
        return Err(Finding::warn(
            "concurrent Complete and Abort both succeeded, and the object does not exist",
            "no action is required: the service verifies that the object exists after every Complete",
        ));
    }
    Ok("an upload ends by Complete or by Abort, also if both are called concurrently".to_owned())
}

/// Starts an upload and sends its only part.
async fn start(context: &Context<'_>, name: &ObjectName, bytes: &'static [u8]) -> Result<(Upload, Part), Finding> {
    let upload = context.create(name, &verified()).await?;
    let part = context.store.upload_part(&upload, 1, content(bytes)).await;
    Ok((upload, part.map_err(context.failed(PUT))?))
}

async fn complete(context: &Context<'_>, upload: &Upload, part: Part) -> Result<Written, StoreError> {
    let whole = ObjectDigest { size: part.size, crc64: part.crc64 };
    context.store.complete_upload(upload, &[part], whole).await
}
