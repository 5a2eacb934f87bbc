//! Stores the bytes of one request, on a task of its own.
//!
//! The task goes on if its request is dropped: then, or if the body breaks off or a newer request arrives, it stores what has
//! arrived. Bytes that do not fill a part become a tail after all parts before it are stored. The tail that an earlier request
//! has left is read into the first part, like the beginning of the body.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, TryStreamExt};
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc;

use super::resolve::{Open, Resolved};
use super::takeover::Turn;
use super::{Append, FinishedImage, Progress, ResumableUpload, Service, interrupted};
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::ingest::{PrefixBuffer, sniff};
use crate::policy::Policy;
use crate::store::{Kept, ObjectDigest, Part, Payload, StoreError, Upload};
use crate::upload::budget::{Reservation, memory_checks};
use crate::upload::parts::{self, PartCutter};
use crate::upload::writer::AdmittedUpload;

/// A message from the request. If there are no more without an [`Piece::End`], the body has broken off.
pub(super) enum Piece {
    Bytes(Bytes),
    /// The body has arrived completely.
    End,
}

/// Stores the bytes of one request.
pub(super) struct Transfer {
    service: Arc<Service>,
    upload: ResumableUpload,
    target: Upload,
    open: Open,
    append: Append,
    policy: Policy,
    cutter: PartCutter,
    reservation: Reservation,
    /// The offset of the first byte that is in the cutter.
    base: u64,
    /// CRC64NVME of all bytes before it, if it is known.
    crc64: Option<u64>,
    head: Head,
    in_flight: FuturesUnordered<BoxFuture<'static, Result<Part, StoreError>>>,
    /// The parts that this request has stored.
    sent: Vec<Part>,
}

/// What is known of the beginning of the file. It is checked by every request that sends the first part.
enum Head {
    /// It is looked at again when there are so many bytes.
    Unknown {
        next_look: u64,
    },
    Image(ImageInfo),
    /// An earlier request has sent the first part.
    Sent,
}

/// How a body has ended.
struct End {
    /// Whether it has arrived completely.
    is_clean: bool,
    /// Why it was not read on. What has arrived before is stored nevertheless.
    error: Option<Error>,
}

/// Why the bytes of a request were not stored.
enum Stop {
    /// The file is not an allowed image.
    Refused(Error),
    /// Another request has removed the tail at the offset.
    Overtaken,
    Store(StoreError),
    Failed(Error),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Store(error)
    }
}

impl Transfer {
    pub(super) fn new(
        service: Arc<Service>,
        upload: &ResumableUpload,
        target: Upload,
        open: Open,
        append: Append,
        admitted: AdmittedUpload,
    ) -> Self {
        let mut policy = service.policy.within(Some(upload.max_size), None, upload.key.format());
        let part_size = usize::try_from(upload.part_size).unwrap_or(usize::MAX);
        policy.header_scan_limit = policy.header_scan_limit.min(part_size);
        let (cutter, reservation) = admitted.into_parts();
        let base = open.base(upload.part_size);
        let before = open.parts.iter().take_while(|part| u64::from(part.number) * upload.part_size <= base);
        Transfer {
            service,
            target,
            append,
            policy,
            cutter,
            reservation,
            base,
            crc64: joined(before, base),
            head: if base == 0 { Head::Unknown { next_look: 1 } } else { Head::Sent },
            in_flight: FuturesUnordered::new(),
            sent: Vec::new(),
            upload: upload.clone(),
            open,
        }
    }

