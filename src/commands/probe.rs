//! A look at the bucket at start-up, so that a wrong setting is seen in the log and not first by a client.
//!
//! It is the cheap half of `image-store doctor`: it asks for the bucket (HeadBucket; if that is rejected, one ListObjectsV2
//! for the reason) and writes nothing, so that it leaves nothing behind, whatever its permissions and however it ends. It runs in the background and only warns: the store
//! may be out of reach for a moment, and `/readyz` says that.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::store::s3::S3Store;
use crate::store::s3::inspect::Greeting;

/// S3 rejects what is signed with a clock that differs by more.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html> (RequestTimeTooSkewed)
pub const SKEW_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Looks at the bucket in the background, once, after `delay`, and warns of what it finds.
pub fn start(s3: Arc<S3Store>, delay: Duration) {
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        warn(&s3.greet().await);
    });
}

fn warn(greeting: &Greeting) {
    const ADVICE: &str = "run `image-store doctor` with the same settings to see why";
    let skew = greeting.headers.sent_and_received.map(|(theirs, ours)| distance(theirs, ours));
    match &greeting.outcome {
        Err(error) => tracing::warn!(error = error as &dyn Error, "the bucket cannot be used as configured: {ADVICE}"),
        // The SDK corrects its own calls for this, which nothing does for a presigned URL.
        Ok(()) if skew.is_some_and(|skew| skew >= SKEW_LIMIT) => {
            tracing::warn!(?skew, "presigned URLs are rejected, this machine's clock is wrong: {ADVICE}");
        }
        Ok(()) => {}
    }
}

fn distance(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}
