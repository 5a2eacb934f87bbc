//! An in-memory store in which every call waits until it is scheduled, and whose answers can be lost.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::store::name::kept_prefix;
use crate::store::{
    Content, CustomMetadata, ImageKey, Kept, KeptBytes, Leftover, Marker, Metadata, ObjectDigest, ObjectInfo,
    ObjectName, Part, Payload, PresignOptions, Presigned, PutConditions, Result, Store, StoreError, Upload, Written,
};

/// A random number generator with a seed (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e37_79b9)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn one_in(&mut self, many: u64) -> bool {
        self.next().is_multiple_of(many)
    }

    /// Returns a number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }

    pub(crate) fn choose(&mut self, among: &[usize]) -> Option<usize> {
        let at = self.next() as usize;
        (!among.is_empty()).then(|| among[at % among.len()])
    }
}

/// Decides which answers are lost.
pub(crate) enum Faults {
    None,
    Drawn(Random),
    /// Every call that changes the store is lost.
    Dropping,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    Answered,
    /// The call takes effect, but its answer is lost.
    Lost,
    /// The call is lost.
    Dropped,
    /// The caller gives up, and the call takes effect later.
    Late,
}

impl Faults {
    pub(crate) fn drawn(seed: u64) -> Self {
        Faults::Drawn(Random::new(seed ^ 0xfa17))
    }

    fn draw(&mut self) -> Fate {
        let Faults::Drawn(random) = self else {
            return if matches!(self, Faults::None) { Fate::Answered } else { Fate::Dropped };
        };
        match random.next() % 45 {
            0 => Fate::Lost,
            1 => Fate::Dropped,
            2 => Fate::Late,
            _ => Fate::Answered,
        }
    }
}

#[derive(Clone, Debug, Default, Hash)]
struct Object {
    bytes: Vec<u8>,
    marker: Option<Marker>,
    may_be_planned: bool,
    origin: Option<Uuid>,
    crc64_before: Option<u64>,
}

impl Object {
    fn of(bytes: &[u8]) -> Self {
        Object { bytes: bytes.to_vec(), ..Object::default() }
    }

    fn etag(&self) -> String {
        let marker = if self.marker.is_some() { "m" } else { "" };
        format!("\"{:016x}{marker}\"", crate::crc64::checksum(&self.bytes))
    }
}

#[derive(Hash)]
struct Unfinished {
    name: ObjectName,
    may_be_planned: bool,
    origin: Option<Uuid>,
    parts: BTreeMap<u32, Vec<u8>>,
}

/// The numbers of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) heads: usize,
    pub(crate) puts: usize,
    running: usize,
    /// The maximum number of concurrent calls.
    pub(crate) most_running: usize,
}

/// What a call reads and changes, as bit sets: objects and uploads of objects, each final or under `incoming/`, and what
/// resumable uploads keep.
#[derive(Clone, Copy, Default)]
struct Touched {
    read: u8,
    changed: u8,
}

impl Touched {
    fn object(name: &ObjectName) -> u8 {
        match name {
            ObjectName::Image(_) => 1,
            ObjectName::Incoming(_) => 2,
            ObjectName::Resumable { .. } => 16,
        }
    }

    fn uploads(name: &ObjectName) -> u8 {
        Touched::object(name) << 2
    }

    fn reading(read: u8) -> Self {
        Touched { read, changed: 0 }
    }

    fn changing(changed: u8) -> Self {
        Touched { read: 0, changed }
    }

    /// Whether two consecutive calls have the same effects and answers in either order.
    fn commutes(self, other: Touched) -> bool {
        self.changed & (other.read | other.changed) == 0 && other.changed & self.read == 0
    }
}

type Effect = Box<dyn FnOnce(&mut State) + Send>;

#[derive(Default, Hash)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Unfinished>,
    /// IDs of completed uploads.
    completed: BTreeSet<String>,
    serial: usize,
    overwritten: bool,
}

