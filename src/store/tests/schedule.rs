//! Runs actors on a [`super::memory::Memory`], in every order of their store calls.

use std::collections::HashSet;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

use super::memory::Shared;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
}

pub(crate) fn in_runtime<T>(work: impl FnOnce() -> T) -> T {
    RUNTIME.with(|runtime| {
        let _entered = runtime.enter();
        work()
    })
}

/// Advances the clock, so that timers expire.
fn pass_time() {
    RUNTIME.with(|runtime| runtime.block_on(tokio::time::advance(Duration::from_secs(1))));
}

/// Runs an actor's work up to its next call. Returns the work's result at its end.
pub(crate) fn advance<T>(
    shared: &Shared,
    actor: usize,
    work: &mut Pin<Box<dyn Future<Output = T>>>,
    schedule: &[usize],
) -> Option<T> {
    for _ in 0..1_000 {
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => return Some(result),
            // The actor sleeps before its next attempt, and the clock is paused.
            Poll::Pending if !shared.is_waiting(actor) => pass_time(),
            Poll::Pending => return None,
        }
    }
    panic!("the actor makes no call and does not end: {schedule:?}");
}

/// A run of several actors on one store. A schedule is the list of actors in the order of their calls.
pub(crate) trait Run {
    fn shared(&self) -> &Shared;

    fn schedule(&self) -> &[usize];

    /// Returns the actors that have not ended.
    fn enabled(&self) -> Vec<usize>;

    /// Executes one store call of one actor, and checks what must hold at every moment.
    fn step(&mut self, actor: usize);

    /// Checks what must hold after all actors have ended.
    fn check_end(&self);
}

/// Runs every order of the actors' calls. Returns the number of runs.
///
/// If two calls do not touch the same objects, only one of their orders is run (sleep sets, Godefroid 1996), which still
/// reaches every state.
pub(crate) fn explore<R: Run>(new: impl Fn() -> R) -> usize {
    fn run<R: Run>(world: R, again: &dyn Fn(&[usize]) -> R, mut sleeping: HashSet<usize>, ends: &mut usize) {
        let enabled = world.enabled();
        if enabled.is_empty() {
            world.check_end();
            *ends += 1;
        }
        let awake: Vec<usize> = enabled.into_iter().filter(|id| !sleeping.contains(id)).collect();
        let (shared, schedule) = (world.shared().clone(), world.schedule().to_vec());
        let mut world = Some(world);
        for id in &awake {
            let commutes = |other: &usize| shared.commute(*other, *id);
            let still = sleeping.iter().copied().filter(commutes).collect();
            // A world cannot be cloned, so all orders except the last are replayed from the start.
            let mut next =
                if Some(id) == awake.last() { world.take() } else { None }.unwrap_or_else(|| again(&schedule));
            next.step(*id);
            run(next, again, still, ends);
            sleeping.insert(*id);
        }
    }
    let again = |schedule: &[usize]| {
        let mut world = new();
        schedule.iter().for_each(|id| world.step(*id));
        world
    };
    let mut ends = 0;
    in_runtime(|| run(again(&[]), &again, HashSet::new(), &mut ends));
    ends
}
