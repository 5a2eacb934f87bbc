//! A check of the bucket at start-up, so that a wrong setting is reported in the log before a client runs into it.
//!
//! It is the cheap part of `image-store doctor`, runs in the background and only warns: the store may be out of reach for a
//! moment, and `/readyz` says that. It asks for the bucket (HeadBucket; if that is rejected, one ListObjectsV2 for the
//! reason). A store other than AWS's is also tried for what promotions rest on: whether a copy tells which bytes it is of
//! ([`S3Store::try_copy`]). The trial works on an object of its own under `incoming/` and on an upload that is never completed,
//! and removes both. What a kill leaves of them is removed by the sweep.

use bytes::Bytes;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::store::s3::inspect::Greeting;
use crate::store::s3::{CopyProtection, S3Store};
use crate::store::scratch::Scratch;
use crate::store::{ImageKey, Metadata, ObjectName, Result, Store};
use crate::upload::parts::payload;

/// S3 rejects requests that were signed with a clock that differs by more than this.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html> (RequestTimeTooSkewed)
pub const SKEW_LIMIT: Duration = Duration::from_secs(15 * 60);

const ADVICE: &str = "run `image-store doctor` with the same settings to see why";
/// What the trial puts: no image, so that nothing can promote it.
const SAMPLE: &[u8] = b"image-store looks whether direct uploads are safe in this bucket; it removes this at once\n";
/// A trial that takes longer is given up.
const TRIAL_LIMIT: Duration = Duration::from_secs(60);
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(30);
/// How long a trial may go on at the end of the process: a call that is cut off may take effect after the clean-up.
const GRACE: Duration = Duration::from_secs(2);
/// The end of the process waits no longer for it.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A probe that may still be under way.
pub struct Probe {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Probe {
    /// Cuts the probe short, and waits until what it has made is removed.
    pub async fn end(self) {
        self.stop.cancel();
        // What is left then is the sweep's.
        let _ = tokio::time::timeout(END_LIMIT, self.task).await;
    }
}

/// Looks at the bucket in the background, once, after `delay`, and warns of what it finds. Writes nothing.
pub fn look(s3: Arc<S3Store>, delay: Duration) {
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        warn(&s3.greet().await);
    });
}

/// Looks at the bucket in the background, once, and tries what promotions rest on.
pub fn start(s3: Arc<S3Store>) -> Probe {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let Some(greeting) = stopped.run_until_cancelled(s3.greet()).await else { return };
        warn(&greeting);
        if greeting.outcome.is_ok() && !s3.is_aws() {
            try_copies(&s3, &stopped).await;
        }
    });
    Probe { stop, task }
}

fn warn(greeting: &Greeting) {
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

/// Tries it, says what cannot be protected, and removes what the trial has made, however it ended.
async fn try_copies(s3: &S3Store, stopped: &CancellationToken) {
    let scratch = Scratch::default();
    let cut_off = async {
        stopped.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let trial = tokio::select! {
        trial = tokio::time::timeout(TRIAL_LIMIT, copy_protection(s3, &scratch)) => Some(trial),
        () = cut_off => None,
    };
    match trial {
        Some(Ok(Ok(CopyProtection::Nothing))) => tracing::warn!(
            "the store ignores the condition of a copy and does not show what it copied, so that direct uploads of one PUT \
             cannot become images: {ADVICE}"
        ),
        Some(Ok(Ok(protection))) => tracing::debug!(?protection, "the store was tried for what protects a copy"),
        Some(Ok(Err(error))) => {
            let error = &error as &dyn Error;
            tracing::warn!(error, "whether direct uploads are safe in this bucket could not be tried: {ADVICE}");
        }
        Some(Err(_)) => tracing::warn!("whether direct uploads are safe in this bucket was not seen in time: {ADVICE}"),
        None => {}
    }
    let left = tokio::time::timeout(CLEAN_UP_LIMIT, scratch.clear(s3, s3.prefix())).await;
    for (key, error) in left.into_iter().flatten() {
        tracing::warn!(key, error = &error as &dyn Error, "the start-up probe could not remove this; sweep removes it");
    }
}

async fn copy_protection(s3: &S3Store, scratch: &Scratch) -> Result<CopyProtection> {
    let metadata = Metadata { content_type: "application/octet-stream".to_owned(), dimensions: None };
    // Of the image there is never more than an upload.
    let (from, to) = (scratch.incoming(), ObjectName::Image(ImageKey::random("png")));
    s3.put(&from, &metadata, payload(Bytes::from_static(SAMPLE))).await?;
    let source = s3.head(&from).await?;
    let upload = scratch.upload(s3, &to, &metadata).await?;
    Ok(s3.try_copy(&upload, &from, &source).await?.protection)
}
