//! Resumable uploads through the service: a file arrives in several requests, and what has arrived stays.
//!
//! An upload is one multipart upload on the final key, which is created before its address is given out. The address carries
//! a token with everything that is known about the upload ([`ResumableClaims`]), so nothing is stored about it but its bytes:
//! full parts as parts, and the bytes that do not fill a part as a *tail* under `incoming/` ([`Kept`](crate::store::Kept)).
//! Any process can continue it.
//!
//! These rules keep an upload consistent if requests overlap, die, or reach other processes late. They need no condition
//! but If-None-Match on Complete:
//!
//! - S3 ends a multipart upload once, by Complete or by Abort. Nothing else writes the final key. So after a Complete an
//!   Abort changes nothing, and after an Abort (a DELETE) no image can appear.
//! - A tail is stored only after all parts before it. The name of a tail says where it ends, and the one that ends last
//!   counts. So a late writer of an older tail does no harm.
//! - The tails are listed before the parts. A tail is removed only when the parts or another tail cover it, so that one of the
//!   two lists has every byte that was acknowledged.
//! - Only bytes that are stored are acknowledged. If that is not certain, the answer is 503, and the client asks for the offset.
//! - Whoever finds that all bytes are there completes the upload, because its client may consider it done.
//!
//! `resolve` finds out how far an upload is, `transfer` stores the bytes of a request, `finish` makes the image, and
//! `takeover` ends an older request of the same upload in this process.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::ingest::sniff::Search;
use crate::policy::Policy;
use crate::store::{ImageKey, ObjectDigest, ObjectInfo, ObjectName, Payload, Store};
use crate::telemetry::trace;
use crate::upload::UploadManager;
use crate::upload::parts::payload;

mod claims;
mod create;
mod finish;
mod resolve;
mod takeover;
#[cfg(test)]
mod tests;
mod transfer;
mod turns;

pub use claims::{ResumableClaims, ResumableUpload};
pub use create::{CreatedUpload, NewUpload};

use resolve::{Open, Resolved};
use takeover::{Takeovers, Turn};
use transfer::{Piece, Transfer};

/// Creates, continues and ends resumable uploads. Cheap to clone.
#[derive(Clone)]
pub struct ResumableUploads(Arc<Service>);

/// What all parts of this module use.
struct Service {
    store: Arc<dyn Store>,
    uploads: UploadManager,
    policy: Arc<Policy>,
    /// Size in bytes of the parts of new uploads, and the largest size that a buffer can hold.
    part_size: u64,
    takeovers: Takeovers,
}

/// A request that brings bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// The offset in the file of the first byte of the body.
    pub offset: u64,
    /// The length of the file in bytes, if the request says it (`Upload-Length`).
    pub length: Option<u64>,
    /// The length of the body in bytes, if the request says it.
    pub content_length: Option<u64>,
    /// Whether the file ends where the body ends, if the body arrives completely (`Upload-Complete: ?1`).
    pub completes: bool,
}

/// How far an upload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Unfinished {
        /// Number of bytes that are stored. The next request begins there.
        offset: u64,
        /// The length of the file in bytes, if it is known.
        length: Option<u64>,
    },
    Complete(Box<FinishedImage>),
}

/// The image of a complete upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedImage {
    pub key: ImageKey,
    /// The image's object. Its size is the upload's length and offset. Its `custom` metadata are those of the creation.
    pub object: ObjectInfo,
    /// Type and dimensions, if this request has read them. Otherwise [`ResumableUploads::inspect`] reads them.
    pub info: Option<ImageInfo>,
    /// CRC64NVME of the image, if this request or the store knows it.
    pub crc64: Option<u64>,
    /// Whether this request has completed the upload, as far as that is known.
    pub is_new: bool,
}

impl ResumableUploads {
    /// `part_size` is the part size of `uploads` in bytes. The process waits for the tasks of `uploads` before it exits.
    pub fn new(store: Arc<dyn Store>, uploads: UploadManager, policy: Arc<Policy>, part_size: usize) -> Self {
        let (part_size, takeovers) = (part_size as u64, Takeovers::default());
        ResumableUploads(Arc::new(Service { store, uploads, policy, part_size, takeovers }))
    }

    /// Creates an upload: a multipart upload on the final key.
    ///
    /// # Errors
    /// Returns [`Error::NoFile`] (400) or [`Error::PayloadTooLarge`] (413) if the length is 0 or exceeds the limit,
    /// [`Error::AlreadyExists`] (409) if the key was fixed beforehand and its image exists, [`Error::OverCapacity`] (503), and
    /// [`Error::UploadInterrupted`] (503) if the store fails.
    pub async fn create(&self, new: NewUpload) -> Result<CreatedUpload> {
        create::create(self, new).await
    }

