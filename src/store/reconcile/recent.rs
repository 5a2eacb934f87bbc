//! Object names that are remembered for a limited time.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

use crate::store::ObjectName;

/// A limited number of names, each kept for the same time. If there are too many, the oldest are removed.
pub(super) struct Recent {
    max: usize,
    time: Duration,
    until: HashMap<ObjectName, Instant>,
    /// The oldest name is first. Some may have been removed from `until`.
    order: VecDeque<ObjectName>,
}

impl Recent {
    pub(super) fn new(max: usize, time: Duration) -> Self {
        Recent { max, time, until: HashMap::new(), order: VecDeque::new() }
    }

    pub(super) fn insert(&mut self, name: ObjectName, now: Instant) {
        while self.order.front().is_some_and(|oldest| self.order.len() >= self.max || !self.is_remembered(oldest, now))
        {
            self.order.pop_front().map(|oldest| self.until.remove(&oldest));
        }
        self.until.insert(name.clone(), now + self.time);
        self.order.push_back(name);
    }

    /// Removes a name. Returns whether it was remembered.
    pub(super) fn remove(&mut self, name: &ObjectName, now: Instant) -> bool {
        self.until.remove(name).is_some_and(|until| now < until)
    }

    fn is_remembered(&self, name: &ObjectName, now: Instant) -> bool {
        self.until.get(name).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ImageKey;

    #[test]
    fn old_names_expire_and_the_oldest_are_removed_first() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let names: Vec<ObjectName> = (0..4).map(|_| ObjectName::Image(ImageKey::random("png"))).collect();
        let mut recent = Recent::new(2, 10 * second);
        for (name, at) in names[..3].iter().zip(0..) {
            recent.insert(name.clone(), start + at * second);
        }
        assert!(!recent.remove(&names[0], start + 3 * second), "the maximum is two names");
        assert!(recent.remove(&names[1], start + 3 * second));
        assert!(!recent.remove(&names[1], start + 3 * second), "it was removed");
        assert!(!recent.remove(&names[2], start + 12 * second), "it has expired");
        recent.insert(names[3].clone(), start + 12 * second);
        assert_eq!((recent.until.len(), recent.order.len()), (1, 1));
    }
}
