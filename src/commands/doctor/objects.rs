//! Checks of whole objects: PUT, HEAD, GET, copy and DELETE.

use super::context::{Context, GET, LONGER, PUT, SAMPLE, content, verified};
use super::hints::CHECK_PROXY;
use super::report::{Finding, Outcome};
use crate::store::s3::{Checksum, CopyProtection, TriedCopy};
use crate::store::{ImageKey, Marker, Metadata, ObjectDigest, ObjectInfo, ObjectName, Payload, StoreError};

/// An ETag that does not belong to any object.
const ANOTHER_ETAG: &str = "\"00000000000000000000000000000000\"";

pub async fn put(context: &Context<'_>) -> Outcome {
    context.put_sample().await?;
    Ok(format!("stored {} bytes", SAMPLE.len()))
}

/// Checks If-None-Match on PUT.
pub async fn put_once(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    let put = context.store.put(&name, &verified(), content(LONGER)).await;
    let replaced = Finding::warn(
        "If-None-Match is ignored: a second PUT replaced the first",
        "run a single process, or use another store: two processes can overwrite each other's image under one \
         Idempotency-Key or one grant's key; set a short UPLOAD_URL_TTL: a presigned PUT URL works until it expires, \
         even after its image was deleted",
    );
    context.rejected(put, "a second PUT to the same key is rejected", replaced)
}

pub async fn head(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    check_object(&context.find(&name).await?, SAMPLE.len(), &verified())?;
    if context.exists(&ObjectName::Image(ImageKey::random("png"))).await? {
        return Err(Finding::fail("HEAD of a key that does not exist succeeded", CHECK_PROXY));
    }
    Ok("size, content type and metadata are as sent; a missing key is answered with 404".to_owned())
}

pub async fn get(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    let etag = etag(&context.find(&name).await?)?;
    let read = context.store.read(&name, 6..20, &etag).await.map_err(context.failed(GET))?;
    if read != SAMPLE[6..20] {
        return Err(Finding::fail("the bytes of a range differ from those sent", CHECK_PROXY));
    }
    Ok("the bytes of a range are as sent".to_owned())
}

pub async fn checksum(context: &Context<'_>) -> Outcome {
    if context.s3.checksum() == Checksum::None {
        return Ok("no checksum is sent (S3_CHECKSUM=none, or auto with an endpoint other than AWS's)".to_owned());
    }
    let name = context.put_sample().await?;
    let stored = context.find(&name).await?.crc64;
    let mut wrong = content(SAMPLE);
    wrong.crc64 ^= 1;
    match stored {
        _ if accepts(context, wrong).await? => Err(Finding::warn(
            "a PUT with a wrong CRC64NVME is accepted: the store does not verify it",
            "set S3_CHECKSUM=none to avoid useless work, or use a store that verifies checksums",
        )),
        None => Err(Finding::warn(
            "CRC64NVME is verified but not stored: answers for direct uploads have no checksum",
            "no action is required, unless clients use the checksum",
        )),
        Some(stored) if stored != content(SAMPLE).crc64 => {
            Err(Finding::fail("the stored CRC64NVME differs from the one sent", "set S3_CHECKSUM=none"))
        }
        Some(_) => Ok("CRC64NVME is stored, and a wrong one is rejected".to_owned()),
    }
}

/// Returns whether the store accepts an object with a wrong checksum. Any other failure is reported as a finding.
async fn accepts(context: &Context<'_>, wrong: Payload) -> Result<bool, Finding> {
    let name = context.scratch.image();
    match context.store.put(&name, &verified(), wrong).await {
        Ok(_) => return Ok(true),
        Err(StoreError::Rejected { code, .. }) if is_bad_digest(&code) => {}
        Err(error) => return Err(context.failed(PUT)(error)),
    }
    if context.exists(&name).await? {
        return Err(Finding::fail(
            "a PUT with a wrong CRC64NVME is rejected, but its object exists",
            "use another store: in this one, objects of failed uploads can be read",
        ));
    }
    Ok(false)
}

