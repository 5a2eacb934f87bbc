//! Looking again for what calls may have done whose answer was lost.
//!
//! A call that was given up may still take effect: the store had it and answered too late, or a proxy held it back. So
//! the effect is looked for at once and again later, and undone. Only under keys that this process has drawn at random,
//! which nothing else writes: under a key that was fixed beforehand the effect may be another attempt's success, and is
//! never undone (callers for such keys use the [`Store`] itself). The uploads of a promotion are undone once no promotion can
//! complete one any more.
//!
//! A PutObject that succeeded at a later attempt leaves the earlier ones open, too. While its object is there they do
//! nothing, because they have If-None-Match. Once it is deleted they could bring it back: so its name is remembered for as
//! long as an effect is looked for, and its deletion begins the watch. Only in this process: a deletion that another
//! process is asked for within those minutes begins none.
//!
//! All effects wait in one [`queue`], in the order of their next looks, and one task looks for them.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use self::queue::{Queue, Watched};
use self::recent::Recent;
use super::{CreatedUpload, ImageKey, Metadata, ObjectName, Result, Store, Upload};

mod queue;
mod recent;
#[cfg(test)]
mod tests;

/// How often an effect is looked for after the first time, and the pause before the next look; it doubles. The last look is
/// 17 minutes after the call was given up.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);
const WATCH_TIME: Duration = Duration::from_secs(17 * 60);
/// A store that cannot be asked is asked again for this long.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Effects that are looked for at one time; what is beyond that is only looked for at once. Each is an entry of a few hundred
/// bytes.
const MAX_WATCHED: usize = 100_000;
/// Looks at one time.
const CONCURRENT_LOOKS: usize = 16;

/// What a call may still do.
#[derive(Clone, Debug)]
pub enum LateEffect {
    /// An object appears whose upload has failed.
    Object(ObjectName),
    /// Multipart uploads appear whose ids are unknown; `in_use` is the one that is known.
    Uploads { name: ObjectName, in_use: Option<String> },
    /// Multipart uploads appear that promotions of this image have created. They cannot be told from those of a promotion
    /// that is under way in another process.
    Promotions(ImageKey),
}

/// Looks for late effects and undoes them. The clones are one.
#[derive(Clone)]
pub struct Reconciler(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    queue: Mutex<Queue>,
    /// Names whose objects may be written once more.
    rewritten: Mutex<Recent>,
    /// The queue has changed in a way that the scheduler does not know of.
    changed: Notify,
    /// Whether there is a scheduler. Changed only under the queue's lock.
    scheduled: watch::Sender<bool>,
    looks: Semaphore,
}

impl Reconciler {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Reconciler(Arc::new(Shared {
            store,
            queue: Mutex::default(),
            rewritten: Mutex::new(Recent::new(MAX_WATCHED, WATCH_TIME)),
            changed: Notify::new(),
            scheduled: watch::Sender::new(false),
            looks: Semaphore::new(CONCURRENT_LOOKS),
        }))
    }

    /// Starts a multipart upload of a key drawn at random. If answers were lost, further uploads of the key may exist:
    /// those are aborted. After an error that leaves the effect open the caller calls [`Reconciler::created_none`].
    ///
    /// # Errors
    /// As [`Store::create_upload`].
    pub async fn create_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<Upload> {
        let created = self.0.store.create_only_upload(name, metadata).await?;
        self.created(&created);
        Ok(created.upload)
    }

    /// Aborts what else the calls may have created that created an upload.
    pub fn created(&self, created: &CreatedUpload) {
        if created.perhaps_others {
            let Upload { name, id } = created.upload.clone();
            self.watch_after(Duration::ZERO, LateEffect::Uploads { name, in_use: Some(id) });
        }
    }

    /// Aborts what [`Reconciler::create_upload`] may have created although it failed: now, and if it appears later.
    pub async fn created_none(&self, name: &ObjectName) {
        let effect = LateEffect::Uploads { name: name.clone(), in_use: None };
        if let Err(error) = self.0.look(&effect).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(s3_key = %name.key(), error, "uploads that may have been created could not be listed yet");
        }
        self.watch(effect);
    }

    /// Undoes the effect if it appears from now on.
    pub fn watch(&self, effect: LateEffect) {
        self.watch_after(PAUSE, effect);
    }

    /// An object of a key drawn at random was written, and by an earlier attempt it may be written again.
    pub fn may_be_rewritten(&self, name: ObjectName) {
        self.0.rewritten().insert(name, Instant::now());
    }

    /// An object was deleted for good: what may still bring it back is looked for.
    pub fn deleted(&self, name: &ObjectName) {
        if self.0.rewritten().remove(name, Instant::now()) {
            self.watch(LateEffect::Object(name.clone()));
        }
    }

    /// Has everything looked for once more now, and waits until that is done: for the end of the process.
    pub async fn conclude(&self) {
        let _concluding = Concluding::begin(&self.0);
        // An error only if the sender is gone, which `self` has.
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

    fn rewritten(&self) -> MutexGuard<'_, Recent> {
        self.rewritten.lock()
    }

    async fn look(&self, effect: &LateEffect) -> Result<()> {
        let _turn = self.looks.acquire().await;
        effect.undo(self.store.as_ref()).await
    }
}

