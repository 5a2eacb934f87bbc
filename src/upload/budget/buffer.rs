//! A part while it is filled and while it is sent, in memory or in a file.

use bytes::Bytes;
use std::io;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::super::spill::SpillFile;
use super::Budget;
use super::placement::{Kind, leaves_memory};
use super::slots::{PartSlot, SlotGuard};
use crate::store::{Content, ReadAt, Reading};

/// A part being filled.
#[derive(Debug)]
pub struct Buffer {
    /// Empty if the part is in a file.
    pub(super) data: Vec<u8>,
    pub(super) len: usize,
    /// When the buffer was handed out.
    pub(super) filling_since: Instant,
    pub(super) budget: Arc<Budget>,
    /// Declared last, so that the slot is released after the memory.
    pub(super) guard: SlotGuard,
}

impl Buffer {
    /// Returns the number of bytes that still fit into this part.
    pub fn remaining(&self) -> usize {
        self.budget.part_size - self.len
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends at most [`Buffer::remaining`] bytes. Does not wait if the part is in memory.
    ///
    /// # Errors
    /// Returns an error if the part is in a file that cannot be written.
    pub async fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        debug_assert!(bytes.len() <= self.remaining());
        let (offset, len) = (self.len, bytes.len());
        match &self.guard.slot {
            Some(PartSlot::File(file)) => file.write(offset as u64, bytes).await?,
            _ => self.extend(&bytes),
        }
        self.len = offset + len;
        Ok(())
    }

    fn extend(&mut self, bytes: &[u8]) {
        // If the announced length was too small, grow to a whole part at once: doubling could exceed it.
        if self.data.capacity() - self.data.len() < bytes.len() {
            self.data.reserve_exact(self.remaining());
        }
        self.data.extend_from_slice(bytes);
    }

    /// Moves the part to a file if it has been filling for long and memory is scarce, so that a slow client leaves the memory
    /// to others. Without a free file the part stays in memory.
    ///
    /// # Errors
    /// Returns an error if the bytes are lost.
    pub async fn leave_scarce_memory(&mut self) -> io::Result<()> {
        if !leaves_memory(self.filling_since.elapsed(), self.budget.memory.is_scarce()) {
            return Ok(());
        }
        match self.guard.slot.take() {
            Some(PartSlot::Memory(charged)) => self.move_to_file(charged).await,
            slot => {
                self.guard.slot = slot;
                Ok(())
            }
        }
    }

    async fn move_to_file(&mut self, charged: OwnedSemaphorePermit) -> io::Result<()> {
        let created = self.budget.free_slot(Kind::File, self.data.capacity()).await;
        let Ok(Some(PartSlot::File(file))) = created else {
            self.guard.slot = Some(PartSlot::Memory(charged));
            return Ok(());
        };
        // The memory stays charged if this future is dropped while it is being written.
        let filled = FilledMemory { data: std::mem::take(&mut self.data), charged };
        let (filled, written) = file.write_and_return(0, filled).await?;
        if written.is_ok() {
            self.budget.pool.put(filled.data);
            self.guard.slot = Some(PartSlot::File(file));
        } else {
            self.data = filled.data;
            self.guard.slot = Some(PartSlot::Memory(filled.charged));
        }
        Ok(())
    }

    /// Returns the part's first bytes, at most `limit` of them.
    ///
    /// # Errors
    /// Returns an error if the part is in a file that cannot be read.
    pub async fn peek(&self, limit: usize) -> io::Result<Peek<'_>> {
        let len = self.len.min(limit);
        match &self.guard.slot {
            Some(PartSlot::File(file)) => Peek::read(&self.budget.readers, file, len).await,
            _ => Ok(Peek(Peeked::Memory(self.data.get(..len).unwrap_or_default()))),
        }
    }

    /// Returns the part for sending. Its slot is released with the last clone.
    pub fn freeze(self) -> Content {
        match &self.guard.slot {
            Some(PartSlot::File(file)) => Content::File(Arc::new(SpilledPart::new(Arc::clone(file), self))),
            _ => Content::Memory(Bytes::from_owner(self)),
        }
    }
}

/// The bytes of a part in memory, and the memory that is charged for them.
struct FilledMemory {
    data: Vec<u8>,
    charged: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for FilledMemory {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// A complete part in its file.
#[derive(Debug)]
struct SpilledPart {
    file: Arc<SpillFile>,
    /// Keeps the slot reserved.
    _buffer: Buffer,
}

impl SpilledPart {
    fn new(file: Arc<SpillFile>, buffer: Buffer) -> Self {
        SpilledPart { file, _buffer: buffer }
    }
}

impl ReadAt for SpilledPart {
    fn read_at(&self, offset: u64, len: usize) -> Reading {
        self.file.read_at(offset, len)
    }
}

/// The first bytes of a part.
#[derive(Debug, Default)]
pub struct Peek<'a>(Peeked<'a>);

#[derive(Debug)]
enum Peeked<'a> {
    Memory(&'a [u8]),
    /// Read from a file. The permit limits how many of these exist at once.
    File {
        bytes: Bytes,
        _permit: OwnedSemaphorePermit,
    },
}

impl Peek<'_> {
    /// Reads from a file. Waits only for other work on files, never for a client or the store.
    async fn read(readers: &Arc<Semaphore>, file: &SpillFile, len: usize) -> io::Result<Self> {
        let permit = Arc::clone(readers).acquire_owned().await.map_err(io::Error::other)?;
        Ok(Peek(Peeked::File { bytes: file.read_at(0, len).await?, _permit: permit }))
    }
}

impl Default for Peeked<'_> {
    fn default() -> Self {
        Peeked::Memory(&[])
    }
}

impl AsRef<[u8]> for Peek<'_> {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Peeked::Memory(bytes) => bytes,
            Peeked::File { bytes, .. } => bytes,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.budget.pool.put(std::mem::take(&mut self.data));
    }
}
