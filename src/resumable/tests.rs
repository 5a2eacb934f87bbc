//! Runs the real code over an in-memory store, with every call of which the driver decides: requests overlap in two processes,
//! processes die between any two calls, answers are lost, and calls take effect later.
//!
//! [`World`] is one run: the store, two processes, a client and its requests. After every step [`World::check`] checks what
//! must hold at every moment, and [`World::read_answers`] what a client may conclude from an answer. At the end
//! [`World::recover`] finishes the upload in a third process. [`explore`] takes every step in every order, and skips states that
//! it has seen: what a process does depends only on what it has experienced, of which the store keeps a hash. [`random`] draws
//! longer runs.

use futures::stream;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::*;
use crate::config;
use crate::format::Format;
use crate::store::tests::memory::{Fate, Memory, Random, Shared};
use crate::store::{Kept, ObjectName};

mod explore;
mod offsets;
mod random;
mod single;

/// Bytes of a part.
const PART: u64 = 48;
/// Requests begin and end at multiples of this. A part has six of them.
const UNIT: u64 = PART / 6;
/// Time after which a request has made its next call, unless it waits for another one: a request waits for a free buffer
/// for a moment before it takes a third one.
const PAUSE: Duration = Duration::from_millis(25);
/// Time after which a request has looked again.
const LONG_PAUSE: Duration = Duration::from_secs(2);
/// Number of processes. The last one finishes uploads at the end of a run.
const PROCESSES: usize = 5;
const FRESH: usize = PROCESSES - 1;

/// The file of a run: a PNG with a header, of this many units. Three are enough for a header.
fn file(units: u64) -> Vec<u8> {
    let header = &include_bytes!("../../tests/fixtures/plain.png")[..33];
    let rest = (header.len() as u64..units * UNIT).map(|at| (at % 251) as u8);
    header.iter().copied().chain(rest).take((units * UNIT) as usize).collect()
}

/// A request of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    Head,
    /// Sends these units of the file.
    Patch {
        from: u64,
        to: u64,
        how: How,
    },
    Delete,
}

/// What a PATCH says, and how its body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct How {
    /// Whether it says the length of the file.
    says_length: bool,
    /// Whether it says that the file ends with the body.
    completes: bool,
    /// Whether the body breaks off.
    breaks: bool,
}

const PLAIN: How = How { says_length: false, completes: false, breaks: false };
const BROKEN: How = How { breaks: true, ..PLAIN };
const WITH_LENGTH: How = How { says_length: true, ..PLAIN };
const LAST: How = How { completes: true, ..PLAIN };

/// A request and the process that receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Request {
    process: usize,
    call: Call,
}

/// A request that was sent.
struct Running {
    request: Request,
    /// What was acknowledged before.
    acknowledged: u64,
    /// Whether the client waits for the answer.
    is_current: bool,
    answer: Arc<Mutex<Option<Answer>>>,
    is_read: bool,
    abort: AbortHandle,
}

type Answer = std::result::Result<Option<Progress>, Error>;

/// A step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Send(Request),
    /// Decides on the call at this position.
    Answer(usize, Fate),
    /// Applies a call whose caller has given up.
    Land(usize),
    Kill(usize),
    /// The client goes, and the process notices it.
    Leave(usize),
    /// The client does not wait for the answer any more, and the process does not notice it.
    Ignore(usize),
}

/// What a client knows about its upload.
#[derive(Clone, Default, Debug, Hash)]
struct Client {
    /// The greatest offset that was acknowledged.
    acknowledged: u64,
    /// The offset from the last answer. `None` after a request without an answer.
    known: Option<u64>,
    /// Whether the service knows the length of the file.
    is_length_known: bool,
    is_done: bool,
    has_asked_to_delete: bool,
    is_deleted: bool,
}

/// Faults that the explorer may still use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    kills: usize,
    lost: usize,
    /// Requests that the client may give up.
    leaves: usize,
}

const NO_FAULTS: Budget = Budget { kills: 0, lost: 0, leaves: 0 };

struct World {
    shared: Shared,
    processes: Vec<ResumableUploads>,
    upload: ResumableUpload,
    file: Vec<u8>,
    requests: Vec<Running>,
    client: Client,
    budget: Budget,
    dead: HashSet<usize>,
    steps: Vec<Step>,
    // Dropped last: the requests run on it.
    runtime: Runtime,
}

