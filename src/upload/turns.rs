//! A lock per image key. On a store without conditional writes, the second of two uploads under one key must find the
//! object of the first one.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::store::ImageKey;

/// Grants one turn at a time for each key. Clones share their state. Keys that are not in use take no memory.
#[derive(Clone, Debug)]
pub struct Turns<K: Eq + Hash = ImageKey>(Arc<Mutex<HashMap<K, Queue>>>);

#[derive(Debug, Default)]
struct Queue {
    lock: Arc<AsyncMutex<()>>,
    /// The number of tasks that hold the turn or wait for it.
    users: usize,
}

/// The turn at one key. It ends when this is dropped.
#[derive(Debug)]
pub struct Turn<K: Clone + Eq + Hash = ImageKey> {
    // Must be dropped before the place: after a queue was removed, the next task creates a new one with another lock.
    _held: OwnedMutexGuard<()>,
    _place: Place<K>,
}

/// A place in a key's queue.
#[derive(Debug)]
struct Place<K: Clone + Eq + Hash> {
    turns: Turns<K>,
    key: K,
}

impl<K: Eq + Hash> Default for Turns<K> {
    fn default() -> Self {
        Turns(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// Waits for the turn at this key. Cancel-safe.
    pub async fn take(&self, key: &K) -> Turn<K> {
        let lock = {
            let mut queues = self.queues();
            let queue = queues.entry(key.clone()).or_default();
            queue.users += 1;
            Arc::clone(&queue.lock)
        };
        let place = Place { turns: self.clone(), key: key.clone() };
        Turn { _held: lock.lock_owned().await, _place: place }
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<K, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut queues = self.turns.queues();
        if let Some(queue) = queues.get_mut(&self.key) {
            queue.users -= 1;
            if queue.users == 0 {
                queues.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn turns_at_one_key_are_exclusive_and_leave_no_entry() {
        let turns = Turns::default();
        let (one, other) = (ImageKey::random("png"), ImageKey::random("png"));
        let first = turns.take(&one).now_or_never().expect("the turn is free");
        let _other = turns.take(&other).now_or_never().expect("another key has its own turn");
        let (mut second, mut third) = (Box::pin(turns.take(&one)), Box::pin(turns.take(&one)));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(second);
        drop(first);
        let third = third.now_or_never().expect("a cancelled task does not keep the turn");
        assert_eq!(turns.queues().len(), 2);
        drop(third);
        assert_eq!(turns.queues().keys().collect::<Vec<_>>(), [&other]);
    }
}
