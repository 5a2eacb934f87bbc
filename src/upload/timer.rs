//! How uploads end, in numbers.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::telemetry::metrics::{Metrics, defs};

/// How an image came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadMethod {
    Form,
    Raw,
    Direct,
}

impl UploadMethod {
    pub fn name(self) -> &'static str {
        match self {
            UploadMethod::Form => "form",
            UploadMethod::Raw => "raw",
            UploadMethod::Direct => "direct",
        }
    }
}

/// In a request's extensions: whether it is dropped because its time is over, and not because its client left.
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
    /// An image is stored that was begun at `began`.
    pub fn stored(&self, door: UploadMethod, began: Instant, bytes: u64) {
        self.histogram(&defs::UPLOAD_DURATION, &[door.name()]).record(began.elapsed());
        self.histogram(&defs::UPLOAD_SIZE, &[door.name()]).record(bytes as f64);
    }

    /// An upload was undone.
    pub fn aborted(&self, door: UploadMethod, reason: &str) {
        self.counter(&defs::UPLOADS_ABORTED, &[door.name(), reason]).increment(1);
    }
}

/// Watches one streamed upload from its request's head on.
pub struct UploadTimer {
    metrics: Metrics,
    door: UploadMethod,
    began: Instant,
    timed_out: DeadlineFlag,
}

impl UploadTimer {
    pub fn new(metrics: &Metrics, door: UploadMethod, timed_out: DeadlineFlag) -> Self {
        UploadTimer { metrics: metrics.clone(), door, began: Instant::now(), timed_out }
    }

    /// Runs what must be undone where it does not succeed, and counts why it did not: an error, or being dropped.
    pub async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let unfinished = Unfinished(Some(self));
        let outcome = work.await;
        unfinished.done();
        if let Err(error) = &outcome {
            self.metrics.aborted(self.door, self.reason(error));
        }
        outcome
    }

    /// Why an upload that had begun was undone.
    fn reason(&self, error: &Error) -> &'static str {
        match error {
            // Whether a connection's end is seen here or drops the request is chance.
            Error::TruncatedBody(_) => self.reason_unheard(),
            Error::ClientTooSlow { .. } | Error::BelowMinRate { .. } => "client_too_slow",
            Error::Storage(_) | Error::OutcomeUnknown(_) => "store_failed",
            Error::OverCapacity(_) => "over_capacity",
            Error::Deadline => "deadline",
            error if error.status().is_client_error() => "refused_late",
            _ => "internal",
        }
    }

    /// The same where nobody waits for an answer any more.
    fn reason_unheard(&self) -> &'static str {
        if self.timed_out.get() {
            "deadline"
        } else if self.metrics.is_cutting_off() {
            "shutdown"
        } else {
            "client_gone"
        }
    }

    /// It is an image of this many bytes now.
    pub fn stored(self, bytes: u64) {
        self.metrics.stored(self.door, self.began, bytes);
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
        if let Some(watch) = self.0 {
            watch.metrics.aborted(watch.door, watch.reason_unheard());
        }
    }
}