/// While it lives, every effect is due.
struct Concluding<'a>(&'a Shared);

impl<'a> Concluding<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.queue().concluding += 1;
        shared.changed.notify_one();
        Concluding(shared)
    }
}

impl Drop for Concluding<'_> {
    fn drop(&mut self) {
        self.0.queue().concluding -= 1;
    }
}

impl LateEffect {
    fn key(&self) -> &ImageKey {
        match self {
            LateEffect::Object(name) | LateEffect::Uploads { name, .. } => name.key(),
            LateEffect::Promotions(key) => key,
        }
    }

    async fn undo(&self, store: &dyn Store) -> Result<()> {
        match self {
            LateEffect::Object(name) => delete(store, name).await,
            LateEffect::Uploads { name, in_use } => abort(store, name, in_use.as_deref()).await,
            LateEffect::Promotions(key) if is_promotable(store, key).await? => Ok(()),
            LateEffect::Promotions(key) => abort(store, &ObjectName::Image(key.clone()), None).await,
        }
    }

    /// A sweep finds unfinished uploads, and never an object outside `incoming/`.
    fn is_worth_waiting_for(&self, began: Instant) -> bool {
        matches!(self, LateEffect::Object(_)) && began.elapsed() < PATIENCE
    }

    fn log_end(&self, looked: &Result<()>, settled: bool) {
        let s3_key = self.key();
        match looked {
            Err(error) => {
                let error = error as &dyn std::error::Error;
                tracing::error!(%s3_key, error, "what a lost call may have left could not be looked for");
            }
            Ok(()) if !settled => {
                tracing::warn!(%s3_key, "what a lost call may do late is not looked for any more");
            }
            Ok(()) => {}
        }
    }
}

/// Looks before it deletes: in a bucket with versions, deleting what is not there leaves a marker.
async fn delete(store: &dyn Store, name: &ObjectName) -> Result<()> {
    if store.find(name).await?.is_none() {
        return Ok(());
    }
    store.delete(name).await?;
    tracing::warn!(s3_key = %name.key(), "an object was deleted that appeared after its upload had failed");
    Ok(())
}

/// Whether a promotion may still create the image: it does not exist yet, and the object that it is made of does.
async fn is_promotable(store: &dyn Store, key: &ImageKey) -> Result<bool> {
    let incoming = store.find(&ObjectName::Incoming(key.clone())).await?;
    Ok(incoming.is_some_and(|incoming| incoming.marker.is_none())
        && store.find(&ObjectName::Image(key.clone())).await?.is_none())
}

async fn abort(store: &dyn Store, name: &ObjectName, in_use: Option<&str>) -> Result<()> {
    for upload in store.uploads_of(name).await? {
        if in_use != Some(&upload.id) {
            store.abort_upload(&upload).await?;
            tracing::warn!(s3_key = %name.key(), "an upload was aborted that was created by a call whose answer was lost");
        }
    }
    Ok(())
}
