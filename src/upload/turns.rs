//! Turns at one key: on a store that overwrites, of two uploads under one key the second must see what the first has made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::store::ImageKey;

/// One turn at a time for each key. The clones are one; a key that nobody uses takes no memory.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<HashMap<ImageKey, Queue>>>);

#[derive(Debug, Default)]
struct Queue {
    lock: Arc<AsyncMutex<()>>,
    /// How many hold the turn or wait for it.
    users: usize,
}

/// The turn at one key, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    // Before the place: whoever finds the queue gone begins another one.
    _held: OwnedMutexGuard<()>,
    _place: Place,
}

/// A place in a key's queue.
#[derive(Debug)]
struct Place {
    turns: Turns,
    key: ImageKey,
}

impl Turns {
    /// Waits until nobody else has the turn at this key. May be dropped meanwhile.
    pub async fn take(&self, key: &ImageKey) -> Turn {
        let lock = {
            let mut queues = self.queues();
            let queue = queues.entry(key.clone()).or_default();
            queue.users += 1;
            Arc::clone(&queue.lock)
        };
        let place = Place { turns: self.clone(), key: key.clone() };
        Turn { _held: lock.lock_owned().await, _place: place }
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<ImageKey, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
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
    fn one_key_has_one_turn_at_a_time_and_leaves_nothing() {
        let turns = Turns::default();
        let (one, other) = (ImageKey::random("png"), ImageKey::random("png"));
        let first = turns.take(&one).now_or_never().expect("nobody else has it");
        let _other = turns.take(&other).now_or_never().expect("it is another key's");
        let (mut second, mut third) = (Box::pin(turns.take(&one)), Box::pin(turns.take(&one)));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(second);
        drop(first);
        let third = third.now_or_never().expect("one that has gone does not keep the turn");
        assert_eq!(turns.queues().len(), 2);
        drop(third);
        assert_eq!(turns.queues().keys().collect::<Vec<_>>(), [&other]);
    }
}
