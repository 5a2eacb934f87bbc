//! Runs the steps of [`super::promote`] concurrently, in every order of their store calls.
//!
//! Each actor has its own [`Verifier`], as if it were a separate process. All use the same in-memory store. Every call
//! yields once before it takes effect, and a schedule is the list of actors in the order of their calls. So runs are
//! deterministic and can be enumerated. If two calls do not touch the same objects, only one of their orders is run
//! (sleep sets, Godefroid 1996), which still reaches every state. The invariants are in [`World::check`] and
//! [`World::check_end`].

use std::collections::HashSet;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

use super::plan::{Expected, Plan, UploadMethod};
use super::verify::Verifier;
use crate::error::Error;
use crate::format::Format;
use crate::policy::Policy;
use crate::store::reconcile::Reconciler;
use crate::store::tests::memory::{Faults, Memory, Random, Shared};
use crate::store::{ImageKey, ObjectName};
use crate::tasks::Tasks;
use crate::upload::budget::Budget;

/// What an actor of a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Complete,
    /// Promotes on an S3 event notification, which contains only the key.
    Event,
    Delete,
    Abort,
    /// Sends these bytes to the plan's URL.
    Put(&'static [u8]),
}

const IMAGE: &[u8] = include_bytes!("../../tests/fixtures/plain.png");
/// Another PNG of the same size.
static OTHER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    let mut other = IMAGE.to_vec();
    *other.last_mut().unwrap() ^= 1;
    other
});
static TEXT: [u8; IMAGE.len()] = [b'x'; IMAGE.len()];

/// Whether the plan is a single PUT, or parts that were all received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Parts(&'static [u8]),
    /// Parts in a store whose Complete takes effect later, even if the upload was aborted meanwhile.
    SlowParts(&'static [u8]),
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Done,
    Failed,
}

struct Actor {
    role: Role,
    work: std::pin::Pin<Box<dyn Future<Output = Outcome>>>,
    outcome: Option<Outcome>,
    crashed: bool,
}

struct World {
    shared: Shared,
    key: ImageKey,
    actors: Vec<Actor>,
    /// Set if a PUT succeeded after the delete was answered. An image of that PUT is not a violation.
    put_after_delete: bool,
    schedule: Vec<usize>,
}

impl World {
    fn new(kind: Kind, roles: &[Role], faults: Faults) -> World {
        let shared = Shared::new(roles.len(), faults);
        if matches!(kind, Kind::SlowParts(_)) {
            shared.assemble_slowly();
        }
        let key = ImageKey::parse("0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png").unwrap();
        let method = match kind {
            Kind::Put => UploadMethod::Put { sha256: None },
            Kind::Parts(bytes) | Kind::SlowParts(bytes) => {
                let upload_id = shared.lay_parts(&ObjectName::Incoming(key.clone()), bytes);
                UploadMethod::Multipart { upload_id, part_size: IMAGE.len() as u64 }
            }
        };
        let plan = Plan { key: key.clone(), size: IMAGE.len() as u64, format: Format::Png, method };
        let actors = roles.iter().enumerate().map(|(id, role)| actor(Memory::new(&shared, id), *role, plan.clone()));
        let mut world = World { actors: actors.collect(), shared, key, put_after_delete: false, schedule: Vec::new() };
        // Runs each actor up to its first call.
        (0..roles.len()).for_each(|id| world.poll(id));
        world
    }

