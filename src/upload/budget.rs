//! What uploads may hold, and what keeps them from waiting for each other.
//!
//! When the first byte of its body is there, an upload is given a [`Reservation`] of the [`Budget`]: room for one part, or for the
//! whole file where that is smaller. A client that sends nothing holds nothing. Before the body is asked for, the budget is
//! looked at, so that no client sends what there is no room for. The room is memory; where that is taken, a file on disk ([`super::spill`]), made and filled up
//! beforehand so that the disk cannot run full in the middle; where that is taken too, the upload is refused.
//!
//! An upload keeps one room as long as it lives. While a part of it is on its way it borrows what is free for the next one,
//! and gives every room but one back as soon as it is empty. It never *waits* for a room others hold: where nothing is free
//! it waits for one of its own, which comes back when S3 has taken its part or the call has failed, and calls have timeouts.
//! So every upload waits only for its client and for its own calls: there is no cycle and no deadlock, and a slow client,
//! however many of its kind there are, holds one room and stops nobody. Where memory is scarce a slow one's next room is a
//! file, so that what memory there is serves those who would have to wait for a disk.
//!
//! What is charged is a room's capacity, for as long as anything holds it. Also the leading bytes of an image that has not
//! shown itself yet are there and nowhere else; where that is a file, few at once are read back to look at them. What
//! connections hold beside it is known and small: hyper's buffers, a form's headers, a piece of a file on its way.
//!
//! A fresh allocation of a part's size is mapped, faulted in page by page and unmapped again by the system, at a third of
//! the kernel's time for an upload; so a few buffers are kept and used again, the last one first: it may still be in the
//! processor's cache.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::spill::{Spill, SpillFile};
use crate::error::Error;

mod buffer;
#[cfg(test)]
mod tests;

use buffer::SlotGuard;
pub use buffer::{Buffer, Peek};

/// Budgets are counted in steps of this many bytes: a semaphore gives at most 2^32 permits at once.
const STEP: usize = 4096;

/// Buffers nobody uses are kept up to this many bytes: they are memory beside the budget.
const MAX_POOLED_BYTES: usize = 20 << 20;

/// Buffers an upload takes as it needs them; for more it waits a moment first.
const SLOTS_WITHOUT_WAIT: usize = 2;

/// A store that is near gives a buffer back within this time, still warm in the processor's caches; more of them make the
/// upload slower then. One that does not is far, or busy, and is not waited for again.
const SLOT_WAIT: Duration = Duration::from_millis(20);

/// A client that takes longer than this to fill a part needs no memory to go on as fast as it does.
const SLOW_CLIENT: Duration = Duration::from_secs(1);

/// How long a verification waits for memory. It holds nothing meanwhile, and its client can ask again.
const LEND_WAIT: Duration = Duration::from_secs(10);

/// Leading bytes of spilled parts that are looked at, at once.
const CONCURRENT_PEEKS: usize = 4;

/// What all uploads together may hold.
#[derive(Debug)]
pub struct Budget {
    memory: ByteQuota,
    spill: Option<(ByteQuota, Spill)>,
    part_size: usize,
    /// Parts one upload may hold at once.
    at_once: usize,
    kept: Mutex<Vec<Vec<u8>>>,
    /// Turns at having what a file holds in memory, beside the budget.
    readers: Arc<Semaphore>,
}

/// A number of bytes that can be lent.
#[derive(Debug)]
struct ByteQuota {
    free: Arc<Semaphore>,
    /// Bytes.
    total: u64,
}

impl ByteQuota {
    fn new(total: u64) -> Self {
        let steps = usize::try_from(total / STEP as u64).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        ByteQuota { free: Arc::new(Semaphore::new(steps)), total }
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let steps = u32::try_from(bytes.div_ceil(STEP)).ok()?;
        Arc::clone(&self.free).try_acquire_many_owned(steps).ok()
    }

    fn has_free(&self, bytes: usize) -> bool {
        self.free.available_permits() >= bytes.div_ceil(STEP)
    }

    /// Whether less than a quarter is left.
    fn is_scarce(&self) -> bool {
        self.used() > self.total / 4 * 3
    }

