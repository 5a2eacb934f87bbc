//! Unused buffers, in size classes.
//!
//! The system maps a new allocation of this size, faults it in page by page and unmaps it again, which takes up to a
//! third of the kernel's time for an upload. So some buffers are kept and reused. A buffer's size is one of a few, so that
//! it can be reused for a file of about the same size. The last one released is reused first, because it may still be in
//! the processor's cache. If there are too many, the one that was unused for the longest time is freed, whatever its size.

use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;

/// Most bytes of unused buffers in the pool. They are not charged to the budget.
const MAX_POOLED_BYTES: usize = 20 << 20;

/// Smaller buffers are not kept, because the allocator keeps memory of their size itself.
const MIN_POOLED_BYTES: usize = 64 << 10;

/// Number of size classes from one power of two to the next. With four, at most a fifth of a buffer is never used.
const CLASSES_PER_DOUBLING: usize = 4;

#[derive(Debug)]
pub(super) struct BufferPool {
    /// Bytes of the largest buffer.
    part_size: usize,
    unused: Mutex<Unused>,
}

#[derive(Debug, Default)]
struct Unused {
    /// In the order in which they were released.
    buffers: VecDeque<Vec<u8>>,
    /// Bytes of all of them.
    bytes: usize,
}

impl BufferPool {
    /// Creates a pool of buffers for at most `part_size` bytes.
    pub(super) fn new(part_size: usize) -> Self {
        BufferPool { part_size, unused: Mutex::default() }
    }

    /// Returns the size of the buffer for a file of at most `bytes` bytes, or for its first part.
    pub(super) fn size_for(&self, bytes: u64) -> usize {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).clamp(1, self.part_size);
        let is_pooled = bytes >= MIN_POOLED_BYTES;
        if is_pooled { size_class(bytes).min(self.part_size) } else { bytes }
    }

    /// Returns an empty buffer of `size` bytes, which [`BufferPool::size_for`] has returned.
    pub(super) fn get(&self, size: usize) -> Vec<u8> {
        self.take_unused(size).unwrap_or_else(|| Vec::with_capacity(size))
    }

    fn take_unused(&self, size: usize) -> Option<Vec<u8>> {
        let mut unused = self.unused.lock();
        let newest = unused.buffers.iter().rposition(|buffer| buffer.capacity() == size)?;
        unused.bytes -= size;
        unused.buffers.remove(newest)
    }

    /// Returns a buffer to the pool, or frees it if it is too small.
    pub(super) fn put(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() < MIN_POOLED_BYTES.min(self.part_size) {
            return;
        }
        buffer.clear();
        let mut unused = self.unused.lock();
        unused.bytes += buffer.capacity();
        unused.buffers.push_back(buffer);
        while let Some(oldest) = unused.too_many() {
            // Freeing memory takes long.
            MutexGuard::unlocked(&mut unused, || drop(oldest));
        }
    }
}

impl Unused {
    /// Removes a buffer if there are too many.
    fn too_many(&mut self) -> Option<Vec<u8>> {
        if self.bytes <= MAX_POOLED_BYTES {
            return None;
        }
        let oldest = self.buffers.pop_front()?;
        self.bytes -= oldest.capacity();
        Some(oldest)
    }
}

/// Returns the smallest size class of at least `bytes` bytes.
fn size_class(bytes: usize) -> usize {
    // The next power of two is twice the one that the classes are counted from.
    bytes.next_multiple_of(bytes.next_power_of_two() / (2 * CLASSES_PER_DOUBLING))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: usize = 5 << 20;
    const MIB: usize = 1 << 20;

    #[test]
    fn classes_hold_their_bytes_and_waste_at_most_a_fifth() {
        let pool = BufferPool::new(PART);
        let mut classes = std::collections::BTreeSet::new();
        for bytes in (1..=PART).step_by(997).chain([1, MIN_POOLED_BYTES, MIB - 1, MIB, MIB + 1, PART - 1, PART]) {
            let size = pool.size_for(bytes as u64);
            assert!(size >= bytes && (size - bytes) * 5 <= size, "{size} for {bytes}");
            assert_eq!(pool.size_for(size as u64), size, "a class is its own class");
            if bytes < MIN_POOLED_BYTES {
                assert_eq!(size, bytes);
            } else {
                classes.insert(size);
            }
        }
        assert!(classes.len() <= 7 * CLASSES_PER_DOUBLING, "{classes:?}");
        assert_eq!((pool.size_for(0), pool.size_for(u64::MAX)), (1, PART));
        assert_eq!(BufferPool::new(PART + 1).size_for(u64::MAX), PART + 1);
    }

    /// Returns where the buffer is in memory.
    fn address(buffer: &[u8]) -> *const u8 {
        buffer.as_ptr()
    }

    #[test]
    fn buffer_is_reused_for_files_of_its_class_only() {
        let pool = BufferPool::new(PART);
        let [one, other] = [MIB, 2 * MIB].map(|size| pool.get(size));
        let addresses = [address(&one), address(&other)];
        pool.put(one);
        pool.put(other);
        assert_eq!(pool.unused.lock().bytes, 3 * MIB);
        let third = pool.get(pool.size_for(MIB as u64 + 1));
        assert!(!addresses.contains(&address(&third)));
        let again = pool.get(pool.size_for(MIB as u64 - 1));
        assert_eq!((address(&again), again.capacity()), (addresses[0], MIB));
        assert_eq!(address(&pool.get(2 * MIB)), addresses[1]);
        assert_eq!(pool.unused.lock().bytes, 0);
    }

    #[test]
    fn newest_buffer_is_reused_and_oldest_is_freed() {
        let pool = BufferPool::new(PART);
        let small = pool.get(MIN_POOLED_BYTES);
        pool.put(small);
        let parts: Vec<_> = (0..5).map(|_| pool.get(PART)).collect();
        let newest = address(&parts[4]);
        parts.into_iter().for_each(|part| pool.put(part));
        {
            let unused = pool.unused.lock();
            assert_eq!((unused.buffers.len(), unused.bytes), (4, MAX_POOLED_BYTES));
            assert!(unused.buffers.iter().all(|buffer| buffer.capacity() == PART), "the small one is the oldest");
        }
        assert_eq!(address(&pool.get(PART)), newest);
        pool.put(Vec::with_capacity(MIN_POOLED_BYTES - 1));
        pool.put(Vec::new());
        assert_eq!(pool.unused.lock().buffers.len(), 3);
    }
}
