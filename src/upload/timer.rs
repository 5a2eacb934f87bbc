//! Metrics of how uploads end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::telemetry::metrics::{Metrics, defs};

/// The way in which an image is uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadMethod {
    Form,
    Raw,
    Direct,
    /// In parts, by Uppy's S3 plugin.
    Companion,
    Resumable,
}

impl UploadMethod {
    pub fn name(self) -> &'static str {
        match self {
            UploadMethod::Form => "form",
            UploadMethod::Raw => "raw",
            UploadMethod::Direct => "direct",
            UploadMethod::Companion => "companion",
            UploadMethod::Resumable => "resumable",
        }
    }
}

/// A request extension that records that the request is dropped because of its deadline, not because its client
/// disconnected.
#[derive(Clone, Debug, Default)]
pub struct DeadlineFlag(Arc<AtomicBool>);

impl DeadlineFlag {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metrics {
    /// Records a stored image of `bytes` bytes, whose upload took `duration`.
    pub fn stored(&self, method: UploadMethod, duration: Duration, bytes: u64) {
        self.histogram(&defs::UPLOAD_DURATION, &[method.name()]).record(duration);
        self.histogram(&defs::UPLOAD_SIZE, &[method.name()]).record(bytes as f64);
    }

    /// Records an upload that was aborted.
    pub fn aborted(&self, method: UploadMethod, reason: &str) {
        self.counter(&defs::UPLOADS_ABORTED, &[method.name(), reason]).increment(1);
    }
}

/// Measures one streamed upload, beginning with its request's headers.
pub struct UploadTimer {
    metrics: Metrics,
    method: UploadMethod,
    began: Instant,
    timed_out: DeadlineFlag,
}

impl UploadTimer {
    pub fn new(metrics: &Metrics, method: UploadMethod, timed_out: DeadlineFlag) -> Self {
        UploadTimer { metrics: metrics.clone(), method, began: Instant::now(), timed_out }
    }

    /// Runs an upload. If it fails or is dropped, the reason is counted.
    pub async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let unfinished = Unfinished(Some(self));
        let outcome = work.await;
        unfinished.done();
        if let Err(error) = &outcome {
            self.metrics.aborted(self.method, self.reason(error));
        }
        outcome
    }

    /// Returns the reason why an upload failed with `error`.
    fn reason(&self, error: &Error) -> &'static str {
        match error {
            // A closed connection either ends the body early or drops the request. Which of the two comes first is
            // chance.
            Error::TruncatedBody(_) => self.reason_if_dropped(),
            Error::ClientTooSlow { .. } | Error::BelowMinRate { .. } => "client_too_slow",
            Error::Storage(_) | Error::OutcomeUnknown(_) => "store_failed",
            Error::OverCapacity(_) => "over_capacity",
            Error::Deadline => "deadline",
            error if error.status().is_client_error() => "refused_late",
            _ => "internal",
        }
    }

    /// Returns the reason why the upload's request was dropped.
    fn reason_if_dropped(&self) -> &'static str {
        if self.timed_out.get() {
            "deadline"
        } else if self.metrics.is_cutting_off() {
            "shutdown"
        } else {
            "client_gone"
        }
    }

    /// Records that the upload is stored as an image of `bytes` bytes.
    pub fn stored(self, bytes: u64) {
        self.metrics.stored(self.method, self.began.elapsed(), bytes);
    }

    /// Records that the image was already stored by an earlier upload of the same bytes.
    pub fn repeated(self) {
        self.metrics.counter(&defs::UPLOADS_REPEATED, &[self.method.name()]).increment(1);
    }
}

struct Unfinished<'a>(Option<&'a UploadTimer>);

impl Unfinished<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(timer) = self.0 {
            timer.metrics.aborted(timer.method, timer.reason_if_dropped());
        }
    }
}