    fn poll(&mut self, id: usize) {
        let actor = &mut self.actors[id];
        for _ in 0..1_000 {
            match actor.work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(outcome) => {
                    actor.outcome = Some(outcome);
                    return;
                }
                // The actor sleeps before its next attempt, and the clock is paused.
                Poll::Pending if !self.shared.is_waiting(id) => pass_time(),
                Poll::Pending => return,
            }
        }
        panic!("the actor makes no call and does not end: {:?}", self.schedule);
    }

    fn enabled(&self) -> Vec<usize> {
        let runs = |actor: &Actor| actor.outcome.is_none() && !actor.crashed;
        (0..self.actors.len()).filter(|id| runs(&self.actors[*id])).collect()
    }

    /// Executes one store call of one actor.
    fn step(&mut self, id: usize) {
        self.schedule.push(id);
        let deleted = self.answered(Role::Delete);
        self.poll(id);
        let put = matches!(self.actors[id].role, Role::Put(_)) && self.is_done(id);
        self.put_after_delete |= deleted && put;
        self.check();
    }

    /// Kills the actor: none of its code runs any more, including clean-ups.
    fn crash(&mut self, id: usize) {
        let actor = &mut self.actors[id];
        actor.crashed = true;
        std::mem::forget(std::mem::replace(&mut actor.work, Box::pin(std::future::pending())));
    }

    fn is_done(&self, id: usize) -> bool {
        self.actors[id].outcome == Some(Outcome::Done)
    }

    fn answered(&self, role: Role) -> bool {
        (0..self.actors.len()).any(|id| self.actors[id].role == role && self.is_done(id))
    }

    fn image(&self) -> Option<Vec<u8>> {
        self.shared.object(&ObjectName::Image(self.key.clone()))
    }

    /// Checks what must hold at every moment, because every process may be killed at any time.
    fn check(&self) {
        let image = self.image();
        let whole = image.as_ref().is_none_or(|image| *image == IMAGE || *image == *OTHER);
        assert!(whole, "an object that was not verified is readable: {:?}", self.schedule);
        let gone = self.answered(Role::Delete) && !self.put_after_delete;
        assert!(!gone || image.is_none(), "a deleted image exists: {:?}", self.schedule);
        assert!(!self.answered(Role::Abort) || image.is_none(), "an aborted image exists: {:?}", self.schedule);
        let removed = self.answered(Role::Delete) || self.answered(Role::Abort) || self.is_deleting();
        let lost = self.answered(Role::Complete) && !removed && image.is_none();
        assert!(!lost, "an image is missing after its complete was answered: {:?}", self.schedule);
        assert!(!self.shared.was_overwritten(), "an image was overwritten: {:?}", self.schedule);
    }

    fn is_deleting(&self) -> bool {
        self.actors.iter().any(|actor| actor.role == Role::Delete)
    }

    /// Checks what must hold after all actors have ended without failures: only an image and a marker may exist.
    fn check_end(&self) {
        let uploads = self.shared.open_uploads(&ObjectName::Image(self.key.clone()));
        assert_eq!(uploads, 0, "uploads of promotions remain: {:?}", self.schedule);
        let asked = [Role::Complete, Role::Delete, Role::Abort].into_iter().any(|role| self.answered(role));
        let left = self.shared.object(&ObjectName::Incoming(self.key.clone())).is_some_and(|bytes| !bytes.is_empty());
        // The last call may be a PUT. The next complete or a sweep finds its object.
        let put_last = self.schedule.last().is_some_and(|id| matches!(self.actors[*id].role, Role::Put(_)));
        let late = put_last || self.put_after_delete || self.ended_before_a_put();
        assert!(!(asked && left) || late, "a direct upload remains: {:?}", self.schedule);
    }

    /// Whether no complete or abort succeeded, because the PUT followed their checks.
    fn ended_before_a_put(&self) -> bool {
        !self.answered(Role::Complete) && !self.answered(Role::Abort)
    }
}

fn actor(store: Memory, role: Role, plan: Plan) -> Actor {
    let policy = Policy {
        formats: vec![Format::Png],
        key_format: None,
        max_upload_size: 1 << 30,
        max_pixels: 1 << 28,
        header_scan_limit: 1 << 20,
    };
    let budget = Budget::new(64 << 20, None, 5 << 20, 4);
    let reconciler = Reconciler::new(Arc::new(store.clone()));
    let verifier = Verifier::new(Arc::new(store.clone()), reconciler, Arc::new(policy), budget, Tasks::default());
    let outcome = |done: Result<(), Error>| done.map_or(Outcome::Failed, |()| Outcome::Done);
    let work = async move {
        match role {
            Role::Complete => outcome(verifier.complete(&(&plan).into(), &|| true).await.map(drop)),
            Role::Event => outcome(verifier.promote(&plan.key, Expected::default(), &|| false).await.map(drop)),
            Role::Delete => outcome(verifier.delete(&plan.key).await),
            Role::Abort => outcome(verifier.abort(&(&plan).into()).await),
            Role::Put(bytes) => outcome(store.put_by_url(&plan.incoming(), bytes).await.map_err(Error::from)),
        }
    };
    Actor { role, work: Box::pin(work), outcome: None, crashed: false }
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
}

