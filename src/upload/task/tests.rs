//! Concurrent attempts under one fixed key, in every order of their store calls, on one in-memory store.
//!
//! Each attempt has its own store handle, as if it ran in its own process. [`World::check`] and [`World::check_end`]
//! contain the invariants.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Builder;

use super::*;
use crate::store::tests::memory::{Faults, Memory, Random, Shared};
use crate::store::tests::schedule::{self, Run, advance, in_runtime};
use crate::store::{CustomMetadata, ImageKey};
use crate::upload::fixed::{FixedKey, FixedUpload, check_same};
use crate::upload::turns::Turns;

/// The payloads of an attempt: one is sent with PutObject, several are sent as parts.
type Image = &'static [&'static [u8]];

const SMALL: Image = &[b"small"];
/// The same size as [`SMALL`].
const OTHER_SMALL: Image = &[b"other"];
const PARTS: Image = &[b"first ", b"second"];
/// The same size as [`PARTS`].
const OTHER_PARTS: Image = &[b"first ", b"SECOND"];

/// What an actor does in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Upload(Image),
    /// An upload whose client disconnects after everything was sent.
    Leave(Image),
    Delete,
}

struct Actor {
    role: Role,
    work: Pin<Box<dyn Future<Output = ()>>>,
    /// Whether the upload was acknowledged to the client.
    acknowledged: Arc<AtomicBool>,
    ended: bool,
}

struct World {
    shared: Shared,
    name: ObjectName,
    actors: Vec<Actor>,
    schedule: Vec<usize>,
}

impl World {
    fn new(roles: &[Role], faults: Faults) -> World {
        let shared = Shared::new(roles.len(), faults);
        let key = ImageKey::parse("0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png").unwrap();
        let actors = roles.iter().enumerate().map(|(id, role)| actor(Memory::new(&shared, id), *role, key.clone()));
        let name = ObjectName::Image(key.clone());
        let mut world = World { actors: actors.collect(), shared, name, schedule: Vec::new() };
        (0..roles.len()).for_each(|id| world.poll(id));
        world
    }

    fn poll(&mut self, id: usize) {
        let Actor { work, ended, .. } = &mut self.actors[id];
        *ended = advance(&self.shared, id, work, &self.schedule).is_some();
    }

    fn acknowledged(&self) -> Vec<Image> {
        let successful = self.actors.iter().filter(|actor| actor.acknowledged.load(Ordering::Relaxed));
        successful.filter_map(|actor| if let Role::Upload(image) = actor.role { Some(image) } else { None }).collect()
    }

    fn has_delete(&self) -> bool {
        self.actors.iter().any(|actor| actor.role == Role::Delete)
    }

    /// Checks the invariants that hold after every call.
    fn check(&self) {
        let stored = self.shared.object(&self.name);
        let whole = |image: &Image| image.concat();
        let sent = self.actors.iter().filter_map(|actor| match actor.role {
            Role::Upload(image) | Role::Leave(image) => Some(whole(&image)),
            Role::Delete => None,
        });
        let was_sent = stored.as_ref().is_none_or(|stored| sent.into_iter().any(|sent| sent == *stored));
        assert!(was_sent, "{:?}", self.schedule);
        assert!(!self.shared.was_overwritten(), "an image was overwritten: {:?}", self.schedule);
        if !self.has_delete() {
            let same = self.acknowledged().iter().all(|image| stored.as_ref() == Some(&whole(image)));
            assert!(same, "an acknowledged image is missing: {:?}", self.schedule);
        }
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
        (0..self.actors.len()).filter(|id| !self.actors[*id].ended).collect()
    }

    fn step(&mut self, id: usize) {
        self.schedule.push(id);
        self.poll(id);
        self.check();
    }

    /// Checks the invariants that hold after all actors have ended, if no call failed.
    fn check_end(&self) {
        assert_eq!(self.shared.open_uploads(&self.name), 0, "multipart uploads remain: {:?}", self.schedule);
        if self.has_delete() {
            return;
        }
        let stored = self.shared.object(&self.name).expect("one of the images is stored");
        for Actor { role, acknowledged, .. } in &self.actors {
            if let Role::Upload(image) = role {
                let is_acknowledged = acknowledged.load(Ordering::Relaxed);
                assert_eq!(is_acknowledged, image.concat() == stored, "{image:?}: {:?}", self.schedule);
            }
        }
    }
}

fn actor(store: Memory, role: Role, key: ImageKey) -> Actor {
    let acknowledged = Arc::new(AtomicBool::new(false));
    let success = Arc::clone(&acknowledged);
    let work = async move {
        match role {
            Role::Upload(image) => attempt(store, key, image, true, &success).await,
            Role::Leave(image) => attempt(store, key, image, false, &success).await,
            Role::Delete => drop(store.delete(&ObjectName::Image(key)).await),
        }
    };
    Actor { role, work: Box::pin(work), acknowledged, ended: false }
}

