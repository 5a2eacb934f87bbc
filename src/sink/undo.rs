//! "Undo unless acknowledged": what was begun in the store is aborted, unless whoever holds it says that it is wanted.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::runtime::Handle;

use crate::store::reconcile::{LateEffect, Reconciler};
use crate::store::s3::leaves_open;
use crate::store::{Metadata, Name, Store, StoreError, Upload};
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

/// A promotion's multipart upload that is being begun (CreateMultipartUpload).
///
/// Dropped in the middle of the call, it goes on by itself, and aborts what the call has begun: an upload whose id nothing
/// knows could not be aborted. What attempts without an answer may have begun is left to the reconciler.
pub struct Creating {
    store: Arc<dyn Store>,
    tasks: Tasks,
    runtime: Handle,
    /// Empty once it has ended.
    call: Option<BoxFuture<'static, Result<Upload, StoreError>>>,
}

impl Creating {
    /// `tasks` is waited for when the process ends. Must be called within a runtime, and sends nothing before it is polled.
    pub fn new(
        store: &Arc<dyn Store>,
        reconciler: &Reconciler,
        tasks: &Tasks,
        image: Name,
        metadata: Metadata,
    ) -> Self {
        let (store, begun, reconciler) = (Arc::clone(store), Arc::clone(store), reconciler.clone());
        let call = async move {
            let created = begun.create_only_upload(&image, &metadata).await;
            if created.as_ref().map_or_else(leaves_open, |created| created.perhaps_others) {
                reconciler.watch(LateEffect::Promotions(image));
            }
            created.map(|created| created.upload)
        };
        let call = call.boxed();
        Creating { store, tasks: tasks.clone(), runtime: Handle::current(), call: Some(call) }
    }
}

impl Future for Creating {
    type Output = Result<(Upload, UndoOnDrop), StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        let created = ready!(call.as_mut().poll(cx));
        self.call = None;
        let undo = |upload: &Upload| UndoOnDrop {
            store: Arc::clone(&self.store),
            tasks: self.tasks.clone(),
            runtime: self.runtime.clone(),
            upload: Some(upload.clone()),
        };
        Poll::Ready(created.map(|upload| (upload.clone(), undo(&upload))))
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        let store = Arc::clone(&self.store);
        let undo = async move {
            if let Ok(upload) = call.await {
                abort(store.as_ref(), &upload).await;
            }
        };
        self.tasks.spawn_on(trace::carried(undo), &self.runtime);
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