    /// Waits for the bytes. Whoever waits must hold nothing that others wait for.
    async fn wait_for(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let steps = u32::try_from(bytes.div_ceil(STEP as u64)).ok()?;
        tokio::time::timeout(LEND_WAIT, Arc::clone(&self.free).acquire_many_owned(steps)).await.ok()?.ok()
    }

    fn used(&self) -> u64 {
        self.total.saturating_sub((self.free.available_permits() * STEP) as u64)
    }
}

impl Budget {
    /// `memory` bytes for all uploads together, and `spill_bytes` of files where there is a folder for them. Each upload holds
    /// at most `at_once` parts of `part_size` bytes.
    pub fn new(memory: u64, spill: Option<(u64, Spill)>, part_size: usize, at_once: usize) -> Arc<Self> {
        Arc::new(Budget {
            memory: ByteQuota::new(memory),
            spill: spill.map(|(bytes, spill)| (ByteQuota::new(bytes), spill)),
            part_size,
            at_once,
            kept: Mutex::default(),
            readers: Arc::new(Semaphore::new(CONCURRENT_PEEKS)),
        })
    }

    /// Whether [`Budget::admit`] would find something free now.
    pub fn has_free(&self, expected: Option<u64>) -> bool {
        let size = self.size_for(expected);
        let in_files = |(allowance, spill): &(ByteQuota, Spill)| allowance.has_free(size) && spill.may_make();
        self.memory.has_free(size) || self.spill.as_ref().is_some_and(in_files)
    }

    /// Bytes to reserve for an upload of at most `expected` bytes.
    fn size_for(&self, expected: Option<u64>) -> usize {
        let expected = expected.and_then(|bytes| usize::try_from(bytes).ok());
        expected.unwrap_or(self.part_size).clamp(1, self.part_size)
    }

    /// Room for an upload of at most `expected` bytes; none where there is no more.
    ///
    /// # Errors
    /// Where a file should have been made and could not be.
    pub async fn admit(self: &Arc<Self>, expected: Option<u64>) -> io::Result<Option<Reservation>> {
        let size = self.size_for(expected);
        let room = match self.memory.take(size) {
            Some(permit) => Some(PartSlot::Memory(permit)),
            None => self.spill_room(size).await?,
        };
        Ok(room.map(|room| {
            let state = State { rooms: Mutex::new(Rooms { idle: Some(room), held: 0 }), returned: Notify::new() };
            Reservation {
                budget: Arc::clone(self),
                size,
                patient: true,
                filling_since: None,
                slow: false,
                state: Arc::new(state),
            }
        }))
    }

    /// Memory for what is read to be looked at, and belongs to no upload through this process; given back when the answer is
    /// dropped. Waits for it, for a while.
    ///
    /// # Errors
    /// 503 `over_capacity`.
    pub async fn lend(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, Error> {
        if bytes == 0 {
            return Ok(None);
        }
        self.memory.wait_for(bytes).await.map(Some).ok_or(Error::OverCapacity(None))
    }

    /// Bytes of memory and of files in use.
    pub fn used(&self) -> (u64, u64) {
        (self.memory.used(), self.spill.as_ref().map_or(0, |(allowance, _)| allowance.used()))
    }

    /// Bytes of memory and of files there may be in use.
    pub fn limits(&self) -> (u64, u64) {
        (self.memory.total, self.spill.as_ref().map_or(0, |(allowance, _)| allowance.total))
    }

    async fn spill_room(&self, size: usize) -> io::Result<Option<PartSlot>> {
        let Some((allowance, spill)) = &self.spill else { return Ok(None) };
        let Some(permit) = allowance.take(size) else { return Ok(None) };
        let file = spill.make(size).await?;
        Ok(file.map(|file| PartSlot::File { file: Arc::new(file), _charged: permit }))
    }

    fn allocate(&self, size: usize) -> Vec<u8> {
        let kept = if size == self.part_size { lock(&self.kept).pop() } else { None };
        kept.unwrap_or_else(|| Vec::with_capacity(size))
    }

    fn keep(&self, mut data: Vec<u8>) {
        let mut kept = lock(&self.kept);
        if data.capacity() == self.part_size && (kept.len() + 1) * self.part_size <= MAX_POOLED_BYTES {
            data.clear();
            kept.push(data);
        }
    }
}

/// What is behind these locks is whole whatever panicked beside it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place for one part, empty.
#[derive(Debug)]
enum PartSlot {
    Memory(OwnedSemaphorePermit),
    File { file: Arc<SpillFile>, _charged: OwnedSemaphorePermit },
}

/// One upload's part of the budget.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    /// Bytes of the room it was admitted with.
    size: usize,
    /// Whether the store has been near so far.
    patient: bool,
    /// When it was given the buffer that it is filling.
    filling_since: Option<Instant>,
    /// Whether its client took long to fill the last one.
    slow: bool,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    rooms: Mutex<Rooms>,
    returned: Notify,
}

