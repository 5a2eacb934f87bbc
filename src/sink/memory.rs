//! The memory uploads may take, and what keeps them from waiting for each other.
//!
//! Before its body is read, an upload reserves a [`Share`] of the [`Budget`]: room for one part, or for the whole file
//! where that is smaller. Where there is none it is refused, so a crowd cannot take more than the budget, and every upload
//! that was admitted can go on by itself: it fills its own room, sends it, and uses it again. While others leave room free
//! it borrows that for further parts, so that one part is filled while others are on their way; it never *waits* for
//! borrowed room. What an upload waits for is therefore only its client and its own parts, whose calls have timeouts: there
//! is no cycle, and no deadlock.
//!
//! What is charged is a buffer's capacity, for as long as anything holds it. A fresh allocation of a part's size is mapped,
//! faulted in page by page and unmapped again by the system, at a third of the kernel's time for an upload; so a few
//! buffers are kept and used again.

use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The budget is counted in steps of this many bytes: a semaphore takes at most 2^32 permits at once.
const STEP: usize = 4096;

/// What all uploads together may hold.
#[derive(Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    /// Bytes.
    total: u64,
    part_size: usize,
    /// Parts one upload may hold at once.
    at_once: usize,
    kept: Mutex<Vec<Vec<u8>>>,
}

impl Budget {
    /// `total` bytes for all uploads together, each of them at most `at_once` parts of `part_size` bytes.
    pub fn new(total: u64, part_size: usize, at_once: usize) -> Arc<Self> {
        let steps = usize::try_from(total / STEP as u64).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let free = Arc::new(Semaphore::new(steps));
        Arc::new(Budget { free, total, part_size, at_once, kept: Mutex::default() })
    }

    /// Room for an upload of at most `expected` bytes; none where the budget has no more.
    pub fn admit(self: &Arc<Self>, expected: Option<u64>) -> Option<Share> {
        let expected = expected.and_then(|bytes| usize::try_from(bytes).ok());
        let size = expected.unwrap_or(self.part_size).clamp(1, self.part_size);
        let own = self.take(size)?;
        let state = Arc::new(State { own: Mutex::new((Some(own), 0)), returned: Notify::new() });
        Some(Share { budget: Arc::clone(self), size, state })
    }

    /// Bytes in use, and bytes there are.
    pub fn usage(&self) -> (u64, u64) {
        let free = (self.free.available_permits() * STEP) as u64;
        (self.total.saturating_sub(free), self.total)
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let steps = u32::try_from(bytes.div_ceil(STEP)).ok()?;
        Arc::clone(&self.free).try_acquire_many_owned(steps).ok()
    }

    fn allocate(&self, size: usize) -> Vec<u8> {
        let kept = if size == self.part_size { lock(&self.kept).pop() } else { None };
        kept.unwrap_or_else(|| Vec::with_capacity(size))
    }

    fn keep(&self, mut data: Vec<u8>) {
        let mut kept = lock(&self.kept);
        if data.capacity() == self.part_size && kept.len() < self.at_once {
            data.clear();
            kept.push(data);
        }
    }
}

/// What is behind these locks is whole whatever panicked beside it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One upload's room.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    /// Bytes of its own.
    size: usize,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Its own room while no buffer is in it, and how many buffers it holds in all.
    own: Mutex<(Option<OwnedSemaphorePermit>, usize)>,
    returned: Notify,
}

impl Share {
    /// The next buffer: in its own room, else in borrowed room, else when one of its own buffers comes back.
    pub async fn next(&self) -> Buffer {
        loop {
            let returned = self.state.returned.notified();
            if let Some(buffer) = self.try_next() {
                return buffer;
            }
            returned.await;
        }
    }

    fn try_next(&self) -> Option<Buffer> {
        let mut own = lock(&self.state.own);
        if own.1 >= self.budget.at_once {
            return None;
        }
        let (size, permit, is_own) = match own.0.take() {
            Some(permit) => (self.size, permit, true),
            None => (self.budget.part_size, self.budget.take(self.budget.part_size)?, false),
        };
        own.1 += 1;
        let room = Room { permit: Some(permit), is_own, state: Arc::clone(&self.state) };
        Some(Buffer { data: self.budget.allocate(size), budget: Arc::clone(&self.budget), _room: room })
    }
}

