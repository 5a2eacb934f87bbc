//! The memory parts are filled in, kept and used again.
//!
//! A fresh allocation of a part's size is mapped, faulted in page by page and unmapped again by the system: at 5 MiB a
//! part that is a third of the kernel's time for an upload. So a part's buffer goes back to its pool when the last
//! request that sends it is done, and the next part is written over it.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers of one part's size.
#[derive(Debug)]
pub struct Buffers {
    part_size: usize,
    free: Mutex<Vec<Vec<u8>>>,
    /// More than this many are given back to the system.
    keep: usize,
}

impl Buffers {
    /// A pool that keeps at most `keep` buffers of `part_size` bytes while nobody needs them.
    pub fn new(part_size: usize, keep: usize) -> Arc<Self> {
        Arc::new(Buffers { part_size, free: Mutex::new(Vec::new()), keep })
    }

    /// An empty buffer for `expected` bytes, or for a whole part where that is less or nothing is known.
    pub fn take(self: &Arc<Self>, expected: Option<u64>) -> Buffer {
        let small = expected.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes < self.part_size);
        let data = match small {
            Some(bytes) => Vec::with_capacity(bytes),
            None => self.lock().pop().unwrap_or_else(|| Vec::with_capacity(self.part_size)),
        };
        Buffer { data, pool: Arc::clone(self) }
    }

    fn put_back(&self, mut data: Vec<u8>) {
        if data.capacity() != self.part_size {
            return;
        }
        data.clear();
        let mut free = self.lock();
        if free.len() < self.keep {
            free.push(data);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        // A list of buffers is whole whatever panicked beside it.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part being filled; once frozen, its memory goes back to the pool with the last clone of the [`Bytes`].
#[derive(Debug)]
pub struct Buffer {
    data: Vec<u8>,
    pool: Arc<Buffers>,
}

impl Buffer {
    /// Bytes that still fit this part.
    pub fn room(&self) -> usize {
        self.pool.part_size - self.data.len()
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
        self.pool.put_back(std::mem::take(&mut self.data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_s_memory_is_used_again_once_its_last_clone_is_gone() {
        let pool = Buffers::new(64, 4);
        let mut buffer = pool.take(None);
        buffer.extend(&[1; 64]);
        let address = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let clone = bytes.clone();
        drop(bytes);
        assert_ne!(pool.take(None).as_ref().as_ptr(), address, "the clone still reads it");
        drop(clone);
        assert_eq!(pool.take(None).as_ref().as_ptr(), address);
    }

    #[test]
    fn no_more_than_keep_are_kept() {
        let pool = Buffers::new(64, 1);
        drop((pool.take(None), pool.take(None)));
        assert_eq!(pool.lock().len(), 1);
    }

    #[test]
    fn a_small_file_takes_a_small_buffer_and_may_grow_to_a_part() {
        let pool = Buffers::new(64, 4);
        let mut buffer = pool.take(Some(10));
        assert_eq!(buffer.data.capacity(), 10);
        buffer.extend(&[0; 10]);
        buffer.extend(&[0; 54]);
        assert_eq!((buffer.room(), buffer.data.capacity()), (0, 64));
    }
}
