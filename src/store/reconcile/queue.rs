//! The effects that are looked for, in the order of their next looks, and the one task that looks.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::{CONCURRENT_LOOKS, LOOKS, LateEffect, MAX_WATCHED, PAUSE, Shared};
use crate::store::Result;

/// A queue that stays full is logged once in this time.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// An effect that may still appear.
pub(super) struct Watched {
    effect: LateEffect,
    began: Instant,
    looks: u32,
    /// Before the next look.
    pause: Duration,
}

impl Watched {
    pub(super) fn new(effect: LateEffect, pause: Duration, now: Instant) -> Self {
        Watched { effect, began: now, looks: 0, pause }
    }

    /// What follows from a look: the effect is watched on, unless this look was the last.
    fn after(mut self, looked: &Result<()>, concluded: bool) -> Option<Watched> {
        self.looks += 1;
        let settled = self.looks >= LOOKS && (looked.is_ok() || !self.effect.is_worth_waiting_for(self.began));
        if concluded || settled {
            self.effect.log_end(looked, settled);
            return None;
        }
        if self.looks < LOOKS {
            self.pause = (self.pause * 2).max(PAUSE);
        }
        Some(self)
    }
}

#[derive(Default)]
pub(super) struct Queue {
    /// By the time of the next look; the number tells those of one time apart.
    waiting: BTreeMap<(Instant, u64), Watched>,
    serial: u64,
    /// Being looked for at this moment.
    looking: usize,
    /// Callers that wait for the end of all; while there are any, everything is due.
    pub(super) concluding: usize,
    unwatched: u64,
    logged: Option<Instant>,
}

/// There are as many effects as there may be.
pub(super) struct Full {
    effect: LateEffect,
    /// How many were not watched since this was last logged; None if it is not to be logged now.
    pub(super) unwatched: Option<u64>,
}

impl Full {
    pub(super) fn log(&self) {
        if let Some(unwatched) = self.unwatched {
            let s3_key = self.effect.key();
            tracing::error!(%s3_key, unwatched, "too many lost calls: what these may do late is not looked for");
        }
    }
}

impl Queue {
    pub(super) fn add(&mut self, watched: Watched, now: Instant) -> Result<(), Full> {
        if self.waiting.len() + self.looking < MAX_WATCHED {
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
        self.waiting.insert((now + watched.pause, self.serial), watched);
    }

    /// An effect that is due, and whether this is the last look for it.
    fn take_due(&mut self, now: Instant) -> Option<(Watched, bool)> {
        let first = self.waiting.first_entry()?;
        let concluded = self.concluding > 0;
        if !concluded && first.key().0 > now {
            return None;
        }
        self.looking += 1;
        Some((first.remove(), concluded))
    }

    fn looked(&mut self, watched: Option<Watched>, now: Instant) {
        self.looking -= 1;
        if let Some(watched) = watched {
            self.put(watched, now);
        }
    }

    /// When the first effect is due. None if there is none.
    fn next_due(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(due, _)| *due)
    }
}

/// Looks for every effect in the queue when it is due, and ends with the last of them.
pub(super) async fn schedule(shared: Arc<Shared>) {
    let _broken_off = BrokenOff(&shared);
    let mut looks = FuturesUnordered::new();
    loop {
        while looks.len() < CONCURRENT_LOOKS {
            let Some((watched, concluded)) = shared.queue().take_due(Instant::now()) else { break };
            looks.push(look(&shared, watched, concluded));
        }
        let Some(due) = next_due(&shared, looks.is_empty()) else { return };
        tokio::select! {
            Some(watched) = looks.next() => shared.queue().looked(watched, Instant::now()),
            () = tokio::time::sleep_until(due), if looks.len() < CONCURRENT_LOOKS => {}
            () = shared.changed.notified() => {}
        }
    }
}

async fn look(shared: &Shared, watched: Watched, concluded: bool) -> Option<Watched> {
    let looked = shared.look(&watched.effect).await;
    watched.after(&looked, concluded)
}

/// When the scheduler has to wake. None if it has nothing to do any more; then the next effect starts another one.
fn next_due(shared: &Shared, idle: bool) -> Option<Instant> {
    let queue = shared.queue();
    match queue.next_due() {
        None if idle => {
            shared.scheduled.send_replace(false);
            None
        }
        // Nothing is due before a look has ended or the queue has changed.
        None => Some(Instant::now() + LOG_PERIOD),
        due => due,
    }
}

/// A scheduler that panics: the next effect starts another one.
struct BrokenOff<'a>(&'a Shared);

impl Drop for BrokenOff<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.0.queue();
            queue.looking = 0;
            self.0.scheduled.send_replace(false);
        }
    }
}
