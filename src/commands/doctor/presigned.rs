//! Presigned URLs, used as a client would.

use sha2::{Digest, Sha256};

use super::context::{Context, LONGER, SAMPLE, unverified, verified};
use super::objects::{find, says};
use super::presigned_client::{Reply, origin};
use super::report::{Finding, Outcome};
use crate::store::{CustomMetadata, ObjectDigest, ObjectName, Presigned, PutConditions};

/// With the headers it signs, and not without.
pub async fn put(context: &Context<'_>) -> Outcome {
    let name = context.scratch.incoming();
    let signed = sign_put(context, &name).await?;
    taken(&context.presigned_client.put(&signed, SAMPLE).await?, &signed)?;
    says(&find(context, &name).await?, SAMPLE.len(), &unverified())?;
    let twice = !refused(&context.presigned_client.put(&signed, SAMPLE).await?)?;
    let other = sign_put(context, &context.scratch.incoming()).await?;
    if !refused(&context.presigned_client.put(&other, LONGER).await?)? {
        return Err(unbound());
    }
    if twice {
        return Err(Finding::warn(
            "taken, and taken a second time: If-None-Match is ignored",
            "keep UPLOAD_URL_TTL short: until then the URL works as often as its holder likes",
        ));
    }
    Ok(format!("taken by {}; refused a second time, and with another Content-Length", origin(&signed)))
}

/// The SHA-256 of a plan, which a PUT signs: that of other bytes.
pub async fn sha256(context: &Context<'_>) -> Outcome {
    let name = context.scratch.incoming();
    let wrong = Sha256::digest(LONGER).into();
    let signed = sign_put_of(context, &name, Some(wrong)).await?;
    if refused(&context.presigned_client.put(&signed, SAMPLE).await?)? {
        return Ok("a PUT of other bytes than were signed is refused".to_owned());
    }
    Err(Finding::warn(
        "a PUT with a wrong SHA-256 is taken: the store does not check it",
        "nothing: the service reads such an upload once to check it, which takes its time; plans without sha256 do not",
    ))
}

/// What direct uploads in parts need.
pub async fn part(context: &Context<'_>) -> Outcome {
    let name = context.scratch.incoming();
    let created = context.scratch.upload(context.store, &name, &unverified()).await;
    let upload = created.map_err(context.failed("s3:PutObject"))?;
    let size = SAMPLE.len() as u64;
    let signed = context.store.presign_part(&upload, 1, size, &context.presigning()).await;
    let signed = signed.map_err(context.failed("s3:PutObject"))?;
    if !refused(&context.presigned_client.put(&signed, LONGER).await?)? {
        return Err(unbound());
    }
    taken(&context.presigned_client.put(&signed, SAMPLE).await?, &signed)?;
    let parts = context.store.list_parts(&upload).await.map_err(context.failed("s3:ListMultipartUploadParts"))?;
    if !parts.iter().map(|part| (part.number, part.size)).eq([(1, size)]) {
        return Err(Finding::fail(
            "ListParts does not say what was sent",
            "use another store: direct uploads rest on it",
        ));
    }
    let whole = ObjectDigest { size, crc64: None };
    context.store.complete_upload(&upload, &parts, whole).await.map_err(context.failed("s3:PutObject"))?;
    says(&find(context, &name).await?, SAMPLE.len(), &unverified())?;
    Ok("taken, listed and completed; refused with another Content-Length".to_owned())
}

pub async fn get(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    let signed = sign_get(context, &name).await?;
    let reply = context.presigned_client.get(&signed).await?;
    taken(&reply, &signed)?;
    let content_type = reply.headers.get("content-type").and_then(|value| value.to_str().ok());
    if reply.body != SAMPLE || content_type != Some(&verified().content_type) {
        return Err(Finding::fail("other bytes or another type than were put", "look what stands before the store"));
    }
    Ok("bytes and type are as put".to_owned())
}

pub async fn sign_put(context: &Context<'_>, name: &ObjectName) -> Result<Presigned, Finding> {
    sign_put_of(context, name, None).await
}

async fn sign_put_of(context: &Context<'_>, name: &ObjectName, sha256: Option<[u8; 32]>) -> Result<Presigned, Finding> {
    let conditions = PutConditions {
        size: SAMPLE.len() as u64,
        content_type: unverified().content_type,
        sha256,
        custom: CustomMetadata::new(),
    };
    let signed = context.store.presign_put(name, &conditions, &context.presigning()).await;
    signed.map_err(context.failed("s3:PutObject"))
}

pub async fn sign_get(context: &Context<'_>, name: &ObjectName) -> Result<Presigned, Finding> {
    let signed = context.store.presign_get(name, &context.presigning()).await;
    signed.map_err(context.failed("s3:GetObject"))
}

fn taken(reply: &Reply, signed: &Presigned) -> Result<(), Finding> {
    if reply.status.is_success() {
        return Ok(());
    }
    let fix = "what stands between must pass Host, query and headers on as they are; S3_PUBLIC_ENDPOINT_URL must be what \
               clients use";
    Err(Finding::fail(format!("{} answered {}", origin(signed), reply.told()), fix))
}

/// Whether it was refused and not taken; what is neither tells nothing.
fn refused(reply: &Reply) -> Result<bool, Finding> {
    if reply.status.is_success() || reply.status.is_client_error() {
        return Ok(reply.status.is_client_error());
    }
    Err(Finding::fail(
        format!("what is to be refused was answered {}", reply.told()),
        "try again, or look at the store's log",
    ))
}

fn unbound() -> Finding {
    Finding::warn(
        "taken, but also with another Content-Length than was signed",
        "sizes are checked again at complete; until then clients can fill the bucket with more than they planned",
    )
}
