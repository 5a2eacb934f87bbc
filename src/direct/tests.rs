//! Runs the steps of [`super::promote`] concurrently, in every order of their store calls.
//!
//! Each actor has its own [`Verifier`], as if it were a separate process. All use the same in-memory store. Every call
//! yields once before it takes effect, and a schedule is the list of actors in the order of their calls. So runs are
//! deterministic and can be enumerated. The invariants are in [`World::check`] and [`World::check_end`].

use std::pin::Pin;
use std::sync::Arc;

use super::companion::CompanionUpload;
use super::layout::{DirectUpload, ReportedPart};
use super::plan::{Expected, Plan, UploadMethod};
use super::verify::Verifier;
use crate::error::Error;
use crate::format::Format;
use crate::policy::Policy;
use crate::store::reconcile::Reconciler;
use crate::store::tests::memory::{Faults, Memory, Random, Shared};
use crate::store::tests::schedule::{self, Run, advance, in_runtime};
use crate::store::{CustomMetadata, ImageKey, Metadata, ObjectName, Store};
use crate::tasks::Tasks;
use crate::upload::budget::Budget;
use crate::upload::parts::payload;
use crate::upload::turns::Turns;

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
    /// Streams [`OTHER`] through the service, under the same key.
    Form,
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
    /// Parts whose sizes were not declared.
    Reported(&'static [u8]),
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Done,
    Failed,
}

struct Actor {
    role: Role,
    work: Pin<Box<dyn Future<Output = Outcome>>>,
    outcome: Option<Outcome>,
    crashed: bool,
}

struct World {
    shared: Shared,
    key: ImageKey,
    actors: Vec<Actor>,
    /// Set if a form succeeded after the delete was answered. Its image is not a violation.
    form_after_delete: bool,
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
            Kind::Parts(bytes) | Kind::SlowParts(bytes) | Kind::Reported(bytes) => {
                let upload_id = shared.lay_parts(&ObjectName::Incoming(key.clone()), bytes);
                UploadMethod::Multipart { upload_id, part_size: IMAGE.len() as u64 }
            }
        };
        let plan = Plan { key: key.clone(), size: IMAGE.len() as u64, format: Format::Png, method };
        let upload = match (kind, plan.upload()) {
            (Kind::Reported(_), Some((upload, _))) => {
                CompanionUpload { upload, max_size: 1 << 30 }.direct_upload(vec![ReportedPart::new(1, "any")])
            }
            _ => (&plan).into(),
        };
        let actors = roles.iter().enumerate().map(|(id, role)| actor(Memory::new(&shared, id), *role, upload.clone()));
        let mut world = World { actors: actors.collect(), shared, key, form_after_delete: false, schedule: Vec::new() };
        // Runs each actor up to its first call.
        (0..roles.len()).for_each(|id| world.poll(id));
        world
    }

    fn poll(&mut self, id: usize) {
        let Actor { work, outcome, .. } = &mut self.actors[id];
        *outcome = advance(&self.shared, id, work, &self.schedule);
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
        let gone = self.answered(Role::Delete) && !self.form_after_delete;
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

    /// Whether no complete or abort succeeded, because the PUT followed their checks.
    fn ended_before_a_put(&self) -> bool {
        !self.answered(Role::Complete) && !self.answered(Role::Abort)
    }
}

impl Run for World {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn schedule(&self) -> &[usize] {
        &self.schedule
    }

    fn enabled(&self) -> Vec<usize> {
        let runs = |actor: &Actor| actor.outcome.is_none() && !actor.crashed;
        (0..self.actors.len()).filter(|id| runs(&self.actors[*id])).collect()
    }

    fn step(&mut self, id: usize) {
        self.schedule.push(id);
        let deleted = self.answered(Role::Delete);
        self.poll(id);
        self.form_after_delete |= deleted && self.actors[id].role == Role::Form && self.is_done(id);
        self.check();
    }

    /// Checks what must hold after all actors have ended without failures: only an image and a marker may exist.
    fn check_end(&self) {
        let uploads = self.shared.open_uploads(&ObjectName::Image(self.key.clone()));
        assert_eq!(uploads, 0, "uploads of promotions remain: {:?}", self.schedule);
        let asked = [Role::Complete, Role::Delete, Role::Abort].into_iter().any(|role| self.answered(role));
        let left = self.shared.object(&ObjectName::Incoming(self.key.clone())).is_some_and(|bytes| !bytes.is_empty());
        // The last call may be a PUT. The next complete or a sweep finds its object.
        let put_last = self.schedule.last().is_some_and(|id| matches!(self.actors[*id].role, Role::Put(_)));
        let late = put_last || self.ended_before_a_put();
        assert!(!(asked && left) || late, "a direct upload remains: {:?}", self.schedule);
    }
}

fn actor(store: Memory, role: Role, upload: DirectUpload) -> Actor {
    let policy = Policy {
        formats: vec![Format::Png],
        key_format: None,
        max_upload_size: 1 << 30,
        max_pixels: 1 << 28,
        header_scan_limit: 1 << 20,
    };
    let budget = Budget::new(64 << 20, None, 5 << 20, 4);
    let (reconciler, turns) = (Reconciler::new(Arc::new(store.clone())), Turns::default());
    let verifier =
        Verifier::new(Arc::new(store.clone()), reconciler, Arc::new(policy), budget, Tasks::default(), turns);
    let outcome = |done: Result<(), Error>| done.map_or(Outcome::Failed, |()| Outcome::Done);
    let work = async move {
        match role {
            Role::Complete => outcome(verifier.complete(&upload, &|| true).await.map(drop)),
            Role::Event => outcome(verifier.promote(&upload.key, Expected::default(), &|| false).await.map(drop)),
            Role::Delete => outcome(verifier.delete(&upload.key).await),
            Role::Abort => outcome(verifier.abort(&upload).await),
            Role::Form => {
                let metadata = Metadata::unverified("image/png", CustomMetadata::new());
                let metadata = Metadata { may_be_planned: true, ..metadata };
                let sent = store.put(&upload.image(), &metadata, payload(OTHER.clone().into())).await;
                outcome(sent.map(drop).map_err(Error::from))
            }
            Role::Put(bytes) => outcome(store.put_by_url(&upload.incoming(), bytes).await.map_err(Error::from)),
        }
    };
    Actor { role, work: Box::pin(work), outcome: None, crashed: false }
}

/// Runs every order of the actors' calls. Returns the number of runs.
fn explore(kind: Kind, roles: &[Role]) -> usize {
    schedule::explore(|| World::new(kind, roles, Faults::None))
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
                runs += explore(Kind::Reported(bytes), &[*one, *other]);
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
    let faults = if faulty { Faults::drawn(seed) } else { Faults::None };
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
    // The image of a form is deleted before the plan's PUT.
    let forms = [Form, Delete, Put(IMAGE), Complete, Event];
    in_runtime(|| {
        for seed in 0..3_000 {
            for faulty in [false, true] {
                run_drawn(Kind::Put, &puts, seed, faulty);
                run_drawn(Kind::Put, &events, seed, faulty);
                run_drawn(Kind::Put, &forms, seed, faulty);
                run_drawn(Kind::Parts(IMAGE), &parts, seed, faulty);
                run_drawn(Kind::Parts(&TEXT), &parts, seed, faulty);
                run_drawn(Kind::SlowParts(IMAGE), &parts, seed, faulty);
                run_drawn(Kind::Reported(IMAGE), &parts, seed, faulty);
            }
        }
    });
}
