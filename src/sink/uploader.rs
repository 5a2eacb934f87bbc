//! The request's half of an upload: it cuts parts and hands them over, and waits while it has no room for the next
//! ([`super::memory`]). The store's half is a task of its own, `sink/task.rs`.

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::memory::{Budget, Share};
use super::parts::PartCutter;
use super::spill::Spill;
use super::task::{Command, Outcome, Task};
use crate::config;
use crate::error::{Error, Result};
use crate::store::reconcile::Reconciler;
use crate::store::{Metadata, Name, Store};
use crate::tasks::Tasks;
use crate::telemetry::trace;

/// What became of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes.
    pub size: u64,
    /// CRC64NVME of the whole object.
    pub crc64: u64,
}

/// Starts uploads, and knows of all that are not over yet.
#[derive(Clone)]
pub struct Uploads {
    store: Arc<dyn Store>,
    reconciler: Reconciler,
    budget: Arc<Budget>,
    patience: Option<Duration>,
    tasks: Tasks,
    files: Arc<Semaphore>,
}

/// Parts in files that are sent at once, of all uploads together. They wait for each other's calls, which have timeouts.
const FILES_AT_ONCE: usize = 64;

impl Uploads {
    /// `spill` is where parts go that find no memory.
    pub fn new(store: Arc<dyn Store>, config: &config::Sink, spill: Option<Spill>) -> Self {
        let spill = spill.map(|spill| (config.spill_budget, spill.limited_to(config.spill_files)));
        let budget = Budget::new(config.memory_for_parts(), spill, config.part_size, config.part_concurrency);
        let files = Arc::new(Semaphore::new(FILES_AT_ONCE));
        let reconciler = Reconciler::new(Arc::clone(&store));
        Uploads { store, reconciler, budget, patience: config.patience, tasks: Tasks::default(), files }
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
    pub async fn admit(&self, expected: Option<u64>) -> Result<Opening> {
        let share = self.budget.admit(expected).await.map_err(|full| Error::OverCapacity(Some(full)))?;
        let mut share = share.ok_or(Error::OverCapacity(None))?;
        // At once: its own room.
        let cutter = PartCutter::new(share.next().await);
        Ok(Opening { cutter, share })
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
    pub fn start(&self, name: Name, metadata: Metadata, opening: Opening) -> Uploader {
        let Opening { cutter, share } = opening;
        let (commands, receiver) = mpsc::channel(1);
        let (done, outcome) = oneshot::channel();
        let (store, files) = (Arc::clone(&self.store), Arc::clone(&self.files));
        let reconciler = self.reconciler.clone();
        let task = Task { store, reconciler, name, metadata, patience: self.patience, files };
        self.tasks.spawn(trace::carried(task.run(receiver, done)));
        Uploader { cutter, share, commands, outcome }
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

/// An upload that has its room, and may have its first bytes, and no name yet.
pub struct Opening {
    cutter: PartCutter,
    share: Share,
}

impl Opening {
    /// Where the first bytes go.
    pub fn head(&mut self) -> &mut PartCutter {
        &mut self.cutter
    }
}

/// The request's half of an upload. Dropped before [`Uploader::finish`] has answered, the upload is undone.
pub struct Uploader {
    cutter: PartCutter,
    share: Share,
    commands: mpsc::Sender<Command>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Uploader {
    /// Takes the stream's next bytes; waits while as many parts are on their way as there is room for.
    pub async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        while !chunk.is_empty() {
            if self.cutter.is_full() {
                self.send_part().await?;
            }
            self.cutter.fill(&mut chunk).await?;
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<()> {
        self.share.filled();
        if self.commands.send(Command::Part(self.cutter.cut())).await.is_err() {
            return Err(self.failure().await);
        }
        let next = tokio::select! {
            next = self.share.next() => Some(next),
            () = self.commands.closed() => None,
        };
        match next {
            Some(next) => self.cutter.refill(next),
            None => return Err(self.failure().await),
        }
        Ok(())
    }

    /// Resolves when the upload cannot go on: the error is the answer, however long the client would still send.
    pub async fn failed(&mut self) -> Error {
        self.commands.closed().await;
        self.failure().await
    }

    /// Sends the last part and makes the object. It is durable when this returns.
    pub async fn finish(self) -> Result<Stored> {
        let Uploader { mut cutter, share: _share, commands, outcome } = self;
        // Where nobody takes it the task has failed, and the outcome says why.
        let _ = commands.send(Command::Last(cutter.cut())).await;
        let (stored, heard) = told(outcome.await)?;
        let _ = heard.send(());
        Ok(stored)
    }

    /// Undoes the upload, and keeps its room for another one.
    pub async fn restart(self) -> Opening {
        let Uploader { cutter, mut share, commands, outcome } = self;
        drop((cutter, commands, outcome));
        // At once, or when a part of the old upload that is on its way has been given up.
        let cutter = PartCutter::new(share.next().await);
        Opening { cutter, share }
    }

    async fn failure(&mut self) -> Error {
        match told((&mut self.outcome).await) {
            Err(error) => error,
            Ok(_) => Error::Internal("an upload ended before its last part".into()),
        }
    }
}

fn told(outcome: Result<Outcome, oneshot::error::RecvError>) -> Result<(Stored, oneshot::Sender<()>)> {
    match outcome {
        // Never a 404, whatever the store says: the client asked for nothing that could be missing.
        Ok(result) => result.map_err(Error::Storage),
        Err(gone) => Err(Error::Internal(Box::new(gone))),
    }
}
