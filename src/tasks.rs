//! Tasks that outlive the request that started them, such as undoing an upload whose client has disconnected.
//!
//! At shutdown the process waits for all of them. A Lambda function may be frozen as soon as it has answered. Its
//! invocation waits for the tasks of its own request only: its [`Scope`].

use futures::future::Either;
use std::future::Future;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

tokio::task_local! {
    static CURRENT: TaskTracker;
}

/// Number of tasks at which new uploads are rejected.
///
/// A client that disconnects releases its connection and its buffers, but a task still undoes what its request has
/// started in the store. So the limits on connections and memory do not limit these tasks. If the store hangs, clients
/// that connect and disconnect would accumulate them, each with a few KiB. With a working store the number stays far
/// below this limit.
pub const MAX_TASKS: usize = 16_384;

/// The tasks of one process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Runs `work` on a new task. The task belongs to the scope of its caller, if there is one.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: F) {
        self.spawn_on(work, &Handle::current());
    }

    /// Like [`Tasks::spawn`], for a thread that may not be in a runtime.
    pub fn spawn_on<F: Future<Output = ()> + Send + 'static>(&self, work: F, runtime: &Handle) {
        self.0.spawn_on(scoped(work), runtime);
    }

    /// Runs work that no scope waits for, because something else completes it if this process does not.
    pub fn spawn_detached<F: Future<Output = ()> + Send + 'static>(&self, work: F) {
        self.0.spawn(work);
    }

    /// Whether new uploads are admitted, because there are fewer than [`MAX_TASKS`] tasks.
    pub fn has_room(&self) -> bool {
        self.len() < MAX_TASKS
    }

    /// Returns the number of tasks that have not ended.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until every task has ended. No task should be started meanwhile.
    pub async fn finished(&self) {
        self.0.close();
        self.0.wait().await;
        self.0.reopen();
    }
}

/// The tasks that one request has started, including those started by these tasks.
#[derive(Debug, Default)]
pub struct Scope(TaskTracker);

impl Scope {
    /// Runs a request whose tasks belong to this scope.
    pub fn run<F: Future>(&self, request: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.0.clone(), request)
    }

    /// Returns the number of tasks that have not ended.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until every task has ended, including those that are started meanwhile.
    pub async fn finished(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// Makes `work` part of the current scope.
fn scoped<F: Future>(work: F) -> impl Future<Output = F::Output> {
    match CURRENT.try_with(TaskTracker::clone) {
        Ok(scope) => Either::Left(scope.track_future(CURRENT.scope(scope.clone(), work))),
        Err(_) => Either::Right(work),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    /// A task that ends when the sender is used or dropped.
    fn held() -> (oneshot::Sender<()>, impl Future<Output = ()>) {
        let (release, released) = oneshot::channel();
        (release, async move { drop(released.await) })
    }

    #[tokio::test]
    async fn scope_waits_only_for_its_own_tasks() {
        let tasks = Tasks::default();
        let (one, other) = (Scope::default(), Scope::default());
        let (release_one, work_of_one) = held();
        let (release_other, work_of_other) = held();
        let (release_detached, detached) = held();
        one.run(async { tasks.spawn(work_of_one) }).await;
        other.run(async { tasks.spawn(work_of_other) }).await;
        one.run(async { tasks.spawn_detached(detached) }).await;
        assert_eq!((tasks.len(), one.len(), other.len()), (3, 1, 1));

        drop(release_one);
        one.finished().await;
        assert_eq!((tasks.len(), other.len()), (2, 1));
        drop(release_other);
        other.finished().await;
        drop(release_detached);
        tasks.finished().await;
        assert!(tasks.is_empty());
    }

    /// Clean-ups are often started by a drop, or by a task that another task has started.
    #[tokio::test]
    async fn tasks_started_by_tasks_and_drops_belong_to_the_scope() {
        struct SpawnOnDrop(Tasks, Option<oneshot::Receiver<()>>);
        impl Drop for SpawnOnDrop {
            fn drop(&mut self) {
                let released = self.1.take();
                self.0.spawn(async move { drop(released.expect("dropped once").await) });
            }
        }
        let (tasks, scope) = (Tasks::default(), Scope::default());
        let (release, released) = oneshot::channel();
        let undo = SpawnOnDrop(tasks.clone(), Some(released));
        let (started, (done, dropped)) = (tasks.clone(), oneshot::channel());
        let first = async move {
            drop(undo);
            let _ = done.send(());
        };
        scope.run(async move { started.spawn(first) }).await;
        dropped.await.unwrap();
        while tasks.len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(scope.len(), 1, "the task has ended, but the task of its drop has not");
        drop(release);
        scope.finished().await;

        let (release, released) = oneshot::channel();
        let undo = SpawnOnDrop(tasks.clone(), Some(released));
        let mut request = Box::pin(scope.run(async move {
            let _undo = undo;
            std::future::pending::<()>().await;
        }));
        assert!(futures::poll!(&mut request).is_pending());
        drop(request);
        assert_eq!(scope.len(), 1, "the request was dropped");
        drop(release);
        scope.finished().await;
    }
}