/// The code is `BadDigest` in S3, and `InvalidDigest` or `XAmzContentChecksumMismatch` in other stores.
fn is_bad_digest(code: &str) -> bool {
    code.contains("Digest") || code.contains("Checksum")
}

/// Checks the promotion of a direct upload: a copy from `incoming/` as a part, on condition that the object is
/// unchanged.
pub async fn copy(context: &Context<'_>) -> Outcome {
    let (from, to) = (context.put_incoming().await?, context.scratch.image());
    let source = context.find(&from).await?;
    etag(&source)?;
    let upload = context.create(&to, &verified()).await?;
    let failed = context.failed("s3:GetObject and s3:PutObject");
    let TriedCopy { protection, part } = context.s3.try_copy(&upload, &from, &source).await.map_err(&failed)?;
    if protection == CopyProtection::Nothing {
        return Err(unprotected());
    }
    let part = part.map_err(|error| if error.is_unsupported() { only_large(&error) } else { failed(error) })?;
    let whole = ObjectDigest { size: part.size, crc64: part.crc64 };
    let completed = context.store.complete_upload(&upload, &[part], whole).await;
    completed.map_err(context.failed(PUT))?;
    check_object(&context.find(&to).await?, SAMPLE.len(), &verified())?;
    if protection == CopyProtection::Condition {
        return Ok("only with the right ETag, and with new metadata".to_owned());
    }
    Err(Finding::warn(
        "CopySourceIfMatch is ignored",
        "no action is required: the service compares the ETags of the verified object and of its copy instead",
    ))
}

fn unprotected() -> Finding {
    Finding::fail(
        "CopySourceIfMatch is ignored, and the ETag of a copy differs from its source's: the service cannot verify \
         that it copies the object that it checked",
        "use another store, or disable encryption with keys (S3_SSE): no direct upload can become an image",
    )
}

fn only_large(error: &StoreError) -> Finding {
    Finding::warn(
        format!("an object of {} bytes cannot be copied as a part: {error}", SAMPLE.len()),
        "no action is required: the service reads direct uploads under 5 MiB and sends them itself",
    )
}

/// Checks If-Match on PUT, which the service uses to close the PUT URL of a plan.
pub async fn put_if_match(context: &Context<'_>) -> Outcome {
    let name = context.put_incoming().await?;
    let put = context.store.put_marker(&name, &Marker::Withdrawn, Some(ANOTHER_ETAG)).await;
    let replaced = Finding::warn(
        "If-Match is ignored: a PUT with the wrong ETag replaced an object",
        "no action is required, but an abort or a delete may be undone by a concurrent completion of the upload",
    );
    context.rejected(put, "a PUT with the wrong ETag is rejected", replaced)
}

pub async fn delete(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    context.store.delete(&name).await.map_err(context.failed("s3:DeleteObject"))?;
    if context.exists(&name).await? {
        return Err(Finding::fail("a deleted object still exists", CHECK_PROXY));
    }
    Ok("a deleted object is gone".to_owned())
}

/// Checks that an object is as it was sent.
pub fn check_object(found: &ObjectInfo, size: usize, metadata: &Metadata) -> Result<(), Finding> {
    let same = [
        ("size", found.size == size as u64),
        ("content type", found.content_type.as_ref() == Some(&metadata.content_type)),
        ("metadata", found.dimensions == metadata.dimensions),
    ];
    same.iter().find(|(_, is_same)| !is_same).map_or(Ok(()), |(what, _)| {
        Err(Finding::fail(
            format!("the {what} of an object differs from the one sent"),
            "check whether the store or a proxy in front of it removes headers",
        ))
    })
}

fn etag(found: &ObjectInfo) -> Result<String, Finding> {
    let none = || Finding::fail("HEAD returns no ETag", "use another store: direct uploads require ETags");
    found.etag.clone().ok_or_else(none)
}
