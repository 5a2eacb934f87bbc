//! A lock per upload: its requests in this process follow each other.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use uuid::Uuid;

/// Grants one turn at a time for each upload. Clones share their state. Uploads without requests take no memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<Uuid, Queue>>>);

#[derive(Debug, Default)]
struct Queue {
    lock: Arc<AsyncMutex<()>>,
    /// The number of requests that hold the turn or wait for it.
    users: usize,
}

/// The turn at one upload. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    // Must be dropped before the place: after a queue was removed, the next request creates a new one with another lock.
    _held: OwnedMutexGuard<()>,
    _place: Place,
}

/// A place in an upload's queue.
#[derive(Debug)]
struct Place {
    turns: Turns,
    id: Uuid,
}

impl Turns {
    /// Waits for the turn at this upload. Cancel-safe.
    pub(super) async fn take(&self, id: Uuid) -> Turn {
        let lock = {
            let mut queues = self.0.lock();
            let queue = queues.entry(id).or_default();
            queue.users += 1;
            Arc::clone(&queue.lock)
        };
        let place = Place { turns: self.clone(), id };
        Turn { _held: lock.lock_owned().await, _place: place }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.turns.0.lock();
        if let Some(queue) = queues.get_mut(&self.id) {
            queue.users -= 1;
            if queue.users == 0 {
                queues.remove(&self.id);
            }
        }
    }
}
