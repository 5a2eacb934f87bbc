//! The memory and disk space that uploads may use, divided so that uploads never wait for each other.
//!
//! When the first byte of its body arrives, an upload gets a [`Reservation`] of the [`Budget`]: one slot, which is
//! large enough for one part, or for the whole file if that is smaller. Sizes are rounded up to those of buffers
//! (`pool`). A client that sends nothing holds nothing. The budget is checked before the server asks for the body, so that
//! no client sends data that cannot be stored. A slot is in memory. If the memory budget is used up, it is a file on disk
//! ([`super::spill`]), whose space is allocated beforehand so that the disk cannot fill up during the upload. If the spill
//! budget is used up too, the upload is rejected.
//!
//! An upload holds one slot as long as it exists. While one of its parts is being sent, it borrows a free slot for the
//! next part, and even further ones in memory, as long as enough is left for new uploads (`placement`). It releases every
//! slot except one as soon as the slot is empty. It never *waits* for a slot that another upload holds. If it can borrow
//! none, it waits for its own, which are released when S3 has stored the part or the call has failed; calls have
//! timeouts. So every upload waits only for its client and for its own calls. There is no cycle and no deadlock, and a slow
//! client holds one slot and blocks no other upload, however many slow clients there are. If half of the memory is used,
//! the next slot of a slow upload is a file, and a part that has been filling for long moves to a file. The other half then
//! serves the uploads that a disk would slow down.
//!
//! The budget is charged with the capacity of a slot for as long as anything holds it. Small pieces of a part in a file are
//! collected before they are written, in at most a quarter of the memory. The leading bytes of an image
//! whose format is not yet known are also in a slot and nowhere else. If the slot is a file, these bytes are read back
//! for sniffing, a few files at a time. The memory of connections is not charged. It is known and small: hyper's
//! buffers, the headers of a form, a piece of a file that is being sent.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::spill::Spill;
use crate::error::Error;

mod buffer;
mod placement;
mod pool;
mod quota;
mod reservation;
mod slots;
#[cfg(test)]
mod tests;

pub use buffer::{Buffer, Peek};
use placement::Kind;
use pool::BufferPool;
use quota::ByteQuota;
pub use reservation::Reservation;
use slots::PartSlot;

/// Number of spilled parts whose leading bytes are in memory for sniffing at once.
const CONCURRENT_PEEKS: usize = 4;

/// How often an upload that waits for its client considers leaving memory.
const MEMORY_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Returns the moments at which an upload that waits for its client calls [`Buffer::leave_scarce_memory`].
pub fn memory_checks() -> Interval {
    let mut checks = tokio::time::interval_at(Instant::now() + MEMORY_CHECK_INTERVAL, MEMORY_CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    checks
}

/// The memory and disk space that all uploads together may use.
#[derive(Debug)]
pub struct Budget {
    memory: ByteQuota,
    /// The part of the memory in which pieces of parts in files are collected.
    collecting: ByteQuota,
    spill: Option<(ByteQuota, Spill)>,
    part_size: usize,
    /// Most parts that one upload may hold at once.
    max_parts: usize,
    pool: BufferPool,
    /// Limits the number of spilled parts whose leading bytes are in memory. These bytes are not charged to the budget.
    readers: Arc<Semaphore>,
}

impl Budget {
    /// Creates a budget of `memory` bytes for all uploads together and, if `spill` names a folder and a number of
    /// bytes, of that many bytes of files. Each upload holds at most `max_parts` parts of `part_size` bytes.
    pub fn new(memory: u64, spill: Option<(u64, Spill)>, part_size: usize, max_parts: usize) -> Arc<Self> {
        Arc::new(Budget {
            memory: ByteQuota::new(memory),
            collecting: ByteQuota::new(memory / 4),
            spill: spill.map(|(bytes, spill)| (ByteQuota::new(bytes), spill)),
            part_size,
            max_parts,
            pool: BufferPool::new(part_size),
            readers: Arc::new(Semaphore::new(CONCURRENT_PEEKS)),
        })
    }

    /// Returns the size of every part of an upload except the last one.
    pub fn part_size(&self) -> u64 {
        self.part_size as u64
    }

    /// Returns the maximum number of parts that one upload may hold at once.
    pub fn max_parts(&self) -> usize {
        self.max_parts
    }

    /// Whether [`Budget::admit`] would succeed now.
    pub fn has_free(&self, expected: Option<u64>) -> bool {
        let size = self.size_for(expected);
        let can_spill = |(quota, spill): &(ByteQuota, Spill)| quota.has_free(size) && spill.can_create();
        self.memory.has_free(size) || self.spill.as_ref().is_some_and(can_spill)
    }

    /// Returns the number of bytes to reserve for an upload of at most `expected` bytes.
    fn size_for(&self, expected: Option<u64>) -> usize {
        self.pool.size_for(expected.unwrap_or(u64::MAX))
    }

    /// Reserves a slot for an upload of at most `expected` bytes. Returns `None` if memory and disk are both used up.
    ///
    /// # Errors
    /// Returns an error if a file was required and could not be created.
    pub async fn admit(self: &Arc<Self>, expected: Option<u64>) -> io::Result<Option<Reservation>> {
        let size = self.size_for(expected);
        let slot = match self.free_slot(Kind::Memory, size).await? {
            None => self.free_slot(Kind::File, size).await?,
            memory => memory,
        };
        Ok(slot.map(|slot| Reservation::new(self, size, slot)))
    }

    /// Reserves memory for reading an object that was not uploaded through this process. Waits up to `LEND_WAIT` for
    /// it. The memory is released when the permit is dropped.
    ///
    /// # Errors
    /// Returns [`Error::OverCapacity`] (503 `over_capacity`) if the memory is not free in time.
    pub async fn lend(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, Error> {
        if bytes == 0 {
            return Ok(None);
        }
        self.memory.wait_for(bytes).await.map(Some).ok_or(Error::OverCapacity(None))
    }

    /// Returns the bytes of memory and of files in use.
    pub fn used(&self) -> (u64, u64) {
        (self.memory.used(), self.spill.as_ref().map_or(0, |(quota, _)| quota.used()))
    }

    /// Returns the bytes of memory and of files that may be in use at most.
    pub fn limits(&self) -> (u64, u64) {
        (self.memory.total, self.spill.as_ref().map_or(0, |(quota, _)| quota.total))
    }

    /// Whether more than half of the disk space or of the files is used. True without a disk.
    fn disk_is_scarce(&self) -> bool {
        self.spill.as_ref().is_none_or(|(quota, spill)| quota.is_scarce() || spill.is_scarce())
    }

    /// Reserves a slot of this kind. Returns `None` if none is free.
    async fn free_slot(&self, kind: Kind, size: usize) -> io::Result<Option<PartSlot>> {
        if kind == Kind::Memory {
            return Ok(self.memory.try_reserve(size).map(PartSlot::Memory));
        }
        let Some((quota, spill)) = &self.spill else { return Ok(None) };
        let Some(permit) = quota.try_reserve(size) else { return Ok(None) };
        let file = spill.create(size, permit).await?;
        Ok(file.map(|file| PartSlot::File(Arc::new(file))))
    }
}
