//! The steps of [`super::promote`], run beside themselves in every order of their store calls.
//!
//! Each actor has a [`Verifier`] of its own, as in a process of its own, over one store in memory. Every call yields once
//! before it takes effect, and a run is the list of the actors whose turn it was: so runs are exact, repeatable, and can be
//! enumerated. Of two calls that do not touch each other's objects only one order is run (sleep sets, Godefroid 1996), which
//! reaches every state all the same. What must hold is in [`World::check`] and [`World::check_end`].

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
use crate::store::{ImageKey, ObjectName};
use crate::tasks::Tasks;
use crate::upload::budget::Budget;

mod store;

use store::{Faults, Memory, Shared};

/// Who takes part in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Complete,
    /// S3's notification: knows the key and nothing else.
    Event,
    Delete,
    Abort,
    /// The plan's URL is used, with these bytes.
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

/// Whether the plan is of one PUT, or of parts that have all arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Parts(&'static [u8]),
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
    /// An image that a PUT after the delete's answer brought is no violation: it came after that answer.
    put_after_delete: bool,
    schedule: Vec<usize>,
}

impl World {
    fn new(kind: Kind, roles: &[Role], faults: Faults) -> World {
        let shared = Shared::new(roles.len(), faults);
        let key = ImageKey::parse("0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png").unwrap();
        let door = match kind {
            Kind::Put => UploadMethod::Put { sha256: None },
            Kind::Parts(bytes) => {
                let upload_id = shared.lay_parts(&ObjectName::Incoming(key.clone()), bytes);
                UploadMethod::Multipart { upload_id, part_size: IMAGE.len() as u64 }
            }
        };
        let plan = Plan { key: key.clone(), size: IMAGE.len() as u64, format: Format::Png, door };
        let actors = roles.iter().enumerate().map(|(id, role)| actor(Memory::new(&shared, id), *role, plan.clone()));
        let mut world = World { actors: actors.collect(), shared, key, put_after_delete: false, schedule: Vec::new() };
        // To each one's first call.
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
                // It sleeps before the next attempt, and time stands still.
                Poll::Pending if !self.shared.is_waiting(id) => pass_time(),
                Poll::Pending => return,
            }
        }
        panic!("it neither calls nor ends: {:?}", self.schedule);
    }

    fn enabled(&self) -> Vec<usize> {
        let runs = |actor: &Actor| actor.outcome.is_none() && !actor.crashed;
        (0..self.actors.len()).filter(|id| runs(&self.actors[*id])).collect()
    }

    /// One store call of one actor.
    fn step(&mut self, id: usize) {
        self.schedule.push(id);
        let deleted = self.answered(Role::Delete);
        self.poll(id);
        let put = matches!(self.actors[id].role, Role::Put(_)) && self.is_done(id);
        self.put_after_delete |= deleted && put;
        self.check();
    }

    /// Killed: nothing of it runs any more, no clean-up either.
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

    /// What holds at every moment, and so also if every process were killed now.
    fn check(&self) {
        let image = self.image();
        let whole = image.as_ref().is_none_or(|image| *image == IMAGE || *image == *OTHER);
        assert!(whole, "what was not checked can be read: {:?}", self.schedule);
        let gone = self.answered(Role::Delete) && !self.put_after_delete;
        assert!(!gone || image.is_none(), "a deleted image is there: {:?}", self.schedule);
        assert!(!self.answered(Role::Abort) || image.is_none(), "an aborted image is there: {:?}", self.schedule);
        let removed = self.answered(Role::Delete) || self.answered(Role::Abort) || self.is_deleting();
        let lost = self.answered(Role::Complete) && !removed && image.is_none();
        assert!(!lost, "an image that was answered is lost: {:?}", self.schedule);
        assert!(!self.shared.was_overwritten(), "an image was overwritten: {:?}", self.schedule);
    }

    fn is_deleting(&self) -> bool {
        self.actors.iter().any(|actor| actor.role == Role::Delete)
    }

    /// What holds when all have ended and nothing failed: nothing is left but an image and a marker.
    fn check_end(&self) {
        let uploads = self.shared.open_uploads(&ObjectName::Image(self.key.clone()));
        assert_eq!(uploads, 0, "promotions' uploads are left: {:?}", self.schedule);
        let asked = [Role::Complete, Role::Delete, Role::Abort].into_iter().any(|role| self.answered(role));
        let left = self.shared.object(&ObjectName::Incoming(self.key.clone())).is_some_and(|bytes| !bytes.is_empty());
        // A PUT may come after everything else: then the next complete, or the sweep, finds it.
        let put_last = self.schedule.last().is_some_and(|id| matches!(self.actors[*id].role, Role::Put(_)));
        let late = put_last || self.put_after_delete || self.ended_before_a_put();
        assert!(!(asked && left) || late, "an upload is left: {:?}", self.schedule);
    }

    /// A complete or a delete that found nothing, and a PUT that came after it looked.
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
    let verifier = Verifier::new(Arc::new(store.clone()), Arc::new(policy), budget, Tasks::default());
    let outcome = |done: Result<(), Error>| done.map_or(Outcome::Failed, |()| Outcome::Done);
    let work = async move {
        match role {
            Role::Complete => outcome(verifier.complete(&plan, &|| true).await.map(drop)),
            Role::Event => outcome(verifier.promote(&plan.key, Expected::default(), &|| false).await.map(drop)),
            Role::Delete => outcome(verifier.delete(&plan.key).await),
            Role::Abort => outcome(verifier.abort(&plan).await),
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

/// Lets timers run out.
fn pass_time() {
    RUNTIME.with(|runtime| runtime.block_on(tokio::time::advance(Duration::from_secs(1))));
}

/// Runs every order of the actors' calls; returns how many runs that were.
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
            // A world cannot be copied: all but the last order begin from the start again.
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
fn two_requests_hold_in_every_order() {
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

#[test]
fn a_put_beside_two_requests_holds_in_every_order() {
    use Role::*;
    for roles in [[Put(IMAGE), Complete, Abort], [Put(IMAGE), Event, Abort], [Put(&TEXT), Complete, Abort]] {
        assert!(explore(Kind::Put, &roles) >= 3, "{roles:?}");
    }
}

/// One run in an order that `seed` draws, with crashes and lost answers where they are asked for.
fn run_drawn(kind: Kind, roles: &[Role], seed: u64, faulty: bool) {
    let mut random = store::Random::new(seed);
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
fn five_requests_hold_in_drawn_orders() {
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
            }
        }
    });
}