struct Scheduler {
    state: State,
    /// What the next call of each actor touches. `None` if the actor is not about to make a call.
    next: Vec<Option<Touched>>,
    faults: Faults,
    calls: Calls,
    late: Vec<(CallId, Effect)>,
    /// The calls that wait, if a driver decides on each of them.
    gate: Option<Gate>,
    /// Whether a Complete under `incoming/` has two steps. If its upload is aborted between them, it still takes
    /// effect.
    slow_assembly: bool,
    /// Whether HEAD returns the checksums of objects.
    keeps_checksums: bool,
}

/// An actor, and the number of its call.
type CallId = (usize, u64);

/// The calls of a gated store that wait.
#[derive(Default)]
struct Gate {
    waiting: BTreeMap<CallId, Waiting>,
    calls: BTreeMap<usize, u64>,
    hides_checksums: bool,
    /// Hashes of what each actor has experienced.
    histories: BTreeMap<usize, u64>,
    dead: BTreeSet<usize>,
}

struct Waiting {
    call: &'static str,
    touched: Touched,
    answer: oneshot::Sender<Fate>,
}

/// Removes a call that its caller drops.
struct Left<'a> {
    shared: &'a Shared,
    id: CallId,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if let Some(gate) = &mut self.shared.lock().gate {
            gate.waiting.remove(&self.id);
        }
    }
}

#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Scheduler>>);

impl Shared {
    pub(crate) fn new(actors: usize, faults: Faults) -> Self {
        let (state, next, calls) = (State::default(), vec![None; actors], Calls::default());
        Shared(Arc::new(Mutex::new(Scheduler {
            state,
            next,
            faults,
            calls,
            late: Vec::new(),
            gate: None,
            slow_assembly: false,
            keeps_checksums: false,
        })))
    }

    /// A store whose calls wait until [`Shared::answer`] is called for them, however many an actor has at once. So actors
    /// may consist of many tasks.
    pub(crate) fn gated(actors: usize) -> Self {
        let shared = Shared::new(actors, Faults::None);
        shared.lock().gate = Some(Gate::default());
        shared
    }

    /// Whether the lists of parts have their checksums.
    pub(crate) fn list_checksums(&self, lists: bool) {
        self.lock().gate.as_mut().expect("the store is gated").hides_checksums = !lists;
    }

    fn lists_checksums(&self) -> bool {
        self.lock().gate.as_ref().is_some_and(|gate| !gate.hides_checksums)
    }

    fn is_gated(&self) -> bool {
        self.lock().gate.is_some()
    }

    /// Returns the ID of an actor's next call.
    fn draw_call(&self, actor: usize) -> CallId {
        let mut scheduler = self.lock();
        let calls = scheduler.gate.as_mut().expect("the store is gated").calls.entry(actor).or_default();
        *calls += 1;
        (actor, *calls)
    }

    /// Waits until the driver decides on a call. Returns `None` if its actor is dead.
    async fn enter(&self, id: CallId, call: &'static str, touched: Touched) -> Option<Fate> {
        let (answer, answered) = oneshot::channel();
        self.lock().gate.as_mut()?.waiting.insert(id, Waiting { call, touched, answer });
        let _left = Left { shared: self, id };
        answered.await.ok()
    }

    fn is_dead(&self, actor: usize) -> bool {
        self.lock().gate.as_ref().is_some_and(|gate| gate.dead.contains(&actor))
    }

    fn apply<T>(
        &self,
        id: CallId,
        change: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
        fate: Fate,
    ) -> Result<T> {
        let scheduler = &mut *self.lock();
        match fate {
            Fate::Answered => change(&mut scheduler.state),
            Fate::Lost => {
                let _ = change(&mut scheduler.state);
                Err(lost())
            }
            Fate::Dropped => Err(lost()),
            Fate::Late => {
                scheduler.late.push((id, Box::new(|state| drop(change(state)))));
                Err(lost())
            }
        }
    }

    /// Adds to what an actor has experienced. What an actor does next depends on nothing else.
    pub(crate) fn note(&self, actor: usize, event: impl Hash) {
        let mut scheduler = self.lock();
        let gate = scheduler.gate.as_mut().expect("the store is gated");
        let history = gate.histories.entry(actor).or_default();
        let mut hasher = DefaultHasher::new();
        (*history, event).hash(&mut hasher);
        *history = hasher.finish();
    }

