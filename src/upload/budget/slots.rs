//! The slots of one upload.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::super::spill::SpillFile;
use super::placement::Kind;

/// Space for one part.
#[derive(Debug)]
pub(super) enum PartSlot {
    Memory(OwnedSemaphorePermit),
    File(Arc<SpillFile>),
}

impl PartSlot {
    pub(super) fn kind(&self) -> Kind {
        match self {
            PartSlot::Memory(_) => Kind::Memory,
            PartSlot::File(_) => Kind::File,
        }
    }
}

/// The slots of one upload.
#[derive(Debug)]
pub(super) struct Slots {
    state: Mutex<State>,
    /// Notified when a buffer of this upload is released.
    pub(super) released: Notify,
}

#[derive(Debug)]
struct State {
    /// The slot that the upload keeps while no buffer uses it.
    idle: Option<PartSlot>,
    /// Number of buffers in use.
    in_use: usize,
}

impl Slots {
    pub(super) fn new(first: PartSlot) -> Self {
        Slots { state: Mutex::new(State { idle: Some(first), in_use: 0 }), released: Notify::new() }
    }

    pub(super) fn in_use(&self) -> usize {
        self.state.lock().in_use
    }

    pub(super) fn take_idle(&self) -> Option<PartSlot> {
        self.state.lock().idle.take()
    }

    /// Marks a slot as used and returns it.
    ///
    /// One of the upload's own slots may have been released during the search for `slot`. If that one is in memory, it
    /// is used instead. Either way the other one is released, because an upload keeps only one unused slot.
    pub(super) fn occupy(&self, slot: PartSlot) -> PartSlot {
        let mut state = self.state.lock();
        state.in_use += 1;
        match state.idle.take() {
            Some(PartSlot::Memory(own)) => PartSlot::Memory(own),
            _ => slot,
        }
    }
}

/// A slot in use. It is released when the part in it is dropped.
#[derive(Debug)]
pub(super) struct SlotGuard {
    pub(super) slot: Option<PartSlot>,
    pub(super) slots: Arc<Slots>,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let mut state = self.slots.state.lock();
        state.in_use -= 1;
        if state.in_use == 0 && state.idle.is_none() {
            state.idle = self.slot.take();
        }
        drop(state);
        self.slot = None;
        self.slots.released.notify_one();
    }
}
