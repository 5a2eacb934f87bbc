//! The store's half of an upload. All calls to the store are made here, in a separate task.
//!
//! hyper drops a request's future when its client disconnects, but calls that were started must still be finished or
//! aborted. The task detects the end of the request when its [`super::writer::UploadWriter`] is dropped. It then stops,
//! aborts the upload and cleans up.
//!
//! | event | what the task does |
//! |---|---|
//! | a part fails permanently | drops the other parts, aborts the upload; the request's next call returns the error |
//! | the request ends early | the same, immediately, even while parts are in flight, but after CreateMultipartUpload |
//! | the request ends while the object is being created | finishes the call, then deletes the unacknowledged object |
//! | aborting fails | retries a few times; the sweep and the lifecycle rule remove what remains |
//! | a call's answer is lost | undoes the possible effect of the call, now and if it appears later ([`Reconciler`]) |
//!
//! This applies to names that were drawn at random. Under a fixed key, the object may belong to another successful
//! attempt. It is therefore compared, and never deleted ([`Ownership`]).
//!
//! On Lambda, a request ends when the time of its invocation runs out. "Finishes the call" therefore has a time limit
//! there (`patience`), so that the cleanup is completed before the process is frozen.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::digest::Stored;
use super::fixed::{FixedUpload, check_same};
use super::parts;
use super::undo::{abort, retry};
use crate::error::Error;
use crate::store::reconcile::{LateEffect, Reconciler};
use crate::store::s3::is_outcome_unknown;
use crate::store::{Metadata, ObjectDigest, ObjectInfo, ObjectName, Part, Payload, Store, StoreError, Upload, Written};

#[cfg(test)]
mod tests;

/// The result that the task sends to the request.
pub(super) type UploadResult = Result<DurableUpload, Error>;

/// An upload whose object is durable. If this is dropped before [`DurableUpload::acknowledge`], the object is deleted,
/// except under a fixed key.
pub struct DurableUpload {
    pub stored: Stored,
    /// The name of the object. It differs from the first name if that one had to be given up.
    pub name: ObjectName,
    acknowledged: oneshot::Sender<()>,
}

impl DurableUpload {
    /// Declares that the client receives the answer, so that the object is kept.
    pub fn acknowledge(self) -> Stored {
        // The task waits for this message. It has ended only if the runtime is shutting down.
        let _ = self.acknowledged.send(());
        self.stored
    }
}

/// Maximum number of attempts of a PutObject, and the delay before the second one, which doubles.
const MAX_ATTEMPTS: usize = 3;
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Whether other uploads may write to the same name.
pub(super) enum Ownership {
    /// Drawn at random for this upload. An object under this name belongs to this upload, and is deleted unless it
    /// was acknowledged.
    Drawn,
    /// Fixed by a grant or an Idempotency-Key. An object under this name may belong to another attempt, and is complete
    /// and verified in any case. Objects are never deleted, and only this task's own multipart upload is aborted.
    Fixed(FixedUpload),
}

/// A message from the request.
pub(super) enum PartMessage {
    Part(Payload),
    /// The last part. It is the only part if the file fits into one.
    Last(Payload),
}

/// Why a multipart upload was not completed.
enum Interruption {
    Failed(Error),
    Abandoned,
}

impl From<Error> for Interruption {
    fn from(error: Error) -> Self {
        Interruption::Failed(error)
    }
}

impl From<StoreError> for Interruption {
    /// Never converts to 404, because the client did not request an object that could be missing.
    fn from(error: StoreError) -> Self {
        Interruption::Failed(error.into())
    }
}

/// What may remain in the store after an upload, and must be removed unless the upload was acknowledged.
enum Cleanup {
    Nothing,
    /// A multipart upload with an unknown ID, because the answer to CreateMultipartUpload was lost.
    LateUpload,
    Upload(Upload),
    /// The object. If completing failed, its multipart upload may exist instead.
    Object(Option<Upload>),
    /// The same, but the object may appear again after its removal, because an answer was lost.
    LateObject(Option<Upload>),
}