    /// Returns a hash of the store, of what its actors have experienced, and of the calls that may still take effect.
    pub(crate) fn fingerprint(&self) -> u64 {
        let scheduler = self.lock();
        let mut hasher = DefaultHasher::new();
        scheduler.state.hash(&mut hasher);
        let mut late: Vec<CallId> = scheduler.late.iter().map(|(id, _)| *id).collect();
        late.sort_unstable();
        late.hash(&mut hasher);
        scheduler.gate.iter().for_each(|gate| gate.histories.hash(&mut hasher));
        hasher.finish()
    }

    /// Returns a hash of what the store contains.
    pub(crate) fn contents(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.lock().state.hash(&mut hasher);
        hasher.finish()
    }

    /// Creates a multipart upload of a resumable upload. Returns its ID.
    pub(crate) fn create(&self, name: &ObjectName, origin: Uuid) -> String {
        let (id, parts) = (format!("of {origin}"), BTreeMap::new());
        let upload = Unfinished { name: name.clone(), may_be_planned: false, origin: Some(origin), parts };
        self.lock().state.uploads.insert(id.clone(), upload);
        id
    }

    /// Returns the calls that wait, in the order in which they were made, with the number of their actor.
    pub(crate) fn waiting(&self) -> Vec<(usize, &'static str, bool)> {
        let scheduler = self.lock();
        let waiting = scheduler.gate.iter().flat_map(|gate| &gate.waiting);
        waiting.map(|(id, waiting)| (id.0, waiting.call, waiting.touched.changed != 0)).collect()
    }

    /// Decides on the call at this position of [`Shared::waiting`].
    pub(crate) fn answer(&self, at: usize, fate: Fate) {
        let mut scheduler = self.lock();
        let gate = scheduler.gate.as_mut().expect("the store is gated");
        let id = *gate.waiting.keys().nth(at).expect("the call waits");
        let waiting = gate.waiting.remove(&id).expect("the call waits");
        let _ = waiting.answer.send(fate);
    }

    /// Kills an actor: none of its calls is answered any more. Those that were sent may take effect later.
    pub(crate) fn kill(&self, actor: usize) {
        let mut scheduler = self.lock();
        let gate = scheduler.gate.as_mut().expect("the store is gated");
        gate.dead.insert(actor);
        gate.waiting.retain(|id, _| id.0 != actor);
    }

    /// Returns how many calls may still take effect after their callers have given up.
    pub(crate) fn late(&self) -> usize {
        self.lock().late.len()
    }

    /// Applies the effect of one of these calls.
    pub(crate) fn land(&self, at: usize) {
        let mut scheduler = self.lock();
        let (_, effect) = scheduler.late.remove(at);
        effect(&mut scheduler.state);
    }

    /// Returns the parts of the only multipart upload of `name`. `None` if there is none.
    pub(crate) fn parts(&self, name: &ObjectName) -> Option<BTreeMap<u32, Vec<u8>>> {
        let scheduler = self.lock();
        scheduler.state.uploads.values().find(|upload| upload.name == *name).map(|upload| upload.parts.clone())
    }

    /// Returns the keys of all objects.
    pub(crate) fn objects(&self) -> Vec<String> {
        self.lock().state.objects.keys().cloned().collect()
    }

    pub(crate) fn calls(&self) -> Calls {
        self.lock().calls
    }

    /// Makes the store keep the checksums of objects.
    pub(crate) fn keep_checksums(&self) {
        self.lock().keeps_checksums = true;
    }

    pub(crate) fn assemble_slowly(&self) {
        self.lock().slow_assembly = true;
    }

    fn is_assembled_slowly(&self, name: &ObjectName) -> bool {
        matches!(name, ObjectName::Incoming(_)) && self.lock().slow_assembly
    }

