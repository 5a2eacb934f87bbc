//! How long the store takes for a part.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A store is near if it takes at most this long for a part.
pub(super) const NEAR: Duration = Duration::from_millis(20);

/// How long the store takes for a part: a moving average over the parts of all uploads, in microseconds. 0 if no part was
/// sent yet.
#[derive(Debug, Default)]
pub(super) struct StorePace(AtomicU64);

impl StorePace {
    /// Records that a part was sent within `took`. Of two parts that end at the same time, one may not count.
    pub(super) fn record(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 4).clamp(1, u64::MAX / 4);
        let average = match self.0.load(Ordering::Relaxed) {
            0 => took,
            // A single part that was cancelled or delayed does not change the result.
            average => (3 * average + took) / 4,
        };
        self.0.store(average, Ordering::Relaxed);
    }

    /// Whether the store is known to be near.
    pub(super) fn is_near(&self) -> bool {
        (1..=NEAR.as_micros()).contains(&self.0.load(Ordering::Relaxed).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_is_near_only_if_its_parts_were_short_so_far() {
        let pace = StorePace::default();
        assert!(!pace.is_near(), "nothing is known");
        pace.record(NEAR);
        assert!(pace.is_near());
        pace.record(NEAR * 2);
        assert!(!pace.is_near());
        (0..10).for_each(|_| pace.record(NEAR / 2));
        assert!(pace.is_near());
        pace.record(Duration::MAX);
        (0..4).for_each(|_| pace.record(NEAR * 2));
        pace.record(Duration::ZERO);
        assert!(!pace.is_near(), "one cancelled part says little");
    }
}
