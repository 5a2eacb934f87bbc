//! The limit on the number of connections, and the few connections that are accepted above it.
//!
//! Each connection uses a file descriptor and some memory, so their number is limited. Clients may use up the limit
//! with idle connections. Even then health checks must be answered (for example those of a container runtime), because
//! otherwise a healthy process would be killed. A health check cannot be recognised before its request has been read,
//! not even by its address. So a few extra connections are accepted. The service reads one request on each of them,
//! answers `/healthz`, rejects everything else, and closes the connection.
//!
//! Idle extra connections cannot block health checks: when all extra connections are in use, a new one ends the older
//! half of them. A health check sends its request at once, so it is answered before its connection becomes one of the
//! oldest.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

/// A permit that a connection holds while it is open.
pub(super) type ConnectionPermit = OwnedSemaphorePermit;

/// Issues permits to connections.
pub(super) struct ConnectionLimiter {
    regular: Arc<Semaphore>,
    extra: Arc<Semaphore>,
    /// Connections above the limit, oldest first. Some of them may have ended.
    running: VecDeque<AbortHandle>,
}

/// What an accepted connection may do.
#[derive(Debug)]
pub(super) enum Admission {
    /// It may send any number of requests.
    Regular(ConnectionPermit),
    /// It is above the limit and may only send one request to `/healthz`.
    Extra(ConnectionPermit),
}

impl ConnectionLimiter {
    /// Creates a limiter for `regular` connections and `extra` ones above that limit.
    pub(super) fn new(regular: usize, extra: usize) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)));
        ConnectionLimiter { regular: semaphore(regular), extra: semaphore(extra), running: VecDeque::new() }
    }

    /// Admits a connection that was just accepted. Ends older extra connections if no permit is available.
    pub(super) async fn admit(&mut self) -> Admission {
        if let Ok(permit) = Arc::clone(&self.regular).try_acquire_owned() {
            return Admission::Regular(permit);
        }
        loop {
            if let Ok(permit) = Arc::clone(&self.extra).try_acquire_owned() {
                return Admission::Extra(permit);
            }
            self.end_older_half();
            // The runtime drops the aborted connections and their descriptors soon.
            if let Ok(permit) = Arc::clone(&self.extra).acquire_owned().await {
                return Admission::Extra(permit);
            }
        }
    }

    /// Ends several connections at once, because waiting for the runtime to drop them one by one would be slow.
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
            Admission::Extra(_) => panic!("above the limit"),
        }
    }

    fn extra(admission: Admission) -> ConnectionPermit {
        match admission {
            Admission::Extra(permit) => permit,
            Admission::Regular(_) => panic!("within the limit"),
        }
    }

    #[tokio::test]
    async fn connections_within_the_limit_are_regular() {
        let mut limiter = ConnectionLimiter::new(2, 1);
        let mut held = vec![regular(limiter.admit().await), regular(limiter.admit().await)];
        drop(extra(limiter.admit().await));
        held.pop();
        drop(regular(limiter.admit().await));
    }

    #[tokio::test]
    async fn newer_extra_connections_end_older_ones() {
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
