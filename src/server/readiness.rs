//! Whether the bucket answers, asked at most once every few seconds.
//!
//! Anyone may call `/readyz`. So its calls share one result: whoever comes while the store is being asked waits for that
//! answer, and the answer is used again while it is fresh. A caller that goes away does not stop the call, or the next
//! one would make another.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::store::{Store, StoreError};

/// How old a result may be that is used again, counted from when the store was asked.
const FRESH: Duration = Duration::from_secs(2);
/// The store must answer within this time, its call's retries included.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Why the bucket does not answer as it should; shared by everyone who asked.
type Outcome = Result<(), Arc<StoreError>>;

/// The last time the bucket was asked, and its answer.
#[derive(Clone)]
pub struct Readiness {
    store: Arc<dyn Store>,
    last: Arc<Mutex<Option<Asked>>>,
}

#[derive(Clone)]
struct Asked {
    at: Instant,
    /// None until the store has answered.
    answer: watch::Receiver<Option<Outcome>>,
}

impl Readiness {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Readiness { store, last: Arc::default() }
    }

    /// Whether the bucket answers, by a result of the last few seconds.
    ///
    /// # Errors
    /// 503 `not_ready`.
    pub async fn check(&self) -> Result<()> {
        let mut answer = self.fresh();
        let answer = answer.wait_for(Option::is_some).await.map(|answer| answer.clone());
        match answer.ok().flatten() {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(not_ready(error)),
            None => Err(Error::Internal("a readiness check broke off".into())),
        }
    }

    fn fresh(&self) -> watch::Receiver<Option<Outcome>> {
        let mut last = self.last.lock();
        match &*last {
            Some(asked) if asked.is_fresh() => asked.answer.clone(),
            _ => last.insert(Asked::now(Arc::clone(&self.store))).answer.clone(),
        }
    }
}

impl Asked {
    fn now(store: Arc<dyn Store>) -> Self {
        let (sender, answer) = watch::channel(None);
        tokio::spawn(async move {
            let answer = tokio::time::timeout(TIMEOUT, store.ping()).await;
            let late = |late: tokio::time::error::Elapsed| {
                Err(StoreError::OutcomeUnknown { operation: "HeadBucket", source: late.into() })
            };
            sender.send_replace(Some(answer.unwrap_or_else(late).map_err(Arc::new)));
        });
        Asked { at: Instant::now(), answer }
    }

    /// Still waiting for the answer, or not long after the question. Not if the task ended without an answer.
    fn is_fresh(&self) -> bool {
        let waiting = self.answer.borrow().is_none() && self.answer.has_changed().is_ok();
        waiting || self.at.elapsed() < FRESH
    }
}

fn not_ready(error: Arc<StoreError>) -> Error {
    let reason = match *error {
        StoreError::OutcomeUnknown { .. } => "no answer from the store",
        _ => "the store refuses",
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
    async fn a_hung_call_is_made_once_and_is_no_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let readiness = Readiness::new(store_at(&listener).await);
        // One whose caller goes away at once, and nine that stay.
        drop(tokio::time::timeout(Duration::ZERO, readiness.check()).await);
        let nine = futures::future::join_all((0..9).map(|_| readiness.check()));
        let (results, call) = tokio::join!(nine, listener.accept());
        for result in results {
            let told = result.unwrap_err().to_string();
            assert!(told.ends_with("no answer from the store"), "{told}");
        }
        let mut buffer = vec![0; 1 << 12];
        let stream = call.unwrap().0;
        stream.readable().await.unwrap();
        let read = stream.try_read(&mut buffer).unwrap();
        assert!(buffer[..read].starts_with(b"HEAD "));
        let another = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(another.is_err(), "one call for all of them");
    }
}
