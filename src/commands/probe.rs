//! Checks the bucket at start-up, so that a wrong setting is reported in the log before it affects a client.
//!
//! This is the cheap part of `image-store doctor`. It runs in the background and only logs warnings, because the store
//! may be temporarily unreachable, which `/readyz` reports. It requests the bucket (HeadBucket; if that is rejected,
//! one ListObjectsV2 for the reason). Stores other than AWS are also tested for what promotions require: that the
//! service can verify which bytes a copy contains ([`S3Store::try_copy`]). The test creates an object under `incoming/`
//! and an upload that is never completed, and removes both. If the process is killed, a sweep removes them.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::store::reconcile::{LateEffect, Reconciler};
use crate::store::s3::inspect::Greeting;
use crate::store::s3::{CopyProtection, S3Store};
use crate::store::scratch::Scratch;
use crate::store::{CustomMetadata, ImageKey, Metadata, ObjectName, Result, Store};
use crate::upload::parts::payload;

/// S3 rejects requests that were signed with a clock that differs by more than this.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html> (RequestTimeTooSkewed)
pub const SKEW_LIMIT: Duration = Duration::from_secs(15 * 60);

const ADVICE: &str = "run `image-store doctor` with the same settings to see why";
/// The content of the test object. It is not an image, so that it cannot be promoted.
const SAMPLE: &[u8] = b"image-store tests whether direct uploads are safe in this bucket; this object is deleted\n";
/// Timeout of the test.
const TRIAL_LIMIT: Duration = Duration::from_secs(60);
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(30);
/// How long the test may continue at shutdown, because a call that is cut off may take effect after the clean-up.
const GRACE: Duration = Duration::from_secs(2);
/// How long the shutdown waits for the probe.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A probe that may still be running.
pub struct Probe {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Probe {
    /// Stops the probe and waits until its test object and upload are removed.
    pub async fn end(self) {
        self.stop.cancel();
        // After the timeout, a sweep removes the rest.
        let _ = tokio::time::timeout(END_LIMIT, self.task).await;
    }
}

/// Checks the bucket once in the background, after `delay`, and logs warnings. Writes nothing.
pub fn look(s3: Arc<S3Store>, delay: Duration) {
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        warn(&s3.greet().await);
    });
}

/// Checks the bucket once in the background, and tests what promotions require. `reconciler` removes what calls of the test
/// create after it has ended.
pub fn start(s3: Arc<S3Store>, reconciler: Reconciler) -> Probe {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let Some(greeting) = stopped.run_until_cancelled(s3.greet()).await else { return };
        warn(&greeting);
        if greeting.outcome.is_ok() && !s3.is_aws() {
            try_copies(&s3, &reconciler, &stopped).await;
        }
    });
    Probe { stop, task }
}

fn warn(greeting: &Greeting) {
    let skew = greeting.headers.sent_and_received.map(|(sent, received)| distance(sent, received));
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

/// Tests copies, logs a warning if they cannot be verified, and removes what the test has created in any case.
async fn try_copies(s3: &S3Store, reconciler: &Reconciler, stopped: &CancellationToken) {
    let scratch = Scratch::default();
    // The image is never created, because its upload is not completed.
    let (from, to) = (scratch.incoming(), ObjectName::Image(ImageKey::random("png")));
    let cut_off = async {
        stopped.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let trial = tokio::select! {
        trial = tokio::time::timeout(TRIAL_LIMIT, copy_protection(s3, &scratch, &from, &to)) => Some(trial),
        () = cut_off => None,
    };
    let is_complete = matches!(trial, Some(Ok(Ok(_))));
    match trial {
        Some(Ok(Ok(CopyProtection::Nothing))) => tracing::warn!(
            "the store ignores the condition of a copy and does not show what it copied, so direct uploads with a \
             single PUT cannot become images: {ADVICE}"
        ),
        Some(Ok(Ok(protection))) => tracing::debug!(?protection, "the protection of copies was tested"),
        Some(Ok(Err(error))) => {
            let error = &error as &dyn Error;
            tracing::warn!(error, "the safety of direct uploads in this bucket could not be tested: {ADVICE}");
        }
        Some(Err(_)) => tracing::warn!("the test of direct uploads in this bucket timed out: {ADVICE}"),
        None => {}
    }
    let left = tokio::time::timeout(CLEAN_UP_LIMIT, scratch.clear(s3, s3.prefix())).await;
    // A call that failed or was cut off may still take effect.
    if !(is_complete && left.as_ref().is_ok_and(BTreeMap::is_empty)) {
        reconciler.watch(LateEffect::Object(from));
        reconciler.watch(LateEffect::Uploads { name: to, in_use: None });
    }
    for (key, error) in left.into_iter().flatten() {
        tracing::warn!(key, error = &error as &dyn Error, "the probe could not remove an object; retrying");
    }
}

async fn copy_protection(
    s3: &S3Store,
    scratch: &Scratch,
    from: &ObjectName,
    to: &ObjectName,
) -> Result<CopyProtection> {
    let metadata = Metadata::unverified("application/octet-stream", CustomMetadata::new());
    s3.put(from, &metadata, payload(Bytes::from_static(SAMPLE))).await?;
    let source = s3.head(from).await?;
    let upload = scratch.upload(s3, to, &metadata).await?;
    Ok(s3.try_copy(&upload, from, &source).await?.protection)
}
