//! The queue of watched effects, ordered by their next check, and the task that checks them.

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::{CONCURRENT_CHECKS, Checked, FIRST_DELAY, LateEffect, MAX_CHECKS, MAX_WATCHED, Shared};
use crate::store::Result;

/// A full queue is logged at most once in this period.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// An effect that may still appear.
pub(super) struct Watched {
    effect: LateEffect,
    began: Instant,
    looks: u32,
    /// The delay before the next check.
    pause: Duration,
}

impl Watched {
    pub(super) fn new(effect: LateEffect, pause: Duration, now: Instant) -> Self {
        Watched { effect, began: now, looks: 0, pause }
    }

    /// Processes the result of a check. Returns the effect unless this check was the last one.
    fn after(mut self, looked: &Result<Checked>, concluding: bool) -> Option<Watched> {
        self.looks += 1;
        let settled = self.looks >= MAX_CHECKS && (looked.is_ok() || !self.effect.is_worth_waiting_for(self.began));
        let concluded = concluding && (self.looks >= MAX_CHECKS || matches!(looked, Ok(Checked::Clear)));
        if concluded || settled {
            self.effect.log_end(looked, settled);
            return None;
        }
        if self.looks < MAX_CHECKS {
            self.pause = (self.pause * 2).max(FIRST_DELAY);
        }
        Some(self)
    }
}

#[derive(Default)]
pub(super) struct Queue {
    /// Ordered by the time of the next check. The number makes the keys unique.
    waiting: BTreeMap<(Instant, u64), Watched>,
    serial: u64,
    /// The effects that are being checked now.
    looking: HashMap<u64, LateEffect>,
    /// Number of callers of `Reconciler::conclude`. While there are any, effects are due as soon as they are added.
    pub(super) concluding: usize,
    unwatched: u64,
    logged: Option<Instant>,
}

/// The queue is full.
pub(super) struct Full {
    effect: LateEffect,
    /// Number of effects that were not watched since this was last logged. `None` if it is not logged now.
    pub(super) unwatched: Option<u64>,
}

impl Full {
    pub(super) fn log(&self) {
        if let Some(unwatched) = self.unwatched {
            let s3_key = self.effect.key();
            tracing::error!(%s3_key, unwatched, "too many unanswered calls; further late effects are not watched");
        }
    }
}

impl Queue {
    /// Makes all effects due.
    pub(super) fn conclude(&mut self, now: Instant) {
        self.concluding += 1;
        for mut watched in std::mem::take(&mut self.waiting).into_values() {
            watched.pause = Duration::ZERO;
            self.put(watched, now);
        }
    }

    pub(super) fn add(&mut self, mut watched: Watched, now: Instant) -> Result<(), Full> {
        if self.concluding > 0 {
            watched.pause = Duration::ZERO;
        }
        if self.waiting.len() + self.looking.len() < MAX_WATCHED {
            self.put(watched, now);
            return Ok(());
        }
        self.unwatched += 1;
        let is_due = self.logged.is_none_or(|logged| now - logged >= LOG_PERIOD);
        let unwatched = is_due.then(|| {
            self.logged = Some(now);
            std::mem::take(&mut self.unwatched)
        });
        Err(Full { effect: watched.effect, unwatched })
    }

    fn put(&mut self, watched: Watched, now: Instant) {
        self.serial += 1;
        // Also after a check that had begun before the last ones, whose next check may be minutes away.
        let longest = if self.concluding > 0 { FIRST_DELAY } else { Duration::MAX };
        self.waiting.insert((now + watched.pause.min(longest), self.serial), watched);
    }

    /// Removes an effect that is due. Also returns whether its check is one of the last ones.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(u64, Watched, bool)> {
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= now)?;
        let ((_, serial), watched) = first.remove_entry();
        self.looking.insert(serial, watched.effect.clone());
        Some((serial, watched, self.concluding > 0))
    }

    pub(super) fn looked(&mut self, serial: u64, watched: Option<Watched>, now: Instant) {
        self.looking.remove(&serial);
        if let Some(watched) = watched {
            self.put(watched, now);
        }
    }

    /// Returns the effects that have not had their last check.
    pub(super) fn left(&self) -> impl Iterator<Item = &LateEffect> {
        self.looking.values().chain(self.waiting.values().map(|watched| &watched.effect))
    }

    /// Returns when the first effect is due. `None` if there is none.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(due, _)| *due)
    }
}

/// Checks every effect in the queue when it is due, and ends after the last one.
pub(super) async fn schedule(shared: Arc<Shared>) {
    let _broken_off = BrokenOff(&shared);
    let mut looks = FuturesUnordered::new();
    loop {
        while looks.len() < CONCURRENT_CHECKS {
            let Some((serial, watched, concluding)) = shared.queue().take_due(Instant::now()) else { break };
            looks.push(look(&shared, watched, concluding).map(move |watched| (serial, watched)));
        }
        let Some(due) = next_due(&shared, looks.is_empty()) else { return };
        tokio::select! {
            Some((serial, watched)) = looks.next() => shared.queue().looked(serial, watched, Instant::now()),
            () = tokio::time::sleep_until(due), if looks.len() < CONCURRENT_CHECKS => {}
            () = shared.changed.notified() => {}
        }
    }
}

async fn look(shared: &Shared, watched: Watched, concluding: bool) -> Option<Watched> {
    let looked = shared.look(&watched.effect).await;
    watched.after(&looked, concluding)
}

/// Returns when the scheduler must wake up. `None` if the queue is empty. The next effect then starts a new scheduler.
fn next_due(shared: &Shared, idle: bool) -> Option<Instant> {
    let queue = shared.queue();
    match queue.next_due() {
        None if idle => {
            shared.scheduled.send_replace(false);
            None
        }
        // Nothing is due until a check ends or the queue is changed.
        None => Some(Instant::now() + LOG_PERIOD),
        due => due,
    }
}

/// Resets the state if the scheduler panics, so that the next effect starts a new one.
struct BrokenOff<'a>(&'a Shared);

impl Drop for BrokenOff<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.0.queue();
            queue.looking.clear();
            self.0.scheduled.send_replace(false);
        }
    }
}
