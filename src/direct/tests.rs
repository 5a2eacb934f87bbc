//! Runs the steps of [`super::promote`] concurrently, in every order of their store calls.
//!
//! Each actor has its own [`Verifier`], as if it were a separate process. All use the same in-memory store. Every call
//! yields once before it takes effect, and a schedule is the list of actors in the order of their calls. So runs are
//! deterministic and can be enumerated. The invariants are in [`World::check`] and [`World::check_end`].

use std::pin::Pin;
use std::sync::Arc;
use uuid::Uuid;

use super::companion::CompanionUpload;
use super::layout::{DirectUpload, ReportedPart};
use super::plan::{Expected, Plan, UploadMethod};
use super::verify::Verifier;
use crate::error::Error;
use crate::format::Format;
use crate::policy::Policy;
use crate::store::reconcile::Reconciler;
use crate::store::tests::memory::{Faults, Memory, Random, Shared, etag};
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
    /// Completes the other plan of the key.
    CompleteOther,
    /// Promotes on an S3 event notification, which contains only the key.
    Event,
    Delete,
    Abort,
    /// Sends these bytes to the plan's URL.
    Put(&'static [u8]),
    /// Sends these bytes to the URL of the other plan.
    PutOther(&'static [u8]),
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
/// The IDs of the two plans of the key.
const PLANS: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];

/// Whether the plan is a single PUT, or parts that were all received. Another plan has the same key, and its parts are those of
/// [`OTHER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Parts(&'static [u8]),
    /// Parts in a store whose Complete takes effect later, even if the upload was aborted meanwhile.
    SlowParts(&'static [u8]),
    /// Parts whose sizes were not declared.
    Reported(&'static [u8]),
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// A complete was answered with the image of this ETag.
    Answered(Option<String>),
    /// A complete was denied, because there is another image.
    Denied,
    Failed,
}

impl Role {
    /// Returns the plan that the actor uses.
    fn plan(self) -> usize {
        usize::from(matches!(self, Role::CompleteOther | Role::PutOther(_)))
    }

    /// Returns what the actor sends to the URL of its plan.
    fn sends(self) -> Option<&'static [u8]> {
        if let Role::Put(bytes) | Role::PutOther(bytes) = self { Some(bytes) } else { None }
    }
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
    /// The bytes of both plans, if they are in parts.
    parts: Option<[&'static [u8]; 2]>,
    actors: Vec<Actor>,
    /// Set if a form succeeded after the delete was answered. Its image is not a violation.
    form_after_delete: bool,
    schedule: Vec<usize>,
}

impl World {
    fn new(kind: Kind, roles: &[Role], faults: Faults) -> World {
        World::on(Shared::new(roles.len(), faults), kind, roles)
    }

    fn on(shared: Shared, kind: Kind, roles: &[Role]) -> World {
        if matches!(kind, Kind::SlowParts(_)) {
            shared.assemble_slowly();
        }
        let key = ImageKey::parse("0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png").unwrap();
        let has_other = roles.iter().any(|role| role.plan() == 1);
        let parts = kind.parts().map(|bytes| [bytes, OTHER.as_slice()]);
        let uploads: Vec<DirectUpload> = PLANS[..1 + usize::from(has_other)]
            .iter()
            .zip(0..)
            .map(|(id, at)| plan(&shared, kind, &key, *id, parts.map(|parts| parts[at])))
            .collect();
        let actor = |(id, role): (usize, &Role)| actor(Memory::new(&shared, id), *role, uploads[role.plan()].clone());
        let actors = roles.iter().enumerate().map(actor).collect();
        let (form_after_delete, schedule) = (false, Vec::new());
        let mut world = World { shared, key, parts, actors, form_after_delete, schedule };
        // Runs each actor up to its first call.
        (0..roles.len()).for_each(|id| world.poll(id));
        world
    }

    fn poll(&mut self, id: usize) {
        let Actor { work, outcome, .. } = &mut self.actors[id];
        *outcome = advance(&self.shared, id, work, &self.schedule);
        let has_arrived = self.parts.is_some() || self.arrived(self.actors[id].role.plan()).is_some();
        let Actor { outcome, .. } = &mut self.actors[id];
        // A complete before the PUT has nothing to compare.
        if *outcome == Some(Outcome::Denied) && !has_arrived {
            *outcome = Some(Outcome::Failed);
        }
        self.check_answer(id);
    }

    /// Checks the answer to a complete: it must be an image of the bytes that the plan's client has sent, and may not be denied if
    /// there is such an image.
    fn check_answer(&self, id: usize) {
        let Actor { role, outcome, .. } = &self.actors[id];
        let is_of_plan = |actor: &&Actor| actor.role.plan() == role.plan();
        let sent = self.actors.iter().filter(is_of_plan).filter_map(|actor| actor.role.sends());
        let mut sent = sent.chain(self.parts.map(|parts| parts[role.plan()]));
        if let Some(Outcome::Answered(found)) = outcome {
            let is_sent = sent.any(|bytes| *found == Some(etag(bytes)));
            assert!(is_sent, "the image of another client was the answer: {:?}", self.schedule);
        }
        if self.is_deleting() {
            return;
        }
        let is_own = self.arrived(role.plan()).is_some_and(|arrived| self.image().as_deref() == Some(arrived));
        assert!(*outcome != Some(Outcome::Denied) || !is_own, "a client was denied its own image: {:?}", self.schedule);
        let mut of_plan = self.actors.iter().filter(is_of_plan).filter_map(|actor| actor.outcome.as_ref());
        let denied = of_plan.clone().any(|outcome| *outcome == Outcome::Denied);
        let answered = of_plan.any(|outcome| matches!(outcome, Outcome::Answered(_)));
        assert!(!(denied && answered), "two completes of one plan disagree: {:?}", self.schedule);
    }

    /// Returns the bytes that have arrived under `incoming/` by the URL of this plan.
    fn arrived(&self, plan: usize) -> Option<&'static [u8]> {
        let arrived = |actor: &&Actor| actor.role.plan() == plan && actor.outcome == Some(Outcome::Done);
        self.actors.iter().filter(arrived).find_map(|actor| actor.role.sends())
    }

    /// Kills the actor: none of its code runs any more, including clean-ups.
    fn crash(&mut self, id: usize) {
        let actor = &mut self.actors[id];
        actor.crashed = true;
        std::mem::forget(std::mem::replace(&mut actor.work, Box::pin(std::future::pending())));
    }

    fn is_done(&self, id: usize) -> bool {
        matches!(self.actors[id].outcome, Some(Outcome::Done | Outcome::Answered(_)))
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
        let completed = self.answered(Role::Complete) || self.answered(Role::CompleteOther);
        let lost = completed && !removed && image.is_none();
        assert!(!lost, "an image is missing after its complete was answered: {:?}", self.schedule);
        assert!(!self.shared.was_overwritten(), "an image was overwritten: {:?}", self.schedule);
    }

    fn is_deleting(&self) -> bool {
        self.actors.iter().any(|actor| actor.role == Role::Delete)
    }

    /// Whether no complete or abort succeeded, because the PUT followed their checks.
    fn ended_before_a_put(&self) -> bool {
        ![Role::Complete, Role::CompleteOther, Role::Abort].into_iter().any(|role| self.answered(role))
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
        let asked = [Role::Complete, Role::CompleteOther, Role::Delete, Role::Abort];
        let asked = asked.into_iter().any(|role| self.answered(role));
        let left = self.shared.object(&ObjectName::Incoming(self.key.clone())).is_some_and(|bytes| !bytes.is_empty());
        // The last call may be a PUT. The next complete or a sweep finds its object.
        let put_last = self.schedule.last().is_some_and(|id| self.actors[*id].role.sends().is_some());
        let late = put_last || self.ended_before_a_put();
        assert!(!(asked && left) || late, "a direct upload remains: {:?}", self.schedule);
    }
}

impl Kind {
    /// Returns the bytes of a plan in parts.
    fn parts(self) -> Option<&'static [u8]> {
        match self {
            Kind::Put => None,
            Kind::Parts(bytes) | Kind::SlowParts(bytes) | Kind::Reported(bytes) => Some(bytes),
        }
    }
}