fn process(shared: &Shared, id: usize) -> ResumableUploads {
    let config = config::Upload {
        part_size: PART as usize,
        part_concurrency: 4,
        memory_budget: 64 << 20,
        spill_budget: 0,
        spill_dir: std::path::PathBuf::new(),
        spill_files: 0,
        spill_chosen: false,
        patience: None,
    };
    let policy = Policy {
        formats: vec![Format::Png],
        key_format: None,
        max_upload_size: 1 << 20,
        max_pixels: 1 << 28,
        header_scan_limit: 1 << 20,
    };
    let store: Arc<dyn Store> = Arc::new(Memory::new(shared, id));
    let uploads = UploadManager::new(Arc::clone(&store), &config, None);
    ResumableUploads::new(store, uploads, Arc::new(policy), PART as usize)
}

impl World {
    /// An upload of a file of so many units, of which the service knows the length from the beginning unless it is `deferred`.
    fn new(units: u64, deferred: bool, budget: Budget) -> World {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let shared = Shared::gated(PROCESSES);
        let processes = {
            let _entered = runtime.enter();
            (0..PROCESSES).map(|id| process(&shared, id)).collect()
        };
        let key = ImageKey::parse("0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png").unwrap();
        let id = Uuid::from_u128(7);
        let upload_id = Some(shared.create(&ObjectName::Image(key.clone()), id));
        let length = (!deferred).then_some(units * UNIT);
        let (part_size, max_size, is_fixed_key, tus_metadata) = (PART, 1 << 20, false, None);
        let upload = ResumableUpload { key, id, upload_id, length, part_size, max_size, is_fixed_key, tus_metadata };
        let client = Client { known: Some(0), is_length_known: !deferred, ..Client::default() };
        let (requests, dead, steps, file) = (Vec::new(), HashSet::new(), Vec::new(), file(units));
        World { shared, processes, upload, file, requests, client, budget, dead, steps, runtime }
    }

    fn take(&mut self, step: Step) {
        self.steps.push(step);
        match step {
            Step::Send(request) => self.send(request),
            Step::Answer(at, fate) => {
                self.budget.lost -= usize::from(fate != Fate::Answered);
                self.shared.answer(at, fate);
            }
            Step::Land(at) => self.shared.land(at),
            Step::Kill(process) => {
                self.budget.kills -= 1;
                self.dead.insert(process);
                self.shared.kill(process);
                self.shared.note(process, "killed");
                for at in self.unfinished() {
                    if self.requests[at].request.process == process {
                        self.ignore(at);
                    }
                }
            }
            Step::Leave(at) => {
                self.budget.leaves -= 1;
                self.requests[at].abort.abort();
                self.shared.note(self.requests[at].request.process, ("left", at));
                self.ignore(at);
            }
            Step::Ignore(at) => {
                self.budget.leaves -= 1;
                self.ignore(at);
            }
        }
        self.pause();
        if self.is_idle() {
            self.pause_long();
        }
        self.read_answers();
        self.check();
    }

    /// Lets all processes go on until each waits for a call.
    fn pause(&self) {
        self.runtime.block_on(async { tokio::time::sleep(PAUSE).await });
    }

    fn send(&mut self, request: Request) {
        let answer = Arc::new(Mutex::new(None));
        let (uploads, upload) = (self.processes[request.process].clone(), self.upload.clone());
        let length = self.file.len() as u64;
        let (result, file) = (Arc::clone(&answer), self.file.clone());
        let work = async move {
            let done = match request.call {
                Call::Head => uploads.status(&upload).await.map(Some),
                Call::Patch { from, to, how } => {
                    let append = Append {
                        offset: from * UNIT,
                        length: how.says_length.then_some(length),
                        content_length: None,
                        completes: how.completes,
                    };
                    let bytes = Bytes::from(file).slice((from * UNIT) as usize..(to * UNIT) as usize);
                    let chunks: Vec<Bytes> = bytes.chunks(UNIT as usize).map(Bytes::copy_from_slice).collect();
                    let end = how.breaks.then(|| Err(Error::TruncatedBody(None)));
                    let body = stream::iter(chunks.into_iter().map(Ok).chain(end));
                    uploads.append(&upload, append, body).await.map(Some)
                }
                Call::Delete => uploads.delete(&upload).await.map(|()| None),
            };
            *result.lock() = Some(done);
        };
        self.shared.note(request.process, request);
        self.client.has_asked_to_delete |= request.call == Call::Delete;
        let acknowledged = self.client.acknowledged;
        let abort = self.runtime.spawn(work).abort_handle();
        self.requests.push(Running { request, acknowledged, is_current: true, answer, is_read: false, abort });
    }