/// Does the same as a request with a fixed key.
async fn attempt(store: Memory, key: ImageKey, image: Image, stays: bool, acknowledged: &AtomicBool) {
    let payloads: Vec<Payload> = image.iter().map(|bytes| parts::payload((*bytes).into())).collect();
    let whole = parts::join(payloads.iter().map(|payload| (payload.len, payload.crc64)));
    let whole = Stored { size: whole.size, crc64: whole.crc64.unwrap() };
    let name = ObjectName::Image(key.clone());
    let fixed = FixedUpload::begin(&FixedKey::Image(key.clone()), key, &Turns::default());
    match fixed.find(&store).await {
        Ok(None) => {}
        Ok(Some(found)) => {
            let same = check_same(&store, &name, &found, whole).await;
            return acknowledged.store(same.is_ok(), Ordering::Relaxed);
        }
        Err(_) => return,
    }
    let (commands, receiver) = mpsc::channel(8);
    let (done, outcome) = oneshot::channel::<UploadResult>();
    let store: Arc<dyn Store> = Arc::new(store);
    let task = UploadTask {
        reconciler: Reconciler::new(Arc::clone(&store)),
        store,
        name,
        ownership: Ownership::Fixed(fixed),
        metadata: Metadata::unverified("image/png", CustomMetadata::new()),
        creates_early: false,
        patience: None,
        files: Arc::new(Semaphore::new(1)),
    };
    let request = async move {
        let last = payloads.len() - 1;
        for (at, payload) in payloads.into_iter().enumerate() {
            let message = if at == last { PartMessage::Last(payload) } else { PartMessage::Part(payload) };
            let _ = commands.send(message).await;
        }
        if !stays {
            return;
        }
        if let Ok(Ok(durable)) = outcome.await {
            assert_eq!(durable.acknowledge(), whole);
            acknowledged.store(true, Ordering::Relaxed);
        }
    };
    futures::join!(task.run(receiver, done), request);
}

/// Runs the actors' calls in every order. Returns the number of runs.
fn explore(roles: &[Role]) -> usize {
    schedule::explore(|| World::new(roles, Faults::None))
}

#[test]
fn invariants_hold_for_all_orders_of_two_attempts() {
    use Role::*;
    let mut runs = 0;
    for other in [Upload(SMALL), Upload(OTHER_SMALL), Upload(PARTS), Leave(SMALL), Leave(OTHER_SMALL), Delete] {
        runs += explore(&[Upload(SMALL), other]);
    }
    for other in [Upload(PARTS), Upload(OTHER_PARTS), Leave(OTHER_PARTS), Delete] {
        runs += explore(&[Upload(PARTS), other]);
    }
    for other in [SMALL, OTHER_SMALL] {
        runs += explore(&[Upload(SMALL), Upload(other), Delete]);
    }
    assert!(runs > 100, "{runs}");
}

#[test]
fn invariants_hold_for_random_orders_with_lost_answers() {
    use Role::*;
    let casts: [&[Role]; 5] = [
        &[Upload(SMALL), Upload(SMALL), Upload(OTHER_SMALL), Leave(SMALL)],
        &[Upload(PARTS), Upload(PARTS), Upload(OTHER_PARTS), Leave(OTHER_PARTS)],
        &[Upload(SMALL), Upload(PARTS), Leave(OTHER_SMALL), Leave(PARTS)],
        &[Upload(SMALL), Upload(SMALL), Delete, Upload(OTHER_SMALL)],
        &[Upload(PARTS), Delete, Upload(PARTS), Leave(PARTS)],
    ];
    in_runtime(|| {
        let mut acknowledged = 0;
        for seed in 0..2_000 {
            for (faulty, roles) in [false, true].into_iter().flat_map(|faulty| casts.map(|roles| (faulty, roles))) {
                let mut random = Random::new(seed);
                let faults = if faulty { Faults::drawn(seed) } else { Faults::None };
                let mut world = World::new(roles, faults);
                while let Some(id) = random.choose(&world.enabled()) {
                    world.shared.land_late(&mut random);
                    world.check();
                    world.step(id);
                }
                if !faulty {
                    world.check_end();
                }
                acknowledged += world.acknowledged().len();
            }
        }
        assert!(acknowledged > 10_000, "{acknowledged}");
    });
}

/// Uploads one small image to a store that loses every PutObject. The client disconnects after `leaves`.
fn upload_to_losing_store(ownership: Ownership, key: ImageKey, leaves: Duration) -> Shared {
    let shared = Shared::new(1, Faults::Dropping);
    let store: Arc<dyn Store> = Arc::new(Memory::new(&shared, 0));
    let task = UploadTask {
        reconciler: Reconciler::new(Arc::clone(&store)),
        store,
        name: ObjectName::Image(key),
        ownership,
        metadata: Metadata::unverified("image/png", CustomMetadata::new()),
        creates_early: false,
        patience: None,
        files: Arc::new(Semaphore::new(1)),
    };
    let (commands, receiver) = mpsc::channel(1);
    let (done, outcome) = oneshot::channel::<UploadResult>();
    let client = async move {
        let _ = commands.send(PartMessage::Last(parts::payload(SMALL.concat().into()))).await;
        let _ = tokio::time::timeout(leaves, outcome).await;
    };
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { futures::join!(task.run(receiver, done), client) });
    shared
}

#[test]
fn put_without_response_is_repeated_only_for_a_connected_client() {
    for is_fixed in [false, true] {
        for (leaves, puts) in [(RETRY_DELAY / 2, 1), (RETRY_DELAY * 2, 2), (RETRY_DELAY * 100, MAX_ATTEMPTS)] {
            let key = ImageKey::random("png");
            let fixed = FixedUpload::begin(&FixedKey::Image(key.clone()), key.clone(), &Turns::default());
            let ownership = if is_fixed { Ownership::Fixed(fixed) } else { Ownership::Drawn };
            assert_eq!(upload_to_losing_store(ownership, key, leaves).calls().puts, puts, "{is_fixed} {leaves:?}");
        }
    }
}
