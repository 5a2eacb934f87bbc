//! A check of the bucket at start-up, so that a wrong setting is reported in the log before a client runs into it.
//!
//! It is the cheap part of `image-store doctor`: HeadBucket and, if that is rejected, one ListObjectsV2 to learn the
//! reason. It writes nothing, so it leaves nothing behind. It runs in the background and only warns, because the store
//! may be unreachable for a moment only; `/readyz` reports that.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::store::s3::S3Store;
use crate::store::s3::inspect::Greeting;

/// S3 rejects requests that were signed with a clock that differs by more than this.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html> (RequestTimeTooSkewed)
pub const SKEW_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Checks the bucket once in the background, after `delay`, and logs a warning if there is a problem.
pub fn start(s3: Arc<S3Store>, delay: Duration) {
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        warn(&s3.greet().await);
    });
}

fn warn(greeting: &Greeting) {
    const ADVICE: &str = "run `image-store doctor` with the same settings to see the reason";
    let skew = greeting.headers.sent_and_received.map(|(theirs, ours)| distance(theirs, ours));
    match &greeting.outcome {
        Err(error) => tracing::warn!(error = error as &dyn Error, "the bucket cannot be used as configured: {ADVICE}"),
        // The SDK corrects the clock for its own calls, but not for presigned URLs.
        Ok(()) if skew.is_some_and(|skew| skew >= SKEW_LIMIT) => {
            tracing::warn!(?skew, "S3 rejects presigned URLs because this machine's clock is wrong: {ADVICE}");
        }
        Ok(()) => {}
    }
}

fn distance(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}