impl Cleanup {
    /// Returns the cleanup after the call that creates the object failed.
    fn after(error: &StoreError, upload: Option<Upload>) -> Self {
        match error {
            // Another upload's object exists. This upload's own object would cause another error, after a lost answer.
            StoreError::Precondition => upload.map_or(Cleanup::Nothing, Cleanup::Upload),
            error if is_outcome_unknown(error) => Cleanup::LateObject(upload),
            _ => Cleanup::Object(upload),
        }
    }

    /// Returns the cleanup without the object, for objects that were acknowledged or may belong to another attempt. A
    /// multipart upload with an unknown ID may belong to another attempt, too.
    fn keeping_the_object(self) -> Self {
        match self {
            Cleanup::Upload(upload) | Cleanup::Object(Some(upload)) | Cleanup::LateObject(Some(upload)) => {
                Cleanup::Upload(upload)
            }
            Cleanup::Nothing | Cleanup::LateUpload | Cleanup::Object(None) | Cleanup::LateObject(None) => {
                Cleanup::Nothing
            }
        }
    }
}

/// The store's half of an upload.
pub(super) struct UploadTask {
    pub(super) store: Arc<dyn Store>,
    pub(super) reconciler: Reconciler,
    pub(super) name: ObjectName,
    pub(super) ownership: Ownership,
    pub(super) metadata: Metadata,
    /// Whether the file is larger than one part, so that CreateMultipartUpload is called while its first part arrives.
    pub(super) creates_early: bool,
    /// How long a PutObject may continue after its request has ended. `None`: until it completes.
    pub(super) patience: Option<Duration>,
    /// Limits the number of parts in files that are sent concurrently.
    pub(super) files: Arc<Semaphore>,
}

