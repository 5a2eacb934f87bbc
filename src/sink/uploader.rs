//! Sending parts while they arrive.
//!
//! An upload has two halves. The [`Uploader`] belongs to the request: it cuts parts and hands them over, and waits while
//! it has no room for the next ([`super::memory`]). The other half is a task of its own that makes every call to the store: hyper drops a
//! request's future when its client goes away, and whatever was started must still be finished or aborted then. The
//! request going away is what the task sees when the uploader is dropped; it then stops, aborts and cleans up.
//!
//! | what happens | what the task does |
//! |---|---|
//! | a part fails for good | drops the other parts, aborts the upload; the request's next call gets the error |
//! | the request goes away | the same, at once, also while parts are in flight |
//! | it goes away while the object is being made | lets that finish, then deletes the object nobody was told of |
//! | aborting fails | tries again a few times; what is left after that is the sweep's and the lifecycle rule's |
//!
//! On Lambda a request goes away when the invocation's time runs out. There "lets that finish" has an end of its own
//! (`patience`), so that what comes after it is still done before the process is frozen.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::memory::{Budget, Share};
use super::parts::{self, PartCutter};
use super::spill::Spill;
use crate::config;
use crate::error::{Error, Result};
use crate::store::{Metadata, Name, Part, Payload, Store, StoreError, Upload, Whole};

/// Tries to abort an upload, and the pause before the second; it doubles.
const ABORT_TRIES: u32 = 5;
const ABORT_PAUSE: Duration = Duration::from_millis(200);

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
    budget: Arc<Budget>,
    patience: Option<Duration>,
    tasks: TaskTracker,
}

impl Uploads {
    /// `spill` is where parts go that find no memory.
    pub fn new(store: Arc<dyn Store>, config: &config::Sink, spill: Option<Spill>) -> Self {
        let spill = spill.map(|spill| (config.spill_budget, spill));
        let budget = Budget::new(config.memory_budget, spill, config.part_size, config.part_concurrency);
        Uploads { store, budget, patience: config.patience, tasks: TaskTracker::new() }
    }

    /// Room for an upload of at most `expected` bytes, before any of them is read.
    ///
    /// # Errors
    /// 503 `over_capacity` where neither memory nor disk has any.
    pub async fn admit(&self, expected: Option<u64>) -> Result<Share> {
        let share = self.budget.admit(expected).await.map_err(|full| Error::OverCapacity(Some(full)))?;
        share.ok_or(Error::OverCapacity(None))
    }

    /// Bytes of memory and of spilled parts in use.
    pub fn used(&self) -> (u64, u64) {
        self.budget.used()
    }

    /// Prepares an upload; nothing is sent before a part is full or the stream has ended.
    pub async fn start(&self, name: Name, metadata: Metadata, mut share: Share) -> Uploader {
        let (commands, receiver) = mpsc::channel(1);
        let (done, outcome) = oneshot::channel();
        let cutter = PartCutter::new(share.next().await);
        let task = Task { store: Arc::clone(&self.store), name, metadata, patience: self.patience };
        self.tasks.spawn(task.run(receiver, done));
        Uploader { cutter, share, commands, outcome }
    }

    /// The tasks that must end before the process does.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Uploads that are not over, their clean-up included.
    pub fn open(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until every upload is over. None should be started meanwhile.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}

/// What the task tells the request; a success also asks to be told that it was heard.
type Outcome = Result<(Stored, oneshot::Sender<()>), StoreError>;

enum Command {
    Part(Payload),
    Last(Payload),
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
            self.cutter.fill(&mut chunk).await.map_err(|full| Error::OverCapacity(Some(full)))?;
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<()> {
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

/// Why a multipart upload was not completed.
enum Stop {
    Failed(StoreError),
    Abandoned,
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Failed(error)
    }
}

/// What may be in the store when an upload is over, and must go if its client does not hear of a success.
enum Leftover {
    Nothing,
    Upload(Upload),
    /// The object and, where completing failed, perhaps its upload instead.
    Object(Option<Upload>),
}

/// The store's half of an upload.
struct Task {
    store: Arc<dyn Store>,
    name: Name,
    metadata: Metadata,
    patience: Option<Duration>,
}

impl Task {
    async fn run(self, mut commands: mpsc::Receiver<Command>, mut done: oneshot::Sender<Outcome>) {
        let (result, leftover) = match commands.recv().await {
            Some(Command::Last(only)) => self.put(only, &mut done).await,
            Some(Command::Part(first)) => self.multipart(first, &mut commands, &mut done).await,
            None => (Err(Stop::Abandoned), Leftover::Nothing),
        };
        // The request sees this, whatever it is about to hand over. It is told first: cleaning up can take long where the
        // store is what fails.
        drop(commands);
        let unheard = match result {
            Ok(stored) => {
                // A request may go away between the answer's being there and its being read.
                let (heard, told) = oneshot::channel();
                done.send(Ok((stored, heard))).is_err() || told.await.is_err()
            }
            Err(Stop::Failed(error)) => {
                if let Err(Err(error)) = done.send(Err(error)) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(s3_key = %self.name.key(), error, "an abandoned upload failed");
                }
                true
            }
            Err(Stop::Abandoned) => true,
        };
        if unheard {
            self.clean_up(leftover).await;
        }
    }

