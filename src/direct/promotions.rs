//! The complete and abort operations that are running in this process.
//!
//! Each runs to its end on a task of its own, even if its client has disconnected or received a 202. At most one runs
//! per key. Concurrent requests for the same operation share it.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::layout::DirectUpload;
use super::promote::Verified;
use super::verify::{HasWaiters, Verifier};
use crate::error::Error;
use crate::store::{ImageKey, ObjectInfo};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{Metrics, defs};
use crate::telemetry::trace;
use crate::upload::timer::UploadMethod;

/// Maximum number of concurrent operations. They outlive their connections, so no other limit applies to them.
const MAX_RUNNING: usize = 1_024;

/// The trigger of the verification of a direct upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A request of the client.
    Complete,
    /// An S3 event notification.
    Event,
}

/// The result of an operation, shared by all callers that waited for it.
pub type Outcome<T> = Result<T, Arc<Error>>;

/// Completes and aborts direct uploads, one operation per key at a time.
#[derive(Clone)]
pub struct Promotions {
    verifier: Verifier,
    running: Arc<Mutex<HashMap<ImageKey, Running>>>,
    tasks: Tasks,
    metrics: Metrics,
    stop: CancellationToken,
}

#[derive(Clone, PartialEq, Eq)]
enum Work {
    Complete(DirectUpload),
    Abort(DirectUpload),
}

struct Running {
    work: Work,
    ended: Ended,
}

/// Sends the result once. It is dropped without a result if the task panics. The receivers are the waiting callers.
type Ended = Arc<watch::Sender<Option<Outcome<Image>>>>;

/// `None` after an abort.
type Image = Option<ObjectInfo>;

/// A caller that waits for the result of a running operation.
struct Waiting {
    work: Work,
    outcome: watch::Receiver<Option<Outcome<Image>>>,
}

impl Waiting {
    async fn outcome(mut self) -> Outcome<Image> {
        let outcome = self.outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        outcome.ok().flatten().unwrap_or_else(|| Err(Arc::new(Error::Internal("a promotion has no result".into()))))
    }
}

impl Promotions {
    /// The process waits for `tasks` before it exits.
    pub fn new(verifier: Verifier, tasks: Tasks, metrics: Metrics) -> Self {
        Promotions { verifier, running: Arc::default(), tasks, metrics, stop: CancellationToken::new() }
    }

    /// Completes an upload, or waits for the same operation if it is already running. Dropping the future does not stop
    /// the operation.
    pub async fn complete(&self, upload: DirectUpload) -> Outcome<ObjectInfo> {
        let image = self.run(Work::Complete(upload)).await?;
        image.ok_or_else(|| Arc::new(Error::Internal("a promotion ended without an image".into())))
    }

    /// Aborts an upload and removes its data, after a running complete of the same key has ended.
    pub async fn abort(&self, upload: DirectUpload) -> Outcome<()> {
        self.run(Work::Abort(upload)).await.map(drop)
    }

    async fn run(&self, work: Work) -> Outcome<Image> {
        if let Some(earlier) = self.earlier(work.key()) {
            let same = earlier.work == work;
            let outcome = earlier.outcome().await;
            if same && !is_outdated(&outcome) {
                return outcome;
            }
        }
        loop {
            let waiting = self.join_or_start(&work).ok_or_else(|| Arc::new(Error::OverCapacity(None)))?;
            let same = waiting.work == work;
            let outcome = waiting.outcome().await;
            if same {
                return outcome;
            }
        }
    }

    fn earlier(&self, key: &ImageKey) -> Option<Waiting> {
        self.lock().get(key).map(Running::join)
    }

    /// Returns `None` if the maximum number of operations is running.
    fn join_or_start(&self, work: &Work) -> Option<Waiting> {
        let mut running = self.lock();
        if let Some(running) = running.get(work.key()) {
            return Some(running.join());
        }
        if running.len() >= MAX_RUNNING {
            return None;
        }
        let started = Running { work: work.clone(), ended: Arc::new(watch::Sender::new(None)) };
        let waiting = started.join();
        self.tasks.spawn_detached(trace::carried(self.clone().work(work.clone(), Arc::clone(&started.ended))));
        running.insert(work.key().clone(), started);
        Some(waiting)
    }

    async fn work(self, work: Work, ended: Ended) {
        // Removed even if the task panics, so that the next caller starts a new operation.
        let entry = Entry { running: &self.running, key: work.key() };
        let outcome = tokio::select! {
            outcome = self.run_to_the_end(&work, &ended) => outcome,
            // Dropping the operation aborts its upload.
            () = self.stop.cancelled() => Err(Error::NotReady { reason: "it is stopping", source: None }),
        };
        // Removed first: a caller that arrives from now on must not receive this older result.
        drop(entry);
        ended.send_replace(Some(outcome.map_err(Arc::new)));
    }

    async fn run_to_the_end(&self, work: &Work, ended: &Ended) -> Result<Image, Error> {
        match work {
            Work::Complete(upload) => self.promote(upload, &|| !ended.is_closed()).await.map(Some),
            Work::Abort(upload) => self.undo(upload).await.map(|()| None),
        }
    }

    /// Stops all running operations at shutdown. Uploads that they have created are aborted on the tracked tasks.
    pub fn cut_off(&self) {
        self.stop.cancel();
    }

    async fn promote(&self, upload: &DirectUpload, has_waiters: HasWaiters<'_>) -> Result<ObjectInfo, Error> {
        let began = Instant::now();
        let verified = self.verifier.complete(upload, has_waiters).await;
        count(&self.metrics, Trigger::Complete, upload.method(), began, verified.as_ref());
        verified.map(|verified| verified.image)
    }

    async fn undo(&self, upload: &DirectUpload) -> Result<(), Error> {
        self.verifier.abort(upload).await?;
        self.metrics.aborted(upload.method(), "requested");
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ImageKey, Running>> {
        self.running.lock()
    }
}

/// Counts a verification that began at `began`.
pub fn count(
    metrics: &Metrics,
    trigger: Trigger,
    method: UploadMethod,
    began: Instant,
    verified: Result<&Verified, &Error>,
) {
    let trigger = match trigger {
        Trigger::Complete => "complete",
        Trigger::Event => "event",
    };
    let outcome = match verified {
        Ok(Verified { new: true, .. }) => "promoted",
        Ok(_) => "already_there",
        Err(error) => error.code(),
    };
    metrics.counter(&defs::PROMOTIONS, &[trigger, outcome]).increment(1);
    if let Ok(Verified { image, new: true }) = verified {
        metrics.stored(method, began.elapsed(), image.size);
    }
}

/// Whether the result of an operation that began before its caller arrived may be outdated: it may have checked too
/// early, or failed temporarily, for example because the process was frozen during its call.
fn is_outdated(outcome: &Outcome<Image>) -> bool {
    outcome.as_ref().is_err_and(|error| {
        matches!(
            **error,
            Error::NotFound | Error::PartsMissing { .. } | Error::PartsUnexpected { .. } | Error::Storage(_)
        )
    })
}

impl Work {
    fn key(&self) -> &ImageKey {
        match self {
            Work::Complete(upload) | Work::Abort(upload) => &upload.key,
        }
    }
}

impl Running {
    fn join(&self) -> Waiting {
        Waiting { work: self.work.clone(), outcome: self.ended.subscribe() }
    }
}

/// The entry of an operation in the table of running operations, which is removed when this value is dropped.
struct Entry<'a> {
    running: &'a Mutex<HashMap<ImageKey, Running>>,
    key: &'a ImageKey,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.running.lock().remove(self.key);
    }
}
