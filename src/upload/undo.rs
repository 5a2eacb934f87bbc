//! "Undo unless acknowledged": a multipart upload is aborted unless its holder confirms that it is needed.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::runtime::Handle;

use crate::store::reconcile::{LateEffect, Reconciler};
use crate::store::s3::is_outcome_unknown;
use crate::store::{ImageKey, Metadata, ObjectName, Store, StoreError, Upload};
use crate::tasks::Tasks;
use crate::telemetry::trace;

/// Number of attempts to undo something.
const ATTEMPTS: u32 = 5;
/// Delay before the second attempt. It doubles for each further one.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// A multipart upload that is aborted when this value is dropped, including when its request or task is cancelled.
///
/// The guard is sent inside the value that carries the upload, so that the upload has a guard at every moment.
pub struct UndoOnDrop {
    store: Arc<dyn Store>,
    tasks: Tasks,
    runtime: Handle,
    /// `None` once the guard was disarmed or the upload aborted.
    upload: Option<Upload>,
}

impl UndoOnDrop {
    /// Guards `upload`. The process waits for `tasks` before it exits. Must be called within a runtime.
    pub fn new(store: Arc<dyn Store>, tasks: Tasks, upload: Upload) -> Self {
        UndoOnDrop { store, tasks, runtime: Handle::current(), upload: Some(upload) }
    }

    /// Disarms the guard, because the upload is needed or has ended.
    pub fn disarm(mut self) {
        self.upload = None;
    }

    /// Aborts the upload now and waits until it is aborted. If the store fails, the failure is logged and sweep removes
    /// the upload.
    pub async fn abort(mut self) {
        // The upload stays in place until the call has ended. If this future is dropped before, `drop` aborts the
        // upload.
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

/// A multipart upload that is being created (CreateMultipartUpload).
///
/// If this future is dropped during the call, the call continues on a task, which aborts the new upload. Otherwise the
/// upload's ID would be lost, and the upload could not be aborted.
pub struct Creating {
    store: Arc<dyn Store>,
    tasks: Tasks,
    runtime: Handle,
    /// `None` once the call has ended.
    call: Option<BoxFuture<'static, Result<Upload, StoreError>>>,
}

impl Creating {
    /// Prepares the call of a promotion, which is sent at the first poll. The process waits for `tasks` before it
    /// exits. Must be called within a runtime.
    ///
    /// The reconciler aborts uploads that attempts without an answer may have created.
    pub fn for_promotion(
        store: &Arc<dyn Store>,
        tasks: &Tasks,
        reconciler: &Reconciler,
        key: ImageKey,
        metadata: Metadata,
    ) -> Self {
        let (creates, reconciler) = (Arc::clone(store), reconciler.clone());
        let call = async move {
            let created = creates.create_only_upload(&ObjectName::Image(key.clone()), &metadata).await;
            if created.as_ref().map_or_else(is_outcome_unknown, |created| created.perhaps_others) {
                reconciler.watch(LateEffect::Promotions(key));
            }
            created.map(|created| created.upload)
        };
        Creating::by(store, tasks, call.boxed())
    }

    /// Prepares the call for a `name` that was drawn at random. Uploads that attempts without an answer may have
    /// created are aborted.
    pub fn of_random_name(
        store: &Arc<dyn Store>,
        tasks: &Tasks,
        reconciler: &Reconciler,
        name: ObjectName,
        metadata: Metadata,
    ) -> Self {
        let (creates, tracker, reconciler) = (Arc::clone(store), tasks.clone(), reconciler.clone());
        let call = async move {
            let created = creates.create_only_upload(&name, &metadata).await;
            match &created {
                Ok(created) => reconciler.created(created),
                Err(error) if is_outcome_unknown(error) => {
                    tracker.spawn(trace::carried(async move { reconciler.created_none(&name).await }));
                }
                Err(_) => {}
            }
            created.map(|created| created.upload)
        };
        Creating::by(store, tasks, call.boxed())
    }

    /// Prepares the call for a name that was fixed beforehand: other uploads of it are left alone, because they may be those of
    /// another client. The sweep removes an upload whose creation got no answer.
    pub fn of_fixed_name(store: &Arc<dyn Store>, tasks: &Tasks, name: ObjectName, metadata: Metadata) -> Self {
        let creates = Arc::clone(store);
        Creating::by(store, tasks, async move { creates.create_upload(&name, &metadata).await }.boxed())
    }

    fn by(store: &Arc<dyn Store>, tasks: &Tasks, call: BoxFuture<'static, Result<Upload, StoreError>>) -> Self {
        Creating { store: Arc::clone(store), tasks: tasks.clone(), runtime: Handle::current(), call: Some(call) }
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

/// Aborts an upload with several attempts. Logs the failure if all of them fail.
pub async fn abort(store: &dyn Store, upload: &Upload) {
    if let Err(error) = retry(|| store.abort_upload(upload)).await {
        let error = &error as &dyn std::error::Error;
        tracing::error!(s3_key = %upload.name.key(), error, "multipart upload could not be aborted; sweep removes it");
    }
}

pub async fn retry<F: Future<Output = Result<(), StoreError>>>(mut call: impl FnMut() -> F) -> Result<(), StoreError> {
    let mut delay = RETRY_DELAY;
    for _ in 1..ATTEMPTS {
        if call().await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
    call().await
}