    /// Returns how far an upload is. Ends an older request of the upload in this process, and completes the upload if all bytes
    /// are stored.
    ///
    /// # Errors
    /// Returns [`Error::UploadGone`] (410) if the upload was cancelled or has expired, [`Error::AlreadyExists`] (409) if another
    /// upload has created another image under its key, [`Error::UploadInterrupted`] (503) if the store fails, and the errors of
    /// [`ResumableUploads::append`] if the upload is completed.
    pub async fn status(&self, upload: &ResumableUpload) -> Result<Progress> {
        let turn = self.0.takeovers.begin(upload.id).await;
        match self.0.resolve(upload).await? {
            Resolved::Complete(image) => Ok(Progress::Complete(image)),
            Resolved::Open(open) if open.length == Some(open.offset) => {
                self.transfer(upload, open, Append::default(), turn, futures::stream::empty()).await
            }
            Resolved::Open(open) => Ok(Progress::Unfinished { offset: open.offset, length: open.length }),
        }
    }

    /// Stores the bytes of a body. Ends an older request of the upload in this process, and completes the upload with the last
    /// byte of the file.
    ///
    /// The body is polled only after everything else was checked. If it breaks off, or this future is dropped, a task stores
    /// what has arrived. The returned offset may be less than the end of the body if a newer request has ended this one.
    ///
    /// # Errors
    /// In addition to the errors of [`ResumableUploads::status`], returns
    /// - [`Error::OffsetMismatch`] (409) with the right offset,
    /// - [`Error::InconsistentLength`] (400) if the length differs from the one that is known, or the body has more bytes;
    /// - [`Error::PayloadTooLarge`] (413) if the length or the body exceeds the limit;
    /// - [`Error::OverCapacity`] (503) if there is no memory for the bytes;
    /// - the errors of [`crate::ingest::sniff::check`] (400) if the file is not an allowed image: the upload is then removed;
    /// - the body's error, after what has arrived was stored: the client has to ask for the offset;
    /// - [`Error::OutcomeUnknown`] (503) if the image may have been created.
    pub async fn append(
        &self,
        upload: &ResumableUpload,
        append: Append,
        body: impl Stream<Item = Result<Bytes>> + Send,
    ) -> Result<Progress> {
        if append.content_length != Some(0) {
            self.0.uploads.check_capacity(append.content_length)?;
        }
        let turn = self.0.takeovers.begin(upload.id).await;
        let mut open = match self.0.resolve(upload).await? {
            Resolved::Complete(image) if append.offset == image.object.size => return no_more(image, body).await,
            Resolved::Complete(image) => {
                return Err(Error::OffsetMismatch { offset: image.object.size, provided: append.offset });
            }
            Resolved::Open(open) => open,
        };
        open.check(upload, &append)?;
        self.0.keep_length(upload, &mut open, append.length).await?;
        let mut body = pin!(body);
        let first = tokio::select! {
            biased;
            first = body.next() => first.transpose()?,
            () = turn.taken_over() => return Ok(Progress::Unfinished { offset: open.offset, length: open.length }),
        };
        let is_finished = open.length == Some(open.offset) || append.completes;
        if first.is_none() && !is_finished {
            return Ok(Progress::Unfinished { offset: open.offset, length: open.length });
        }
        let body = futures::stream::iter(first.map(Ok)).chain(body);
        self.transfer(upload, open, append, turn, body).await
    }

    /// Ends an upload of a whole file ([`NewUpload::of_whole_file`]) that was stored under a key that was fixed beforehand. `whole`
    /// describes the file.
    ///
    /// # Errors
    /// Returns [`Error::AlreadyExists`] (409) if the key has another image meanwhile, and [`Error::OutcomeUnknown`] or
    /// [`Error::UploadInterrupted`] (503) if the store fails.
    pub async fn conclude(&self, upload: &ResumableUpload, whole: ObjectDigest) -> Result<()> {
        self.0.conclude(upload, whole).await
    }

    /// Cancels an upload: no image can appear any more when this returns. Ends an older request of the upload in this process.
    ///
    /// # Errors
    /// Returns [`Error::AlreadyComplete`] (409) if the image exists, and [`Error::UploadInterrupted`] (503) if the store fails.
    pub async fn delete(&self, upload: &ResumableUpload) -> Result<()> {
        let _turn = self.0.takeovers.begin(upload.id).await;
        self.0.cancel(upload).await
    }

