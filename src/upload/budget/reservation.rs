//! One upload's share of the budget.

use std::sync::Arc;
use tokio::time::Instant;

use super::Budget;
use super::buffer::Buffer;
use super::placement::{Kind, SLOW_CLIENT, better_than};
use super::slots::{PartSlot, SlotGuard, Slots};
use super::store_pace::NEAR;

/// Number of slots that an upload gets without delay.
///
/// With a nearby store ([`StorePace`](super::StorePace)) it waits up to [`NEAR`] for one of them before it takes a third
/// one: it is released within this time, still warm in the processor's caches, and more buffers would make the upload
/// slower. If none is released within this time, the store is busy, and the upload does not wait again.
const SLOTS_WITHOUT_WAIT: usize = 2;

/// One upload's share of the budget.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    /// Bytes of the slot that was reserved at admission.
    size: usize,
    /// Whether waiting for one of the upload's own slots has failed (see [`SLOTS_WITHOUT_WAIT`]).
    waited_in_vain: bool,
    /// When the buffer that is being filled was handed out.
    filling_since: Option<Instant>,
    /// Whether the client took longer than [`SLOW_CLIENT`] to fill the last buffer.
    client_is_slow: bool,
    slots: Arc<Slots>,
}

impl Reservation {
    pub(super) fn new(budget: &Arc<Budget>, size: usize, slot: PartSlot) -> Self {
        Reservation {
            budget: Arc::clone(budget),
            size,
            waited_in_vain: false,
            filling_since: None,
            client_is_slow: false,
            slots: Arc::new(Slots::new(slot)),
        }
    }

    /// Returns an empty buffer in the upload's own slot if that is idle, or in a free slot. If there is neither, waits
    /// until one of the upload's own buffers is released.
    pub async fn next(&mut self) -> Buffer {
        if self.has_enough_slots() && !self.waited_in_vain && self.budget.store_pace.is_near() {
            self.waited_in_vain = tokio::time::timeout(NEAR, self.until_too_few_slots()).await.is_err();
        }
        let slot = loop {
            let released = self.slots.released.notified();
            if let Some(slot) = self.find_slot().await {
                break slot;
            }
            released.await;
        };
        let now = Instant::now();
        self.filling_since = Some(now);
        self.buffer(slot, now)
    }

    /// Reports that the last buffer is full. The time from now on is not the client's.
    pub fn filled(&mut self) {
        self.client_is_slow = self.filling_since.is_some_and(|since| since.elapsed() >= SLOW_CLIENT);
    }

    fn has_enough_slots(&self) -> bool {
        self.slots.in_use() >= SLOTS_WITHOUT_WAIT
    }

    async fn until_too_few_slots(&self) {
        while self.has_enough_slots() {
            self.slots.released.notified().await;
        }
    }

    /// Returns a slot for the next part. `None` if the upload must wait for one of its own.
    async fn find_slot(&self) -> Option<PartSlot> {
        if self.slots.in_use() >= self.budget.max_parts {
            return None;
        }
        let own = self.slots.take_idle();
        let own_kind = own.as_ref().map(PartSlot::kind);
        for kind in better_than(own_kind, self.client_is_slow, self.budget.memory.is_scarce()) {
            let free = self.budget.free_slot(*kind, self.budget.part_size).await;
            // The upload need not fail if the disk is full, since it can wait for one of its own slots.
            if let Ok(Some(free)) = free {
                return Some(free);
            }
        }
        // One of the upload's own slots may have been released during the search.
        own.or_else(|| self.slots.take_idle())
    }

    fn buffer(&self, slot: PartSlot, filling_since: Instant) -> Buffer {
        let slot = self.slots.occupy(slot);
        let data = match slot.kind() {
            Kind::Memory => self.budget.pool.get(self.size),
            Kind::File => Vec::new(),
        };
        let guard = SlotGuard { slot: Some(slot), slots: Arc::clone(&self.slots) };
        Buffer { data, len: 0, filling_since, sent_at: None, budget: Arc::clone(&self.budget), guard }
    }
}
