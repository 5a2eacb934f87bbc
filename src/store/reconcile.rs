//! Finds and undoes the effects of calls whose answers were lost.
//!
//! A call that the caller has given up may still take effect: the store executed it but answered too late, or a proxy
//! delayed it. So the reconciler checks for the effect at once and again later, and undoes it. It does this only for
//! keys that this process has drawn at random, which nothing else writes. Under a key that was fixed beforehand, the
//! effect may be the success of another attempt and is never undone (callers for such keys use the [`Store`] directly).
//! The uploads of a promotion are undone when no promotion can complete one any more.
//!
//! All effects are in one `queue`, ordered by their next check, and one task checks them.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use self::queue::{Queue, Watched};
use super::{CreatedUpload, ImageKey, Metadata, ObjectName, Result, Store, StoreError, Upload};

mod queue;
#[cfg(test)]
mod tests;

/// Number of checks for an effect after the first one, and the delay before the next check, which doubles. The last
/// check is 17 minutes after the call was given up.
const MAX_CHECKS: u32 = 10;
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// How long checks are repeated while the store cannot be reached.
const RETRY_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of watched effects. Further effects are only checked at once. Each one is an entry of a few hundred
/// bytes.
const MAX_WATCHED: usize = 100_000;
/// Number of concurrent checks.
const CONCURRENT_CHECKS: usize = 16;

/// An effect that a call may still have.
#[derive(Clone, Debug)]
pub enum LateEffect {
    /// The object of a failed upload appears.
    Object(ObjectName),
    /// Multipart uploads with unknown IDs appear. `in_use` is the ID of the one that is in use.
    Uploads { name: ObjectName, in_use: Option<String> },
    /// Multipart uploads appear that promotions of this image have created. They cannot be distinguished from new ones of
    /// other promotions and, under a key that was fixed beforehand, of streamed uploads. But they never receive a part,
    /// because no client knows their IDs.
    Promotions(ImageKey),
}

/// Checks for late effects and undoes them. All clones share one queue.
#[derive(Clone)]
pub struct Reconciler(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    queue: Mutex<Queue>,
    /// Wakes the scheduler after the queue was changed by others.
    changed: Notify,
    /// Whether a scheduler is running. Changed only while the queue is locked.
    scheduled: watch::Sender<bool>,
    looks: Semaphore,
}

impl Reconciler {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Reconciler(Arc::new(Shared {
            store,
            queue: Mutex::default(),
            changed: Notify::new(),
            scheduled: watch::Sender::new(false),
            looks: Semaphore::new(CONCURRENT_CHECKS),
        }))
    }

    /// Creates a multipart upload for a key that was drawn at random. If answers were lost, further uploads of the key
    /// may exist, and they are aborted. After an error with unknown outcome, the caller calls
    /// [`Reconciler::created_none`].
    ///
    /// # Errors
    /// Returns the errors of [`Store::create_upload`].
    pub async fn create_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<Upload> {
        let created = self.0.store.create_only_upload(name, metadata).await?;
        self.created(&created);
        Ok(created.upload)
    }

    /// Aborts further uploads that the calls may have created.
    pub fn created(&self, created: &CreatedUpload) {
        if created.perhaps_others {
            let Upload { name, id } = created.upload.clone();
            self.watch_after(Duration::ZERO, LateEffect::Uploads { name, in_use: Some(id) });
        }
    }

    /// Aborts uploads that a failed [`Reconciler::create_upload`] may have created, now and if they appear later.
    pub async fn created_none(&self, name: &ObjectName) {
        let effect = LateEffect::Uploads { name: name.clone(), in_use: None };
        if let Err(error) = self.0.look(&effect).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(s3_key = %name.key(), error, "uploads of an unanswered call could not be listed; retrying");
        }
        self.watch(effect);
    }

    /// Undoes the effect if it appears from now on.
    pub fn watch(&self, effect: LateEffect) {
        self.watch_after(FIRST_DELAY, effect);
    }

    /// Checks all effects once more now, and again as long as a check fails or leaves its effect open. Waits until that is
    /// done. Called before the process exits, with a timeout.
    pub async fn conclude(&self) {
        let _concluding = Concluding::begin(&self.0);
        // Fails only if the sender was dropped, and `self` owns it.
        let _ = self.0.scheduled.subscribe().wait_for(|scheduled| !scheduled).await;
    }

    fn watch_after(&self, pause: Duration, effect: LateEffect) {
        let mut queue = self.0.queue();
        let now = Instant::now();
        if let Err(full) = queue.add(Watched::new(effect, pause, now), now) {
            drop(queue);
            full.log();
            return;
        }
        match self.0.scheduled.send_replace(true) {
            true => self.0.changed.notify_one(),
            false => drop(tokio::spawn(queue::schedule(Arc::clone(&self.0)))),
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    async fn look(&self, effect: &LateEffect) -> Result<Checked> {
        let _turn = self.looks.acquire().await;
        effect.undo(self.store.as_ref()).await
    }
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    /// No effect exists now.
    Clear,
    /// An effect that exists may belong to another call that is running. It can be undone after that call.
    Open,
}

/// As long as this value exists, the checks are the last ones.
struct Concluding<'a>(&'a Shared);

