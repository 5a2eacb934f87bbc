//! How many connections there may be at once, and which are more than that.
//!
//! Every connection is a file descriptor and some memory, so their number is bounded. Clients may use up the limit with
//! connections that do nothing; whoever asks then whether the process is alive (a container's health check) must still be
//! answered, or a healthy process is killed. Nothing tells a health check before its request is read, not even its address,
//! so a few connections more are accepted. The service reads one request of each, answers `/healthz`, rejects everything
//! else, and closes them.
//!
//! Those few are not waited for either: newer ones end the older half of them. Clients that connect and send nothing are ended
//! as fast as they come, and a health check, which sends its request at once, is answered before its turn comes.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

/// A connection is open while it has one.
pub(super) type ConnectionPermit = OwnedSemaphorePermit;

/// Gives permits to connections.
pub(super) struct ConnectionLimiter {
    regular: Arc<Semaphore>,
    extra: Arc<Semaphore>,
    /// Connections beyond the limit, the oldest first; some of them may be over.
    running: VecDeque<AbortHandle>,
}

/// What a connection may do.
#[derive(Debug)]
pub(super) enum Admission {
    /// Any number of requests.
    Regular(ConnectionPermit),
    /// One, and that only for `/healthz`.
    Extra(ConnectionPermit),
}

impl ConnectionLimiter {
    /// `regular` connections, and `extra` ones beyond those.
    pub(super) fn new(regular: usize, extra: usize) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)));
        ConnectionLimiter { regular: semaphore(regular), extra: semaphore(extra), running: VecDeque::new() }
    }

    /// Admits a connection that was just accepted, at the cost of older extra ones if that is the only way.
    pub(super) async fn admit(&mut self) -> Admission {
        if let Ok(permit) = Arc::clone(&self.regular).try_acquire_owned() {
            return Admission::Regular(permit);
        }
        loop {
            if let Ok(permit) = Arc::clone(&self.extra).try_acquire_owned() {
                return Admission::Extra(permit);
            }
            self.end_older_half();
            // They are dropped by the runtime in a moment, their descriptors with them.
            if let Ok(permit) = Arc::clone(&self.extra).acquire_owned().await {
                return Admission::Extra(permit);
            }
        }
    }

    /// Not one by one: each time the runtime must get round to it.
    fn end_older_half(&mut self) {
        let half = self.running.len().div_ceil(2);
        self.running.drain(..half).for_each(|oldest| oldest.abort());
    }

    /// Runs an extra connection, which must hold its permit.
    pub(super) fn run_extra(
        &mut self,
        connections: &mut JoinSet<()>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        self.running.retain(|running| !running.is_finished());
        self.running.push_back(connections.spawn(connection));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::sync::oneshot;

    fn regular(admission: Admission) -> ConnectionPermit {
        match admission {
            Admission::Regular(permit) => permit,
            Admission::Extra(_) => panic!("beyond the limit"),
        }
    }

    fn extra(admission: Admission) -> ConnectionPermit {
        match admission {
            Admission::Extra(permit) => permit,
            Admission::Regular(_) => panic!("within the limit"),
        }
    }

    #[tokio::test]
    async fn up_to_the_limit_connections_are_regular() {
        let mut limiter = ConnectionLimiter::new(2, 1);
        let mut held = vec![regular(limiter.admit().await), regular(limiter.admit().await)];
        drop(extra(limiter.admit().await));
        held.pop();
        drop(regular(limiter.admit().await));
    }

    #[tokio::test]
    async fn newer_connections_beyond_the_limit_end_older_ones() {
        let (mut limiter, mut connections) = (ConnectionLimiter::new(1, 4), JoinSet::new());
        let _held = limiter.admit().await;
        let mut ends = Vec::new();
        for _ in 0..6 {
            let permit = extra(limiter.admit().await);
            let (alive, ended) = oneshot::channel::<()>();
            limiter.run_extra(&mut connections, async move {
                let _held = (permit, alive);
                pending::<()>().await;
            });
            ends.push(ended);
        }
        let mut newest = ends.split_off(2);
        for ended in ends {
            assert!(ended.await.is_err(), "it was dropped");
        }
        assert!(newest.iter_mut().all(|ended| ended.try_recv() == Err(oneshot::error::TryRecvError::Empty)));
        assert_eq!(limiter.running.len(), 4);
    }
}
