//! Whether what a client put under `incoming/` is an allowed image, and the one that was planned.
//!
//! The ETag is taken before the bytes are looked at, and every look has it as its condition, so what is verified is one
//! content. What becomes of it is in [`super::promote`].

use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::Semaphore;

use super::plan::Expected;
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::ingest::sniff::Search;
use crate::policy::Policy;
use crate::store::{Marker, ObjectInfo, ObjectName, Store, StoreError};
use crate::tasks::Tasks;
use crate::upload::budget::Budget;

/// Objects that are looked at at once. What one of them holds beyond [`Search::HEAD`] is charged to the budget.
const MAX_CONCURRENT_SNIFFS: usize = 16;

/// Whether a request waits for the verdict. An object that is rejected while none does stays, unreadable, for the next
/// request: else its client would get a 404 instead of the reason.
pub type HasWaiters<'a> = &'a (dyn Fn() -> bool + Sync);

/// Makes images of what clients put under `incoming/`. Cheap to clone; the clones share their turns at reading.
#[derive(Clone)]
pub struct Verifier {
    pub(super) store: Arc<dyn Store>,
    pub(super) tasks: Tasks,
    pub(super) budget: Arc<Budget>,
    policy: Arc<Policy>,
    sniffs: Arc<Semaphore>,
}

/// An object that was verified, and what its header says.
pub(super) struct Checked {
    pub(super) source: ObjectInfo,
    pub(super) info: ImageInfo,
}

impl Verifier {
    /// `tasks` is waited for when the process ends.
    pub fn new(store: Arc<dyn Store>, policy: Arc<Policy>, budget: Arc<Budget>, tasks: Tasks) -> Self {
        Verifier { store, tasks, budget, policy, sniffs: Arc::new(Semaphore::new(MAX_CONCURRENT_SNIFFS)) }
    }

    /// What the store says of an object, if it is there.
    pub async fn find(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        match self.store.head(name).await {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Verifies `source`, a HEAD of `incoming`. None if it changed, or went, meanwhile.
    ///
    /// What is rejected is closed, so that the same URL brings nothing else.
    pub(super) async fn check(
        &self,
        incoming: &ObjectName,
        source: ObjectInfo,
        expected: Expected,
        has_waiters: HasWaiters<'_>,
    ) -> Result<Option<Checked>> {
        let etag = source.etag.clone().ok_or_else(|| Error::Internal("the store gave no ETag".into()))?;
        match self.inspect(incoming, &source, &etag, expected).await {
            Ok(info) => Ok(Some(Checked { source, info })),
            Err(error) => {
                if let Some(StoreError::Precondition | StoreError::NotFound) = StoreError::behind(&error) {
                    return Ok(None);
                }
                if error.status().is_client_error() && has_waiters() {
                    self.close(incoming, &Marker::Rejected(error.code().to_owned()), &etag).await;
                }
                Err(error)
            }
        }
    }

    /// Closes an address while it holds `etag`. A store that fails does not change the verdict: then the object stays,
    /// unreadable, until it is verified again or swept.
    pub(super) async fn close(&self, incoming: &ObjectName, marker: &Marker, etag: &str) {
        match self.store.put_marker(incoming, marker, Some(etag)).await {
            Ok(()) | Err(StoreError::Precondition | StoreError::NotFound) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(s3_key = %incoming.key(), error, "what was uploaded directly is left; sweep removes it");
            }
        }
    }

    async fn inspect(
        &self,
        incoming: &ObjectName,
        source: &ObjectInfo,
        etag: &str,
        expected: Expected,
    ) -> Result<ImageInfo> {
        if expected.size.is_some_and(|size| size != source.size) {
            return Err(not_as_planned("size"));
        }
        // Taken before any memory, and kept: what waits for its turn holds nothing.
        let _turn = self.sniffs.acquire().await;
        if let Some(sha256) = expected.sha256
            && self.sha256(incoming, source, etag).await? != sha256
        {
            return Err(not_as_planned("SHA-256"));
        }
        self.sniff(incoming, source, etag).await
    }

    /// The store's own word for it, else of the object itself, which is read once: it is at most `DIRECT_PUT_MAX`.
    async fn sha256(&self, incoming: &ObjectName, source: &ObjectInfo, etag: &str) -> Result<[u8; 32]> {
        if let Some(sha256) = source.sha256 {
            return Ok(sha256);
        }
        let mut bytes = self.store.stream(incoming, etag).await.map_err(Error::from)?;
        let (mut digest, mut read) = (Sha256::new(), 0);
        while let Some(chunk) = bytes.try_next().await.map_err(Error::from)? {
            read += chunk.len() as u64;
            digest.update(&chunk);
        }
        if read == source.size { Ok(digest.finalize().into()) } else { Err(StoreError::Precondition.into()) }
    }

    /// Reads as much as it takes to see the dimensions, by the limits of every way in.
    async fn sniff(&self, incoming: &ObjectName, source: &ObjectInfo, etag: &str) -> Result<ImageInfo> {
        // The key was drawn before the bytes were seen, and its extension says what they are.
        let policy = self.policy.within(None, None, incoming.key().format());
        policy.check_size(source.size)?;
        let mut search = Search::new(source.size, &policy)?;
        let mut charged = Vec::new();
        let mut free = Search::HEAD;
        loop {
            let more = search.held().saturating_sub(free);
            free += more;
            charged.extend(self.budget.lend(more).await?);
            let range = search.wanted();
            let bytes = self.store.read(incoming, range.clone(), etag).await.map_err(Error::from)?;
            // A store may look at the range before it looks at the condition: then it was replaced by something shorter.
            if (bytes.len() as u64) < range.end - range.start {
                return Err(StoreError::Precondition.into());
            }
            if let Some(info) = search.add(bytes)? {
                return Ok(info);
            }
        }
    }
}

/// Stores differ in what of a presigned URL they check.
fn not_as_planned(what: &str) -> Error {
    Error::InvalidRequest(format!("what was uploaded is not what was planned, by its {what}: plan another upload"))
}
