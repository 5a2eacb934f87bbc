//! Looking again for what calls may have done whose answer was lost.
//!
//! A call that was given up may still take effect: the store had it and answered too late, or a proxy held it back. So
//! the effect is looked for at once and again later, and undone. Only under keys that this process has drawn at random,
//! which nothing else writes: under a key that was fixed beforehand the effect may be another attempt's success, and is
//! never undone (callers for such keys use the [`Store`] itself). Uploads of a direct upload's image are undone once nobody
//! can want them any more.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{ImageKey, Metadata, Name, ObjectInfo, Result, Store, StoreError, Upload};
use crate::telemetry::trace;

/// How often an effect is looked for after the first time, and the pause before the next look; it doubles. The last look is
/// 17 minutes after the call was given up.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);
/// A store that cannot be asked is asked again for this long.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Effects that are looked for at one time; what is beyond that is only looked for at once. Each is a small task.
const WATCHED: usize = 1_000;
/// Looks at one time.
const CONCURRENT_LOOKS: usize = 16;

/// What a call may still do.
#[derive(Clone, Debug)]
pub enum LateEffect {
    /// An object appears whose upload has failed.
    Object(Name),
    /// Multipart uploads appear whose ids are unknown; `in_use` is the one that is known.
    Uploads { name: Name, in_use: Option<String> },
    /// Multipart uploads appear by which a direct upload was to become this image. Nothing tells them from those of another
    /// promotion, which may be under way in another process.
    Promotions(Name),
}

/// Looks for late effects and undoes them. The clones are one.
#[derive(Clone)]
pub struct Reconciler {
    store: Arc<dyn Store>,
    tasks: TaskTracker,
    watched: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    /// How many callers wait for the end of all tasks.
    concluding: watch::Sender<usize>,
}

impl Reconciler {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Reconciler {
            store,
            tasks: TaskTracker::new(),
            watched: Arc::new(Semaphore::new(WATCHED)),
            looks: Arc::new(Semaphore::new(CONCURRENT_LOOKS)),
            concluding: watch::Sender::default(),
        }
    }

    /// Starts a multipart upload of a key drawn at random. If answers were lost, further uploads of the key may exist:
    /// those are aborted. After an error that leaves the effect open the caller calls [`Reconciler::created_none`].
    ///
    /// # Errors
    /// As [`Store::create_upload`].
    pub async fn create_upload(&self, name: &Name, metadata: &Metadata) -> Result<Upload> {
        let created = self.store.create_only_upload(name, metadata).await?;
        if created.perhaps_others {
            let in_use = Some(created.upload.id.clone());
            self.look_from(Duration::ZERO, LateEffect::Uploads { name: name.clone(), in_use });
        }
        Ok(created.upload)
    }

    /// Aborts what [`Reconciler::create_upload`] may have created although it failed: now, and if it appears later.
    pub async fn created_none(&self, name: &Name) {
        let effect = LateEffect::Uploads { name: name.clone(), in_use: None };
        if let Err(error) = self.look(&effect).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(s3_key = %name.key(), error, "uploads that may have been created could not be listed yet");
        }
        self.watch(effect);
    }

    /// Undoes the effect if it appears from now on.
    pub fn watch(&self, effect: LateEffect) {
        self.look_from(PAUSE, effect);
    }

    /// Has everything looked for once more now, and waits until that is done: for the end of the process.
    pub async fn conclude(&self) {
        let _concluding = Concluding::begin(&self.concluding);
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    fn look_from(&self, pause: Duration, effect: LateEffect) {
        let Ok(place) = Arc::clone(&self.watched).try_acquire_owned() else {
            tracing::error!(s3_key = %effect.name().key(), "too many lost calls: what this one may do late is not looked for");
            return;
        };
        let reconciler = self.clone();
        self.tasks.spawn(trace::carried(async move {
            reconciler.look_again(&effect, pause).await;
            drop(place);
        }));
    }

    async fn look_again(&self, effect: &LateEffect, mut pause: Duration) {
        let began = Instant::now();
        let mut concluding = self.concluding.subscribe();
        for look in 1.. {
            // An error only if the sender is gone, which `self` has.
            let concluded = tokio::time::timeout(pause, concluding.wait_for(|waiting| *waiting > 0)).await.is_ok();
            let looked = self.look(effect).await;
            let settled = look >= LOOKS && (looked.is_ok() || !effect.is_worth_waiting_for(began));
            if concluded || settled {
                return effect.log_end(&looked, settled);
            }
            pause = if look < LOOKS { (pause * 2).max(PAUSE) } else { pause };
        }
    }

    async fn look(&self, effect: &LateEffect) -> Result<()> {
        let _turn = self.looks.acquire().await;
        effect.undo(self.store.as_ref()).await
    }
}

/// While it lives, tasks do not pause.
struct Concluding<'a>(&'a watch::Sender<usize>);

impl<'a> Concluding<'a> {
    fn begin(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Concluding(waiting)
    }
}

impl Drop for Concluding<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl LateEffect {
    fn name(&self) -> &Name {
        match self {
            LateEffect::Object(name) | LateEffect::Uploads { name, .. } | LateEffect::Promotions(name) => name,
        }
    }

    async fn undo(&self, store: &dyn Store) -> Result<()> {
        match self {
            LateEffect::Object(name) => delete(store, name).await,
            LateEffect::Uploads { name, in_use } => abort(store, name, in_use.as_deref()).await,
            LateEffect::Promotions(image) if is_promotable(store, image.key()).await? => Ok(()),
            LateEffect::Promotions(image) => abort(store, image, None).await,
        }
    }

    /// A sweep finds unfinished uploads, and never an object outside `incoming/`.
    fn is_worth_waiting_for(&self, began: Instant) -> bool {
        matches!(self, LateEffect::Object(_)) && began.elapsed() < PATIENCE
    }

    fn log_end(&self, looked: &Result<()>, settled: bool) {
        let s3_key = self.name().key();
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
async fn delete(store: &dyn Store, name: &Name) -> Result<()> {
    if find(store, name).await?.is_none() {
        return Ok(());
    }
    store.delete(name).await?;
    tracing::warn!(s3_key = %name.key(), "an object was deleted that appeared after its upload had failed");
    Ok(())
}

/// Whether a promotion may still make the image: it is not there, and what it is made of is.
async fn is_promotable(store: &dyn Store, key: &ImageKey) -> Result<bool> {
    Ok(find(store, &Name::Incoming(key.clone())).await?.is_some_and(|incoming| incoming.marker.is_none())
        && find(store, &Name::Image(key.clone())).await?.is_none())
}

async fn find(store: &dyn Store, name: &Name) -> Result<Option<ObjectInfo>> {
    match store.head(name).await {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn abort(store: &dyn Store, name: &Name, in_use: Option<&str>) -> Result<()> {
    for upload in store.uploads_of(name).await? {
        if in_use != Some(&upload.id) {
            store.abort_upload(&upload).await?;
            tracing::warn!(s3_key = %name.key(), "an upload was aborted that was created by a call whose answer was lost");
        }
    }
    Ok(())
}