fn in_runtime<T>(work: impl FnOnce() -> T) -> T {
    RUNTIME.with(|runtime| {
        let _entered = runtime.enter();
        work()
    })
}

/// Advances the clock, so that timers expire.
fn pass_time() {
    RUNTIME.with(|runtime| runtime.block_on(tokio::time::advance(Duration::from_secs(1))));
}

/// Runs every order of the actors' calls. Returns the number of runs.
fn explore(kind: Kind, roles: &[Role]) -> usize {
    fn run(world: World, again: &dyn Fn(&[usize]) -> World, mut sleeping: HashSet<usize>, ends: &mut usize) {
        let enabled = world.enabled();
        if enabled.is_empty() {
            world.check_end();
            *ends += 1;
        }
        let awake: Vec<usize> = enabled.into_iter().filter(|id| !sleeping.contains(id)).collect();
        let (shared, schedule) = (world.shared.clone(), world.schedule.clone());
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
        let mut world = World::new(kind, roles, Faults::none());
        schedule.iter().for_each(|id| world.step(*id));
        world
    };
    let mut ends = 0;
    in_runtime(|| run(again(&[]), &again, HashSet::new(), &mut ends));
    ends
}

#[test]
fn two_requests_are_consistent_in_every_order() {
    use Role::*;
    let arrived = [Complete, Event, Delete, Abort];
    let mut runs = 0;
    for (at, one) in arrived.iter().enumerate() {
        for other in &arrived[at..] {
            for bytes in [IMAGE, &TEXT] {
                runs += explore(Kind::Parts(bytes), &[*one, *other]);
            }
        }
        for bytes in [IMAGE, &TEXT] {
            runs += explore(Kind::Put, &[*one, Put(bytes)]);
        }
    }
    assert!(runs > 1_000, "{runs}");
}

/// If a slow Complete replaced the marker of an abort, its object could be promoted.
#[test]
fn slow_complete_of_parts_is_consistent_in_every_order() {
    use Role::*;
    for bytes in [IMAGE, &TEXT] {
        for roles in [[Complete, Abort], [Complete, Complete], [Complete, Delete]] {
            assert!(explore(Kind::SlowParts(bytes), &roles) >= 3, "{roles:?}");
        }
    }
}

#[test]
fn put_and_two_requests_are_consistent_in_every_order() {
    use Role::*;
    for roles in [[Put(IMAGE), Complete, Abort], [Put(IMAGE), Event, Abort], [Put(&TEXT), Complete, Abort]] {
        assert!(explore(Kind::Put, &roles) >= 3, "{roles:?}");
    }
}

/// Runs one random order, chosen by `seed`, with crashes and lost answers if `faulty`.
fn run_drawn(kind: Kind, roles: &[Role], seed: u64, faulty: bool) {
    let mut random = Random::new(seed);
    let faults = if faulty { Faults::drawn(seed) } else { Faults::none() };
    let mut world = World::new(kind, roles, faults);
    loop {
        world.shared.land_late(&mut random);
        world.check();
        let enabled = world.enabled();
        let Some(id) = random.choose(&enabled) else { break };
        if faulty && random.one_in(40) {
            world.crash(id);
        } else {
            world.step(id);
        }
    }
    if !faulty {
        world.check_end();
    }
}

#[test]
fn five_requests_are_consistent_in_random_orders() {
    use Role::*;
    let puts = [Put(IMAGE), Put(&TEXT), Complete, Complete, Delete];
    let events = [Put(IMAGE), Complete, Event, Delete, Abort];
    let parts = [Complete, Complete, Event, Delete, Abort];
    in_runtime(|| {
        for seed in 0..3_000 {
            for faulty in [false, true] {
                run_drawn(Kind::Put, &puts, seed, faulty);
                run_drawn(Kind::Put, &events, seed, faulty);
                run_drawn(Kind::Parts(IMAGE), &parts, seed, faulty);
                run_drawn(Kind::Parts(&TEXT), &parts, seed, faulty);
                run_drawn(Kind::SlowParts(IMAGE), &parts, seed, faulty);
            }
        }
    });
}
