//! Starts uploads, and knows of all that are not over yet.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::budget::Budget;
use super::parts::PartCutter;
use super::spill::Spill;
use super::task::{Ownership, UploadTask};
use super::turns::Turns;
use super::writer::{AdmittedUpload, UploadWriter};
use crate::config;
use crate::error::{Error, Result};
use crate::store::reconcile::Reconciler;
use crate::store::{ImageKey, Metadata, ObjectName, Store};
use crate::tasks::Tasks;
use crate::telemetry::trace;

/// Starts uploads, and knows of all that are not over yet.
#[derive(Clone)]
pub struct UploadManager {
    store: Arc<dyn Store>,
    reconciler: Reconciler,
    budget: Arc<Budget>,
    patience: Option<Duration>,
    tasks: Tasks,
    files: Arc<Semaphore>,
    turns: Turns,
}

/// Parts in files that are sent at once, of all uploads together. They wait for each other's calls, which have timeouts.
const FILES_AT_ONCE: usize = 64;

impl UploadManager {
    /// `spill` is where parts go that find no memory.
    pub fn new(store: Arc<dyn Store>, config: &config::Upload, spill: Option<Spill>) -> Self {
        let spill = spill.map(|spill| (config.spill_budget, spill.limited_to(config.spill_files)));
        let budget = Budget::new(config.memory_for_parts(), spill, config.part_size, config.part_concurrency);
        let files = Arc::new(Semaphore::new(FILES_AT_ONCE));
        let reconciler = Reconciler::new(Arc::clone(&store));
        let (tasks, turns) = (Tasks::default(), Turns::default());
        UploadManager { store, reconciler, budget, patience: config.patience, tasks, files, turns }
    }

    /// Whether there is room for an upload of at most `expected` bytes. To be asked before its body is: nothing is reserved
    /// yet, since its client may never send anything.
    ///
    /// # Errors
    /// 503 `over_capacity` if neither memory nor disk has any.
    pub fn check_capacity(&self, expected: Option<u64>) -> Result<()> {
        if self.budget.has_free(expected) { Ok(()) } else { Err(Error::OverCapacity(None)) }
    }

    /// Room for an upload of at most `expected` bytes, to be reserved when the first of them is there.
    ///
    /// # Errors
    /// 503 `over_capacity` where neither memory nor disk has any.
    pub async fn admit(&self, expected: Option<u64>) -> Result<AdmittedUpload> {
        let share = self.budget.admit(expected).await.map_err(|full| Error::OverCapacity(Some(full)))?;
        let mut share = share.ok_or(Error::OverCapacity(None))?;
        // At once: its own room.
        let cutter = PartCutter::new(share.next().await);
        Ok(AdmittedUpload { cutter, share })
    }

    /// Bytes of memory and of spilled parts in use.
    pub fn used(&self) -> (u64, u64) {
        self.budget.used()
    }

    /// Bytes of memory and of spilled parts there may be in use.
    pub fn limits(&self) -> (u64, u64) {
        self.budget.limits()
    }

    /// Prepares an upload of what `opening` has and of what follows; nothing is sent before a part is full or the stream
    /// has ended. `name` must have been drawn at random for it: what fails is undone, whatever lies there.
    pub fn start(&self, name: ObjectName, metadata: Metadata, opening: AdmittedUpload) -> UploadWriter {
        self.begin(name, Ownership::Drawn, metadata, opening)
    }

    /// The same under a key that was fixed beforehand, under which other attempts may write ([`super::fixed`]).
    pub fn start_fixed(&self, key: ImageKey, metadata: Metadata, opening: AdmittedUpload) -> UploadWriter {
        self.begin(ObjectName::Image(key), Ownership::Fixed(self.turns.clone()), metadata, opening)
    }

    fn begin(
        &self,
        name: ObjectName,
        ownership: Ownership,
        metadata: Metadata,
        opening: AdmittedUpload,
    ) -> UploadWriter {
        let AdmittedUpload { cutter, share } = opening;
        let (commands, receiver) = mpsc::channel(1);
        let (done, outcome) = oneshot::channel();
        let (store, files) = (Arc::clone(&self.store), Arc::clone(&self.files));
        let reconciler = self.reconciler.clone();
        let task = UploadTask { store, reconciler, name, ownership, metadata, patience: self.patience, files };
        self.tasks.spawn(trace::carried(task.run(receiver, done)));
        UploadWriter { cutter, share, commands, outcome }
    }

    /// What all of them together may hold.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The tasks that must end before the process does.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Uploads that are not over, their clean-up included.
    pub fn open(&self) -> usize {
        self.tasks.len()
    }

    /// Looks for what calls may do whose answers were lost.
    pub fn reconciler(&self) -> &Reconciler {
        &self.reconciler
    }

    /// Waits until every upload is over. None should be started meanwhile.
    ///
    /// What lost calls may still do is not waited for ([`Reconciler::conclude`]): on Lambda it is looked for in the
    /// invocations to come.
    pub async fn finished(&self) {
        self.tasks.finished().await;
    }
}
