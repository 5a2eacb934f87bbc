//! One lock a name, made when it is needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Beyond this many names the table is swept of those nobody holds.
const SWEEP_AT: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<String, Weak<RwLock<()>>>>);

impl Locks {
    pub(super) async fn read(&self, name: &str) -> OwnedRwLockReadGuard<()> {
        self.of(name).read_owned().await
    }

    pub(super) async fn write(&self, name: &str) -> OwnedRwLockWriteGuard<()> {
        self.of(name).write_owned().await
    }

    fn of(&self, name: &str) -> Arc<RwLock<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= SWEEP_AT {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(RwLock::new(()));
        locks.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}