    /// Returns type and dimensions of the image. Reads its header unless that was done before.
    pub async fn inspect(&self, image: &FinishedImage) -> Result<ImageInfo> {
        match image.info {
            Some(info) => Ok(info),
            None => self.0.read_info(&image.key, &image.object).await,
        }
    }

    /// Stores the bytes of a body on a task of its own, which goes on if this future is dropped.
    async fn transfer(
        &self,
        upload: &ResumableUpload,
        open: Open,
        append: Append,
        turn: Turn,
        body: impl Stream<Item = Result<Bytes>> + Send,
    ) -> Result<Progress> {
        // The process was restarted with a smaller PART_SIZE, so that its buffers cannot hold a part of this upload.
        let target = upload.multipart().filter(|_| upload.part_size <= self.0.part_size).ok_or(Error::UploadGone)?;
        let tail = open.tail.map_or(0, |(_, len)| len);
        let admitted = self.0.uploads.admit(append.content_length.map(|length| length.saturating_add(tail))).await?;
        let transfer = Transfer::new(Arc::clone(&self.0), upload, target, open, append, admitted);
        let (pieces, received) = mpsc::channel(1);
        let (done, outcome) = oneshot::channel();
        self.0.uploads.tasks().spawn(trace::carried(async move {
            let stored = transfer.run(received, &turn).await;
            drop(turn);
            // If the request is gone, its client asks for the offset.
            let _ = done.send(stored);
        }));
        pump(body, pieces, outcome).await
    }
}

/// Answers a request at the end of a complete upload, whose body must be empty.
async fn no_more(image: Box<FinishedImage>, body: impl Stream<Item = Result<Bytes>> + Send) -> Result<Progress> {
    match pin!(body).next().await.transpose()? {
        Some(bytes) if !bytes.is_empty() => Err(Error::InconsistentLength { length: image.object.size }),
        _ => Ok(Progress::Complete(image)),
    }
}

/// Passes the body to the task that stores it, and returns the result of the task.
async fn pump(
    body: impl Stream<Item = Result<Bytes>> + Send,
    pieces: mpsc::Sender<Piece>,
    mut outcome: oneshot::Receiver<Result<Progress>>,
) -> Result<Progress> {
    let ended = |outcome: Result<_, oneshot::error::RecvError>| {
        outcome.unwrap_or_else(|gone| Err(Error::Internal(Box::new(gone))))
    };
    let mut body = pin!(body);
    loop {
        let piece = tokio::select! {
            biased;
            stored = &mut outcome => return ended(stored),
            next = body.next() => match next {
                Some(Ok(bytes)) => Piece::Bytes(bytes),
                None => Piece::End,
                Some(Err(broken)) => {
                    drop(pieces);
                    // What has arrived is stored. If that was the whole file, the upload is complete.
                    return match ended(outcome.await)? {
                        Progress::Unfinished { .. } => Err(broken),
                        complete => Ok(complete),
                    };
                }
            },
        };
        let is_end = matches!(piece, Piece::End);
        if pieces.send(piece).await.is_err() || is_end {
            return ended(outcome.await);
        }
    }
}

impl Service {
    /// Stores the length of the file, if a request says it for the first time.
    async fn keep_length(&self, upload: &ResumableUpload, open: &mut Open, length: Option<u64>) -> Result<()> {
        let Some(length) = length.filter(|_| open.length.is_none()) else { return Ok(()) };
        let kept = crate::store::Kept::Length(length);
        self.store.put_kept(&upload.kept(kept), empty(), None).await.map_err(interrupted)?;
        open.length = Some(length);
        open.kept.push(kept);
        Ok(())
    }

    /// Reads the header of an image that is complete.
    async fn read_info(&self, key: &ImageKey, object: &ObjectInfo) -> Result<ImageInfo> {
        let policy = self.policy.within(None, None, key.format());
        let name = ObjectName::Image(key.clone());
        let etag = object.etag.as_deref().unwrap_or_default();
        let mut search = Search::new(object.size, &policy)?;
        loop {
            let _charged = self.uploads.budget().lend(search.held().saturating_sub(Search::HEAD)).await?;
            let bytes = self.store.read(&name, search.wanted(), etag).await.map_err(interrupted)?;
            if let Some(info) = search.add(bytes)? {
                return Ok(info);
            }
        }
    }
}

fn empty() -> Payload {
    payload(Bytes::new())
}

/// The error for a failure of the store in the middle of an upload.
fn interrupted(error: crate::store::StoreError) -> Error {
    Error::UploadInterrupted(error.into())
}
