//! Unused buffers.
//!
//! The system maps a new allocation of a part's size, faults it in page by page and unmaps it again, which takes a
//! third of the kernel's time for an upload. A few buffers are therefore kept and reused. The last one released is
//! reused first, because it may still be in the processor's cache.

use parking_lot::Mutex;

/// Most bytes of unused buffers in the pool. They are not charged to the budget.
const MAX_POOLED_BYTES: usize = 20 << 20;

#[derive(Debug)]
pub(super) struct BufferPool {
    /// Bytes of each buffer.
    size: usize,
    unused: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// Creates a pool of buffers of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        BufferPool { size, unused: Mutex::default() }
    }

    pub(super) fn get(&self, size: usize) -> Vec<u8> {
        let pooled = if size == self.size { self.unused.lock().pop() } else { None };
        pooled.unwrap_or_else(|| Vec::with_capacity(size))
    }

    /// Returns a buffer to the pool, or frees it if it does not fit.
    pub(super) fn put(&self, mut data: Vec<u8>) {
        let mut unused = self.unused.lock();
        if data.capacity() == self.size && (unused.len() + 1) * self.size <= MAX_POOLED_BYTES {
            data.clear();
            unused.push(data);
        }
    }
}
