//! A number of bytes that can be reserved.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unit of the budgets, in bytes. Single bytes would be too many: a semaphore gives at most 2^32 permits at once.
pub(super) const STEP: usize = 4096;

/// How long a verification waits for memory. It holds nothing meanwhile, and its client can retry.
const LEND_WAIT: Duration = Duration::from_secs(10);

/// A number of bytes that can be reserved and released.
#[derive(Debug)]
pub(super) struct ByteQuota {
    free: Arc<Semaphore>,
    /// Bytes.
    pub(super) total: u64,
}

impl ByteQuota {
    pub(super) fn new(total: u64) -> Self {
        // Rounded up, as what is reserved: a budget for one part must admit one.
        let steps = usize::try_from(total.div_ceil(STEP as u64)).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        ByteQuota { free: Arc::new(Semaphore::new(steps)), total: in_bytes(steps) }
    }

    pub(super) fn try_reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let steps = u32::try_from(bytes.div_ceil(STEP)).ok()?;
        Arc::clone(&self.free).try_acquire_many_owned(steps).ok()
    }

    pub(super) fn has_free(&self, bytes: usize) -> bool {
        self.free.available_permits() >= bytes.div_ceil(STEP)
    }

    /// Whether more than half is used.
    pub(super) fn is_scarce(&self) -> bool {
        self.used() > self.total / 2
    }

    /// Whether less than a quarter would be free if `bytes` more were used.
    pub(super) fn is_short_after(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes as u64) > self.total - self.total / 4
    }

    /// Waits until the bytes are free, for at most [`LEND_WAIT`].
    ///
    /// The caller must hold nothing that others wait for, so that there is no deadlock.
    pub(super) async fn wait_for(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let steps = u32::try_from(bytes.div_ceil(STEP as u64)).ok()?;
        tokio::time::timeout(LEND_WAIT, Arc::clone(&self.free).acquire_many_owned(steps)).await.ok()?.ok()
    }

    pub(super) fn used(&self) -> u64 {
        self.total.saturating_sub(in_bytes(self.free.available_permits()))
    }
}

fn in_bytes(steps: usize) -> u64 {
    (steps as u64).saturating_mul(STEP as u64)
}
