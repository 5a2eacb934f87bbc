//! The request's half of an upload: it cuts parts and hands them over, and waits while it has no room for the next
//! ([`super::budget`]). The store's half is a task of its own, [`super::task`].

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::budget::Reservation;
use super::digest::{Stored, StreamDigest};
use super::parts::PartCutter;
use super::task::{PartMessage, UploadResult};
use crate::error::{Error, Result};

/// An upload that has its room, and may have its first bytes, and no name yet.
pub struct AdmittedUpload {
    pub(super) cutter: PartCutter,
    pub(super) share: Reservation,
}

impl AdmittedUpload {
    /// Where the first bytes go.
    pub fn head(&mut self) -> &mut PartCutter {
        &mut self.cutter
    }

    /// Gives its room back: what was sent before is only compared, and not kept again.
    pub fn into_digest(self) -> StreamDigest {
        self.cutter.into_digest()
    }
}

/// The request's half of an upload. Dropped before [`UploadWriter::finish`] has answered, the upload is undone; under a key
/// that was fixed beforehand an object that was written by then stays.
pub struct UploadWriter {
    pub(super) cutter: PartCutter,
    pub(super) share: Reservation,
    pub(super) commands: mpsc::Sender<PartMessage>,
    pub(super) outcome: oneshot::Receiver<UploadResult>,
}

impl UploadWriter {
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

    /// Resolves when the upload cannot go on: the error is the answer, however long the client would still send.
    pub async fn failed(&mut self) -> Error {
        self.commands.closed().await;
        self.failure().await
    }

    /// Sends the last part and makes the object. It is durable when this returns.
    pub async fn finish(self) -> Result<Stored> {
        let UploadWriter { mut cutter, share: _share, commands, outcome } = self;
        // Where nobody takes it the task has failed, and the outcome says why.
        let _ = commands.send(PartMessage::Last(cutter.cut())).await;
        let (stored, acknowledged) = told(outcome.await)?;
        let _ = acknowledged.send(());
        Ok(stored)
    }

    async fn failure(&mut self) -> Error {
        match told((&mut self.outcome).await) {
            Err(error) => error,
            Ok(_) => Error::Internal("an upload ended before its last part".into()),
        }
    }
}

fn told(outcome: Result<UploadResult, oneshot::error::RecvError>) -> Result<(Stored, oneshot::Sender<()>)> {
    match outcome {
        Ok(result) => result,
        Err(gone) => Err(Error::Internal(Box::new(gone))),
    }
}
