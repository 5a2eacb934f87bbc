//! The store's side of an upload. A separate task makes all calls to the store.
//!
//! hyper drops a request's future when its client disconnects. An upload that was started must then still be finished
//! or aborted. The task detects this because its [`super::writer::UploadWriter`] is dropped. It then stops, aborts the
//! upload and cleans up.
//!
//! | event | what the task does |
//! |---|---|
//! | a part fails permanently | drops the other parts and aborts the upload; the request's next call fails |
//! | the request goes away | the same, at once, even while parts are in flight |
//! | it goes away while the object is being created | lets that finish, then deletes the unacknowledged object |
//! | aborting fails | retries a few times; after that, a sweep or a lifecycle rule removes the upload |
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
use crate::store::reconcile::{LateEffect, Reconciler};
use crate::store::s3::is_outcome_unknown;
use crate::store::{Content, Metadata, ObjectDigest, ObjectName, Part, Payload, Store, StoreError, Upload, Written};

/// What became of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes.
    pub size: u64,
    /// CRC64NVME of the whole object.
    pub crc64: u64,
}

/// The result that the task sends to the request. A success contains a sender by which the request acknowledges it.
pub(super) type UploadResult = Result<(Stored, oneshot::Sender<()>), StoreError>;

/// A part that the request passes to the task.
pub(super) enum PartMessage {
    Part(Payload),
    /// The last part. It is the only part if the file fits into one.
    Last(Payload),
}

/// Why a multipart upload was not completed.
enum Interruption {
    Failed(StoreError),
    Abandoned,
}

impl From<StoreError> for Interruption {
    fn from(error: StoreError) -> Self {
        Interruption::Failed(error)
    }
}

/// What may exist in the store when an upload has ended, and must be removed if its success is not acknowledged.
enum Cleanup {
    Nothing,
    /// An upload whose ID is unknown, because the answer to the call that created it was lost.
    LateUpload,
    Upload(Upload),
    /// The object or, if Complete failed, possibly its upload.
    Object(Option<Upload>),
    /// The same, but the object may appear again after it was removed, because the answer to a call that creates it was
    /// lost.
    LateObject(Option<Upload>),
}

impl Cleanup {
    /// Returns the clean-up after a failed call that would have created the object.
    fn after(error: &StoreError, upload: Option<Upload>) -> Self {
        match error {
            // The object of another upload exists. If it were this upload's, an answer would have been lost, and the
            // error would be another one.
            StoreError::Precondition => upload.map_or(Cleanup::Nothing, Cleanup::Upload),
            error if is_outcome_unknown(error) => Cleanup::LateObject(upload),
            _ => Cleanup::Object(upload),
        }
    }
}

/// The store's side of an upload.
pub(super) struct UploadTask {
    pub(super) store: Arc<dyn Store>,
    pub(super) reconciler: Reconciler,
    /// Drawn at random for this upload: whatever appears there is this upload's, and may be undone.
    pub(super) name: ObjectName,
    pub(super) metadata: Metadata,
    /// How long a PutObject may continue after its request was dropped. `None`: until it ends.
    pub(super) patience: Option<Duration>,
    /// Limits the number of parts in files that are sent concurrently.
    pub(super) files: Arc<Semaphore>,
}