    fn lock(&self) -> MutexGuard<'_, Scheduler> {
        self.0.lock()
    }

    /// Creates a multipart upload with all its parts. Returns its ID.
    pub(crate) fn lay_parts(&self, name: &ObjectName, bytes: &[u8], origin: Option<Uuid>) -> String {
        let parts = BTreeMap::from([(1, bytes.to_vec())]);
        let upload = Unfinished { name: name.clone(), may_be_planned: false, origin, parts };
        let uploads = &mut self.lock().state.uploads;
        let id = format!("plan{}", uploads.len());
        uploads.insert(id.clone(), upload);
        id
    }

    pub(crate) fn is_waiting(&self, actor: usize) -> bool {
        self.lock().next[actor].is_some()
    }

    pub(crate) fn commute(&self, one: usize, other: usize) -> bool {
        let next = &self.lock().next;
        next[one].zip(next[other]).is_some_and(|(one, other)| one.commutes(other))
    }

    pub(crate) fn object(&self, name: &ObjectName) -> Option<Vec<u8>> {
        self.lock().state.objects.get(&name.object_key("")).map(|object| object.bytes.clone())
    }

    pub(crate) fn lay(&self, names: impl IntoIterator<Item = ObjectName>) {
        let objects = names.into_iter().map(|name| (name.object_key(""), Object::of(b"an object")));
        self.lock().state.objects.extend(objects);
    }

    /// Writes or replaces the image of an upload.
    pub(crate) fn lay_image(&self, name: &ObjectName, bytes: &[u8], origin: Uuid) {
        let object = Object { origin: Some(origin), ..Object::of(bytes) };
        self.lock().state.objects.insert(name.object_key(""), object);
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().state.objects.len()
    }

    pub(crate) fn open_uploads(&self, name: &ObjectName) -> usize {
        self.lock().state.uploads.values().filter(|upload| upload.name == *name).count()
    }

    pub(crate) fn was_overwritten(&self) -> bool {
        self.lock().state.overwritten
    }

    /// May apply the effect of a call whose caller has given up.
    pub(crate) fn land_late(&self, random: &mut Random) {
        let mut scheduler = self.lock();
        if !scheduler.late.is_empty() && random.one_in(4) {
            let (_, effect) = scheduler.late.remove(0);
            effect(&mut scheduler.state);
        }
    }
}

impl State {
    fn write(&mut self, name: &ObjectName, object: Object, only_new: bool) -> Result<()> {
        let key = name.object_key("");
        if only_new && self.objects.contains_key(&key) {
            return Err(StoreError::Precondition);
        }
        self.overwritten |= matches!(name, ObjectName::Image(_)) && self.objects.contains_key(&key);
        self.objects.insert(key, object);
        Ok(())
    }

    fn get(&self, name: &ObjectName) -> Result<Object> {
        self.objects.get(&name.object_key("")).cloned().ok_or(StoreError::NotFound)
    }

    fn get_if(&self, name: &ObjectName, etag: &str) -> Result<Object> {
        self.get(name).and_then(|object| if object.etag() == etag { Ok(object) } else { Err(StoreError::Precondition) })
    }

    fn upload(&mut self, upload: &Upload) -> Result<&mut Unfinished> {
        self.uploads.get_mut(&upload.id).ok_or(StoreError::NoSuchUpload)
    }

    /// Returns the object that the parts make up.
    fn assembled(&mut self, upload: &Upload, parts: &[Part], whole: ObjectDigest) -> Result<Object> {
        let Unfinished { parts: held, may_be_planned, origin, .. } = self.upload(upload)?;
        let (may_be_planned, origin) = (*may_be_planned, *origin);
        let mut bytes = Vec::new();
        for part in parts {
            let found = held.get(&part.number).ok_or_else(|| rejected("InvalidPart"))?;
            if part.etag.as_ref().is_some_and(|named| *named != etag(found)) {
                return Err(rejected("InvalidPart"));
            }
            bytes.extend_from_slice(found);
        }
        if bytes.len() as u64 != whole.size {
            return Err(rejected("InvalidPart"));
        }
        if whole.crc64.is_some_and(|sent| sent != crate::crc64::checksum(&bytes)) {
            return Err(rejected("BadDigest"));
        }
        Ok(Object { bytes, may_be_planned, origin, ..Object::default() })
    }
}

pub(crate) fn etag(part: &[u8]) -> String {
    format!("\"{:016x}\"", crate::crc64::checksum(part))
}

fn rejected(code: &str) -> StoreError {
    StoreError::Rejected { operation: "test", code: code.to_owned(), source: "".into() }
}

