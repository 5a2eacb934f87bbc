//! A newer request for an upload ends the older one in this process, and waits for its end.
//!
//! A client that lost its connection continues with a new request, while the old one may still wait for bytes that never
//! come. In other processes nothing is ended: both requests then store the same bytes.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::turns;

/// The newest request of every upload that has one in this process.
#[derive(Clone, Default)]
pub(super) struct Takeovers {
    newest: Arc<Mutex<HashMap<Uuid, CancellationToken>>>,
    turns: turns::Turns,
}

/// The turn of a request at its upload. It ends when this is dropped.
pub(super) struct Turn {
    // Dropped before the turn ends, so that a newer request's entry is never removed.
    entry: Entry,
    _turn: turns::Turn,
}

struct Entry {
    takeovers: Takeovers,
    id: Uuid,
    token: CancellationToken,
}

impl Takeovers {
    /// Ends the older request of this upload, and returns when it has ended.
    pub(super) async fn begin(&self, id: Uuid) -> Turn {
        let token = CancellationToken::new();
        if let Some(older) = self.newest.lock().insert(id, token.clone()) {
            older.cancel();
        }
        let entry = Entry { takeovers: self.clone(), id, token };
        let turn = self.turns.take(id).await;
        Turn { entry, _turn: turn }
    }
}

impl Turn {
    /// Resolves when a newer request has arrived.
    pub(super) async fn taken_over(&self) {
        self.entry.token.cancelled().await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut newest = self.takeovers.newest.lock();
        // The entry of a newer request replaces this one, and then this token is cancelled.
        if !self.token.is_cancelled() {
            newest.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn newer_request_ends_the_older_one_and_waits_for_it() {
        let (takeovers, id) = (Takeovers::default(), Uuid::new_v4());
        let begin = |id| takeovers.begin(id).now_or_never();
        let first = begin(id).unwrap();
        assert!(first.taken_over().now_or_never().is_none());
        let _other = begin(Uuid::new_v4()).expect("another upload has its own turn");
        assert!(first.taken_over().now_or_never().is_none());

        let mut second = Box::pin(takeovers.begin(id));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(first.taken_over().now_or_never().is_some());
        let mut third = Box::pin(takeovers.begin(id));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "the second request is before it");
        let second = second.now_or_never().unwrap();
        assert!(second.taken_over().now_or_never().is_some(), "it was taken over while it waited");
        drop(second);
        let third = third.now_or_never().unwrap();
        assert!(third.taken_over().now_or_never().is_none());
        assert_eq!(takeovers.newest.lock().len(), 2);
        drop(third);
        assert_eq!(takeovers.newest.lock().len(), 1);
    }

    #[test]
    fn request_that_is_dropped_while_it_waits_leaves_no_entry() {
        let (takeovers, id) = (Takeovers::default(), Uuid::new_v4());
        let first = takeovers.begin(id).now_or_never().unwrap();
        let mut second = Box::pin(takeovers.begin(id));
        assert!(second.as_mut().now_or_never().is_none());
        drop(second);
        drop(first);
        assert!(takeovers.newest.lock().is_empty());
        assert!(takeovers.begin(id).now_or_never().is_some());
    }
}
