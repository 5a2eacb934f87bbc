//! When a request is sent again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::error::RequestError;

/// Before the first retry; doubled before each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

/// Runs `attempt` until it succeeds, fails for good, or has been repeated `retries` times.
///
/// `may_repeat` says which troubles may be tried again; `note` is told of each of them and the wait that follows.
///
/// # Errors
/// The last attempt's trouble.
pub async fn retrying<T>(
    retries: u32,
    may_repeat: impl Fn(&RequestError) -> bool,
    note: impl Fn(&RequestError, Duration),
    attempt: impl AsyncFn() -> Result<T, RequestError>,
) -> Result<T, RequestError> {
    for retry in 0..retries {
        match attempt().await {
            Err(error) if may_repeat(&error) => {
                let wait = error.retry_after().unwrap_or_else(|| backoff(retry));
                note(&error, wait);
                tokio::time::sleep(wait).await;
            }
            outcome => return outcome,
        }
    }
    attempt().await
}

/// Exponential, between the half and the whole of it: clients that failed together do not come back together.
fn backoff(retry: u32) -> Duration {
    let longest = FIRST_WAIT.saturating_mul(1 << retry.min(16)).min(LONGEST_BACKOFF);
    // The standard library's per-process random keys are random enough for this.
    let random = (RandomState::new().hash_one(retry) >> 40) as f64 / (1_u64 << 24) as f64;
    longest.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn waits_grow_to_a_limit() {
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
    async fn what_passes_is_repeated_and_the_rest_is_not() {
        assert_eq!(tries(2, || RequestError::Stalled(Duration::ZERO)).await, 3);
        assert_eq!(tries(0, || RequestError::Stalled(Duration::ZERO)).await, 1);
        assert_eq!(tries(2, || RequestError::Unclear(String::new())).await, 1);
    }
}
