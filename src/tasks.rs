//! Work that outlives the request that started it, such as undoing an upload whose client has left.
//!
//! At shutdown the process waits for all of it. An invocation of a Lambda function, which may be frozen as soon as it has
//! answered, waits for the work of its own request only: its [`Scope`].

use futures::future::Either;
use std::future::Future;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

tokio::task_local! {
    static CURRENT: TaskTracker;
}

/// Tasks beyond which nothing new is begun.
///
/// A client that leaves gives back its connection and its room for bytes, but what its request has begun in the store is still
/// undone, which takes as long as the store does: so neither bounds clean-ups. If the store hangs, clients that come and go
/// would pile them up, each with a few KiB. That many are no load that a working store leaves.
pub const MAX_TASKS: usize = 16_384;

/// The tasks of one process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Runs `work` on a task of its own. It belongs to the scope of whatever starts it, if there is one.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, work: F) {
        self.spawn_on(work, &Handle::current());
    }

    /// The same from a thread that may have no runtime of its own.
    pub fn spawn_on<F: Future<Output = ()> + Send + 'static>(&self, work: F, runtime: &Handle) {
        self.0.spawn_on(scoped(work), runtime);
    }

    /// Runs work that no scope waits for, because something else finishes it if the process does not.
    pub fn spawn_detached<F: Future<Output = ()> + Send + 'static>(&self, work: F) {
        self.0.spawn(work);
    }

    /// Whether another request may begin something: there are fewer than [`MAX_TASKS`].
    pub fn has_room(&self) -> bool {
        self.len() < MAX_TASKS
    }

    /// Tasks that have not ended.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until every task has ended. None should be started in the meantime.
    pub async fn finished(&self) {
        self.0.close();
        self.0.wait().await;
        self.0.reopen();
    }
}

/// The tasks that one request has started, and the tasks that those have started.
#[derive(Debug, Default)]
pub struct Scope(TaskTracker);

impl Scope {
    /// Runs a request whose tasks belong to this scope.
    pub fn run<F: Future>(&self, request: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.0.clone(), request)
    }

    /// Tasks that have not ended.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until every task has ended, those that are started in the meantime included.
    pub async fn finished(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// `work` as a part of the current scope.
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
    async fn a_scope_waits_for_its_own_tasks_only() {
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

    /// Undoing is often started by a drop, and by a task that another task started.
    #[tokio::test]
    async fn what_a_task_or_a_drop_starts_belongs_to_the_scope_too() {
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
        assert_eq!(scope.len(), 1, "the task has ended, what its drop started has not");
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
        assert_eq!(scope.len(), 1, "a request that was given up");
        drop(release);
        scope.finished().await;
    }
}