    /// The client does not wait for this answer any more.
    fn ignore(&mut self, at: usize) {
        let request = &mut self.requests[at];
        request.is_read = true;
        if std::mem::take(&mut request.is_current) {
            self.client.known = None;
        }
    }

    /// Returns the requests whose answers the client waits for.
    fn unfinished(&self) -> Vec<usize> {
        (0..self.requests.len()).filter(|at| !self.requests[*at].is_read).collect()
    }

    fn image(&self) -> Option<Vec<u8>> {
        self.shared.object(&self.upload.image())
    }

    /// Returns the tails in the store.
    fn tails(&self) -> Vec<(u64, u64)> {
        let prefix = format!("incoming/{}.{}.", self.upload.key, self.upload.id);
        let kept = self.shared.objects().into_iter().filter_map(|name| Kept::parse(name.strip_prefix(&prefix)?));
        kept.filter_map(|kept| if let Kept::Tail { base, len } = kept { Some((base, len)) } else { None }).collect()
    }

    /// Returns how many bytes are in the store, from the first one on.
    fn stored(&self) -> u64 {
        if self.image().is_some() {
            return self.file.len() as u64;
        }
        let Some(parts) = self.shared.parts(&self.upload.image()) else { return 0 };
        let full = (1..).take_while(|number| parts.get(number).is_some_and(|part| part.len() as u64 == PART));
        let parts = full.count() as u64 * PART;
        self.tails().into_iter().map(|(base, len)| base + len).fold(parts, u64::max)
    }

    /// Checks what must hold at every moment.
    fn check(&self) {
        let image = self.image();
        assert!(image.as_ref().is_none_or(|image| *image == self.file), "another image: {:?}", self.steps);
        assert!(!self.shared.was_overwritten(), "an image was overwritten: {:?}", self.steps);
        assert!(!self.client.is_deleted || image.is_none(), "an image after a delete: {:?}", self.steps);
        let Some(parts) = self.shared.parts(&self.upload.image()) else { return };
        for (number, part) in &parts {
            let from = ((u64::from(*number) - 1) * PART) as usize;
            assert_eq!(self.file[from..from + part.len()], part[..], "part {number}: {:?}", self.steps);
        }
        for (base, len) in self.tails() {
            let tail = self.shared.object(&self.upload.kept(Kept::Tail { base, len })).unwrap();
            assert_eq!(self.file[base as usize..(base + len) as usize], tail[..], "a tail: {:?}", self.steps);
            let all = (1..=base / PART)
                .all(|number| parts.get(&(number as u32)).is_some_and(|part| part.len() as u64 == PART));
            assert!(all, "a hole before the tail {base}.{len}: {:?}", self.steps);
        }
    }

    /// Reads the answers that have arrived, and checks what the client may conclude from them.
    fn read_answers(&mut self) {
        for at in self.unfinished() {
            let Some(answer) = self.requests[at].answer.lock().take() else { continue };
            self.requests[at].is_read = true;
            if std::mem::take(&mut self.requests[at].is_current) {
                self.conclude(at, answer);
            }
        }
    }

