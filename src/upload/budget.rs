//! The memory and disk space that uploads may use, divided so that uploads never wait for each other.
//!
//! When the first byte of its body arrives, an upload gets a [`Reservation`] of the [`Budget`]: one slot, which is
//! large enough for one part, or for the whole file if that is smaller. A client that sends nothing holds nothing. The
//! budget is checked before the server asks for the body, so that no client sends data that cannot be stored. A slot is
//! in memory. If the memory budget is used up, it is a file on disk ([`super::spill`]), whose space is allocated
//! beforehand so that the disk cannot fill up during the upload. If the spill budget is used up too, the upload is
//! rejected.
//!
//! An upload holds one slot as long as it exists. While one of its parts is being sent, it borrows a free slot for the
//! next part. It releases every slot except one as soon as the slot is empty. It never *waits* for a slot that another
//! upload holds. If no slot is free, it waits for one of its own, which is released when S3 has stored the part or the
//! call has failed; calls have timeouts. So every upload waits only for its client and for its own calls. There is no
//! cycle and no deadlock, and a slow client holds one slot and blocks no other upload, however many slow clients there
//! are. If memory is scarce, the next slot of a slow upload is a file. The remaining memory then serves the uploads
//! that a disk would slow down.
//!
//! The budget is charged with the capacity of a slot for as long as anything holds it. The leading bytes of an image
//! whose format is not yet known are also in a slot and nowhere else. If the slot is a file, these bytes are read back
//! for sniffing, a few files at a time. The memory of connections is not charged. It is known and small: hyper's
//! buffers, the headers of a form, a piece of a file that is being sent.
//!
//! The system maps a new allocation of a part's size, faults it in page by page and unmaps it again, which takes a
//! third of the kernel's time for an upload. A few buffers are therefore pooled and reused. The last one released is
//! reused first, because it may still be in the processor's cache.

use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::sync::Arc;
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

/// Unit of the budgets, in bytes. Single bytes would be too many: a semaphore gives at most 2^32 permits at once.
const STEP: usize = 4096;

/// Most bytes of unused buffers in the pool. They are not charged to the budget.
const MAX_POOLED_BYTES: usize = 20 << 20;

/// Number of slots that an upload gets without delay. For more slots it first waits up to [`SLOT_WAIT`].
const SLOTS_WITHOUT_WAIT: usize = 2;

/// How long an upload waits for one of its own buffers before it takes a third one.
///
/// With a nearby store a buffer is released within this time, still warm in the processor's caches, and more buffers
/// would make the upload slower. If none is released within this time, the store is far away or busy, and the upload
/// does not wait again.
const SLOT_WAIT: Duration = Duration::from_millis(20);

/// A client that takes longer than this to fill a part is slow: a disk does not slow it down further.
const SLOW_CLIENT: Duration = Duration::from_secs(1);

/// How long a verification waits for memory. It holds nothing meanwhile, and its client can retry.
const LEND_WAIT: Duration = Duration::from_secs(10);

/// Number of spilled parts whose leading bytes are in memory for sniffing at once.
const CONCURRENT_PEEKS: usize = 4;

/// The memory and disk space that all uploads together may use.
#[derive(Debug)]
pub struct Budget {
    memory: ByteQuota,
    spill: Option<(ByteQuota, Spill)>,
    part_size: usize,
    /// Most parts that one upload may hold at once.
    max_parts: usize,
    /// Unused buffers of a part's size.
    pool: Mutex<Vec<Vec<u8>>>,
    /// Limits the number of spilled parts whose leading bytes are in memory. These bytes are not charged to the budget.
    readers: Arc<Semaphore>,
}

/// A number of bytes that can be reserved and released.
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

    fn try_reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let steps = u32::try_from(bytes.div_ceil(STEP)).ok()?;
        Arc::clone(&self.free).try_acquire_many_owned(steps).ok()
    }

    fn has_free(&self, bytes: usize) -> bool {
        self.free.available_permits() >= bytes.div_ceil(STEP)
    }

    /// Whether less than a quarter is free.
    fn is_scarce(&self) -> bool {
        self.used() > self.total / 4 * 3
    }

    /// Waits until the bytes are free, for at most [`LEND_WAIT`].
    ///
    /// The caller must hold nothing that others wait for, so that there is no deadlock.
    async fn wait_for(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let steps = u32::try_from(bytes.div_ceil(STEP as u64)).ok()?;
        tokio::time::timeout(LEND_WAIT, Arc::clone(&self.free).acquire_many_owned(steps)).await.ok()?.ok()
    }

    fn used(&self) -> u64 {
        self.total.saturating_sub((self.free.available_permits() * STEP) as u64)
    }
}