impl UploadTask {
    pub(super) async fn run(self, mut commands: mpsc::Receiver<PartMessage>, mut done: oneshot::Sender<UploadResult>) {
        let (result, leftover) = match commands.recv().await {
            Some(PartMessage::Last(only)) => self.put(only, &mut done).await,
            Some(PartMessage::Part(first)) => self.multipart(first, &mut commands, &mut done).await,
            None => (Err(Interruption::Abandoned), Cleanup::Nothing),
        };
        // The request detects this even if it has a part to send. It is notified before the clean-up, which can take
        // long if the store fails.
        drop(commands);
        let unacknowledged = match result {
            Ok(stored) => {
                // The request may be dropped after the result was sent and before it is received.
                let (acknowledged, acknowledgement) = oneshot::channel();
                done.send(Ok((stored, acknowledged))).is_err() || acknowledgement.await.is_err()
            }
            Err(Interruption::Failed(error)) => {
                if let Err(Err(error)) = done.send(Err(error)) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(s3_key = %self.name.key(), error, "upload failed after its client disconnected");
                }
                true
            }
            Err(Interruption::Abandoned) => true,
        };
        if unacknowledged {
            self.clean_up(leftover).await;
        } else if matches!(leftover, Cleanup::LateObject(_)) {
            self.reconciler.may_be_rewritten(self.name);
        }
    }

    /// Removes what nobody was told of.
    async fn clean_up(&self, leftover: Cleanup) {
        let late = matches!(leftover, Cleanup::LateObject(_));
        let (upload, object) = match leftover {
            Cleanup::Nothing => return,
            Cleanup::LateUpload => return self.reconciler.created_none(&self.name).await,
            Cleanup::Upload(upload) => (Some(upload), false),
            Cleanup::Object(upload) | Cleanup::LateObject(upload) => (upload, true),
        };
        if let Some(upload) = upload {
            abort(self.store.as_ref(), &upload).await;
        }
        if object && let Err(error) = retry(|| self.store.delete(&self.name)).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(s3_key = %self.name.key(), error, "unacknowledged object could not be deleted");
        }
        if late {
            self.reconciler.watch(LateEffect::Object(self.name.clone()));
        }
    }

    async fn put(
        &self,
        only: Payload,
        done: &mut oneshot::Sender<UploadResult>,
    ) -> (Result<Stored, Interruption>, Cleanup) {
        let stored = Stored { size: only.len, crc64: only.crc64 };
        let put = tokio::select! {
            biased;
            put = self.put_in_turn(only) => put,
            () = self.given_up(done) => return (Err(Interruption::Abandoned), Cleanup::LateObject(None)),
        };
        match put {
            Ok(Written { perhaps_again: false }) => (Ok(stored), Cleanup::Object(None)),
            Ok(Written { perhaps_again: true }) => (Ok(stored), Cleanup::LateObject(None)),
            Err(error) => {
                let leftover = Cleanup::after(&error, None);
                (Err(Interruption::Failed(error)), leftover)
            }
        }
    }

    /// Resolves when the call is no longer waited for.
    async fn given_up(&self, done: &mut oneshot::Sender<UploadResult>) {
        done.closed().await;
        match self.patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
    }

    /// Sends the parts as they arrive, then completes the upload.
    async fn multipart(
        &self,
        first: Payload,
        commands: &mut mpsc::Receiver<PartMessage>,
        done: &mut oneshot::Sender<UploadResult>,
    ) -> (Result<Stored, Interruption>, Cleanup) {
        // Not cancelled if the request is dropped, because an upload whose ID is unknown cannot be aborted.
        let upload = match self.reconciler.create_upload(&self.name, &self.metadata).await {
            Ok(upload) => upload,
            Err(error) => {
                let leftover = if is_outcome_unknown(&error) { Cleanup::LateUpload } else { Cleanup::Nothing };
                return (Err(Interruption::Failed(error)), leftover);
            }
        };
        let sent = self.send_parts(&upload, first, commands, done).await;
        let reviewed = sent.and_then(|(sent, taken)| Ok((review(&sent, &taken)?, taken)));
        match reviewed {
            Err(stop) => (Err(stop), Cleanup::Upload(upload)),
            Ok((whole, taken)) => match self.store.complete_upload(&upload, &taken, whole).await {
                Err(error) => {
                    let leftover = Cleanup::after(&error, Some(upload));
                    (Err(Interruption::Failed(error)), leftover)
                }
                Ok(()) => {
                    let stored = Stored { size: whole.size, crc64: whole.crc64.unwrap_or_default() };
                    (Ok(stored), Cleanup::Object(None))
                }
            },
        }
    }

    /// Returns the parts that were sent and the store's answers, both in order. Parts in flight are dropped on error.
    async fn send_parts(
        &self,
        upload: &Upload,
        first: Payload,
        commands: &mut mpsc::Receiver<PartMessage>,
        done: &mut oneshot::Sender<UploadResult>,
    ) -> Result<(Vec<Sent>, Vec<Part>), Interruption> {
        let mut sent = Vec::new();
        let mut taken = Vec::new();
        let mut in_flight: FuturesUnordered<PartFuture<'_>> = FuturesUnordered::new();
        let mut last = false;
        in_flight.push(self.send(upload, &mut sent, first));
        while !(last && in_flight.is_empty()) {
            tokio::select! {
                Some(part) = in_flight.next() => taken.push(part?),
                // The number of parts in flight is limited by the buffers: the request waits for one before it fills
                // it.
                command = commands.recv(), if !last => {
                    let part = match command {
                        Some(PartMessage::Part(part)) => part,
                        Some(PartMessage::Last(part)) => { last = true; part }
                        None => return Err(Interruption::Abandoned),
                    };
                    in_flight.push(self.send(upload, &mut sent, part));
                }
                () = done.closed() => return Err(Interruption::Abandoned),
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
        self.store.put(&self.name, &self.metadata, only).await
    }

    /// Waits for a permit if the part is in a file. Parts in memory are sent at once. A part in a file uses only disk
    /// space while it waits, but a connection and its memory while it is sent.
    async fn turn(&self, part: &Payload) -> Option<OwnedSemaphorePermit> {
        match part.content {
            Content::Memory(_) => None,
            Content::File(_) => Arc::clone(&self.files).acquire_owned().await.ok(),
        }
    }
}

type PartFuture<'a> = Pin<Box<dyn Future<Output = Result<Part, StoreError>> + Send + 'a>>;

/// A part that was sent.
struct Sent {
    size: u64,
    crc64: u64,
}

/// Compares the parts that the store received with those that were sent, before the object becomes visible.
fn review(sent: &[Sent], taken: &[Part]) -> Result<ObjectDigest, StoreError> {
    if sent.len() != taken.len() {
        return Err(StoreError::IntegrityMismatch(format!("{} parts sent, {} received", sent.len(), taken.len())));
    }
    for (number, (sent, received)) in (1..).zip(sent.iter().zip(taken)) {
        let same = received.number == number
            && received.size == sent.size
            && received.crc64.is_none_or(|crc| crc == sent.crc64);
        if !same {
            return Err(StoreError::IntegrityMismatch(format!("part {number} differs")));
        }
    }
    Ok(parts::join(sent.iter().map(|part| (part.size, part.crc64))))
}