    /// Removes what nobody was told of.
    async fn clean_up(&self, leftover: Leftover) {
        let (upload, object) = match leftover {
            Leftover::Nothing => return,
            Leftover::Upload(upload) => (Some(upload), false),
            Leftover::Object(upload) => (upload, true),
        };
        if let Some(upload) = upload
            && let Err(error) = retry(|| self.store.abort_upload(&upload)).await
        {
            let error = &error as &dyn std::error::Error;
            tracing::error!(s3_key = %self.name.key(), error, "an upload could not be aborted; sweep removes it");
        }
        if object && let Err(error) = retry(|| self.store.delete(&self.name)).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(s3_key = %self.name.key(), error, "an object nobody was told of could not be deleted");
        }
    }

    async fn put(&self, only: Payload, done: &mut oneshot::Sender<Outcome>) -> (Result<Stored, Stop>, Leftover) {
        let stored = Stored { size: only.len, crc64: only.crc64 };
        let put = tokio::select! {
            biased;
            put = self.store.put(&self.name, &self.metadata, only) => put.map(|()| stored).map_err(Stop::Failed),
            () = self.given_up(done) => Err(Stop::Abandoned),
        };
        // Also where it failed: its answer may have been what was lost.
        (put, Leftover::Object(None))
    }

    /// Resolves where a call is not to be waited for any more.
    async fn given_up(&self, done: &mut oneshot::Sender<Outcome>) {
        done.closed().await;
        match self.patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
    }

    /// Sends parts as they come, then completes.
    async fn multipart(
        &self,
        first: Payload,
        commands: &mut mpsc::Receiver<Command>,
        done: &mut oneshot::Sender<Outcome>,
    ) -> (Result<Stored, Stop>, Leftover) {
        // Not raced against the request: an upload whose id nobody heard could not be aborted.
        let upload = match self.store.create_upload(&self.name, &self.metadata).await {
            Ok(upload) => upload,
            Err(error) => return (Err(Stop::Failed(error)), Leftover::Nothing),
        };
        let sent = self.send_parts(&upload, first, commands, done).await;
        let reviewed = sent.and_then(|(sent, taken)| Ok((review(&sent, &taken)?, taken)));
        match reviewed {
            Err(stop) => (Err(stop), Leftover::Upload(upload)),
            Ok((whole, taken)) => match self.store.complete_upload(&upload, &taken, whole).await {
                Err(error) => (Err(Stop::Failed(error)), Leftover::Object(Some(upload))),
                Ok(()) => {
                    let stored = Stored { size: whole.size, crc64: whole.crc64.unwrap_or_default() };
                    (Ok(stored), Leftover::Object(None))
                }
            },
        }
    }

    /// Returns what was sent and what the store said it took, both in order. Parts in flight are dropped on error.
    async fn send_parts(
        &self,
        upload: &Upload,
        first: Payload,
        commands: &mut mpsc::Receiver<Command>,
        done: &mut oneshot::Sender<Outcome>,
    ) -> Result<(Vec<Sent>, Vec<Part>), Stop> {
        let mut sent = Vec::new();
        let mut taken = Vec::new();
        let mut in_flight: FuturesUnordered<PartFuture<'_>> = FuturesUnordered::new();
        let mut last = false;
        in_flight.push(self.send(upload, &mut sent, first));
        while !(last && in_flight.is_empty()) {
            tokio::select! {
                Some(part) = in_flight.next() => taken.push(part?),
                // Not more than there are buffers: the request waits for one before it fills the next.
                command = commands.recv(), if !last => {
                    let part = match command {
                        Some(Command::Part(part)) => part,
                        Some(Command::Last(part)) => { last = true; part }
                        None => return Err(Stop::Abandoned),
                    };
                    in_flight.push(self.send(upload, &mut sent, part));
                }
                () = done.closed() => return Err(Stop::Abandoned),
            }
        }
        taken.sort_unstable_by_key(|part| part.number);
        Ok((sent, taken))
    }

    fn send<'a>(&'a self, upload: &'a Upload, sent: &mut Vec<Sent>, part: Payload) -> PartFuture<'a> {
        sent.push(Sent { size: part.len, crc64: part.crc64 });
        let number = u32::try_from(sent.len()).unwrap_or(u32::MAX);
        Box::pin(self.store.upload_part(upload, number, part))
    }
}

type PartFuture<'a> = Pin<Box<dyn Future<Output = Result<Part, StoreError>> + Send + 'a>>;

/// A part as it left here.
struct Sent {
    size: u64,
    crc64: u64,
}

/// Compares what the store took with what was sent, before anything becomes visible.
fn review(sent: &[Sent], taken: &[Part]) -> Result<Whole, StoreError> {
    if sent.len() != taken.len() {
        return Err(StoreError::Differs(format!("{} parts sent, {} taken", sent.len(), taken.len())));
    }
    for (number, (ours, theirs)) in (1..).zip(sent.iter().zip(taken)) {
        let same =
            theirs.number == number && theirs.size == ours.size && theirs.crc64.is_none_or(|crc| crc == ours.crc64);
        if !same {
            return Err(StoreError::Differs(format!("part {number} is not what was sent")));
        }
    }
    Ok(parts::join(sent.iter().map(|part| (part.size, part.crc64))))
}

async fn retry<F: Future<Output = Result<(), StoreError>>>(mut call: impl FnMut() -> F) -> Result<(), StoreError> {
    let mut pause = ABORT_PAUSE;
    for _ in 1..ABORT_TRIES {
        if call().await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    call().await
}
