//! An in-memory store in which every call waits until it is scheduled, and whose answers can be lost.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;
use uuid::Uuid;

use crate::store::{
    Content, CustomMetadata, ImageKey, Leftover, Marker, Metadata, ObjectDigest, ObjectInfo, ObjectName, Part, Payload,
    PresignOptions, Presigned, PutConditions, Result, Store, StoreError, Upload, Written,
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

/// What happens to a call that changes the store.
enum Fate {
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

#[derive(Clone, Default)]
struct Object {
    bytes: Vec<u8>,
    marker: Option<Marker>,
    may_be_planned: bool,
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

struct Unfinished {
    name: ObjectName,
    may_be_planned: bool,
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

/// What a call reads and changes, as bit sets: objects and uploads of objects, each final or under `incoming/`.
#[derive(Clone, Copy, Default)]
struct Touched {
    read: u8,
    changed: u8,
}

impl Touched {
    fn object(name: &ObjectName) -> u8 {
        if matches!(name, ObjectName::Image(_)) { 1 } else { 2 }
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

#[derive(Default)]
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
    late: Vec<Effect>,
    /// Whether a Complete under `incoming/` has two steps. If its upload is aborted between them, it still takes
    /// effect.
    slow_assembly: bool,
}

#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Scheduler>>);

impl Shared {
    pub(crate) fn new(actors: usize, faults: Faults) -> Self {
        let (state, next, calls) = (State::default(), vec![None; actors], Calls::default());
        Shared(Arc::new(Mutex::new(Scheduler { state, next, faults, calls, late: Vec::new(), slow_assembly: false })))
    }

    pub(crate) fn calls(&self) -> Calls {
        self.lock().calls
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
    pub(crate) fn lay_parts(&self, name: &ObjectName, bytes: &[u8]) -> String {
        let parts = BTreeMap::from([(1, bytes.to_vec())]);
        let upload = Unfinished { name: name.clone(), may_be_planned: false, parts };
        self.lock().state.uploads.insert("plan".to_owned(), upload);
        "plan".to_owned()
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
            let effect = scheduler.late.remove(0);
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

    fn joined(&mut self, upload: &Upload, numbers: &[u32], whole: ObjectDigest) -> Result<Vec<u8>> {
        let held = &self.upload(upload)?.parts;
        let bytes: Vec<u8> = numbers.iter().filter_map(|number| held.get(number)).flatten().copied().collect();
        if bytes.len() as u64 == whole.size {
            return Ok(bytes);
        }
        Err(StoreError::Rejected { operation: "test", code: "InvalidPart".to_owned(), source: "".into() })
    }
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

    async fn read_state<T>(&self, read: u8, read_from: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.turn(Touched::reading(read)).await;
        read_from(&mut self.shared.lock().state)
    }

    async fn change<T>(&self, changed: u8, change: impl FnOnce(&mut State) -> Result<T> + Send + 'static) -> Result<T> {
        self.turn(Touched::changing(changed)).await;
        let scheduler = &mut *self.shared.lock();
        let lost = || StoreError::OutcomeUnknown { operation: "test", source: "lost".into() };
        match scheduler.faults.draw() {
            Fate::Answered => change(&mut scheduler.state),
            Fate::Lost => {
                let _ = change(&mut scheduler.state);
                Err(lost())
            }
            Fate::Dropped => Err(lost()),
            Fate::Late => {
                scheduler.late.push(Box::new(|state| drop(change(state))));
                Err(lost())
            }
        }
    }

    /// Sends the presigned PUT of a plan, which signs `If-None-Match: *`.
    pub(crate) async fn put_by_url(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.turn(Touched::changing(Touched::object(name))).await;
        self.shared.lock().state.write(name, Object::of(bytes), true)
    }
}

#[async_trait]
impl Store for Memory {
    async fn put(&self, name: &ObjectName, metadata: &Metadata, body: Payload) -> Result<Written> {
        self.shared.lock().calls.puts += 1;
        let touched = Touched::object(name);
        let Content::Memory(bytes) = body.content else { unreachable!() };
        let (name, object) = (name.clone(), Object { may_be_planned: metadata.may_be_planned, ..Object::of(&bytes) });
        self.change(touched, move |state| state.write(&name, object, true).map(|()| Written::Now)).await
    }

    async fn create_upload(&self, name: &ObjectName, metadata: &Metadata) -> Result<Upload> {
        let touched = Touched::uploads(name);
        let (name, may_be_planned) = (name.clone(), metadata.may_be_planned);
        self.change(touched, move |state| {
            state.serial += 1;
            let id = format!("u{}", state.serial);
            state.uploads.insert(id.clone(), Unfinished { name: name.clone(), may_be_planned, parts: BTreeMap::new() });
            Ok(Upload { name, id })
        })
        .await
    }

    async fn upload_part(&self, upload: &Upload, number: u32, body: Payload) -> Result<Part> {
        let touched = Touched::uploads(&upload.name);
        let Content::Memory(bytes) = body.content else { unreachable!() };
        let (upload, size) = (upload.clone(), body.len);
        self.change(touched, move |state| {
            state.upload(&upload)?.parts.insert(number, bytes.to_vec());
            Ok(Part { number, size, etag: None, crc64: None })
        })
        .await
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part], whole: ObjectDigest) -> Result<Written> {
        let touched = Touched::uploads(&upload.name) | Touched::object(&upload.name);
        let (upload, numbers) = (upload.clone(), parts.iter().map(|part| part.number).collect::<Vec<_>>());
        let begun = match self.shared.is_assembled_slowly(&upload.name) {
            true => Some(self.read_state(touched, |state| state.joined(&upload, &numbers, whole)).await?),
            false => None,
        };
        self.change(touched, move |state| {
            // A Complete that has begun takes effect despite an Abort. If there are two, the first one ends the upload.
            let bytes = match begun {
                Some(_) if state.completed.contains(&upload.id) => return Err(StoreError::NoSuchUpload),
                Some(bytes) => bytes,
                None => state.joined(&upload, &numbers, whole)?,
            };
            let may_be_planned = state.upload(&upload).is_ok_and(|upload| upload.may_be_planned);
            state.write(&upload.name, Object { bytes, marker: None, may_be_planned }, true)?;
            state.uploads.remove(&upload.id);
            state.completed.insert(upload.id);
            Ok(Written::Now)
        })
        .await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let touched = Touched::uploads(&upload.name);
        let id = upload.id.clone();
        self.change(touched, move |state| {
            state.uploads.remove(&id);
            Ok(())
        })
        .await
    }

    async fn list_parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        self.read_state(Touched::uploads(&upload.name), |state| {
            let parts = state.upload(upload)?.parts.iter();
            let part = |(number, bytes): (&u32, &Vec<u8>)| Part {
                number: *number,
                size: bytes.len() as u64,
                etag: None,
                crc64: None,
            };
            Ok(parts.map(part).collect())
        })
        .await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectInfo> {
        self.shared.lock().calls.heads += 1;
        self.read_state(Touched::object(name), |state| {
            let object = state.get(name)?;
            Ok(ObjectInfo {
                size: object.bytes.len() as u64,
                etag: Some(object.etag()),
                content_type: None,
                dimensions: None,
                crc64: None,
                noted_crc64: None,
                sha256: None,
                last_modified: None,
                custom: CustomMetadata::new(),
                may_be_planned: object.may_be_planned,
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
        self.read_state(Touched::object(name), |state| {
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
        let bytes = self.read_state(Touched::object(from), |state| Ok(state.get_if(from, &etag)?.bytes)).await?;
        let (upload, size) = (upload.clone(), bytes.len() as u64);
        self.change(touched, move |state| {
            state.upload(&upload)?.parts.insert(1, bytes);
            Ok(Part { number: 1, size, etag: None, crc64: None })
        })
        .await
    }

    async fn uploads_of(&self, name: &ObjectName) -> Result<Vec<Upload>> {
        self.read_state(Touched::uploads(name), |state| {
            let ours = state.uploads.iter().filter(|(_, upload)| upload.name == *name);
            Ok(ours.map(|(id, upload)| Upload { name: upload.name.clone(), id: id.clone() }).collect())
        })
        .await
    }

    async fn put_marker(&self, name: &ObjectName, marker: &Marker, replaces: Option<&str>) -> Result<()> {
        let touched = Touched::object(name);
        let (name, replaces) = (name.clone(), replaces.map(str::to_owned));
        let object = Object { marker: Some(marker.clone()), ..Object::default() };
        self.change(touched, move |state| {
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
        self.change(touched, move |state| {
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