    fn conclude(&mut self, at: usize, answer: Answer) {
        let (steps, length) = (&self.steps, self.file.len() as u64);
        let (request, acknowledged) = (self.requests[at].request, self.requests[at].acknowledged);
        let is_honest = !self.client.has_asked_to_delete;
        let is_head = request.call == Call::Head;
        let (offset, known_length, is_complete) = match answer {
            Ok(Some(Progress::Unfinished { offset, length })) => (offset, length, false),
            Ok(Some(Progress::Complete(image))) => {
                assert_eq!(image.object.size, length, "{steps:?}");
                let crc64 = parts_crc64(&self.file);
                assert!(image.crc64.is_none_or(|known| known == crc64), "{steps:?}");
                (length, Some(length), true)
            }
            Ok(None) => {
                self.client.is_deleted = true;
                self.client.known = None;
                return;
            }
            Err(error) => {
                let is_gone = matches!(error, Error::UploadGone);
                assert!(!(is_gone && is_honest), "the upload is gone: {steps:?}");
                let is_complete = matches!(error, Error::AlreadyComplete);
                assert!(!is_complete || self.image().is_some(), "there is no image: {steps:?}");
                let taken = matches!(error, Error::AlreadyExists | Error::InvalidFileType { .. } | Error::Internal(_));
                assert!(!taken, "{error:?}: {steps:?}");
                self.client.known = None;
                return;
            }
        };
        let stored = self.stored();
        assert!(!is_honest || offset <= stored, "{offset} acknowledged, {stored} stored: {steps:?}");
        assert!(!is_honest || !is_head || offset >= acknowledged, "{offset} after {acknowledged}: {steps:?}");
        // A client of tus takes the offset for success, if it has said the length.
        let says_length = matches!(request.call, Call::Patch { how: How { says_length: true, .. }, .. });
        let client = &mut self.client;
        client.is_length_known = known_length.is_some() || says_length || (client.is_length_known && !is_head);
        let is_done = is_complete || (client.is_length_known && offset == length);
        assert!(!is_done || self.image().is_some(), "the client thinks that it is done: {steps:?}");
        self.client.is_done |= is_done;
        self.client.known = Some(offset);
        self.client.acknowledged = self.client.acknowledged.max(offset);
    }

    /// Finishes the upload in another process without faults, as an honest client would. What other processes still have to do
    /// waits.
    fn recover(&mut self) {
        for _ in 0..4 {
            let Some(offset) = self.ask(Call::Head) else { continue };
            if offset == self.file.len() as u64 && (self.image().is_some() || self.client.is_length_known) {
                break;
            }
            let how = How { says_length: !self.client.is_length_known, ..PLAIN };
            self.ask(Call::Patch { from: offset / UNIT, to: self.file.len() as u64 / UNIT, how });
        }
        assert_eq!(self.image().as_deref(), Some(&self.file[..]), "the upload cannot be finished: {:?}", self.steps);
        let upload = self.shared.open_uploads(&self.upload.image());
        assert_eq!(upload, 0, "a multipart upload is left: {:?}", self.steps);
    }

    /// Sends a request to the fresh process, and answers its calls until it has ended. Returns the offset.
    fn ask(&mut self, call: Call) -> Option<u64> {
        self.take(Step::Send(Request { process: FRESH, call }));
        let at = self.requests.len() - 1;
        for _ in 0..1_000 {
            if self.requests[at].is_read {
                return self.client.known;
            }
            match self.shared.waiting().iter().position(|(process, ..)| *process == FRESH) {
                Some(call) => self.take(Step::Answer(call, Fate::Answered)),
                None => {
                    self.pause_long();
                    self.read_answers();
                }
            }
        }
        panic!("a request does not end: {:?}", self.steps);
    }

    /// Lets time pass, for a request that looks again later.
    fn pause_long(&self) {
        self.runtime.block_on(async { tokio::time::sleep(LONG_PAUSE).await });
    }

    /// Whether no process has a call to wait for.
    fn is_idle(&self) -> bool {
        self.shared.waiting().is_empty()
    }

    /// Answers every call of every process until there are no more.
    fn answer_all(&mut self) {
        while !self.is_idle() {
            self.take(Step::Answer(0, Fate::Answered));
        }
    }

    /// Runs `work`, and answers every call until it has ended.
    fn run<T: Send + 'static>(&mut self, work: impl Future<Output = T> + Send + 'static) -> T {
        let mut work = self.runtime.spawn(work);
        for _ in 0..1_000 {
            self.pause();
            if work.is_finished() {
                return self.runtime.block_on(&mut work).unwrap();
            }
            match self.is_idle() {
                true => self.pause_long(),
                false => self.shared.answer(0, Fate::Answered),
            }
        }
        panic!("the work does not end");
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.shared.fingerprint().hash(&mut hasher);
        (&self.client, self.budget).hash(&mut hasher);
        for request in &self.requests {
            (request.request, request.is_current, request.is_read, request.answer.lock().is_some()).hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn parts_crc64(bytes: &[u8]) -> u64 {
    payload(Bytes::copy_from_slice(bytes)).crc64
}
