//! Starts uploads, and tracks all that have not ended yet.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::budget::Budget;
use super::fixed::{FixedKey, FixedUpload};
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

/// Starts uploads, and tracks all that have not ended yet.
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

/// Number of parts in files that are sent concurrently, of all uploads together. Further parts wait for these calls,
/// which have timeouts.
const FILES_AT_ONCE: usize = 64;

impl UploadManager {
    /// `spill` is the folder for parts for which no memory is free.
    pub fn new(store: Arc<dyn Store>, config: &config::Upload, spill: Option<Spill>) -> Self {
        let spill = spill.map(|spill| (config.spill_budget, spill.limited_to(config.spill_files)));
        let budget = Budget::new(config.memory_for_parts(), spill, config.part_size, config.part_concurrency);
        let files = Arc::new(Semaphore::new(FILES_AT_ONCE));
        let reconciler = Reconciler::new(Arc::clone(&store));
        let (tasks, turns) = (Tasks::default(), Turns::default());
        UploadManager { store, reconciler, budget, patience: config.patience, tasks, files, turns }
    }

    /// Checks that an upload of at most `expected` bytes would be admitted. Called before the body is requested.
    /// Reserves nothing, because the client may never send anything.
    ///
    /// # Errors
    /// Returns [`Error::OverCapacity`] (503 `over_capacity`) if the memory and spill budgets are used up, or if too
    /// many earlier uploads are still being undone.
    pub fn check_capacity(&self, expected: Option<u64>) -> Result<()> {
        if self.tasks.has_room() && self.budget.has_free(expected) { Ok(()) } else { Err(Error::OverCapacity(None)) }
    }

    /// Reserves a slot for an upload of at most `expected` bytes. Called when its first byte has arrived.
    ///
    /// # Errors
    /// Returns [`Error::OverCapacity`] (503 `over_capacity`) if the memory and spill budgets are used up.
    pub async fn admit(&self, expected: Option<u64>) -> Result<AdmittedUpload> {
        let share = self.budget.admit(expected).await.map_err(|full| Error::OverCapacity(Some(full)))?;
        let mut share = share.ok_or(Error::OverCapacity(None))?;
        // Returns at once with the slot that was just reserved.
        let cutter = PartCutter::new(share.next().await);
        Ok(AdmittedUpload { cutter, share })
    }

    /// Returns the bytes of memory and of spilled parts in use.
    pub fn used(&self) -> (u64, u64) {
        self.budget.used()
    }

    /// Returns the maximum bytes of memory and of spilled parts.
    pub fn limits(&self) -> (u64, u64) {
        self.budget.limits()
    }

    /// Begins an upload of the bytes in `opening` and of those that follow, which are at least `min_size` bytes together.
    /// Unless this is more than one part, nothing is sent before a part is full or the stream has ended. `name` must have
    /// been drawn at random for this upload, because an object of that name is deleted if the upload fails.
    pub fn start(&self, name: ObjectName, metadata: Metadata, min_size: u64, opening: AdmittedUpload) -> UploadWriter {
        self.begin(name, Ownership::Drawn, metadata, min_size, opening)
    }

    /// Begins an upload under a key that was fixed beforehand, under which other attempts may write ([`super::fixed`]). The
    /// caller looks for an existing image, and then starts the upload.
    pub fn begin_fixed(&self, fixed: &FixedKey, key: ImageKey) -> FixedUpload {
        FixedUpload::begin(fixed, key, &self.turns)
    }

    /// Does the same as [`UploadManager::start`] under a key that was fixed beforehand.
    pub fn start_fixed(
        &self,
        fixed: FixedUpload,
        metadata: Metadata,
        min_size: u64,
        opening: AdmittedUpload,
    ) -> UploadWriter {
        self.begin(fixed.name(), Ownership::Fixed(fixed), metadata, min_size, opening)
    }

    fn begin(
        &self,
        name: ObjectName,
        ownership: Ownership,
        metadata: Metadata,
        min_size: u64,
        opening: AdmittedUpload,
    ) -> UploadWriter {
        let AdmittedUpload { cutter, share } = opening;
        // The writer can fill all its buffers while the upload is being created.
        let (commands, receiver) = mpsc::channel(self.budget.max_parts());
        let (done, outcome) = oneshot::channel();
        // A multipart upload without parts may be aborted if it has the name of an image that a client may also send
        // directly to the store (`LateEffect::Promotions`). So such an upload is created together with its first part.
        let creates_early = min_size > self.budget.part_size() && !metadata.may_be_planned;
        let task = UploadTask {
            store: Arc::clone(&self.store),
            reconciler: self.reconciler.clone(),
            name,
            ownership,
            metadata,
            creates_early,
            patience: self.patience,
            files: Arc::clone(&self.files),
        };
        self.tasks.spawn(trace::carried(task.run(receiver, done)));
        UploadWriter { cutter, share, commands, outcome }
    }

    /// Returns the budget of all uploads.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Returns the semaphore of parts in files, for [`super::parts::file_turn`].
    pub fn files(&self) -> &Arc<Semaphore> {
        &self.files
    }

    /// Returns the turns of the writes under fixed keys.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Returns the tasks that must end before the process exits.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Returns the number of uploads that have not ended, including their clean-up.
    pub fn open(&self) -> usize {
        self.tasks.len()
    }

    /// Returns the reconciler, which undoes late effects of calls whose answers were lost.
    pub fn reconciler(&self) -> &Reconciler {
        &self.reconciler
    }

    /// Waits until every upload has ended. No upload should be started meanwhile.
    ///
    /// Does not wait for late effects of lost calls ([`Reconciler::conclude`]). On Lambda later invocations check for
    /// them.
    pub async fn finished(&self) {
        self.tasks.finished().await;
    }
}