impl UploadTask {
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<PartMessage>,
        mut done: oneshot::Sender<UploadResult>,
    ) {
        let (result, leftover) = if self.creates_early {
            self.multipart(None, &mut commands, &mut done).await
        } else {
            match commands.recv().await {
                Some(PartMessage::Last(only)) => self.put(only, &mut done).await,
                Some(PartMessage::Part(first)) => self.multipart(Some(first), &mut commands, &mut done).await,
                None => (Err(Interruption::Abandoned), Cleanup::Nothing),
            }
        };
        // The request detects this at its next message. It is notified before the cleanup, which can take long if the
        // store is failing.
        drop(commands);
        let unacknowledged = match result {
            Ok(stored) => {
                // The request may be dropped after the result was sent and before it is read.
                let (acknowledged, acknowledgement) = oneshot::channel();
                let durable = DurableUpload { stored, name: self.name.clone(), acknowledged };
                done.send(Ok(durable)).is_err() || acknowledgement.await.is_err()
            }
            Err(Interruption::Failed(error)) => {
                if let Err(Err(error)) = done.send(Err(error)) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(s3_key = %self.name.key(), error, "an abandoned upload failed");
                }
                true
            }
            Err(Interruption::Abandoned) => true,
        };
        let undoes_object = unacknowledged && matches!(self.ownership, Ownership::Drawn);
        self.clean_up(if undoes_object { leftover } else { leftover.keeping_the_object() }).await;
    }

    /// Removes what must not remain.
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
            tracing::error!(s3_key = %self.name.key(), error, "an object that was not acknowledged could not be deleted");
        }
        if late {
            self.reconciler.watch(LateEffect::Object(self.name.clone()));
        }
    }

    /// Writes the only part as an object.
    ///
    /// An attempt whose outcome is unknown may still arrive, even after its client has deleted the object through another
    /// process. So no name gets a second attempt: another name is drawn, and the first one is watched. Under a key that was
    /// fixed beforehand the attempt is repeated, because it writes the same bytes.
    ///
    /// There is no further attempt if the client has disconnected, or if the store answers nothing at all. Otherwise every
    /// attempt would take until its timeouts.
    async fn put(
        &mut self,
        only: Payload,
        done: &mut oneshot::Sender<UploadResult>,
    ) -> (Result<Stored, Interruption>, Cleanup) {
        let (mut attempt, mut delay) = (1, RETRY_DELAY);
        loop {
            let (result, leftover) = self.put_once(only.clone(), done).await;
            if attempt == MAX_ATTEMPTS || !can_be_repeated(&result, &leftover) {
                let result = if attempt > 1 { self.after_unknown_attempts(result) } else { result };
                return (result, leftover);
            }
            tokio::select! {
                biased;
                () = done.closed() => return (Err(Interruption::Abandoned), leftover),
                () = tokio::time::sleep(delay) => {}
            }
            if matches!(self.ownership, Ownership::Drawn) {
                self.reconciler.watch(LateEffect::Object(self.name.clone()));
                self.name = ObjectName::Image(self.name.key().redrawn());
            }
            (attempt, delay) = (attempt + 1, delay * 2);
        }
    }

    /// Under a fixed key, the failure of the last attempt does not say what the earlier ones have done.
    fn after_unknown_attempts(&self, result: Result<Stored, Interruption>) -> Result<Stored, Interruption> {
        match (&self.ownership, result) {
            (Ownership::Fixed(_), Err(Interruption::Failed(Error::Storage(source)))) => {
                Err(Error::OutcomeUnknown(source).into())
            }
            (_, result) => result,
        }
    }

    async fn put_once(
        &self,
        only: Payload,
        done: &mut oneshot::Sender<UploadResult>,
    ) -> (Result<Stored, Interruption>, Cleanup) {
        let whole = Stored { size: only.len, crc64: only.crc64 };
        tokio::select! {
            biased;
            made = self.make(whole, None, self.put_in_turn(only)) => made,
            () = self.given_up(done) => (Err(Interruption::Abandoned), Cleanup::LateObject(None)),
        }
    }

    /// Creates the object with `call`, which completes `upload` if there is one, and determines the outcome.
    async fn make(
        &self,
        whole: Stored,
        upload: Option<&Upload>,
        call: impl Future<Output = Result<Written, StoreError>>,
    ) -> (Result<Stored, Interruption>, Cleanup) {
        let written = match &self.ownership {
            Ownership::Drawn => call.await,
            Ownership::Fixed(fixed) => match fixed.create(self.store.as_ref(), upload.is_some(), call).await {
                Ok(written) => written,
                Err(error) => return (Err(error.into()), upload.cloned().map_or(Cleanup::Nothing, Cleanup::Upload)),
            },
        };
        match written {
            Ok(Written::Now) => (Ok(whole), Cleanup::Object(None)),
            Ok(Written::Found(found)) => (self.compare(&found, whole).await, Cleanup::Object(None)),
            Err(error) => {
                let leftover = Cleanup::after(&error, upload.cloned());
                (self.settle(error, whole).await, leftover)
            }
        }
    }

    /// Determines the outcome after the call that creates the object failed. Under a fixed key, another attempt may
    /// have created it.
    async fn settle(&self, error: StoreError, whole: Stored) -> Result<Stored, Interruption> {
        if matches!(self.ownership, Ownership::Drawn) || !is_outcome_unknown(&error) {
            return Err(error.into());
        }
        let found = match error {
            StoreError::Unreachable(_) => None,
            _ => self.store.find(&self.name).await.ok().flatten(),
        };
        match found {
            Some(found) => self.compare(&found, whole).await,
            // It may still appear.
            None => Err(Error::OutcomeUnknown(error.into()).into()),
        }
    }

    /// Compares the object that was found with the upload. Under a name that was drawn at random it is always the same.
    async fn compare(&self, found: &ObjectInfo, whole: Stored) -> Result<Stored, Interruption> {
        if matches!(self.ownership, Ownership::Fixed(_)) {
            check_same(self.store.as_ref(), &self.name, found, whole).await?;
        }
        Ok(whole)
    }

    /// Resolves when a call must no longer be awaited.
    async fn given_up(&self, done: &mut oneshot::Sender<UploadResult>) {
        done.closed().await;
        match self.patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
    }

    /// Creates the multipart upload, sends `first` and the parts that follow as they arrive, then completes the upload.
    async fn multipart(
        &self,
        first: Option<Payload>,
        commands: &mut mpsc::Receiver<PartMessage>,
        done: &mut oneshot::Sender<UploadResult>,
    ) -> (Result<Stored, Interruption>, Cleanup) {
        // Not cancelled if the request ends, because an upload with an unknown ID could not be aborted.
        let upload = match self.create_upload().await {
            Ok(upload) => upload,
            Err(error) => {
                let leftover = if is_outcome_unknown(&error) { Cleanup::LateUpload } else { Cleanup::Nothing };
                return (Err(error.into()), leftover);
            }
        };
        let sent = self.send_parts(&upload, first, commands, done).await;
        let reviewed = sent.and_then(|(sent, taken)| Ok((review(&sent, &taken)?, taken)));
        match reviewed {
            Err(stop) => (Err(self.explain_ended_upload(stop)), Cleanup::Upload(upload)),
            Ok((whole, taken)) => {
                let stored = Stored { size: whole.size, crc64: whole.crc64.unwrap_or_default() };
                self.make(stored, Some(&upload), self.store.complete_upload(&upload, &taken, whole)).await
            }
        }
    }

    /// Another client may end the uploads of a fixed key, by aborting its own direct upload. The client can try again.
    fn explain_ended_upload(&self, stop: Interruption) -> Interruption {
        match (&self.ownership, stop) {
            (Ownership::Fixed(_), Interruption::Failed(Error::Storage(source)))
                if matches!(source.downcast_ref(), Some(StoreError::NoSuchUpload)) =>
            {
                Error::OutcomeUnknown(source).into()
            }
            (_, stop) => stop,
        }
    }

    /// The reconciler aborts whatever other uploads of the name there are: they must not be other attempts'.
    async fn create_upload(&self) -> Result<Upload, StoreError> {
        match self.ownership {
            Ownership::Drawn => self.reconciler.create_upload(&self.name, &self.metadata).await,
            Ownership::Fixed(_) => self.store.create_upload(&self.name, &self.metadata).await,
        }
    }

    /// Returns the parts that were sent and the parts that the store confirmed, in order. Drops parts in flight on
    /// error.
    async fn send_parts(
        &self,
        upload: &Upload,
        first: Option<Payload>,
        commands: &mut mpsc::Receiver<PartMessage>,
        done: &mut oneshot::Sender<UploadResult>,
    ) -> Result<(Vec<Sent>, Vec<Part>), Interruption> {
        let mut sent = Vec::new();
        let mut taken = Vec::new();
        let mut in_flight: FuturesUnordered<PartFuture<'_>> = FuturesUnordered::new();
        let mut last = false;
        in_flight.extend(first.map(|first| self.send(upload, &mut sent, first)));
        while !(last && in_flight.is_empty()) {
            tokio::select! {
                Some(part) = in_flight.next() => taken.push(part?),
                // The number of buffers limits this: the request waits for a free buffer before it fills the next part.
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
            let _turn = parts::file_turn(&self.files, &part).await;
            self.store.upload_part(upload, number, part).await
        })
    }

    async fn put_in_turn(&self, only: Payload) -> Result<Written, StoreError> {
        let _turn = parts::file_turn(&self.files, &only).await;
        self.store.put(&self.name, &self.metadata, only).await
    }
}

