//! Verifies that an object that a client uploaded under `incoming/` is an allowed image and matches its plan.
//!
//! The ETag is read before the bytes, and it is the condition of every read. So all reads are of the same content.
//! [`super::promote`] then creates the image.

use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::Semaphore;

use super::digests::Digests;
use super::plan::Expected;
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::ingest::sniff::Search;
use crate::policy::Policy;
use crate::store::reconcile::Reconciler;
use crate::store::{Marker, ObjectInfo, ObjectName, Store, StoreError};
use crate::tasks::Tasks;
use crate::upload::budget::Budget;
use crate::upload::turns::Turns;

/// Number of objects that are sniffed concurrently. Memory of each one beyond [`Search::HEAD`] is charged to the
/// budget.
const MAX_CONCURRENT_SNIFFS: usize = 16;

/// Whether a request is waiting for the result. If none is, a rejected object is kept, unreadable, for the next
/// request. Otherwise the client would receive a 404 instead of the reason.
pub type HasWaiters<'a> = &'a (dyn Fn() -> bool + Sync);

/// Creates images from the objects that clients upload under `incoming/`. Cheap to clone. The clones share one limit of
/// concurrent reads.
#[derive(Clone)]
pub struct Verifier {
    pub(super) store: Arc<dyn Store>,
    pub(super) reconciler: Reconciler,
    pub(super) tasks: Tasks,
    pub(super) budget: Arc<Budget>,
    pub(super) turns: Turns,
    pub(super) sniffs: Arc<Semaphore>,
    pub(super) digests: Digests,
    policy: Arc<Policy>,
}

/// A verified object with the information from its header.
pub(super) struct Checked {
    pub(super) source: ObjectInfo,
    pub(super) info: ImageInfo,
}

impl Verifier {
    /// The process waits for `tasks` before it exits.
    pub fn new(
        store: Arc<dyn Store>,
        reconciler: Reconciler,
        policy: Arc<Policy>,
        budget: Arc<Budget>,
        tasks: Tasks,
        turns: Turns,
    ) -> Self {
        let sniffs = Arc::new(Semaphore::new(MAX_CONCURRENT_SNIFFS));
        Verifier { store, reconciler, tasks, budget, turns, sniffs, digests: Digests::default(), policy }
    }

    /// Verifies `source`, the answer to a HEAD of `incoming`. Returns `None` if the object was changed or removed
    /// meanwhile.
    ///
    /// A rejected object is replaced with a marker, so that the same URL cannot be used again.
    pub(super) async fn check(
        &self,
        incoming: &ObjectName,
        source: ObjectInfo,
        expected: Expected,
        has_waiters: HasWaiters<'_>,
    ) -> Result<Option<Checked>> {
        let etag = source.etag.clone().ok_or_else(|| Error::Internal("the store returned no ETag".into()))?;
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

    /// Replaces an object with a marker if it still has `etag`. A failure of the store does not change the result. The
    /// object then remains, unreadable, until it is verified again or removed by a sweep.
    pub(super) async fn close(&self, incoming: &ObjectName, marker: &Marker, etag: &str) {
        match self.store.put_marker(incoming, marker, Some(etag)).await {
            Ok(()) | Err(StoreError::Precondition | StoreError::NotFound) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(s3_key = %incoming.key(), error, "a direct upload was not removed; sweep removes it");
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
        if let Some(limit) = expected.max_size.filter(|limit| source.size > *limit) {
            return Err(Error::PayloadTooLarge { limit });
        }
        // Acquired before any memory and held until the end, so that a waiting verification holds no memory.
        let _turn = self.sniffs.acquire().await;
        if let Some(sha256) = expected.sha256
            && self.sha256(incoming, source, etag).await? != sha256
        {
            return Err(not_as_planned("SHA-256"));
        }
        self.sniff(incoming, source, etag).await
    }

    /// Returns the SHA-256 that the store reports. Otherwise computes it by reading the object, which has at most
    /// `DIRECT_PUT_MAX` bytes.
    pub(super) async fn sha256(&self, name: &ObjectName, source: &ObjectInfo, etag: &str) -> Result<[u8; 32]> {
        if let Some(sha256) = source.sha256 {
            return Ok(sha256);
        }
        let mut bytes = self.store.stream(name, etag).await.map_err(Error::from)?;
        let (mut digest, mut read) = (Sha256::new(), 0);
        while let Some(chunk) = bytes.try_next().await.map_err(Error::from)? {
            read += chunk.len() as u64;
            digest.update(&chunk);
        }
        if read == source.size { Ok(digest.finalize().into()) } else { Err(StoreError::Precondition.into()) }
    }

    /// Reads until the dimensions are found, within the same limits as other uploads.
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
            // A store may check the range before the condition. Then a shorter object has replaced this one.
            if (bytes.len() as u64) < range.end - range.start {
                return Err(StoreError::Precondition.into());
            }
            if let Some(info) = search.add(bytes)? {
                return Ok(info);
            }
        }
    }
}

/// The error for an object that differs from its plan. Not all stores check everything that a presigned URL signs.
fn not_as_planned(what: &str) -> Error {
    Error::InvalidRequest(format!("The {what} of the upload differs from the plan; create a new plan (POST /uploads)"))
}
