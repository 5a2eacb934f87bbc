//! Whole objects: put, looked at, read, copied, deleted.

use bytes::Bytes;

use super::context::{Context, LONGER, SAMPLE, unverified, verified};
use super::report::{Finding, Outcome};
use crate::store::s3::Checksum;
use crate::store::{ImageKey, Marker, Metadata, ObjectDigest, ObjectInfo, ObjectName, Payload, StoreError};
use crate::upload::parts::payload;

/// An ETag that no object has.
const ANOTHER_ETAG: &str = "\"00000000000000000000000000000000\"";

pub async fn put(context: &Context<'_>) -> Outcome {
    context.put_sample().await?;
    Ok(format!("{} bytes", SAMPLE.len()))
}

/// If-None-Match.
pub async fn put_once(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    match context.store.put(&name, &verified(), payload(Bytes::from_static(LONGER))).await {
        Err(StoreError::Precondition) => Ok("a second PUT to the same key is refused".to_owned()),
        Err(error) => Err(context.failed("s3:PutObject")(error)),
        Ok(_) => Err(Finding::warn(
            "If-None-Match is ignored: a second PUT replaced the first",
            "run a single process, or use another store: two replicas can overwrite each other's images under one Idempotency-Key \
             or one grant's key; and keep UPLOAD_URL_TTL short: a presigned PUT works until it expires, also after its \
             image was deleted",
        )),
    }
}

pub async fn head(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    let found = find(context, &name).await?;
    says(&found, SAMPLE.len(), &verified())?;
    match context.store.head(&ObjectName::Image(ImageKey::random("png"))).await {
        Err(StoreError::NotFound) => Ok("size, type and metadata are as put; a missing key is 404".to_owned()),
        Ok(_) => Err(Finding::fail("a key that was never put is there", "look what answers for the store")),
        // Without that permission S3 does not tell what is missing from what is forbidden.
        Err(error) => Err(context.failed_on_bucket("s3:ListBucket")(error)),
    }
}

pub async fn get(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    let etag = etag(&find(context, &name).await?)?;
    let read = context.store.read(&name, 6..20, &etag).await.map_err(context.failed("s3:GetObject"))?;
    if read != SAMPLE[6..20] {
        return Err(Finding::fail("a range has other bytes than were put", "look what answers for the store"));
    }
    Ok("a range of it is as put".to_owned())
}

pub async fn checksum(context: &Context<'_>) -> Outcome {
    if context.s3.checksum() == Checksum::None {
        return Ok("none is sent (S3_CHECKSUM=none, or auto with an endpoint other than AWS's)".to_owned());
    }
    let name = context.put_sample().await?;
    let kept = find(context, &name).await?.crc64;
    let mut wrong = payload(Bytes::from_static(SAMPLE));
    wrong.crc64 ^= 1;
    match kept {
        _ if takes(context, wrong).await? => Err(Finding::warn(
            "a PUT with a wrong CRC64NVME is taken: the store does not check it",
            "set S3_CHECKSUM=none to spare the work, or use a store that checks",
        )),
        None => Err(Finding::warn(
            "CRC64NVME is checked and not kept: answers for direct uploads have no checksum",
            "nothing, unless clients need it",
        )),
        Some(kept) if kept != payload(Bytes::from_static(SAMPLE)).crc64 => {
            Err(Finding::fail("the store keeps another CRC64NVME than was sent", "set S3_CHECKSUM=none"))
        }
        Some(_) => Ok("CRC64NVME is kept, and a wrong one refused".to_owned()),
    }
}

/// Whether the store takes what belies its checksum; any other failure tells nothing of that.
async fn takes(context: &Context<'_>, wrong: Payload) -> Result<bool, Finding> {
    let name = context.scratch.image();
    match context.store.put(&name, &verified(), wrong).await {
        Ok(_) => return Ok(true),
        Err(StoreError::Rejected { code, .. }) if is_bad_digest(&code) => {}
        Err(error) => return Err(context.failed("s3:PutObject")(error)),
    }
    match context.store.head(&name).await {
        Err(StoreError::NotFound) => Ok(false),
        Err(error) => Err(context.failed_on_bucket("s3:ListBucket")(error)),
        Ok(_) => Err(Finding::fail(
            "a PUT with a wrong CRC64NVME is refused, and its object there all the same",
            "use another store: here what failed can be read",
        )),
    }
}

/// `BadDigest` in S3, `InvalidDigest` and `XAmzContentChecksumMismatch` in others.
fn is_bad_digest(code: &str) -> bool {
    code.contains("Digest") || code.contains("Checksum")
}

