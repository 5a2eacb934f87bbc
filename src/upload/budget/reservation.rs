//! One upload's share of the budget.

use std::sync::Arc;
use tokio::time::Instant;

use super::Budget;
use super::buffer::{Buffer, COLLECTED};
use super::placement::{Kind, SLOW_CLIENT, Situation, better_than_own};
use super::slots::{PartSlot, SlotGuard, Slots};

/// One upload's share of the budget.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    /// Bytes of the slot that was reserved at admission.
    size: usize,
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
            filling_since: None,
            client_is_slow: false,
            slots: Arc::new(Slots::new(slot)),
        }
    }

    /// Returns an empty buffer in the upload's own slot if that is idle, or in one that it borrows. If there is neither,
    /// waits until the upload's own buffers are released.
    pub async fn next(&mut self) -> Buffer {
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

    /// Returns a slot for the next part. `None` if the upload must wait for one of its own.
    async fn find_slot(&self) -> Option<PartSlot> {
        let in_use = self.slots.in_use();
        if in_use >= self.budget.max_parts {
            return None;
        }
        let own = self.slots.take_idle();
        let at = Situation {
            own: own.as_ref().map(PartSlot::kind),
            in_use,
            memory_is_scarce: self.budget.memory.is_scarce(),
            memory_is_short: self.budget.memory.is_short_after(self.budget.part_size),
            disk_is_scarce: self.budget.disk_is_scarce(),
            client_is_slow: self.client_is_slow,
        };
        for kind in better_than_own(at) {
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
        Buffer {
            data,
            collecting: None,
            max_collected: COLLECTED.min(self.size),
            len: 0,
            filling_since,
            budget: Arc::clone(&self.budget),
            guard,
        }
    }
}
