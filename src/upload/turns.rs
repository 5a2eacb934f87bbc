//! The order of the uploads in this process that write an image of the same UUID.
//!
//! Under a key that was fixed beforehand, several uploads may write at the same time. Most stores reject the second write
//! (If-None-Match). On a store that does not, the second writer must look for the object of the first one. Images of two
//! formats have two keys, so no store rejects the second of them, and its writer must look for the first one, too.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::Notify;

use crate::store::s3::is_outcome_unknown;
use crate::store::{ImageKey, ObjectName, Result, Store, StoreError};

/// The uploads by image UUID. Clones share their state. UUIDs that are not in use take no memory.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<HashMap<String, Queue>>>);

#[derive(Debug)]
struct Queue {
    /// The key of the first upload.
    key: ImageKey,
    /// Whether a later upload has another key, and so another format.
    has_other_keys: bool,
    /// The number of uploads.
    users: usize,
    /// The number of uploads that are writing, and the key that they write.
    writers: usize,
    written: ImageKey,
    /// Notified when a writer has ended.
    ended: Arc<Notify>,
}

/// An upload's place in the queue of its image, until it is dropped.
#[derive(Debug)]
pub struct Place {
    turns: Turns,
    key: ImageKey,
    ended: Arc<Notify>,
}

/// The turn of an upload to write, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Place);

impl Turns {
    /// Joins the queue of this key's UUID.
    pub fn join(&self, key: &ImageKey) -> Place {
        let mut queues = self.0.lock();
        let queue = queues.entry(key.id().to_owned()).or_insert_with(|| Queue {
            key: key.clone(),
            has_other_keys: false,
            users: 0,
            writers: 0,
            written: key.clone(),
            ended: Arc::default(),
        });
        queue.users += 1;
        queue.has_other_keys |= queue.key != *key;
        Place { turns: self.clone(), key: key.clone(), ended: Arc::clone(&queue.ended) }
    }
}

impl Place {
    /// Waits until no upload writes another key of this UUID and, if `alone`, none writes this key either. Cancel-safe.
    ///
    /// Without `alone` the store decides between the writers of one key, so that the next attempt of an upload need not
    /// wait for a call that hangs.
    pub async fn turn(&self, alone: bool) -> Turn<'_> {
        loop {
            let ended = self.ended.notified();
            if self.try_begin(alone) {
                return Turn(self);
            }
            ended.await;
        }
    }

    fn try_begin(&self, alone: bool) -> bool {
        self.with_queue(|queue| {
            let is_free = queue.writers == 0 || (!alone && queue.written == self.key);
            if is_free {
                queue.writers += 1;
                queue.written.clone_from(&self.key);
            }
            is_free
        })
    }

    /// Whether uploads with this UUID and another key have been in the queue since this one joined it.
    pub fn has_other_keys(&self) -> bool {
        self.with_queue(|queue| queue.has_other_keys)
    }

    fn with_queue<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(self.turns.0.lock().get_mut(self.key.id()).expect("the queue contains this place"))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.with_queue(|queue| queue.writers -= 1);
        self.0.ended.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.turns.0.lock();
        if let Some(queue) = queues.get_mut(self.key.id()) {
            queue.users -= 1;
            if queue.users == 0 {
                queues.remove(self.key.id());
            }
        }
    }
}

/// Runs `write`, which creates the object `name` unless it exists, during the writer's turn. If the store may ignore that
/// condition, it is checked first.
///
/// # Errors
/// Returns [`StoreError::Precondition`] if the object exists, and [`StoreError::Unreachable`] if the store does not answer
/// the check.
pub async fn create_new<T>(store: &dyn Store, name: &ObjectName, write: impl Future<Output = Result<T>>) -> Result<T> {
    if store.honours_if_none_match() {
        return write.await;
    }
    match store.find(name).await {
        Ok(None) => write.await,
        Ok(Some(_)) => Err(StoreError::Precondition),
        Err(error) if is_outcome_unknown(&error) => Err(StoreError::Unreachable(Box::new(error))),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use uuid::Uuid;

    #[test]
    fn turns_at_one_key_are_exclusive_and_leave_no_entry() {
        let turns = Turns::default();
        let (one, other) = (ImageKey::random("png"), ImageKey::random("png"));
        let [first, second, third] = [&one; 3].map(|key| turns.join(key));
        let other_place = turns.join(&other);
        let turn = first.turn(true).now_or_never().expect("the turn is free");
        let other_turn = other_place.turn(true).now_or_never().expect("another UUID has its own turn");
        {
            let (mut second_turn, mut third_turn) = (Box::pin(second.turn(true)), Box::pin(third.turn(true)));
            assert!(second_turn.as_mut().now_or_never().is_none() && third_turn.as_mut().now_or_never().is_none());
            drop(second_turn);
            drop(turn);
            drop(third_turn.now_or_never().expect("a cancelled upload does not keep the turn"));
        }
        drop((first, second));
        assert_eq!(turns.0.lock().len(), 2);
        drop(third);
        assert_eq!(turns.0.lock().keys().collect::<Vec<_>>(), [other.id()]);
        drop(other_turn);
    }

    #[test]
    fn keys_of_one_uuid_are_never_written_at_once_and_are_noticed() {
        let (turns, id) = (Turns::default(), Uuid::new_v4());
        let [png, jpg] = ["png", "jpg"].map(|extension| ImageKey::derived(id, extension));
        let (first, second) = (turns.join(&png), turns.join(&png));
        assert!(!first.has_other_keys(), "attempts of one upload have the same key");
        let [one, two] = [&first, &second].map(|place| place.turn(false).now_or_never().expect("the store decides"));
        let other = turns.join(&jpg);
        {
            let mut turn = Box::pin(other.turn(false));
            assert!(turn.as_mut().now_or_never().is_none());
            drop(one);
            assert!(turn.as_mut().now_or_never().is_none());
            drop(two);
            drop(turn.now_or_never().expect("the turn is free"));
        }
        drop(other);
        assert!(first.has_other_keys() && second.has_other_keys(), "the other upload may have stored its image");
        drop((first, second));
        assert!(!turns.join(&jpg).has_other_keys());
    }
}
