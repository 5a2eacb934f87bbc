//! A part while it is filled and while it is sent, in memory or in a file.

use bytes::Bytes;
use std::future;
use std::io;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::super::spill::SpillFile;
use super::Budget;
use super::placement::{Kind, leaves_memory};
use super::slots::{PartSlot, SlotGuard};
use crate::store::{Content, ReadAt, Reading};

/// Most bytes that are collected in memory before they are written to a part's file. A slow client sends a few KiB at a time,
/// and passing each piece to another thread took more of the processor than everything else in its upload.
pub(super) const COLLECTED: usize = 32 << 10;

/// A part being filled.
#[derive(Debug)]
pub struct Buffer {
    /// The bytes of the part. If it is in a file, the last ones, which are not yet written.
    pub(super) data: Vec<u8>,
    /// The memory that is charged for `data` if the part is in a file.
    pub(super) collecting: Option<[OwnedSemaphorePermit; 2]>,
    /// Most bytes in `data` if the part is in a file.
    pub(super) max_collected: usize,
    /// Bytes in the part.
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
        let len = bytes.len();
        match &self.guard.slot {
            Some(PartSlot::File(file)) => self.append_to_file(Arc::clone(file), bytes).await?,
            _ => self.extend(&bytes),
        }
        self.len += len;
        Ok(())
    }

    async fn append_to_file(&mut self, file: Arc<SpillFile>, bytes: Bytes) -> io::Result<()> {
        if self.data.len() + bytes.len() > self.max_collected {
            self.write_collected(&file).await?;
        }
        if bytes.len() < self.max_collected && self.can_collect() {
            self.data.extend_from_slice(&bytes);
            Ok(())
        } else {
            file.write(self.len as u64, bytes).await
        }
    }

    /// Writes the collected bytes to the file. They stay in memory if that fails.
    async fn write_collected(&mut self, file: &SpillFile) -> io::Result<()> {
        let offset = self.written();
        let Some(charged) = self.collecting.take() else { return Ok(()) };
        let (collected, written) = file.write_and_return(offset as u64, self.take_data(charged)).await?;
        (self.data, self.collecting) = (collected.data, Some(collected.charged));
        written.map(|()| self.data.clear())
    }

    /// Whether bytes can be collected in memory. If none is free, they are written as they arrive.
    fn can_collect(&mut self) -> bool {
        if self.collecting.is_none() {
            // The share first: where it is used up, no memory is taken from others even for a moment.
            let Some(share) = self.budget.collecting.try_reserve(self.max_collected) else { return false };
            let Some(memory) = self.budget.memory.try_reserve(self.max_collected) else { return false };
            self.collecting = Some([share, memory]);
            self.data = Vec::with_capacity(self.max_collected);
        }
        true
    }

    /// Returns the number of bytes in the part's file.
    fn written(&self) -> usize {
        self.len - self.data.len()
    }

    /// Returns the bytes in memory for writing. The memory stays charged if the future that writes is dropped.
    fn take_data<C>(&mut self, charged: C) -> ChargedMemory<C> {
        ChargedMemory { data: std::mem::take(&mut self.data), charged }
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
        let (filled, written) = file.write_and_return(0, self.take_data(charged)).await?;
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
            Some(PartSlot::File(file)) if self.written() > 0 => {
                let readers = Arc::clone(&self.budget.readers);
                let permit = readers.acquire_owned().await.map_err(io::Error::other)?;
                Ok(Peek(Peeked::File { bytes: self.read_at(file, 0, len).await?, _permit: permit }))
            }
            _ => Ok(Peek(Peeked::Memory(self.data.get(..len).unwrap_or_default()))),
        }
    }

    /// Reads from the part's file, and from the bytes that are not yet written to it.
    fn read_at(&self, file: &SpillFile, offset: usize, len: usize) -> Reading {
        let in_file = self.written().saturating_sub(offset).min(len);
        let from = offset.saturating_sub(self.written());
        let collected = &self.data[from..from + len - in_file];
        match in_file {
            0 => Box::pin(future::ready(Ok(Bytes::copy_from_slice(collected)))),
            _ => file.read(offset as u64, in_file, collected),
        }
    }

    /// Returns the part for sending. Its slot is released with the last clone.
    pub fn freeze(mut self) -> Content {
        let Some(PartSlot::File(file)) = &self.guard.slot else { return Content::Memory(Bytes::from_owner(self)) };
        let file = Arc::clone(file);
        if self.data.is_empty() {
            (self.data, self.collecting) = (Vec::new(), None);
        }
        Content::File(Arc::new(SpilledPart { file, buffer: self }))
    }
}

/// Bytes of a part in memory, and the memory that is charged for them.
struct ChargedMemory<C> {
    data: Vec<u8>,
    charged: C,
}

impl<C> AsRef<[u8]> for ChargedMemory<C> {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// A complete part in its file.
#[derive(Debug)]
struct SpilledPart {
    file: Arc<SpillFile>,
    buffer: Buffer,
}

impl ReadAt for SpilledPart {
    fn read_at(&self, offset: u64, len: usize) -> Reading {
        self.buffer.read_at(&self.file, offset as usize, len)
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