    /// Stores the pieces, until they end or a newer request arrives.
    pub(super) async fn run(mut self, mut pieces: mpsc::Receiver<Piece>, turn: &Turn) -> Result<Progress> {
        let received = match self.receive(&mut pieces, turn).await {
            Err(Stop::Failed(error)) => Ok(End { is_clean: false, error: Some(error) }),
            received => received,
        };
        // The request stops reading the body.
        drop(pieces);
        let stored = match received {
            Ok(end) => self.settle(end).await,
            Err(stop) => Err(stop),
        };
        match stored {
            Ok(progress) => Ok(progress),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Refused(error)) => {
                self.service.discard(&self.upload).await;
                Err(error)
            }
            Err(Stop::Store(error @ StoreError::NoSuchUpload)) => {
                self.service.ended(&self.upload, error).await.map(Progress::Complete)
            }
            Err(Stop::Store(error)) => Err(interrupted(error)),
            Err(Stop::Overtaken) => Err(self.offset_mismatch().await?),
        }
    }

    async fn receive(&mut self, pieces: &mut mpsc::Receiver<Piece>, turn: &Turn) -> Result<End, Stop> {
        self.load_tail().await?;
        let mut memory_checks = memory_checks();
        loop {
            let piece = tokio::select! {
                biased;
                Some(part) = self.in_flight.next() => {
                    self.sent.push(part?);
                    continue;
                }
                () = turn.taken_over() => None,
                piece = pieces.recv() => piece,
                _ = memory_checks.tick() => {
                    self.cutter.leave_scarce_memory().await.map_err(Stop::Failed)?;
                    continue;
                }
            };
            match piece {
                Some(Piece::Bytes(bytes)) => {
                    self.check_size(bytes.len() as u64)?;
                    self.write(bytes).await?;
                }
                Some(Piece::End) => return Ok(End { is_clean: true, error: None }),
                None => return Ok(End { is_clean: false, error: None }),
            }
        }
    }

    /// Reads the tail at the offset, if there is one.
    async fn load_tail(&mut self) -> Result<(), Stop> {
        let Some((base, len)) = self.open.tail else { return Ok(()) };
        let tail = self.service.store.read_kept(&self.upload.kept(Kept::Tail { base, len })).await;
        let mut tail = match tail {
            Err(StoreError::NotFound) => return Err(Stop::Overtaken),
            tail => tail?,
        };
        self.crc64 = self.crc64.or(tail.crc64_before);
        let mut read = 0;
        while let Some(chunk) = tail.bytes.try_next().await? {
            read += chunk.len() as u64;
            if read <= len {
                self.write(chunk).await?;
            }
        }
        let is_same = tail.crc64.is_none_or(|crc64| crc64 == self.cutter.crc64());
        if read == len && is_same {
            return Ok(());
        }
        Err(StoreError::IntegrityMismatch(format!("a tail of {len} bytes is not what was stored")).into())
    }

    fn check_size(&self, more: u64) -> Result<(), Stop> {
        let end = self.end() + more;
        match self.open.length {
            Some(length) if end > length => Err(Stop::Failed(Error::InconsistentLength { length })),
            _ => self.policy.check_size(end).map_err(Stop::Failed),
        }
    }

    /// Returns the offset after the last byte that has arrived.
    fn end(&self) -> u64 {
        self.base + self.cutter.len() as u64
    }

    fn is_full(&self) -> bool {
        self.cutter.len() as u64 == self.upload.part_size
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<(), Stop> {
        while !bytes.is_empty() {
            if self.is_full() {
                self.reservation.filled();
                self.send_part().await?;
                self.refill().await?;
            }
            let room = self.upload.part_size - self.cutter.len() as u64;
            let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            self.cutter.fill(&mut bytes.split_to(fits)).await.map_err(Stop::Failed)?;
            let is_due = matches!(self.head, Head::Unknown { next_look } if self.end() >= next_look);
            if is_due || self.is_full() {
                self.look(false).await?;
            }
        }
        Ok(())
    }

    /// Provides the buffer for the next part. Waits for one of this request's own parts if no other buffer is free.
    async fn refill(&mut self) -> Result<(), Stop> {
        let mut next = pin!(self.reservation.next());
        let buffer = loop {
            tokio::select! {
                biased;
                buffer = &mut next => break buffer,
                Some(part) = self.in_flight.next() => self.sent.push(part?),
            }
        };
        self.cutter.refill(buffer);
        Ok(())
    }

    /// Checks the beginning of the file, if that was not done before. `whole` means that it is the whole file.
    ///
    /// # Errors
    /// Returns [`Stop::Refused`] if the file is not an allowed image.
    async fn look(&mut self, whole: bool) -> Result<(), Stop> {
        let Head::Unknown { .. } = self.head else { return Ok(()) };
        let (len, limit) = (self.cutter.len(), self.policy.header_scan_limit);
        // A part in a file is read into memory.
        let _permit = sniff::long_look(len.min(limit) as u64).await;
        let prefix = self.cutter.prefix(limit).await.map_err(Stop::Failed)?;
        let found = sniff::check(prefix.as_ref(), whole && len <= limit, &self.policy).map_err(Stop::Refused)?;
        drop(prefix);
        self.head = found.map_or(Head::Unknown { next_look: (len as u64 * 2).min(limit as u64) }, Head::Image);
        Ok(())
    }

    /// Sends the bytes in the cutter as a part.
    async fn send_part(&mut self) -> Result<(), Stop> {
        let payload = self.cutter.cut();
        let number = u32::try_from(self.base / self.upload.part_size + 1).unwrap_or(u32::MAX);
        let parts = self.crc64.map(|crc64| [(self.base, crc64), (payload.len, payload.crc64)]);
        self.crc64 = parts.and_then(|parts| parts::join(parts).crc64);
        self.base += payload.len;
        let (service, target) = (Arc::clone(&self.service), self.target.clone());
        self.in_flight.push(async move { send(&service, &target, number, payload).await }.boxed());
        Ok(())
    }

    async fn all_sent(&mut self) -> Result<(), Stop> {
        while let Some(part) = self.in_flight.next().await {
            self.sent.push(part?);
        }
        Ok(())
    }

    /// Stores the rest after the body has ended, or completes the upload if all bytes are there.
    async fn settle(&mut self, end: End) -> Result<Progress, Stop> {
        let offset = self.end();
        let said = (end.is_clean && self.append.completes).then_some(offset);
        let error = match (end.error, self.open.length) {
            (None, Some(length)) if said.is_some_and(|said| said != length) => {
                Some(Error::InconsistentLength { length })
            }
            (error, _) => error,
        };
        let is_whole = self.open.length.or(said) == Some(offset);
        if let (None, true) = (&error, is_whole) {
            return self.finish().await.map(|image| Progress::Complete(Box::new(image)));
        }
        self.keep().await?;
        match error {
            Some(error) => Err(Stop::Failed(error)),
            None => Ok(Progress::Unfinished { offset, length: self.open.length }),
        }
    }

    /// Stores everything that has arrived. The bytes that do not fill a part become a tail.
    async fn keep(&mut self) -> Result<(), Stop> {
        if !self.cutter.is_empty() {
            self.look(false).await?;
        }
        if self.is_full() {
            self.send_part().await?;
        }
        self.all_sent().await?;
        let (end, len) = (self.end(), self.cutter.len() as u64);
        if end == self.open.offset {
            return Ok(());
        }
        if len > 0 {
            let name = self.upload.kept(Kept::Tail { base: self.base, len });
            let tail = self.cutter.cut();
            let _turn = parts::file_turn(self.service.uploads.files(), &tail).await;
            self.service.store.put_kept(&name, tail, self.crc64).await?;
        }
        let covered = self.open.kept.iter().filter(|kept| matches!(kept, Kept::Tail { .. }) && kept.end() < end);
        self.service.remove(&self.upload, covered).await;
        Ok(())
    }

    /// Sends the last part and completes the upload.
    async fn finish(&mut self) -> Result<FinishedImage, Stop> {
        self.look(true).await?;
        if !self.cutter.is_empty() {
            self.send_part().await?;
        }
        self.all_sent().await?;
        let first = self.open.base(self.upload.part_size);
        let earlier = self.open.parts.iter().filter(|part| u64::from(part.number) * self.upload.part_size <= first);
        let mut parts: Vec<Part> = earlier.chain(&self.sent).cloned().collect();
        parts.sort_unstable_by_key(|part| part.number);
        let whole = ObjectDigest { size: self.base, crc64: self.crc64 };
        let image = self.service.complete(&self.upload, &self.target, parts, whole).await.map_err(Stop::Failed)?;
        let unneeded = self.open.kept.iter().filter(|kept| !matches!(kept, Kept::Same(_)));
        self.service.remove(&self.upload, unneeded).await;
        let info = if let Head::Image(info) = self.head { Some(info) } else { None };
        Ok(FinishedImage { info, ..image })
    }

    /// Returns the error for a request whose offset is not the upload's any more.
    async fn offset_mismatch(self) -> Result<Error> {
        let offset = match self.service.resolve(&self.upload).await? {
            Resolved::Complete(image) => image.object.size,
            Resolved::Open(open) => open.offset,
        };
        Ok(Error::OffsetMismatch { offset, provided: self.append.offset })
    }
}

/// Sends one part and checks that the store has taken what was sent.
async fn send(service: &Service, target: &Upload, number: u32, payload: Payload) -> Result<Part, StoreError> {
    let _turn = parts::file_turn(service.uploads.files(), &payload).await;
    let (len, crc64) = (payload.len, payload.crc64);
    let part = service.store.upload_part(target, number, payload).await?;
    if part.size != len || part.crc64.is_some_and(|taken| taken != crc64) {
        return Err(StoreError::IntegrityMismatch(format!("part {number} is not what was sent")));
    }
    Ok(part)
}

/// Returns the CRC64NVME of the first `len` bytes, if the store has reported the checksums of their parts.
pub(super) fn joined<'a>(parts: impl Iterator<Item = &'a Part>, len: u64) -> Option<u64> {
    let parts: Option<Vec<(u64, u64)>> = parts.map(|part| Some((part.size, part.crc64?))).collect();
    let whole = parts::join(parts?);
    if whole.size == len { whole.crc64 } else { None }
}
