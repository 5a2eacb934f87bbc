//! The request's side of an upload. It cuts the body into parts, passes them to the upload's task and waits for a free
//! slot for the next part ([`super::budget`]). The store's side is a separate task, `task`.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::budget::Reservation;
use super::digest::StreamDigest;
use super::parts::PartCutter;
use super::task::{DurableUpload, PartMessage, UploadResult};
use crate::error::{Error, Result};

/// An upload that has a reservation and possibly its first bytes, but no name yet.
pub struct AdmittedUpload {
    pub(super) cutter: PartCutter,
    pub(super) share: Reservation,
}

impl AdmittedUpload {
    /// Returns the cutter that takes the first bytes.
    pub fn head(&mut self) -> &mut PartCutter {
        &mut self.cutter
    }

    /// Returns the cutter that takes the bytes, and the reservation that provides its further buffers.
    pub fn into_parts(self) -> (PartCutter, Reservation) {
        (self.cutter, self.share)
    }

    /// Releases the reservation: bytes that were sent before are only compared, and not stored again.
    pub fn into_digest(self) -> StreamDigest {
        self.cutter.into_digest()
    }
}

/// The request's side of an upload. If it is dropped before [`UploadWriter::finish`] returns, the upload is undone. Under a
/// key that was fixed beforehand an object that was written by then stays.
pub struct UploadWriter {
    pub(super) cutter: PartCutter,
    pub(super) share: Reservation,
    pub(super) commands: mpsc::Sender<PartMessage>,
    pub(super) outcome: oneshot::Receiver<UploadResult>,
}

impl UploadWriter {
    /// Writes the next bytes of the stream. Waits if all slots contain parts that are being sent.
    pub async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        while !chunk.is_empty() {
            if self.cutter.is_full() {
                self.send_part().await?;
            }
            self.cutter.fill(&mut chunk).await?;
        }
        Ok(())
    }

    /// See [`PartCutter::leave_scarce_memory`].
    pub async fn leave_scarce_memory(&mut self) -> Result<()> {
        self.cutter.leave_scarce_memory().await
    }

    async fn send_part(&mut self) -> Result<()> {
        self.share.filled();
        if self.commands.send(PartMessage::Part(self.cutter.cut())).await.is_err() {
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

    /// Resolves with the error when the upload has failed, so that the client is answered before it has sent
    /// everything.
    pub async fn failed(&mut self) -> Error {
        self.commands.closed().await;
        self.failure().await
    }

    /// Sends the last part and creates the object. The object is durable when this returns, and stays if that is
    /// acknowledged.
    pub async fn finish(self) -> Result<DurableUpload> {
        let UploadWriter { mut cutter, share: _share, commands, outcome } = self;
        // If it cannot be sent, the task has failed, and the outcome contains the error.
        let _ = commands.send(PartMessage::Last(cutter.cut())).await;
        durable(outcome.await)
    }

    /// Undoes the upload, and keeps its reservation for another one.
    pub async fn restart(self) -> AdmittedUpload {
        let UploadWriter { cutter, mut share, commands, outcome } = self;
        drop((cutter, commands, outcome));
        // Returns at once, or when a part of the old upload that is being sent was dropped.
        let cutter = PartCutter::new(share.next().await);
        AdmittedUpload { cutter, share }
    }

    async fn failure(&mut self) -> Error {
        match durable((&mut self.outcome).await) {
            Err(error) => error,
            Ok(_) => Error::Internal("an upload ended before its last part".into()),
        }
    }
}

fn durable(outcome: Result<UploadResult, oneshot::error::RecvError>) -> Result<DurableUpload> {
    match outcome {
        Ok(result) => result,
        Err(gone) => Err(Error::Internal(Box::new(gone))),
    }
}