type PartFuture<'a> = Pin<Box<dyn Future<Output = Result<Part, StoreError>> + Send + 'a>>;

/// A part that was sent.
struct Sent {
    size: u64,
    crc64: u64,
}

/// Whether a failed PutObject can be repeated: its outcome is unknown, and the store answers.
fn can_be_repeated(result: &Result<Stored, Interruption>, leftover: &Cleanup) -> bool {
    let Err(Interruption::Failed(error)) = result else { return false };
    let is_unreachable = matches!(StoreError::behind(error), Some(StoreError::Unreachable(_)));
    matches!(leftover, Cleanup::LateObject(_)) && !is_unreachable
}

/// Compares the parts that the store confirmed with the parts that were sent, before the object becomes visible.
fn review(sent: &[Sent], taken: &[Part]) -> Result<ObjectDigest, StoreError> {
    if sent.len() != taken.len() {
        return Err(StoreError::IntegrityMismatch(format!("{} parts sent, {} taken", sent.len(), taken.len())));
    }
    for (number, (ours, theirs)) in (1..).zip(sent.iter().zip(taken)) {
        let same =
            theirs.number == number && theirs.size == ours.size && theirs.crc64.is_none_or(|crc| crc == ours.crc64);
        if !same {
            return Err(StoreError::IntegrityMismatch(format!("part {number} is not what was sent")));
        }
    }
    Ok(parts::join(sent.iter().map(|part| (part.size, part.crc64))))
}
