//! Retries of requests, with exponential backoff.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::error::RequestError;

/// The delay before the first retry. It doubles with each further retry.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// Runs `attempt` until it succeeds, fails permanently, or has been repeated `retries` times.
///
/// `may_repeat` decides whether an attempt is repeated after an error. `on_retry` is called with the error and the
/// delay.
///
/// # Errors
/// Returns the error of the last attempt.
pub async fn retrying<T>(
    retries: u32,
    may_repeat: impl Fn(&RequestError) -> bool,
    on_retry: impl Fn(&RequestError, Duration),
    attempt: impl AsyncFn() -> Result<T, RequestError>,
) -> Result<T, RequestError> {
    for retry in 0..retries {
        match attempt().await {
            Err(error) if may_repeat(&error) => {
                let wait = error.retry_after().unwrap_or_else(|| backoff(retry));
                on_retry(&error, wait);
                tokio::time::sleep(wait).await;
            }
            outcome => return outcome,
        }
    }
    attempt().await
}

/// Returns an exponential delay with jitter (half to all of it), so that clients that failed together do not retry
/// together.
pub fn backoff(retry: u32) -> Duration {
    let longest = FIRST_BACKOFF.saturating_mul(1 << retry.min(16)).min(MAX_BACKOFF);
    // The random keys of the standard library's hasher are random enough for jitter.
    let random = (RandomState::new().hash_one(retry) >> 40) as f64 / (1_u64 << 24) as f64;
    longest.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn backoff_grows_to_a_limit() {
        for (retry, longest) in [(0, 250), (1, 500), (4, 4_000), (6, 15_000), (40, 15_000)] {
            let wait = backoff(retry).as_millis();
            assert!((longest / 2..=longest).contains(&wait), "{wait} ms before retry {retry}");
        }
    }

    async fn tries(retries: u32, error: fn() -> RequestError) -> u32 {
        let tried = Cell::new(0);
        let attempt = async || {
            tried.set(tried.get() + 1);
            Err::<(), _>(error())
        };
        retrying(retries, RequestError::is_retryable, |_, _| {}, attempt).await.unwrap_err();
        tried.get()
    }

    #[tokio::test]
    async fn only_temporary_errors_are_retried() {
        assert_eq!(tries(2, || RequestError::Stalled(Duration::ZERO)).await, 3);
        assert_eq!(tries(0, || RequestError::Stalled(Duration::ZERO)).await, 1);
        assert_eq!(tries(2, || RequestError::Unclear(String::new())).await, 1);
    }
}
