//! Checks of the access to the bucket: credentials, clock, region, bucket and listing.

use std::time::{Duration, SystemTime};

use super::context::Context;
use super::hints::{describe, is_denied, root_cause};
use super::report::{Finding, Outcome};
use crate::commands::probe::SKEW_LIMIT;
use crate::store::{ImageKey, ObjectName, StoreError};

/// Far above the deviation that the network and the resolution of whole seconds cause.
const SKEW_WARNING: Duration = Duration::from_secs(30);

/// Signs a URL, which shows whether there are credentials. Whether they are valid is checked by `bucket`.
pub async fn credentials(context: &Context<'_>) -> Outcome {
    let fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or attach an IAM role to this machine";
    let missing = ObjectName::Image(ImageKey::random("png"));
    let signed = context.store.presign_get(&missing, &context.presigning()).await;
    let signed = signed.map_err(|error| Finding::fail(root_cause(&error), fix))?;
    let left = signed.expires_at.duration_since(SystemTime::now()).unwrap_or_default();
    // Rounding may take a second or two.
    if left + Duration::from_secs(5) < context.config.direct.url_ttl {
        let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
        return Ok(format!("{}; temporary: they expire in {left}, and presigned URLs with them", key(&signed.url)));
    }
    Ok(key(&signed.url))
}

/// Describes the access key that signed `url` by its last four characters.
fn key(url: &str) -> String {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let signer = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "X-Amz-Credential");
    let id = signer.map(|(_, scope)| scope.split('/').next().unwrap_or_default().to_owned()).unwrap_or_default();
    format!("an access key that ends in {}", &id[id.floor_char_boundary(id.len().saturating_sub(4))..])
}

pub async fn clock(context: &Context<'_>) -> Outcome {
    let Some((store_time, local_time)) = context.greeting().await.headers.sent_and_received else {
        return Err(Finding::skip("the store sent no answer with a Date header"));
    };
    let (skew, direction) = match local_time.duration_since(store_time) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let fix = "synchronise this machine's clock (NTP)";
    let difference = humantime::format_duration(Duration::from_secs(skew.as_secs()));
    let seen = format!("this machine's clock is {difference} {direction} the store's");
    match skew {
        skew if skew >= SKEW_LIMIT => {
            Err(Finding::fail(format!("{seen}; S3 rejects a difference of 15 minutes or more"), fix))
        }
        skew if skew >= SKEW_WARNING => {
            Err(Finding::warn(format!("{seen}: presigned URLs start and expire by as much too early or too late"), fix))
        }
        _ => Ok("this machine's clock agrees with the store's".to_owned()),
    }
}

pub async fn region(context: &Context<'_>) -> Outcome {
    let greeting = context.greeting().await;
    let configured = context.s3.region();
    match &greeting.headers.region {
        Some(actual) if actual != configured => {
            let seen = format!("the bucket is in {actual}, but requests are signed for {configured}");
            let fix = format!("set AWS_REGION={actual}");
            // Many stores other than AWS accept any region.
            Err(if greeting.outcome.is_ok() { Finding::warn(seen, fix) } else { Finding::fail(seen, fix) })
        }
        Some(_) => Ok(format!("{configured}, the bucket's region")),
        None if matches!(greeting.outcome, Err(StoreError::OutcomeUnknown { .. })) => {
            Err(Finding::skip("the store sent no answer"))
        }
        None => Ok(format!("{configured}; the store does not report the bucket's region")),
    }
}

/// Checks that the bucket exists and can be accessed. Otherwise all later checks would fail for the same reason.
pub async fn bucket(context: &Context<'_>) -> Outcome {
    match &context.greeting().await.outcome {
        Ok(()) => Ok("exists and can be accessed".to_owned()),
        Err(error) => Err(context.refusal(error, "s3:ListBucket on the bucket")),
    }
}

/// Checks the listings that `image-store sweep` uses.
pub async fn list(context: &Context<'_>) -> Outcome {
    let objects = context.store.unverified_objects().await;
    let objects = objects.map_err(context.failed_on_bucket("s3:ListBucket"))?.len();
    match context.store.unfinished_uploads().await {
        Ok(uploads) => Ok(format!("{} unfinished uploads and {objects} unverified objects", uploads.len())),
        Err(StoreError::Rejected { code, .. }) if is_denied(&code) => Err(Finding::fail(
            "no permission to list unfinished uploads (AccessDenied)",
            "allow s3:ListBucketMultipartUploads on the bucket",
        )),
        Err(error) => Err(Finding::fail(
            format!("unfinished uploads cannot be listed: {}", describe(&error)),
            "use another store: in this one, uploads that a killed process left behind cannot be found and removed",
        )),
    }
}