impl<'a> Concluding<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.queue().conclude(Instant::now());
        shared.changed.notify_one();
        Concluding(shared)
    }
}

impl Drop for Concluding<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.concluding -= 1;
        queue.left().for_each(LateEffect::log_unwatched);
    }
}

impl LateEffect {
    fn key(&self) -> &ImageKey {
        match self {
            LateEffect::Object(name) | LateEffect::Uploads { name, .. } => name.key(),
            LateEffect::Promotions(key) => key,
        }
    }

    async fn undo(&self, store: &dyn Store) -> Result<Checked> {
        match self {
            LateEffect::Object(name) => delete(store, name).await?,
            LateEffect::Uploads { name, in_use } => abort_all_but(store, name, in_use.as_deref()).await?,
            LateEffect::Promotions(key) if is_promotable(store, key).await? => return Ok(Checked::Open),
            LateEffect::Promotions(key) => abort_empty(store, &ObjectName::Image(key.clone())).await?,
        }
        Ok(Checked::Clear)
    }

    /// Only for objects: a sweep finds unfinished uploads, but no objects outside `incoming/`.
    fn is_worth_waiting_for(&self, began: Instant) -> bool {
        matches!(self, LateEffect::Object(_)) && began.elapsed() < RETRY_PERIOD
    }

    fn log_end(&self, looked: &Result<Checked>, settled: bool) {
        let s3_key = self.key();
        match looked {
            Err(error) => {
                let error = error as &dyn std::error::Error;
                tracing::error!(%s3_key, error, "the store could not be checked for late effects");
            }
            Ok(_) if !settled => self.log_unwatched(),
            Ok(_) => {}
        }
    }

    fn log_unwatched(&self) {
        tracing::warn!(s3_key = %self.key(), "stopped watching for late effects of an unanswered call");
    }
}

/// Deletes an object if it exists. In a versioned bucket, deleting a missing object would create a delete marker.
async fn delete(store: &dyn Store, name: &ObjectName) -> Result<()> {
    if store.find(name).await?.is_none() {
        return Ok(());
    }
    store.delete(name).await?;
    tracing::warn!(s3_key = %name.key(), "deleted an object that appeared after its upload had failed");
    Ok(())
}

/// Whether a promotion may still create the image: the image does not exist, but the uploaded object does.
async fn is_promotable(store: &dyn Store, key: &ImageKey) -> Result<bool> {
    let incoming = store.find(&ObjectName::Incoming(key.clone())).await?;
    Ok(incoming.is_some_and(|incoming| incoming.marker.is_none())
        && store.find(&ObjectName::Image(key.clone())).await?.is_none())
}

/// Aborts all uploads of the name except the one that is in use.
async fn abort_all_but(store: &dyn Store, name: &ObjectName, in_use: Option<&str>) -> Result<()> {
    for upload in store.uploads_of(name).await? {
        if in_use != Some(&upload.id) {
            abort(store, &upload).await?;
        }
    }
    Ok(())
}

/// Aborts the uploads of the name that have no parts.
async fn abort_empty(store: &dyn Store, name: &ObjectName) -> Result<()> {
    for upload in store.uploads_of(name).await? {
        match store.list_parts(&upload).await {
            Ok(parts) if parts.is_empty() => abort(store, &upload).await?,
            Ok(_) | Err(StoreError::NoSuchUpload) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn abort(store: &dyn Store, upload: &Upload) -> Result<()> {
    store.abort_upload(upload).await?;
    tracing::warn!(s3_key = %upload.name.key(), "aborted a multipart upload of a call whose answer was lost");
    Ok(())
}