/// A buffer's place in the budget. It goes back when the buffer is gone.
#[derive(Debug)]
struct Room {
    permit: Option<OwnedSemaphorePermit>,
    is_own: bool,
    state: Arc<State>,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut own = lock(&self.state.own);
        own.1 -= 1;
        if self.is_own {
            own.0 = self.permit.take();
        }
        drop(own);
        self.state.returned.notify_one();
    }
}

/// A part being filled; once frozen, its memory goes back with the last clone of the [`Bytes`].
#[derive(Debug)]
pub struct Buffer {
    data: Vec<u8>,
    budget: Arc<Budget>,
    /// Dropped after the memory: see the fields' order.
    _room: Room,
}

impl Buffer {
    /// Bytes that still fit this part.
    pub fn room(&self) -> usize {
        self.budget.part_size - self.data.len()
    }

    /// Appends; no more than [`Buffer::room`].
    pub fn extend(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room());
        // Where the announced length was wrong, go to a whole part at once: doubling could go past it.
        if self.data.capacity() - self.data.len() < bytes.len() {
            self.data.reserve_exact(self.room());
        }
        self.data.extend_from_slice(bytes);
    }

    pub fn len(&self) -> usize {
        self.data.len()
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const PART: usize = 2 * STEP;

    fn budget(parts: u64, at_once: usize) -> Arc<Budget> {
        Budget::new(parts * PART as u64, PART, at_once)
    }

    fn now(share: &Share) -> Option<Buffer> {
        share.next().now_or_never()
    }

    #[test]
    fn a_part_s_memory_is_used_again_once_its_last_clone_is_gone() {
        let share = budget(4, 4).admit(None).unwrap();
        let mut buffer = now(&share).unwrap();
        buffer.extend(&[1; PART]);
        let address = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let clone = bytes.clone();
        drop(bytes);
        assert_ne!(now(&share).unwrap().as_ref().as_ptr(), address, "the clone still reads it");
        drop(clone);
        let again = [now(&share).unwrap(), now(&share).unwrap()];
        assert!(again.iter().any(|buffer| buffer.as_ref().as_ptr() == address));
    }

    #[test]
    fn uploads_are_admitted_while_there_is_room_for_a_part_of_each() {
        let budget = budget(2, 4);
        let first = budget.admit(None).unwrap();
        let small = budget.admit(Some(10)).unwrap();
        assert!(budget.admit(None).is_none());
        assert_eq!(budget.usage(), ((PART + STEP) as u64, 2 * PART as u64));
        drop(first);
        assert!(budget.admit(None).is_some());
        assert_eq!(now(&small).unwrap().data.capacity(), 10);
        drop(small);
        assert_eq!(budget.usage().0, 0);
    }

    #[test]
    fn an_upload_borrows_what_is_free_and_goes_on_with_its_own_where_nothing_is() {
        let budget = budget(3, 4);
        let (one, other) = (budget.admit(None).unwrap(), budget.admit(None).unwrap());
        let own = now(&one).unwrap();
        let borrowed = now(&one).unwrap();
        assert!(now(&one).is_none(), "the rest is the other's");
        let others = now(&other).unwrap();
        assert!(now(&other).is_none());
        drop(own);
        let own_again = now(&one).unwrap();
        drop(borrowed);
        assert!(now(&other).is_some(), "what was borrowed is free for all");
        drop((own_again, others));
    }

    #[test]
    fn no_upload_holds_more_parts_than_it_may() {
        let share = budget(10, 2).admit(None).unwrap();
        let held = [now(&share).unwrap(), now(&share).unwrap()];
        assert!(now(&share).is_none());
        drop(held);
        assert!(now(&share).is_some());
    }

    #[tokio::test]
    async fn a_buffer_that_comes_back_wakes_its_upload() {
        let share = budget(1, 4).admit(None).unwrap();
        let own = share.next().await;
        let waiting = tokio::spawn(async move { share.next().await.len() });
        tokio::task::yield_now().await;
        drop(own);
        assert_eq!(waiting.await.unwrap(), 0);
    }

    #[test]
    fn an_upload_s_room_stays_charged_while_a_part_of_it_is_on_its_way() {
        let budget = budget(2, 4);
        let share = budget.admit(None).unwrap();
        let part = now(&share).unwrap().freeze();
        drop(share);
        assert_eq!(budget.usage().0, PART as u64);
        drop(part);
        assert_eq!(budget.usage().0, 0);
    }
}
