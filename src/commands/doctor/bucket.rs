//! Whether the bucket can be reached, by whom, and when.

use std::time::{Duration, SystemTime};

use super::context::Context;
use super::hints::{is_denied, root, told};
use super::report::{Finding, Outcome};
use crate::commands::probe::SKEW_LIMIT;
use crate::store::{ImageKey, ObjectName, StoreError};

/// Far above what a network and whole seconds make.
const SKEW_SEEN: Duration = Duration::from_secs(30);

/// Signing is enough to see whether there are any; whether they are right, the store says.
pub async fn credentials(context: &Context<'_>) -> Outcome {
    let fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role";
    let nothing = ObjectName::Image(ImageKey::random("png"));
    let signed = context.store.presign_get(&nothing, &context.presigning()).await;
    let signed = signed.map_err(|error| Finding::fail(root(&error), fix))?;
    let left = signed.expires_at.duration_since(SystemTime::now()).unwrap_or_default();
    // A second or two are lost to rounding.
    if left + Duration::from_secs(5) < context.config.direct.url_ttl {
        let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
        return Ok(format!("{}; temporary, they end in {left}, and presigned URLs with them", key(&signed.url)));
    }
    Ok(key(&signed.url))
}

/// Which key signed, by its end: enough to tell it from others.
fn key(url: &str) -> String {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let signer = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "X-Amz-Credential");
    let id = signer.map(|(_, scope)| scope.split('/').next().unwrap_or_default().to_owned()).unwrap_or_default();
    format!("an access key that ends in {}", &id[id.floor_char_boundary(id.len().saturating_sub(4))..])
}

pub async fn clock(context: &Context<'_>) -> Outcome {
    let Some((theirs, ours)) = context.greeting().await.headers.sent_and_received else {
        return Err(Finding::skip("no answer that says the time"));
    };
    let (skew, direction) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let fix = "set this machine's clock (NTP)";
    let seen = format!("{} {direction} the store's", humantime::format_duration(Duration::from_secs(skew.as_secs())));
    match skew {
        skew if skew >= SKEW_LIMIT => Err(Finding::fail(format!("{seen}; S3 refuses 15 minutes"), fix)),
        skew if skew >= SKEW_SEEN => Err(Finding::warn(format!("{seen}: presigned URLs are off by as much"), fix)),
        _ => Ok("agrees with the store's".to_owned()),
    }
}

pub async fn region(context: &Context<'_>) -> Outcome {
    let greeting = context.greeting().await;
    let ours = context.s3.region();
    match &greeting.headers.region {
        Some(theirs) if theirs != ours => {
            let seen = format!("the bucket is in {theirs}, and requests are signed for {ours}");
            let fix = format!("set AWS_REGION={theirs}");
            // Many stores other than AWS take any region.
            Err(if greeting.outcome.is_ok() { Finding::warn(seen, fix) } else { Finding::fail(seen, fix) })
        }
        Some(_) => Ok(format!("{ours}, the bucket's")),
        None if matches!(greeting.outcome, Err(StoreError::OutcomeUnknown { .. })) => Err(Finding::skip("no answer")),
        None => Ok(format!("{ours}; the store does not say its own")),
    }
}

/// Whether it is there and ours; every check that follows would fail for the same reason.
pub async fn bucket(context: &Context<'_>) -> Outcome {
    match &context.greeting().await.outcome {
        Ok(()) => Ok("is there and lets us in".to_owned()),
        Err(error) => Err(context.refusal(error, "s3:ListBucket on the bucket")),
    }
}

/// What `image-store sweep` needs.
pub async fn list(context: &Context<'_>) -> Outcome {
    let objects = context.store.unverified_objects().await;
    let objects = objects.map_err(context.failed_on_bucket("s3:ListBucket"))?.len();
    match context.store.unfinished_uploads().await {
        Ok(uploads) => Ok(format!("{} unfinished uploads and {objects} unverified objects are there", uploads.len())),
        Err(StoreError::Rejected { code, .. }) if is_denied(&code) => Err(Finding::fail(
            "unfinished uploads may not be listed (AccessDenied)",
            "allow s3:ListBucketMultipartUploads on the bucket",
        )),
        Err(error) => Err(Finding::fail(
            format!("unfinished uploads cannot be listed: {}", told(&error)),
            "use another store: what a lost answer or a killed process leaves of an upload cannot be found here",
        )),
    }
}