impl Budget {
    /// Creates a budget of `memory` bytes for all uploads together and, if `spill` names a folder and a number of
    /// bytes, of that many bytes of files. Each upload holds at most `max_parts` parts of `part_size` bytes.
    pub fn new(memory: u64, spill: Option<(u64, Spill)>, part_size: usize, max_parts: usize) -> Arc<Self> {
        Arc::new(Budget {
            memory: ByteQuota::new(memory),
            spill: spill.map(|(bytes, spill)| (ByteQuota::new(bytes), spill)),
            part_size,
            max_parts,
            pool: Mutex::default(),
            readers: Arc::new(Semaphore::new(CONCURRENT_PEEKS)),
        })
    }

    /// Whether [`Budget::admit`] would succeed now.
    pub fn has_free(&self, expected: Option<u64>) -> bool {
        let size = self.size_for(expected);
        let can_spill = |(quota, spill): &(ByteQuota, Spill)| quota.has_free(size) && spill.can_create();
        self.memory.has_free(size) || self.spill.as_ref().is_some_and(can_spill)
    }

    /// Returns the number of bytes to reserve for an upload of at most `expected` bytes.
    fn size_for(&self, expected: Option<u64>) -> usize {
        let expected = expected.and_then(|bytes| usize::try_from(bytes).ok());
        expected.unwrap_or(self.part_size).clamp(1, self.part_size)
    }

    /// Reserves a slot for an upload of at most `expected` bytes. Returns `None` if memory and disk are both used up.
    ///
    /// # Errors
    /// Returns an error if a file was needed and could not be created.
    pub async fn admit(self: &Arc<Self>, expected: Option<u64>) -> io::Result<Option<Reservation>> {
        let size = self.size_for(expected);
        let slot = match self.memory.try_reserve(size) {
            Some(permit) => Some(PartSlot::Memory(permit)),
            None => self.spill_slot(size).await?,
        };
        Ok(slot.map(|slot| {
            let state = State { slots: Mutex::new(Slots { idle: Some(slot), held: 0 }), released: Notify::new() };
            Reservation {
                budget: Arc::clone(self),
                size,
                store_is_near: true,
                filling_since: None,
                client_is_slow: false,
                state: Arc::new(state),
            }
        }))
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

    async fn spill_slot(&self, size: usize) -> io::Result<Option<PartSlot>> {
        let Some((quota, spill)) = &self.spill else { return Ok(None) };
        let Some(permit) = quota.try_reserve(size) else { return Ok(None) };
        let file = spill.create(size).await?;
        Ok(file.map(|file| PartSlot::File { file: Arc::new(file), _charged: permit }))
    }

    fn allocate(&self, size: usize) -> Vec<u8> {
        let pooled = if size == self.part_size { lock(&self.pool).pop() } else { None };
        pooled.unwrap_or_else(|| Vec::with_capacity(size))
    }

    /// Returns a buffer to the pool, or frees it if it does not fit.
    fn recycle(&self, mut data: Vec<u8>) {
        let mut pool = lock(&self.pool);
        if data.capacity() == self.part_size && (pool.len() + 1) * self.part_size <= MAX_POOLED_BYTES {
            data.clear();
            pool.push(data);
        }
    }
}

/// Locks a mutex and ignores poisoning: the data behind these locks is consistent even if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Space for one part.
#[derive(Debug)]
enum PartSlot {
    Memory(OwnedSemaphorePermit),
    File { file: Arc<SpillFile>, _charged: OwnedSemaphorePermit },
}

/// One upload's share of the budget.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    /// Bytes of the slot that was reserved at admission.
    size: usize,
    /// Whether waiting for one of the upload's own slots has succeeded so far (see [`SLOT_WAIT`]).
    store_is_near: bool,
    /// When the buffer that is being filled was handed out.
    filling_since: Option<Instant>,
    /// Whether the client took longer than [`SLOW_CLIENT`] to fill the last buffer.
    client_is_slow: bool,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    slots: Mutex<Slots>,
    /// Notified when a buffer of this upload is released.
    released: Notify,
}