/// How a direct upload becomes an image: copied from `incoming/` as a part, if it is still what was checked.
pub async fn copy(context: &Context<'_>) -> Outcome {
    let (from, to) = (put_incoming(context).await?, context.scratch.image());
    let source = find(context, &from).await?;
    etag(&source)?;
    let upload = context.scratch.upload(context.store, &to, &verified()).await;
    let upload = upload.map_err(context.failed("s3:PutObject"))?;
    let failed = context.failed("s3:GetObject and s3:PutObject");
    let conditional = context.s3.honours_copy_condition(&upload, &from).await.map_err(&failed)?;
    let part = match context.store.copy_part(&upload, &from, &source).await {
        Ok(part) => part,
        Err(StoreError::Precondition) if !conditional => return Err(unprotected()),
        Err(error) if conditional && error.is_unsupported() => return Err(only_large(&error)),
        Err(error) => return Err(failed(error)),
    };
    let whole = ObjectDigest { size: part.size, crc64: part.crc64 };
    let completed = context.store.complete_upload(&upload, &[part], whole).await;
    completed.map_err(context.failed("s3:PutObject"))?;
    says(&find(context, &to).await?, SAMPLE.len(), &verified())?;
    if conditional {
        return Ok("only with the right ETag, and with new metadata".to_owned());
    }
    Err(Finding::warn(
        "CopySourceIfMatch is ignored",
        "nothing: the service compares the ETags of what was checked and what was copied instead",
    ))
}

fn unprotected() -> Finding {
    Finding::fail(
        "CopySourceIfMatch is ignored, and the ETag of a copy is another than its source's: what is copied cannot be compared with what was checked",
        "use another store, or none of its encryption with keys (S3_SSE): no direct upload can become an image here",
    )
}

fn only_large(error: &StoreError) -> Finding {
    Finding::warn(
        format!("a source of {} bytes is not copied as a part: {error}", SAMPLE.len()),
        "nothing: the service reads direct uploads of under 5 MiB and sends them itself",
    )
}

async fn put_incoming(context: &Context<'_>) -> Result<ObjectName, Finding> {
    let name = context.scratch.incoming();
    let put = context.store.put(&name, &unverified(), payload(Bytes::from_static(SAMPLE))).await;
    put.map(|_| name).map_err(context.failed("s3:PutObject"))
}

/// If-Match on Put, by which a plan's address is closed.
pub async fn put_if_match(context: &Context<'_>) -> Outcome {
    let name = put_incoming(context).await?;
    match context.store.put_marker(&name, &Marker::Withdrawn, Some(ANOTHER_ETAG)).await {
        Err(StoreError::Precondition) => Ok("a PUT that names another ETag is refused".to_owned()),
        Err(error) => Err(context.failed("s3:PutObject")(error)),
        Ok(()) => Err(Finding::warn(
            "If-Match is ignored: a PUT replaced another object than it named",
            "nothing, but an abort or a delete at the moment at which the same upload is completed may be undone here",
        )),
    }
}

pub async fn delete(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    context.store.delete(&name).await.map_err(context.failed("s3:DeleteObject"))?;
    match context.store.head(&name).await {
        Err(StoreError::NotFound) => Ok("and it is gone".to_owned()),
        Ok(_) => Err(Finding::fail("what was deleted is still there", "look what answers for the store (a cache?)")),
        Err(error) => Err(context.failed_on_bucket("s3:ListBucket")(error)),
    }
}

/// What HEAD says of an object that was put.
pub async fn find(context: &Context<'_>, name: &ObjectName) -> Result<ObjectInfo, Finding> {
    context.store.head(name).await.map_err(context.failed("s3:GetObject"))
}

/// Whether an object is as it was put.
pub fn says(found: &ObjectInfo, size: usize, metadata: &Metadata) -> Result<(), Finding> {
    let wrong = |what: &str| {
        Finding::fail(
            format!("{what} is not as put"),
            "look whether the store, or what stands before it, drops headers",
        )
    };
    if found.size != size as u64 {
        return Err(wrong("the size"));
    }
    if found.content_type.as_ref() != Some(&metadata.content_type) {
        return Err(wrong("the content type"));
    }
    if found.dimensions == metadata.dimensions { Ok(()) } else { Err(wrong("the metadata")) }
}

fn etag(found: &ObjectInfo) -> Result<String, Finding> {
    let none = || Finding::fail("HEAD says no ETag", "use another store: direct uploads rest on ETags");
    found.etag.clone().ok_or_else(none)
}
