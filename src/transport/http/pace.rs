//! Detects clients that are too slow: they pause for too long, or they send too few bytes while the service waits for
//! them.
//!
//! Only the time in which the service waits for the client counts. While an upload waits for the store, the service
//! does not read from the client. The client's bytes remain in the socket's buffer and are available immediately
//! afterwards.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::Error;

/// The rate is not checked before the service has waited this long in total, because connections start slowly.
const GRACE: Duration = Duration::from_secs(10);
/// The rate is an average over this much waiting time.
const WINDOW: Duration = Duration::from_secs(30);

/// The limits on how slow a client may be.
#[derive(Clone, Copy, Debug)]
pub struct PaceLimits {
    /// Maximum pause.
    pub idle: Duration,
    /// Minimum average rate in bytes per second; 0 disables the check.
    pub min_rate: u64,
}

/// The pace of one body.
#[derive(Debug)]
pub(super) struct Pace {
    limits: PaceLimits,
    window: Window,
    /// When the service began to wait for the client. `None` while it does not wait.
    waiting_since: Option<Instant>,
    /// Created by the first wait and reset by later ones.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The bytes that arrived during a period of waiting.
#[derive(Debug)]
struct Window {
    length: Duration,
    /// Bytes that must have arrived at its end.
    required: u64,
    waited: Duration,
    received: u64,
}

impl Pace {
    pub(super) fn new(limits: PaceLimits) -> Self {
        let window = Window { length: GRACE, required: 0, waited: Duration::ZERO, received: 0 };
        Pace { limits, window, waiting_since: None, timer: None }
    }

    /// Records that bytes arrived, and ends the wait.
    pub(super) fn received(&mut self, bytes: usize) {
        self.window.received = self.window.received.saturating_add(bytes as u64);
        if let Some(since) = self.waiting_since.take() {
            self.window.waited += since.elapsed();
        }
    }

    /// Polls the wait for a client that has not sent anything. Resolves with an error when the client is too slow.
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

    /// Sets the timer to the next time at which the client can be too slow.
    fn set_timer(&mut self) {
        let since = self.waiting_since.unwrap_or_else(Instant::now);
        let window_left = self.window.length.saturating_sub(self.window.waited);
        let wait = if self.limits.min_rate > 0 { self.limits.idle.min(window_left) } else { self.limits.idle };
        let at = since + wait;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            unset => *unset = Some(Box::pin(sleep_until(at))),
        }
    }

    /// Returns an error if the client is too slow at `now`. If a window ends with enough bytes, starts the next one.
    fn judge(&mut self, now: Instant) -> Option<Error> {
        let waited = now.duration_since(self.waiting_since.unwrap_or(now));
        if waited >= self.limits.idle {
            return Some(Error::ClientTooSlow { seconds: self.limits.idle.as_secs() });
        }
        let min_rate = self.limits.min_rate;
        if min_rate == 0 || self.window.waited + waited < self.window.length {
            return None;
        }
        if self.window.received < self.window.required {
            return Some(Error::BelowMinRate { min_rate });
        }
        // The current pause continues into the next window, so the time waited so far is added to its length.
        let required = min_rate.saturating_mul(WINDOW.as_secs());
        self.window = Window { length: waited + WINDOW, required, waited: Duration::ZERO, received: 0 };
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::{sleep, timeout};

    const LIMITS: PaceLimits = PaceLimits { idle: Duration::from_secs(20), min_rate: 100 };

    /// Waits for `seconds` until `bytes` arrive. Returns the error if the client is too slow.
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

    /// Sends `bytes` every `every` seconds for up to an hour. Returns when that was too slow, with the error.
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
    async fn rate_below_minimum_fails_after_the_first_window() {
        let (seconds, error) = ended_after(LIMITS, 1, 99).await.unwrap();
        assert!((40..=41).contains(&seconds), "{seconds} s");
        assert!(matches!(error, Error::BelowMinRate { min_rate: 100 }), "{error:?}");
        assert!(ended_after(LIMITS, 1, 110).await.is_none());
        assert!(ended_after(LIMITS, 15, 1600).await.is_none(), "it is the average that counts");
        assert!(ended_after(PaceLimits { min_rate: 0, ..LIMITS }, 1, 1).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn long_pause_fails_regardless_of_earlier_bytes() {
        let mut pace = Pace::new(LIMITS);
        wait(&mut pace, 19, 1 << 30).await.unwrap();
        let error = wait(&mut pace, 21, 0).await.unwrap_err();
        assert!(matches!(error, Error::ClientTooSlow { seconds: 20 }), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_of_one_window_do_not_count_in_the_next() {
        let mut pace = Pace::new(LIMITS);
        wait(&mut pace, 9, 1 << 30).await.unwrap();
        let mut waited = 9;
        while wait(&mut pace, 2, 1).await.is_ok() {
            waited += 2;
        }
        assert!((38..=40).contains(&waited), "{waited} s");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_store_does_not_count() {
        let mut pace = Pace::new(LIMITS);
        for _ in 0..100 {
            wait(&mut pace, 1, 100).await.unwrap();
            // An upload that waits for the store polls no body.
            sleep(Duration::from_secs(60)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pause_is_measured_across_windows() {
        let limits = PaceLimits { idle: Duration::from_secs(60), min_rate: 1 };
        let (mut pace, began) = (Pace::new(limits), Instant::now());
        let error = wait(&mut pace, 100, 0).await.unwrap_err();
        assert!(matches!(error, Error::BelowMinRate { .. }), "{error:?}");
        assert_eq!(began.elapsed().as_secs(), 40, "grace, then one window");
        let mut pace = Pace::new(PaceLimits { idle: Duration::from_secs(35), min_rate: 1 });
        assert!(matches!(wait(&mut pace, 100, 0).await, Err(Error::ClientTooSlow { seconds: 35 })));
    }
}