/// The store as one actor uses it.
#[derive(Clone)]
pub(crate) struct Memory {
    shared: Shared,
    actor: usize,
}

impl Memory {
    pub(crate) fn new(shared: &Shared, actor: usize) -> Self {
        Memory { shared: shared.clone(), actor }
    }

    async fn turn(&self, touched: Touched) {
        let mut scheduled = false;
        poll_fn(|cx| {
            let scheduler = &mut *self.shared.lock();
            scheduler.next[self.actor] = (!scheduled).then_some(touched);
            if std::mem::replace(&mut scheduled, true) {
                scheduler.calls.running -= 1;
                return Poll::Ready(());
            }
            scheduler.calls.running += 1;
            scheduler.calls.most_running = scheduler.calls.most_running.max(scheduler.calls.running);
            // An actor may have several concurrent calls. Each of them must be polled when the actor is scheduled.
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    async fn read_state<T: fmt::Debug>(
        &self,
        call: &'static str,
        read: u8,
        read_from: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        if !self.shared.is_gated() {
            self.turn(Touched::reading(read)).await;
            return read_from(&mut self.shared.lock().state);
        }
        let id = self.send().await;
        let result = match self.shared.enter(id, call, Touched::reading(read)).await {
            Some(Fate::Answered) => read_from(&mut self.shared.lock().state),
            Some(_) => Err(lost()),
            None => return std::future::pending().await,
        };
        self.shared.note(self.actor, (id, format!("{result:?}")));
        result
    }

    /// Returns the ID of a new call. A process that is dead makes no calls.
    async fn send(&self) -> CallId {
        if self.shared.is_dead(self.actor) {
            return std::future::pending().await;
        }
        self.shared.draw_call(self.actor)
    }

    async fn change<T: fmt::Debug>(
        &self,
        call: &'static str,
        changed: u8,
        change: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if !self.shared.is_gated() {
            self.turn(Touched::changing(changed)).await;
            let fate = self.shared.lock().faults.draw();
            return self.shared.apply(CallId::default(), change, fate);
        }
        let id = self.send().await;
        let mut sent = Sent { shared: &self.shared, id, change: Some(change) };
        let Some(fate) = self.shared.enter(id, call, Touched::changing(changed)).await else {
            sent.give_up();
            return std::future::pending().await;
        };
        let change = sent.change.take().expect("the call was not given up");
        let result = self.shared.apply(id, change, fate);
        self.shared.note(self.actor, (id, fate, format!("{result:?}")));
        result
    }

    /// Sends the presigned PUT of a plan, which signs `If-None-Match: *`.
    pub(crate) async fn put_by_url(&self, name: &ObjectName, bytes: &[u8], origin: Option<Uuid>) -> Result<()> {
        self.turn(Touched::changing(Touched::object(name))).await;
        self.shared.lock().state.write(name, Object { origin, ..Object::of(bytes) }, true)
    }
}

fn lost() -> StoreError {
    StoreError::OutcomeUnknown { operation: "test", source: "lost".into() }
}

/// A call that changes the store and was sent. If its caller drops it, it may take effect later.
struct Sent<'a, F: FnOnce(&mut State) -> Result<T> + Send + 'static, T> {
    shared: &'a Shared,
    id: CallId,
    change: Option<F>,
}

impl<F: FnOnce(&mut State) -> Result<T> + Send + 'static, T> Sent<'_, F, T> {
    fn give_up(&mut self) {
        if let Some(change) = self.change.take() {
            self.shared.lock().late.push((self.id, Box::new(|state| drop(change(state)))));
        }
    }
}

impl<F: FnOnce(&mut State) -> Result<T> + Send + 'static, T> Drop for Sent<'_, F, T> {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[async_trait]
impl Store for Memory {
    async fn put(&self, name: &ObjectName, metadata: &Metadata, body: Payload) -> Result<Written> {
        self.shared.lock().calls.puts += 1;
        let touched = Touched::object(name);
        let Content::Memory(bytes) = body.content else { unreachable!() };
        let (name, object) = (
            name.clone(),
            Object { may_be_planned: metadata.may_be_planned, origin: metadata.origin, ..Object::of(&bytes) },
        );
        self.change("put", touched, move |state| state.write(&name, object, true).map(|()| Written::Now)).await
    }

    async fn create_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<Upload> {
        let touched = Touched::uploads(name);
        let (name, may_be_planned, origin) = (name.clone(), metadata.may_be_planned, metadata.origin);
        self.change("create_upload", touched, move |state| {
            state.serial += 1;
            let id = format!("u{}", state.serial);
            let parts = BTreeMap::new();
            let upload = Unfinished { name: name.clone(), may_be_planned, origin, parts };
            state.uploads.insert(id.clone(), upload);
            Ok(Upload { name, id })
        })
        .await
    }

    async fn upload_part(&self, upload: &Upload, number: u32, body: Payload) -> Result<Part> {
        let touched = Touched::uploads(&upload.name);
        let Content::Memory(bytes) = body.content else { unreachable!() };
        let (upload, size, crc64) = (upload.clone(), body.len, body.crc64);
        self.change("upload_part", touched, move |state| {
            state.upload(&upload)?.parts.insert(number, bytes.to_vec());
            Ok(Part { number, size, etag: Some(etag(&bytes)), crc64: Some(crc64) })
        })
        .await
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part], whole: ObjectDigest) -> Result<Written> {
        let touched = Touched::uploads(&upload.name) | Touched::object(&upload.name);
        let (upload, parts) = (upload.clone(), parts.to_vec());
        let begun = match self.shared.is_assembled_slowly(&upload.name) {
            true => {
                let begin = |state: &mut State| state.assembled(&upload, &parts, whole);
                Some(self.read_state("complete_upload", touched, begin).await?)
            }
            false => None,
        };
        self.change("complete_upload", touched, move |state| {
            // A Complete that has begun takes effect despite an Abort. If there are two, the first one ends the upload.
            let object = match begun {
                Some(_) if state.completed.contains(&upload.id) => return Err(StoreError::NoSuchUpload),
                Some(object) => object,
                None => state.assembled(&upload, &parts, whole)?,
            };
            state.write(&upload.name, object, true)?;
            state.uploads.remove(&upload.id);
            state.completed.insert(upload.id);
            Ok(Written::Now)
        })
        .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let touched = Touched::uploads(&upload.name);
        let id = upload.id.clone();
        self.change("abort_upload", touched, move |state| {
            state.uploads.remove(&id);
            Ok(())
        })
        .await
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        let lists_checksums = self.shared.lists_checksums();
        self.read_state("list_parts", Touched::uploads(&upload.name), |state| {
            let parts = state.upload(upload)?.parts.iter();
            let part = |(number, bytes): (&u32, &Vec<u8>)| Part {
                number: *number,
                size: bytes.len() as u64,
                etag: Some(etag(bytes)),
                crc64: lists_checksums.then(|| crate::crc64::checksum(bytes)),
            };
            Ok(parts.map(part).collect())
        })
        .await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectInfo> {
        self.shared.lock().calls.heads += 1;
        let keeps_checksums = self.shared.lock().keeps_checksums;
        self.read_state("head", Touched::object(name), |state| {
            let object = state.get(name)?;
            Ok(ObjectInfo {
                size: object.bytes.len() as u64,
                etag: Some(object.etag()),
                content_type: None,
                dimensions: None,
                crc64: keeps_checksums.then(|| crate::crc64::checksum(&object.bytes)),
                noted_crc64: None,
                sha256: None,
                last_modified: None,
                custom: CustomMetadata::new(),
                may_be_planned: object.may_be_planned,
                origin: object.origin,
                marker: object.marker,
            })
        })
        .await
    }

    async fn images_of(&self, _: Uuid) -> Result<Vec<ImageKey>> {
        unreachable!("the tests fix whole keys only")
    }

    fn honours_if_none_match(&self) -> bool {
        true
    }

    async fn read(&self, name: &ObjectName, range: Range<u64>, etag: &str) -> Result<Bytes> {
        self.read_state("read", Touched::object(name), |state| {
            let bytes = state.get_if(name, etag)?.bytes;
            let end = bytes.len().min(usize::try_from(range.end).unwrap_or(usize::MAX));
            Ok(Bytes::copy_from_slice(&bytes[(range.start as usize).min(end)..end]))
        })
        .await
    }

    async fn stream(&self, name: &ObjectName, etag: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        let bytes = self.read(name, 0..u64::MAX, etag).await?;
        Ok(futures::stream::iter([Ok(bytes)]).boxed())
    }

    /// Reads the source when the call begins, and creates the part when it ends.
    async fn copy_part(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo) -> Result<Part> {
        let touched = Touched::uploads(&upload.name);
        let etag = source.etag.clone().unwrap();
        let bytes =
            self.read_state("copy_part", Touched::object(from), |state| Ok(state.get_if(from, &etag)?.bytes)).await?;
        let (upload, size) = (upload.clone(), bytes.len() as u64);
        self.change("copy_part", touched, move |state| {
            state.upload(&upload)?.parts.insert(1, bytes);
            Ok(Part { number: 1, size, etag: None, crc64: None })
        })
        .await
    }

    async fn list_kept(&self, key: &ImageKey, id: Uuid) -> Result<Vec<Kept>> {
        let prefix = kept_prefix("", key, id);
        self.read_state("list_kept", 16, |state| {
            Ok(state.objects.keys().filter_map(|name| Kept::parse(name.strip_prefix(&prefix)?)).collect())
        })
        .await
    }

    async fn put_kept(&self, name: &ObjectName, body: Payload, crc64_before: Option<u64>) -> Result<()> {
        let touched = Touched::object(name);
        let Content::Memory(bytes) = body.content else { unreachable!() };
        let (name, object) = (name.clone(), Object { bytes: bytes.to_vec(), crc64_before, ..Object::default() });
        self.change("put_kept", touched, move |state| state.write(&name, object, false)).await
    }

    async fn read_kept(&self, name: &ObjectName) -> Result<KeptBytes> {
        let read = |state: &mut State| state.get(name).map(|Object { bytes, crc64_before, .. }| (bytes, crc64_before));
        let (bytes, crc64_before) = self.read_state("read_kept", Touched::object(name), read).await?;
        let crc64 = Some(crate::crc64::checksum(&bytes));
        Ok(KeptBytes { crc64, crc64_before, bytes: futures::stream::iter([Ok(Bytes::from(bytes))]).boxed() })
    }

    async fn uploads_of(&self, name: &ObjectName) -> Result<Vec<Upload>> {
        self.read_state("uploads_of", Touched::uploads(name), |state| {
            let ours = state.uploads.iter().filter(|(_, upload)| upload.name == *name);
            Ok(ours.map(|(id, upload)| Upload { name: upload.name.clone(), id: id.clone() }).collect())
        })
        .await
    }

    async fn put_marker(&self, name: &ObjectName, marker: &Marker, replaces: Option<&str>) -> Result<()> {
        let touched = Touched::object(name);
        let (name, replaces) = (name.clone(), replaces.map(str::to_owned));
        let object = Object { marker: Some(marker.clone()), ..Object::default() };
        self.change("put_marker", touched, move |state| {
            if let Some(etag) = replaces {
                state.get_if(&name, &etag)?;
            }
            state.write(&name, object, false)
        })
        .await
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        let touched = Touched::object(name);
        let key = name.object_key("");
        self.change("delete", touched, move |state| {
            state.objects.remove(&key);
            Ok(())
        })
        .await
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn unfinished_uploads(&self) -> Result<Vec<Leftover>> {
        unreachable!()
    }

    async fn unverified_objects(&self) -> Result<Vec<Leftover>> {
        unreachable!()
    }

    async fn remove_leftover(&self, _: &Leftover) -> Result<()> {
        unreachable!()
    }

    async fn presign_get(&self, _: &ObjectName, _: &PresignOptions) -> Result<Presigned> {
        unreachable!()
    }

    async fn presign_put(&self, _: &ObjectName, _: &PutConditions, _: &PresignOptions) -> Result<Presigned> {
        unreachable!()
    }

    async fn presign_part(&self, _: &Upload, _: u32, _: Option<u64>, _: &PresignOptions) -> Result<Presigned> {
        unreachable!()
    }
}