#[derive(Debug)]
struct Slots {
    /// The slot that the upload keeps while no buffer uses it.
    idle: Option<PartSlot>,
    /// Number of buffers in use.
    held: usize,
}

impl Reservation {
    /// Returns an empty buffer in the upload's own slot if that is idle, or in a free slot. If there is neither, waits
    /// until one of the upload's own buffers is released.
    pub async fn next(&mut self) -> Buffer {
        if self.store_is_near && self.has_enough_slots() {
            self.store_is_near = tokio::time::timeout(SLOT_WAIT, self.until_too_few_slots()).await.is_ok();
        }
        let slot = loop {
            let released = self.state.released.notified();
            if let Some(slot) = self.find_slot().await {
                break slot;
            }
            released.await;
        };
        self.filling_since = Some(Instant::now());
        self.buffer(slot)
    }

    /// Reports that the last buffer is full. The time from now on is not the client's.
    pub fn filled(&mut self) {
        self.client_is_slow = self.filling_since.is_some_and(|since| since.elapsed() >= SLOW_CLIENT);
    }

    fn has_enough_slots(&self) -> bool {
        lock(&self.state.slots).held >= SLOTS_WITHOUT_WAIT
    }

    async fn until_too_few_slots(&self) {
        while self.has_enough_slots() {
            self.state.released.notified().await;
        }
    }

    /// Returns a slot for the next part. `None` if the upload must wait for one of its own.
    async fn find_slot(&self) -> Option<PartSlot> {
        let idle = {
            let mut slots = lock(&self.state.slots);
            if slots.held >= self.budget.max_parts {
                return None;
            }
            slots.idle.take()
        };
        match idle {
            Some(PartSlot::Memory(own)) if self.client_is_slow && self.budget.memory.is_scarce() => {
                Some(self.free_file().await.unwrap_or(PartSlot::Memory(own)))
            }
            Some(PartSlot::Memory(own)) => Some(PartSlot::Memory(own)),
            Some(own) if self.client_is_slow => Some(own),
            // A fast upload moves back to memory as soon as some is free.
            Some(own) => self.free_memory().or(Some(own)),
            None => {
                let borrowed = match self.free_memory() {
                    Some(memory) => Some(memory),
                    None => self.free_file().await,
                };
                borrowed.or_else(|| lock(&self.state.slots).idle.take())
            }
        }
    }

    fn free_memory(&self) -> Option<PartSlot> {
        self.budget.memory.try_reserve(self.budget.part_size).map(PartSlot::Memory)
    }

    /// Returns `None` also if the disk is full. The upload need not fail then, since it can wait for one of its own
    /// slots.
    async fn free_file(&self) -> Option<PartSlot> {
        self.budget.spill_slot(self.budget.part_size).await.unwrap_or_default()
    }

    fn buffer(&self, slot: PartSlot) -> Buffer {
        let slot = self.state.occupy(slot);
        let data = match &slot {
            PartSlot::Memory(_) => self.budget.allocate(self.size),
            PartSlot::File { .. } => Vec::new(),
        };
        let guard = SlotGuard { slot: Some(slot), state: Arc::clone(&self.state) };
        Buffer { data, len: 0, budget: Arc::clone(&self.budget), guard }
    }
}

impl State {
    /// Marks a slot as used and returns it.
    ///
    /// One of the upload's own slots may have been released during the search for `slot`. If that one is in memory, it
    /// is used instead. Either way the other one is released, because an upload keeps only one unused slot.
    fn occupy(&self, slot: PartSlot) -> PartSlot {
        let mut slots = lock(&self.slots);
        slots.held += 1;
        match slots.idle.take() {
            Some(PartSlot::Memory(own)) => PartSlot::Memory(own),
            _ => slot,
        }
    }
}
