//! The state of the null S3: names, sizes and counts.

use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::connection::Request;
use super::operations::Answer;

/// The faults that are injected.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Delay of every call on objects, in milliseconds.
    pub delay_ms: u64,
    /// Every nth UploadPart and PutObject fails with 503. 0 disables this.
    pub fail_nth: u64,
    /// There is no response to UploadPart and PutObject while this is true.
    pub hang: bool,
}

#[derive(Clone, Debug)]
pub struct Object {
    pub size: u64,
    pub etag: String,
    /// Its first bytes.
    pub first: Vec<u8>,
    /// The Content-Type, the user metadata and the checksum from the request.
    pub headers: Vec<(String, String)>,
    pub since: SystemTime,
}

pub struct Upload {
    pub key: String,
    pub headers: Vec<(String, String)>,
    pub parts: BTreeMap<u32, Object>,
    pub since: SystemTime,
}

#[derive(Default)]
pub struct Contents {
    pub uploads: HashMap<String, Upload>,
    pub objects: BTreeMap<String, Object>,
    calls: BTreeMap<&'static str, u64>,
    /// Total bytes of all bodies.
    bytes: u64,
    faults: Faults,
}

#[derive(Default)]
pub struct State {
    contents: Mutex<Contents>,
    /// The number for the next upload ID or ETag.
    counter: AtomicU64,
    /// Number of UploadPart and PutObject calls so far, for [`Faults::fail_nth`].
    sent: AtomicU64,
}

impl State {
    pub fn new(faults: Faults) -> Self {
        let state = State::default();
        state.contents().faults = faults;
        state
    }

    pub fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn faults(&self) -> Faults {
        self.contents().faults
    }

    /// Counts a call that sends bytes. Returns true for every nth call.
    pub fn fails_now(&self, nth: u64) -> bool {
        let count = 1 + self.sent.fetch_add(1, Ordering::Relaxed);
        nth != 0 && count.is_multiple_of(nth)
    }

    pub fn count(&self, operation: &'static str, request: &Request) {
        let mut contents = self.contents();
        *contents.calls.entry(operation).or_default() += 1;
        contents.bytes += request.length;
    }

    /// Returns a unique number.
    pub fn next_number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Handles `/_state`, `/_config` and `/_reset`.
    pub fn control(&self, request: &Request) -> Answer {
        let mut contents = self.contents();
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/_state") => {}
            ("POST", "/_reset") => *contents = Contents { faults: contents.faults, ..Contents::default() },
            ("POST", "/_config") => match serde_json::from_slice(&request.body) {
                Ok(faults) => contents.faults = faults,
                Err(error) => return Answer::text(400, "text/plain", error.to_string()),
            },
            _ => {
                return Answer::text(
                    404,
                    "text/plain",
                    "the control paths are /_state, /_config and /_reset".to_owned(),
                );
            }
        }
        let state = json!({
            "open_uploads": contents.uploads.len(),
            "objects": contents.objects.len(),
            "bytes": contents.bytes,
            "calls": contents.calls,
            "faults": contents.faults,
        });
        Answer::text(200, "application/json", format!("{state}\n"))
    }
}
