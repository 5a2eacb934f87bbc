//! "Undo unless acknowledged": what was begun in the store is aborted, unless whoever holds it says that it is wanted.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

use crate::store::{Store, StoreError, Upload};
use crate::tasks::Tasks;
use crate::telemetry::trace;

/// Attempts to undo something, and the pause before the second; it doubles.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// A multipart upload that is aborted when this is dropped, also by a request or a task that is cut off.
///
/// It travels with the upload, inside the value, so that there is no moment at which nothing would abort it.
pub struct UndoOnDrop {
    store: Arc<dyn Store>,
    tasks: Tasks,
    runtime: Handle,
    /// Empty once it was disarmed or aborted.
    upload: Option<Upload>,
}

impl UndoOnDrop {
    /// `tasks` is waited for when the process ends. Must be called within a runtime.
    pub fn new(store: Arc<dyn Store>, tasks: Tasks, upload: Upload) -> Self {
        UndoOnDrop { store, tasks, runtime: Handle::current(), upload: Some(upload) }
    }

    /// The upload is wanted, or over: nothing is aborted any more.
    pub fn disarm(mut self) {
        self.upload = None;
    }

    /// Aborts the upload now. It is over when this returns, unless the store fails: then that is logged, and sweep removes it.
    pub async fn abort(mut self) {
        // Not taken before the call has ended: a caller that is dropped meanwhile leaves it to `drop`.
        if let Some(upload) = &self.upload {
            abort(self.store.as_ref(), upload).await;
        }
        self.upload = None;
    }
}

impl Drop for UndoOnDrop {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let store = Arc::clone(&self.store);
        let abort = async move { abort(store.as_ref(), &upload).await };
        self.tasks.spawn_on(trace::carried(abort), &self.runtime);
    }
}

/// Aborts an upload, with a few attempts. A failure is logged.
pub(super) async fn abort(store: &dyn Store, upload: &Upload) {
    if let Err(error) = retry(|| store.abort_upload(upload)).await {
        let error = &error as &dyn std::error::Error;
        tracing::error!(s3_key = %upload.name.key(), error, "an upload could not be aborted; sweep removes it");
    }
}

pub(super) async fn retry<F: Future<Output = Result<(), StoreError>>>(
    mut call: impl FnMut() -> F,
) -> Result<(), StoreError> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        if call().await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    call().await
}
