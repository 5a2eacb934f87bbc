//! The store's half of an upload: every call to the store is made here, on a task of its own.
//!
//! hyper drops a request's future when its client goes away, and whatever was started must still be finished or aborted
//! then. The request going away is what the task sees when its [`super::uploader::Uploader`] is dropped; it then stops,
//! aborts and cleans up.
//!
//! | what happens | what the task does |
//! |---|---|
//! | a part fails for good | drops the other parts, aborts the upload; the request's next call gets the error |
//! | the request goes away | the same, at once, also while parts are in flight |
//! | it goes away while the object is being made | lets that finish, then deletes the object nobody was told of |
//! | aborting fails | tries again a few times; what is left after that is the sweep's and the lifecycle rule's |
//! | a call's answer is lost | undoes what the call may have done, now and if it appears later ([`Reconciler`]) |
//!
//! On Lambda a request goes away when the invocation's time runs out. There "lets that finish" has an end of its own
//! (`patience`), so that what comes after it is still done before the process is frozen.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::parts;
use super::undo::{abort, retry};
use super::uploader::Stored;
use crate::store::reconcile::{LateEffect, Reconciler};
use crate::store::s3::leaves_open;
use crate::store::{Content, Metadata, Name, Part, Payload, Store, StoreError, Upload, Whole, Written};

/// What the task tells the request; a success also asks to be told that it was heard.
pub(super) type Outcome = Result<(Stored, oneshot::Sender<()>), StoreError>;

/// What the request hands over.
pub(super) enum Command {
    Part(Payload),
    /// Also the only part, of a file that fits one.
    Last(Payload),
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
    /// An upload whose id is not known: the answer to creating it was lost.
    LateUpload,
    Upload(Upload),
    /// The object and, where completing failed, perhaps its upload instead.
    Object(Option<Upload>),
    /// The same, also after it was removed: the answer to a call that makes it was lost.
    LateObject(Option<Upload>),
}

impl Leftover {
    /// Of a call that would have made the object, and failed.
    fn after(error: &StoreError, upload: Option<Upload>) -> Self {
        match error {
            // Another's object is there. If it were this upload's, an answer would have been lost, and the error another.
            StoreError::Precondition => upload.map_or(Leftover::Nothing, Leftover::Upload),
            error if leaves_open(error) => Leftover::LateObject(upload),
            _ => Leftover::Object(upload),
        }
    }
}

/// The store's half of an upload.
pub(super) struct Task {
    pub(super) store: Arc<dyn Store>,
    pub(super) reconciler: Reconciler,
    /// Drawn at random for this upload: whatever appears there is this upload's, and may be undone.
    pub(super) name: Name,
    pub(super) metadata: Metadata,
    /// How long a PutObject may go on whose request was given up; none: to its end.
    pub(super) patience: Option<Duration>,
    /// Turns at sending parts that are in files.
    pub(super) files: Arc<Semaphore>,
}

impl Task {
    pub(super) async fn run(self, mut commands: mpsc::Receiver<Command>, mut done: oneshot::Sender<Outcome>) {
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
        let late = matches!(leftover, Leftover::LateObject(_));
        let (upload, object) = match leftover {
            Leftover::Nothing => return,
            Leftover::LateUpload => return self.reconciler.created_none(&self.name).await,
            Leftover::Upload(upload) => (Some(upload), false),
            Leftover::Object(upload) | Leftover::LateObject(upload) => (upload, true),
        };
        if let Some(upload) = upload {
            abort(self.store.as_ref(), &upload).await;
        }
        if object && let Err(error) = retry(|| self.store.delete(&self.name)).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(s3_key = %self.name.key(), error, "an object nobody was told of could not be deleted");
        }
        if late {
            self.reconciler.watch(LateEffect::Object(self.name.clone()));
        }
    }

    async fn put(&self, only: Payload, done: &mut oneshot::Sender<Outcome>) -> (Result<Stored, Stop>, Leftover) {
        let stored = Stored { size: only.len, crc64: only.crc64 };
        let put = tokio::select! {
            biased;
            put = self.put_in_turn(only) => put,
            () = self.given_up(done) => return (Err(Stop::Abandoned), Leftover::LateObject(None)),
        };
        match put {
            Ok(Written { perhaps_again: true }) => (Ok(stored), Leftover::LateObject(None)),
            Ok(Written { perhaps_again: false }) => (Ok(stored), Leftover::Object(None)),
            Err(error) => {
                let leftover = Leftover::after(&error, None);
                (Err(Stop::Failed(error)), leftover)
            }
        }
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
        let upload = match self.reconciler.create_upload(&self.name, &self.metadata).await {
            Ok(upload) => upload,
            Err(error) => {
                let leftover = if leaves_open(&error) { Leftover::LateUpload } else { Leftover::Nothing };
                return (Err(Stop::Failed(error)), leftover);
            }
        };
        let sent = self.send_parts(&upload, first, commands, done).await;
        let reviewed = sent.and_then(|(sent, taken)| Ok((review(&sent, &taken)?, taken)));
        match reviewed {
            Err(stop) => (Err(stop), Leftover::Upload(upload)),
            Ok((whole, taken)) => match self.store.complete_upload(&upload, &taken, whole).await {
                Err(error) => {
                    let leftover = Leftover::after(&error, Some(upload));
                    (Err(Stop::Failed(error)), leftover)
                }
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
        Box::pin(async move {
            let _turn = self.turn(&part).await;
            self.store.upload_part(upload, number, part).await
        })
    }

    async fn put_in_turn(&self, only: Payload) -> Result<Written, StoreError> {
        let _turn = self.turn(&only).await;
        self.store.put_in_attempts(&self.name, &self.metadata, only).await
    }

    /// A part in memory is sent at once. One in a file costs disk while it waits, and a connection and what those hold
    /// while it is sent.
    async fn turn(&self, part: &Payload) -> Option<OwnedSemaphorePermit> {
        match part.content {
            Content::Memory(_) => None,
            Content::File(_) => Arc::clone(&self.files).acquire_owned().await.ok(),
        }
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
