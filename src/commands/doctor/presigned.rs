//! Checks of presigned URLs, used like a client does.

use sha2::{Digest, Sha256};

use super::context::{Context, GET, LIST_PARTS, LONGER, PUT, SAMPLE, unverified, verified};
use super::hints::CHECK_PROXY;
use super::objects::check_object;
use super::presigned_client::{Reply, origin};
use super::report::{Finding, Outcome};
use crate::store::{CustomMetadata, ObjectDigest, ObjectName, Presigned, PutConditions};

/// Checks that a presigned PUT works with the signed headers only.
pub async fn put(context: &Context<'_>) -> Outcome {
    let name = context.scratch.incoming();
    let signed = sign_put(context, &name).await?;
    check_accepted(&context.presigned_client.put(&signed, SAMPLE).await?, &signed)?;
    check_object(&context.find(&name).await?, SAMPLE.len(), &unverified())?;
    let twice = !is_rejected(&context.presigned_client.put(&signed, SAMPLE).await?)?;
    let other = sign_put(context, &context.scratch.incoming()).await?;
    if !is_rejected(&context.presigned_client.put(&other, LONGER).await?)? {
        return Err(length_ignored());
    }
    if twice {
        return Err(Finding::warn(
            "accepted, also a second time: If-None-Match is ignored",
            "set a short UPLOAD_URL_TTL: clients can use the URL any number of times until it expires",
        ));
    }
    Ok(format!("accepted by {}; rejected a second time and with another Content-Length", origin(&signed)))
}

/// Checks that a presigned PUT is rejected if the bytes do not match the signed SHA-256 of the plan.
pub async fn sha256(context: &Context<'_>) -> Outcome {
    let name = context.scratch.incoming();
    let wrong = Sha256::digest(LONGER).into();
    let signed = sign_put_of(context, &name, Some(wrong)).await?;
    if is_rejected(&context.presigned_client.put(&signed, SAMPLE).await?)? {
        return Ok("a PUT with a wrong SHA-256 is rejected".to_owned());
    }
    Err(Finding::warn(
        "a PUT with a wrong SHA-256 is accepted: the store does not verify it",
        "no action is required: the service reads uploads whose plan has a sha256 to verify it, which takes longer",
    ))
}

/// Checks the calls for direct uploads in parts.
pub async fn part(context: &Context<'_>) -> Outcome {
    let name = context.scratch.incoming();
    let upload = context.create(&name, &unverified()).await?;
    let size = SAMPLE.len() as u64;
    let signed = context.store.presign_part(&upload, 1, Some(size), &context.presigning()).await;
    let signed = signed.map_err(context.failed(PUT))?;
    if !is_rejected(&context.presigned_client.put(&signed, LONGER).await?)? {
        return Err(length_ignored());
    }
    check_accepted(&context.presigned_client.put(&signed, SAMPLE).await?, &signed)?;
    let parts = context.store.list_parts(&upload).await.map_err(context.failed(LIST_PARTS))?;
    if !parts.iter().map(|part| (part.number, part.size)).eq([(1, size)]) {
        return Err(Finding::fail(
            "ListParts does not list the part that was sent",
            "use another store: direct uploads in parts require ListParts",
        ));
    }
    let whole = ObjectDigest { size, crc64: None };
    context.store.complete_upload(&upload, &parts, whole).await.map_err(context.failed(PUT))?;
    check_object(&context.find(&name).await?, SAMPLE.len(), &unverified())?;
    Ok("accepted, listed and completed; rejected with another Content-Length".to_owned())
}

pub async fn get(context: &Context<'_>) -> Outcome {
    let name = context.put_sample().await?;
    let signed = sign_get(context, &name).await?;
    let reply = context.presigned_client.get(&signed).await?;
    check_accepted(&reply, &signed)?;
    let content_type = reply.headers.get("content-type").and_then(|value| value.to_str().ok());
    if reply.body != SAMPLE || content_type != Some(&verified().content_type) {
        return Err(Finding::fail("the bytes or the content type differ from those sent", CHECK_PROXY));
    }
    Ok("bytes and content type are as sent".to_owned())
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
        origin: None,
    };
    let signed = context.store.presign_put(name, &conditions, &context.presigning()).await;
    signed.map_err(context.failed(PUT))
}

pub async fn sign_get(context: &Context<'_>, name: &ObjectName) -> Result<Presigned, Finding> {
    let signed = context.store.presign_get(name, &context.presigning()).await;
    signed.map_err(context.failed(GET))
}

fn check_accepted(reply: &Reply, signed: &Presigned) -> Result<(), Finding> {
    if reply.status.is_success() {
        return Ok(());
    }
    let fix = "configure proxies in front of the store to pass on Host, query and headers unchanged, and set \
               S3_PUBLIC_ENDPOINT_URL to the address that clients use";
    Err(Finding::fail(format!("{} answered {}", origin(signed), reply.describe()), fix))
}

/// Returns whether a request was rejected (4xx) and not accepted (2xx). Any other status is reported as a finding.
fn is_rejected(reply: &Reply) -> Result<bool, Finding> {
    if reply.status.is_success() || reply.status.is_client_error() {
        return Ok(reply.status.is_client_error());
    }
    Err(Finding::fail(
        format!("a request that should be rejected was answered with {}", reply.describe()),
        "try again, or check the store's log",
    ))
}

fn length_ignored() -> Finding {
    Finding::warn(
        "accepted, but also with another Content-Length than the signed one",
        "no action is required, but clients can store more than they planned until the size is checked at complete",
    )
}