#[derive(Debug)]
struct Rooms {
    /// The room it keeps while it holds no buffer.
    idle: Option<PartSlot>,
    /// Buffers it holds.
    held: usize,
}

impl Reservation {
    /// An empty buffer: in its own room, else in one that is free, else when one of its own comes back.
    pub async fn next(&mut self) -> Buffer {
        if self.patient && self.has_enough() {
            self.patient = tokio::time::timeout(SLOT_WAIT, self.until_too_few()).await.is_ok();
        }
        let room = loop {
            let returned = self.state.returned.notified();
            if let Some(room) = self.room().await {
                break room;
            }
            returned.await;
        };
        self.filling_since = Some(Instant::now());
        self.buffer(room)
    }

    /// The buffer it was given last is full; what it waits for from now on is not its client.
    pub fn filled(&mut self) {
        self.slow = self.filling_since.is_some_and(|since| since.elapsed() >= SLOW_CLIENT);
    }

    fn has_enough(&self) -> bool {
        lock(&self.state.rooms).held >= SLOTS_WITHOUT_WAIT
    }

    async fn until_too_few(&self) {
        while self.has_enough() {
            self.state.returned.notified().await;
        }
    }

    async fn room(&self) -> Option<PartSlot> {
        let idle = {
            let mut rooms = lock(&self.state.rooms);
            if rooms.held >= self.budget.at_once {
                return None;
            }
            rooms.idle.take()
        };
        match idle {
            Some(PartSlot::Memory(own)) if self.slow && self.budget.memory.is_scarce() => {
                Some(self.file().await.unwrap_or(PartSlot::Memory(own)))
            }
            Some(PartSlot::Memory(own)) => Some(PartSlot::Memory(own)),
            Some(own) if self.slow => Some(own),
            // Back to memory as soon as there is some.
            Some(own) => self.borrow().or(Some(own)),
            None => {
                let borrowed = match self.borrow() {
                    Some(memory) => Some(memory),
                    None => self.file().await,
                };
                borrowed.or_else(|| lock(&self.state.rooms).idle.take())
            }
        }
    }

    fn borrow(&self) -> Option<PartSlot> {
        self.budget.memory.take(self.budget.part_size).map(PartSlot::Memory)
    }

    /// None also where the disk is full: that is no reason to fail where one of its own will come back.
    async fn file(&self) -> Option<PartSlot> {
        self.budget.spill_room(self.budget.part_size).await.unwrap_or_default()
    }

    fn buffer(&self, room: PartSlot) -> Buffer {
        let room = self.state.occupy(room);
        let data = match &room {
            PartSlot::Memory(_) => self.budget.allocate(self.size),
            PartSlot::File { .. } => Vec::new(),
        };
        let place = SlotGuard { room: Some(room), state: Arc::clone(&self.state) };
        Buffer { data, len: 0, budget: Arc::clone(&self.budget), place }
    }
}

impl State {
    /// One of its own may have come back while `room` was looked for, and one is what it keeps.
    fn occupy(&self, room: PartSlot) -> PartSlot {
        let mut rooms = lock(&self.rooms);
        rooms.held += 1;
        match rooms.idle.take() {
            Some(PartSlot::Memory(own)) => PartSlot::Memory(own),
            _ => room,
        }
    }
}
