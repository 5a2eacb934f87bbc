//! When a client is too slow: it pauses for too long, or it sends too few bytes while the service waits for them.
//!
//! Only the time in which the service waits for the client counts. While an upload waits for the store nobody asks the client
//! for bytes, and what it sends meanwhile lies in the socket and is there at once afterwards.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::Error;

/// The rate does not count while the client has been waited for less than this in all: connections start slowly.
const GRACE: Duration = Duration::from_secs(10);
/// The rate is an average over this much waiting.
const WINDOW: Duration = Duration::from_secs(30);

/// How slow a client may be.
#[derive(Clone, Copy, Debug)]
pub struct PaceLimits {
    /// The longest pause.
    pub idle: Duration,
    /// Bytes per second, on average; 0: any.
    pub min_rate: u64,
}

/// The pace of one body.
#[derive(Debug)]
pub(super) struct Pace {
    limits: PaceLimits,
    window: Window,
    /// Since when the client is being waited for. `None` while it is not.
    waiting_since: Option<Instant>,
    /// Made by the first wait and set anew by the others.
    timer: Option<Pin<Box<Sleep>>>,
}

/// What arrived during some seconds of waiting.
#[derive(Debug)]
struct Window {
    length: Duration,
    /// Bytes that must have arrived at its end.
    wanted: u64,
    waited: Duration,
    received: u64,
}

impl Pace {
    pub(super) fn new(limits: PaceLimits) -> Self {
        let window = Window { length: GRACE, wanted: 0, waited: Duration::ZERO, received: 0 };
        Pace { limits, window, waiting_since: None, timer: None }
    }

    /// These bytes arrived, and the client is not waited for any more.
    pub(super) fn received(&mut self, bytes: usize) {
        self.window.received = self.window.received.saturating_add(bytes as u64);
        if let Some(since) = self.waiting_since.take() {
            self.window.waited += since.elapsed();
        }
    }

    /// To be polled whenever the client has sent nothing: resolves when that has lasted too long.
    pub(super) fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
            self.set_timer();
        }
        loop {
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            ready!(timer.as_mut().poll(cx));
            if let Some(error) = self.judge(Instant::now()) {
                return Poll::Ready(error);
            }
            self.set_timer();
        }
    }

    /// At the next moment at which the client may prove too slow.
    fn set_timer(&mut self) {
        let since = self.waiting_since.unwrap_or_else(Instant::now);
        let window_left = self.window.length.saturating_sub(self.window.waited);
        let wait = if self.limits.min_rate > 0 { self.limits.idle.min(window_left) } else { self.limits.idle };
        let at = since + wait;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            none => *none = Some(Box::pin(sleep_until(at))),
        }
    }

    /// Whether the client is too slow by `now`. A window that has ended well is followed by the next one.
    fn judge(&mut self, now: Instant) -> Option<Error> {
        let waited = now.duration_since(self.waiting_since.unwrap_or(now));
        if waited >= self.limits.idle {
            return Some(Error::ClientTooSlow { seconds: self.limits.idle.as_secs() });
        }
        let min_rate = self.limits.min_rate;
        if min_rate == 0 || self.window.waited + waited < self.window.length {
            return None;
        }
        if self.window.received < self.window.wanted {
            return Some(Error::BelowMinRate { min_rate });
        }
        // The pause goes on; what of it lies in the next window begins now.
        let wanted = min_rate.saturating_mul(WINDOW.as_secs());
        self.window = Window { length: waited + WINDOW, wanted, waited: Duration::ZERO, received: 0 };
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::{sleep, timeout};

    const LIMITS: PaceLimits = PaceLimits { idle: Duration::from_secs(20), min_rate: 100 };

    /// Waits for `bytes` for so long; the error where the client is too slow for that.
    async fn wait(pace: &mut Pace, seconds: u64, bytes: usize) -> Result<(), Error> {
        let slow = poll_fn(|cx| pace.poll_too_slow(cx));
        match timeout(Duration::from_secs(seconds), slow).await {
            Ok(error) => Err(error),
            Err(_) => {
                pace.received(bytes);
                Ok(())
            }
        }
    }

    /// Sends `bytes` every `every` seconds; how many seconds it took until that was too slow, within an hour.
    async fn ended_after(limits: PaceLimits, every: u64, bytes: usize) -> Option<(u64, Error)> {
        let (mut pace, began) = (Pace::new(limits), Instant::now());
        for _ in 0..3600 / every {
            if let Err(error) = wait(&mut pace, every, bytes).await {
                return Some((began.elapsed().as_secs(), error));
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_dribbles_is_too_slow_after_the_first_window() {
        let (seconds, error) = ended_after(LIMITS, 1, 99).await.unwrap();
        assert!((40..=41).contains(&seconds), "{seconds} s");
        assert!(matches!(error, Error::BelowMinRate { min_rate: 100 }), "{error:?}");
        assert!(ended_after(LIMITS, 1, 110).await.is_none());
        assert!(ended_after(LIMITS, 15, 1600).await.is_none(), "it is the average that counts");
        assert!(ended_after(PaceLimits { min_rate: 0, ..LIMITS }, 1, 1).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_too_long_whatever_came_before() {
        let mut pace = Pace::new(LIMITS);
        wait(&mut pace, 19, 1 << 30).await.unwrap();
        let error = wait(&mut pace, 21, 0).await.unwrap_err();
        assert!(matches!(error, Error::ClientTooSlow { seconds: 20 }), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_in_one_window_does_not_help_in_the_next() {
        let mut pace = Pace::new(LIMITS);
        wait(&mut pace, 9, 1 << 30).await.unwrap();
        let mut waited = 9;
        while wait(&mut pace, 2, 1).await.is_ok() {
            waited += 2;
        }
        assert!((38..=40).contains(&waited), "{waited} s");
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_s_time_is_not_the_client_s() {
        let mut pace = Pace::new(LIMITS);
        for _ in 0..100 {
            wait(&mut pace, 1, 100).await.unwrap();
            // An upload that waits for the store polls no body.
            sleep(Duration::from_secs(60)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_a_pause_also_where_a_window_ends_within_it() {
        let limits = PaceLimits { idle: Duration::from_secs(60), min_rate: 1 };
        let (mut pace, began) = (Pace::new(limits), Instant::now());
        let error = wait(&mut pace, 100, 0).await.unwrap_err();
        assert!(matches!(error, Error::BelowMinRate { .. }), "{error:?}");
        assert_eq!(began.elapsed().as_secs(), 40, "grace, then one window");
        let mut pace = Pace::new(PaceLimits { idle: Duration::from_secs(35), min_rate: 1 });
        assert!(matches!(wait(&mut pace, 100, 0).await, Err(Error::ClientTooSlow { seconds: 35 })));
    }
}
