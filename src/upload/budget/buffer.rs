//! A part while it is filled and while it is sent, in memory or in a file.

use bytes::Bytes;
use std::io;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::spill::SpillFile;
use super::{Budget, PartSlot, State, lock};
use crate::store::{Content, ReadAt};

/// A room in use. It goes back when the part in it is gone.
#[derive(Debug)]
pub(super) struct SlotGuard {
    pub(super) room: Option<PartSlot>,
    pub(super) state: Arc<State>,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let mut rooms = lock(&self.state.rooms);
        rooms.held -= 1;
        if rooms.held == 0 && rooms.idle.is_none() {
            rooms.idle = self.room.take();
        }
        drop(rooms);
        self.room = None;
        self.state.returned.notify_one();
    }
}

/// A part being filled.
#[derive(Debug)]
pub struct Buffer {
    /// Unused where the part is in a file.
    pub(super) data: Vec<u8>,
    pub(super) len: usize,
    pub(super) budget: Arc<Budget>,
    /// Goes back after the memory: see the fields' order.
    pub(super) place: SlotGuard,
}

impl Buffer {
    /// Bytes that still fit this part.
    pub fn room(&self) -> usize {
        self.budget.part_size - self.len
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends; no more than [`Buffer::room`]. At once where the part is in memory.
    ///
    /// # Errors
    /// Where the part is in a file that cannot be written.
    pub async fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        debug_assert!(bytes.len() <= self.room());
        let (offset, len) = (self.len, bytes.len());
        match &self.place.room {
            Some(PartSlot::File { file, .. }) => file.write(offset as u64, bytes).await?,
            _ => self.extend(&bytes),
        }
        self.len = offset + len;
        Ok(())
    }

    fn extend(&mut self, bytes: &[u8]) {
        // Where the announced length was wrong, go to a whole part at once: doubling could go past it.
        if self.data.capacity() - self.data.len() < bytes.len() {
            self.data.reserve_exact(self.room());
        }
        self.data.extend_from_slice(bytes);
    }

    /// The part's first bytes, at most `limit` of them.
    ///
    /// # Errors
    /// Where the part is in a file that cannot be read.
    pub async fn peek(&self, limit: usize) -> io::Result<Peek<'_>> {
        let len = self.len.min(limit);
        match &self.place.room {
            Some(PartSlot::File { file, .. }) => Peek::read(&self.budget.readers, Arc::clone(file), len).await,
            _ => Ok(Peek(Peeked::Here(self.data.get(..len).unwrap_or_default()))),
        }
    }

    /// The part as it is sent. Its room goes back with the last clone.
    pub fn freeze(self) -> Content {
        match &self.place.room {
            Some(PartSlot::File { file, .. }) => Content::File(Arc::new(SpilledPart::new(Arc::clone(file), self))),
            _ => Content::Memory(Bytes::from_owner(self)),
        }
    }
}

/// A part that is whole, in its file.
#[derive(Debug)]
struct SpilledPart {
    file: Arc<SpillFile>,
    /// Holds the room.
    _buffer: Buffer,
}

impl SpilledPart {
    fn new(file: Arc<SpillFile>, buffer: Buffer) -> Self {
        SpilledPart { file, _buffer: buffer }
    }
}

impl ReadAt for SpilledPart {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.file.read(offset, len)
    }
}

/// What a part starts with.
#[derive(Debug, Default)]
pub struct Peek<'a>(Peeked<'a>);

#[derive(Debug)]
enum Peeked<'a> {
    Here(&'a [u8]),
    /// From a file, for as long as the turn lasts.
    Read {
        bytes: Bytes,
        _turn: OwnedSemaphorePermit,
    },
}

impl Peek<'_> {
    /// Waits for others that read, and never for a client or the store.
    async fn read(readers: &Arc<Semaphore>, file: Arc<SpillFile>, len: usize) -> io::Result<Self> {
        let turn = Arc::clone(readers).acquire_owned().await.map_err(io::Error::other)?;
        let reading =
            tokio::task::spawn_blocking(move || Ok(Peek(Peeked::Read { bytes: file.read(0, len)?, _turn: turn })));
        reading.await.map_err(io::Error::other)?
    }
}

impl Default for Peeked<'_> {
    fn default() -> Self {
        Peeked::Here(&[])
    }
}

impl AsRef<[u8]> for Peek<'_> {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Peeked::Here(bytes) => bytes,
            Peeked::Read { bytes, .. } => bytes,
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
        self.budget.keep(std::mem::take(&mut self.data));
    }
}
