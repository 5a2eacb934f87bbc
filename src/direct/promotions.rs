//! Promotions under way in this process.
//!
//! A promotion goes on when its client has gone or has been told to come back (202), and callers that ask for the same one
//! at once share it.

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::task::TaskTracker;

use super::plan::Plan;
use super::verify;
use crate::error::Error;
use crate::policy::Policy;
use crate::store::{ObjectInfo, Store};

pub type Outcome = Result<ObjectInfo, Arc<Error>>;
type Running = Shared<BoxFuture<'static, Outcome>>;

/// Completes plans, each one once at a time.
#[derive(Clone)]
pub struct Promotions {
    store: Arc<dyn Store>,
    policy: Arc<Policy>,
    running: Arc<Mutex<HashMap<Plan, Running>>>,
    tasks: TaskTracker,
}

impl Promotions {
    /// `tasks` is waited for when the process ends.
    pub fn new(store: Arc<dyn Store>, policy: Arc<Policy>, tasks: TaskTracker) -> Self {
        Promotions { store, policy, running: Arc::default(), tasks }
    }

    /// Completes a plan, or joins whoever is doing so. Dropping the future stops nothing.
    pub fn complete(&self, plan: Plan) -> impl Future<Output = Outcome> + Send + use<> {
        let mut running = self.lock();
        if let Some(running) = running.get(&plan) {
            return running.clone();
        }
        let task = self.tasks.spawn(self.clone().run(plan.clone()));
        let outcome = async move { task.await.unwrap_or_else(|error| Err(Arc::new(Error::Internal(error.into())))) };
        let outcome = outcome.boxed().shared();
        running.insert(plan, outcome.clone());
        outcome
    }

    async fn run(self, plan: Plan) -> Outcome {
        // Also when it panics: the next caller must get a fresh start.
        let _entry = Entry { running: &self.running, plan: &plan };
        verify::complete(self.store.as_ref(), &self.policy, &plan).await.map_err(Arc::new)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Plan, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Entry<'a> {
    running: &'a Mutex<HashMap<Plan, Running>>,
    plan: &'a Plan,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(self.plan);
    }
}
