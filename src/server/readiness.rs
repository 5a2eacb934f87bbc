//! Whether the bucket is reachable, checked at most once every few seconds.
//!
//! Anyone may call `/readyz`, so all calls share one result. A caller that arrives during a check waits for the result
//! of that check. A result is reused for two seconds. A caller that disconnects does not cancel the check; otherwise the
//! next caller would start another one.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::store::{Store, StoreError};

/// How long a result is reused, counted from the start of its check.
const FRESH: Duration = Duration::from_secs(2);
/// Timeout of a check, including the retries of its call.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The result of a check, shared by all of its callers.
type Outcome = Result<(), Arc<StoreError>>;

/// The readiness of the store, with the result of the last check.
#[derive(Clone)]
pub struct Readiness {
    store: Arc<dyn Store>,
    last: Arc<Mutex<Option<PingCheck>>>,
}

#[derive(Clone)]
struct PingCheck {
    at: Instant,
    /// `None` until the store has responded.
    answer: watch::Receiver<Option<Outcome>>,
}

impl Readiness {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Readiness { store, last: Arc::default() }
    }

    /// Checks whether the bucket is reachable. The result may be a few seconds old.
    ///
    /// # Errors
    /// Returns [`Error::NotReady`] (503 `not_ready`) if it is not.
    pub async fn check(&self) -> Result<()> {
        let mut answer = self.current_answer();
        let answer = answer.wait_for(Option::is_some).await.map(|answer| answer.clone());
        match answer.ok().flatten() {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(not_ready(error)),
            None => Err(Error::Internal("the task of a readiness check ended without a result".into())),
        }
    }

    /// Returns the answer of the last check, or of a new one if the last one is too old.
    fn current_answer(&self) -> watch::Receiver<Option<Outcome>> {
        let mut last = self.last.lock();
        match &*last {
            Some(check) if check.is_fresh() => check.answer.clone(),
            _ => last.insert(PingCheck::start(Arc::clone(&self.store))).answer.clone(),
        }
    }
}

impl PingCheck {
    fn start(store: Arc<dyn Store>) -> Self {
        let (sender, answer) = watch::channel(None);
        tokio::spawn(async move {
            let answer = tokio::time::timeout(TIMEOUT, store.ping()).await;
            let late = |late: tokio::time::error::Elapsed| {
                Err(StoreError::OutcomeUnknown { operation: "HeadBucket", source: late.into() })
            };
            sender.send_replace(Some(answer.unwrap_or_else(late).map_err(Arc::new)));
        });
        PingCheck { at: Instant::now(), answer }
    }

    /// Whether the check is still running or began less than [`FRESH`] ago. A check whose task ended without an answer
    /// is not running.
    fn is_fresh(&self) -> bool {
        let running = self.answer.borrow().is_none() && self.answer.has_changed().is_ok();
        running || self.at.elapsed() < FRESH
    }
}

fn not_ready(error: Arc<StoreError>) -> Error {
    let reason = match *error {
        StoreError::OutcomeUnknown { .. } => "no answer from the store",
        _ => "the store returned an error",
    };
    Error::NotReady { reason, source: Some(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::s3::{Checksum, S3Options, S3Store};

    /// A store whose calls connect to `listener`, which never answers.
    async fn store_at(listener: &tokio::net::TcpListener) -> Arc<dyn Store> {
        let options = S3Options {
            bucket: "b".to_owned(),
            prefix: String::new(),
            endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
            public_endpoint: None,
            credentials: Some(("AKID".to_owned(), "secret".to_owned())),
            region: Some("us-east-1".to_owned()),
            force_path_style: true,
            checksum: Checksum::None,
            sse: None,
            attempt_timeout: Duration::from_secs(60),
            http_client: None,
            mount: None,
        };
        Arc::new(S3Store::connect(options).await)
    }

    #[tokio::test]
    async fn concurrent_checks_share_one_call_and_time_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let readiness = Readiness::new(store_at(&listener).await);
        // One caller disconnects at once; the other nine wait.
        drop(tokio::time::timeout(Duration::ZERO, readiness.check()).await);
        let nine = futures::future::join_all((0..9).map(|_| readiness.check()));
        let (results, call) = tokio::join!(nine, listener.accept());
        for result in results {
            let detail = result.unwrap_err().to_string();
            assert!(detail.ends_with("no answer from the store"), "{detail}");
        }
        let mut buffer = vec![0; 1 << 12];
        let stream = call.unwrap().0;
        stream.readable().await.unwrap();
        let read = stream.try_read(&mut buffer).unwrap();
        assert!(buffer[..read].starts_with(b"HEAD "));
        let another = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(another.is_err(), "the checks made more than one call");
    }
}