/// Returns a plan whose parts, if it has any, were received.
fn plan(shared: &Shared, kind: Kind, key: &ImageKey, id: Uuid, parts: Option<&[u8]>) -> DirectUpload {
    let (id, incoming) = (Some(id), ObjectName::Incoming(key.clone()));
    let method = match parts {
        None => UploadMethod::Put { sha256: None },
        Some(bytes) => {
            let upload_id = shared.lay_parts(&incoming, bytes, id);
            UploadMethod::Multipart { upload_id, part_size: IMAGE.len() as u64 }
        }
    };
    let plan = Plan { key: key.clone(), id, size: IMAGE.len() as u64, format: Format::Png, method };
    match (kind, plan.upload()) {
        (Kind::Reported(_), Some((upload, _))) => {
            CompanionUpload { upload, id, max_size: 1 << 30 }.direct_upload(vec![ReportedPart::new(1, "any")])
        }
        _ => (&plan).into(),
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
            Role::Complete | Role::CompleteOther => match verifier.complete(&upload, &|| true).await {
                Ok(verified) => Outcome::Answered(verified.image.etag),
                Err(Error::AlreadyExists) => Outcome::Denied,
                Err(_) => Outcome::Failed,
            },
            Role::Event => outcome(verifier.promote(&upload.key, Expected::default(), &|| false).await.map(drop)),
            Role::Delete => outcome(verifier.delete(&upload.key).await),
            Role::Abort => outcome(verifier.abort(&upload).await),
            Role::Form => {
                let metadata = Metadata::unverified("image/png", CustomMetadata::new());
                let metadata = Metadata { may_be_planned: true, ..metadata };
                let sent = store.put(&upload.image(), &metadata, payload(OTHER.clone().into())).await;
                outcome(sent.map(drop).map_err(Error::from))
            }
            Role::Put(bytes) | Role::PutOther(bytes) => {
                let sent = store.put_by_url(&upload.incoming(), bytes, upload.expected.origin).await;
                outcome(sent.map_err(Error::from))
            }
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

/// Two plans, and a form, under one key, on stores that keep checksums and on stores that do not.
#[test]
fn complete_is_answered_with_its_own_image_in_every_order() {
    use Role::*;
    let other = OTHER.as_slice();
    let mut runs = 0;
    for keeps_checksums in [false, true] {
        let mut explore = |kind: Kind, roles: &[Role]| {
            runs += schedule::explore(|| {
                let shared = Shared::new(roles.len(), Faults::None);
                if keeps_checksums {
                    shared.keep_checksums();
                }
                World::on(shared, kind, roles)
            });
        };
        explore(Kind::Put, &[Put(IMAGE), PutOther(other), CompleteOther]);
        explore(Kind::Put, &[Put(IMAGE), Complete, CompleteOther]);
        for kind in [Kind::Parts(IMAGE), Kind::Reported(IMAGE)] {
            explore(kind, &[Complete, CompleteOther]);
            explore(kind, &[Form, Complete]);
            explore(kind, &[Form, CompleteOther]);
        }
        for bytes in [IMAGE, other] {
            explore(Kind::Put, &[Form, Put(bytes), Complete]);
            explore(Kind::Put, &[Form, Put(bytes), Event]);
        }
    }
    assert!(runs > 1_000, "{runs}");
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

#[test]
fn completes_of_one_key_are_answered_with_their_own_image_in_random_orders() {
    use Role::*;
    let repeated = [Form, Put(OTHER.as_slice()), Complete, Complete, Event];
    let two_plans = [Put(IMAGE), PutOther(OTHER.as_slice()), Complete, CompleteOther, Complete];
    let in_parts = [Complete, CompleteOther, Complete, CompleteOther, Form];
    in_runtime(|| {
        for seed in 0..1_000 {
            for faulty in [false, true] {
                run_drawn(Kind::Put, &repeated, seed, faulty);
                run_drawn(Kind::Put, &two_plans, seed, faulty);
                run_drawn(Kind::Parts(IMAGE), &in_parts, seed, faulty);
                run_drawn(Kind::Reported(IMAGE), &in_parts, seed, faulty);
            }
        }
    });
}
