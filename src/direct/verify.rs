//! From what a client put under `incoming/` to an image, or to nothing.
//!
//! The steps may run twice at once, in two processes, beside a delete or another PUT. What holds them together is the one
//! condition every store knows: CopySourceIfMatch. The ETag is taken before the bytes are looked at, so the bytes that are
//! copied are the bytes that were checked; where they changed in between, the steps start over.
//!
//! Whoever finds the image there clears `incoming/` before saying so: an image that its client deletes later must not come
//! back by a second promotion of the same bytes.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

use super::plan::{Plan, compare};
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::ingest::sniff;
use crate::policy::Policy;
use crate::store::{ImageKey, Name, ObjectInfo, Store, StoreError, Whole};

/// How often the steps are begun before the client is told that somebody else keeps changing the object.
const TRIES: u32 = 3;
/// Before the second try; it doubles. Another promotion of the same object may be what is in the way.
const PAUSE: Duration = Duration::from_millis(50);
/// What is read of an object first; nearly every image shows its dimensions in it.
const HEAD: u64 = 64 << 10;
/// Beginnings of objects that are in memory at once, beside the budget: each has up to `HEADER_SCAN_LIMIT` bytes.
const LOOKS: usize = 16;

/// Whether somebody waits for the verdict. An object that is refused unheard stays, unreadable, for who asks next: else
/// its client would find nothing instead of the reason.
pub type Heard<'a> = &'a (dyn Fn() -> bool + Sync);

/// What is known of an upload besides its key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Bytes.
    pub size: Option<u64>,
    pub sha256: Option<[u8; 32]>,
}

/// An image that was promoted, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub image: ObjectInfo,
    /// By this very call.
    pub new: bool,
}

/// Makes images of what clients put under `incoming/`. Cheap to clone; the clones share their turns at looking.
#[derive(Clone)]
pub struct Verifier {
    store: Arc<dyn Store>,
    policy: Arc<Policy>,
    looks: Arc<Semaphore>,
}

impl Verifier {
    pub fn new(store: Arc<dyn Store>, policy: Arc<Policy>) -> Self {
        Verifier { store, policy, looks: Arc::new(Semaphore::new(LOOKS)) }
    }

    /// Completes a plan: assembles its parts where it has any, then promotes the object.
    ///
    /// # Errors
    /// 404 where nothing has arrived, 409 `parts_missing`, 400 where it is not an allowed image (which is deleted).
    pub async fn complete(&self, plan: &Plan, heard: Heard<'_>) -> Result<Verified> {
        let expected = plan.expected();
        if plan.upload().is_some() {
            if let Some(image) = self.made(&plan.key, expected).await? {
                return Ok(image);
            }
            if let Err(error) = self.assemble(plan).await {
                // Another complete may have made the image meanwhile, also by what this one has no answer to.
                return self.made(&plan.key, expected).await.ok().flatten().ok_or(error);
            }
        }
        self.promote(&plan.key, expected, heard).await
    }

    /// Makes the parts of a multipart plan one object. An upload that is gone is no error: another complete may have been
    /// faster, and what is there now is looked at next.
    async fn assemble(&self, plan: &Plan) -> Result<()> {
        let Some((upload, part_size)) = plan.upload() else { return Ok(()) };
        for _ in 0..TRIES {
            let parts = match self.store.list_parts(&upload).await {
                Ok(parts) => parts,
                Err(StoreError::NoSuchUpload) => return Ok(()),
                Err(error) => return Err(Error::Storage(error)),
            };
            let found = compare(&parts, plan.size, part_size);
            if !found.missing.is_empty() {
                return Err(Error::PartsMissing { parts: found.missing });
            }
            if !found.unexpected.is_empty() {
                return Err(Error::PartsUnexpected { parts: found.unexpected });
            }
            match self.store.complete_upload(&upload, &parts, Whole { size: plan.size, crc64: None }).await {
                Ok(()) | Err(StoreError::NoSuchUpload) => return Ok(()),
                // A part was sent again after it was listed.
                Err(StoreError::Refused { code, .. }) if code == "InvalidPart" => {}
                Err(error) => return Err(Error::Storage(error)),
            }
        }
        Err(Error::ChangedMeanwhile)
    }

    /// Checks what lies under `incoming/` and makes it an image. Idempotent; safe beside itself.
    ///
    /// # Errors
    /// 404 where nothing is there, 400 where it is not an allowed image or not what was expected, 409 `changed_meanwhile`.
    pub async fn promote(&self, key: &ImageKey, expected: Expected, heard: Heard<'_>) -> Result<Verified> {
        for turn in 0..TRIES {
            if turn > 0 {
                tokio::time::sleep(PAUSE * (1 << turn)).await;
            }
            if let Some(image) = self.made(key, expected).await? {
                return Ok(image);
            }
            let Some(checked) = self.check(key, expected, heard).await? else { continue };
            match self.copy(key, &checked).await {
                Ok(()) => {
                    let made = self.made(key, expected).await?.ok_or(Error::NotFound)?;
                    return Ok(Verified { new: true, ..made });
                }
                Err(StoreError::Precondition | StoreError::NotFound) => {}
                // It may have copied all the same.
                Err(error) => return self.made(key, expected).await.ok().flatten().ok_or(Error::Storage(error)),
            }
        }
        self.made(key, expected).await?.ok_or(Error::ChangedMeanwhile)
    }

    async fn find(&self, name: &Name) -> Result<Option<ObjectInfo>> {
        match self.store.head(name).await {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(Error::Storage(error)),
        }
    }

    /// The image, where somebody has made it.
    async fn made(&self, key: &ImageKey, expected: Expected) -> Result<Option<Verified>> {
        let Some(image) = self.find(&Name::Image(key.clone())).await? else { return Ok(None) };
        as_expected(&image, expected)?;
        if let Err(error) = self.store.delete(&Name::Incoming(key.clone())).await {
            // The image is there all the same; what is left is swept.
            tracing::warn!(s3_key = %key, error = &error as &dyn std::error::Error, "a verified upload's source is left");
        }
        Ok(Some(Verified { image, new: false }))
    }

    /// None where it changed, or went, while it was looked at.
    async fn check(&self, key: &ImageKey, expected: Expected, heard: Heard<'_>) -> Result<Option<Checked>> {
        let incoming = Name::Incoming(key.clone());
        let Some(found) = self.find(&incoming).await? else {
            // Another complete may have moved it since the image was looked for.
            return if self.find(&Name::Image(key.clone())).await?.is_some() { Ok(None) } else { Err(Error::NotFound) };
        };
        as_expected(&found, expected)?;
        let etag = found.etag.clone().ok_or_else(|| Error::Internal("the store gave no ETag".into()))?;
        let verdict = match self.look(&incoming, &found, &etag).await {
            Err(Error::Storage(StoreError::Precondition | StoreError::NotFound)) => return Ok(None),
            verdict => verdict,
        };
        if verdict.as_ref().is_err_and(|error| error.status().is_client_error()) && heard() {
            self.discard(&incoming, &etag).await?;
        }
        Ok(Some(Checked { info: verdict?, etag }))
    }

    /// Reads as much of the beginning as the sniff needs, by the limits of every door.
    async fn look(&self, name: &Name, found: &ObjectInfo, etag: &str) -> Result<ImageInfo> {
        self.policy.check_size(found.size)?;
        let limit = found.size.min(self.policy.header_scan_limit as u64);
        for end in [HEAD.min(limit), limit] {
            let _turn = self.looks.acquire().await;
            let head = self.store.read(name, 0..end, etag).await.map_err(Error::Storage)?;
            if let Some(info) = sniff::check(&head, end == found.size, &self.policy)? {
                return Ok(info);
            }
        }
        Err(Error::InvalidFileType { detected: None })
    }

    /// Deletes what was refused, unless it was replaced since: its client may have been told already and have sent another.
    ///
    /// Not conditional in S3's own way: stores that ignore the condition would delete as well.
    async fn discard(&self, incoming: &Name, etag: &str) -> Result<()> {
        let still = self.find(incoming).await?.and_then(|found| found.etag);
        if still.as_deref() == Some(etag) {
            self.store.delete(incoming).await.map_err(Error::Storage)?;
        }
        Ok(())
    }

    async fn copy(&self, key: &ImageKey, checked: &Checked) -> Result<(), StoreError> {
        let (from, to) = (Name::Incoming(key.clone()), Name::Image(key.clone()));
        self.store.copy(&from, &to, &checked.etag, &checked.info.into()).await
    }

    /// Leaves nothing of an upload that is not an image yet.
    ///
    /// A promotion in another process that is copying at this very moment is not stopped; its image is found by the next call.
    ///
    /// # Errors
    /// 409 `already_complete`.
    pub async fn abort(&self, plan: &Plan) -> Result<()> {
        if self.find(&plan.image()).await?.is_some() {
            return Err(Error::AlreadyComplete);
        }
        if let Some((upload, _)) = plan.upload() {
            self.store.abort_upload(&upload).await.map_err(Error::Storage)?;
        }
        self.store.delete(&plan.incoming()).await.map_err(Error::Storage)?;
        // A complete in another process may have been faster.
        match self.find(&plan.image()).await? {
            Some(_) => Err(Error::AlreadyComplete),
            None => Ok(()),
        }
    }
}

/// An object that was looked at, in the version it was looked at.
struct Checked {
    info: ImageInfo,
    etag: String,
}

/// The plan's size and digest. Not a reason to delete: the link may be altered, and the object right.
fn as_expected(found: &ObjectInfo, expected: Expected) -> Result<()> {
    let size = expected.size.is_none_or(|size| size == found.size);
    // S3 has checked the digest of a PUT that signed one; a store that does not keep it cannot be asked again.
    let sha256 = expected.sha256.zip(found.sha256).is_none_or(|(ours, theirs)| ours == theirs);
    if size && sha256 {
        return Ok(());
    }
    Err(Error::InvalidRequest("what was uploaded is not what this link's plan says".to_owned()))
}
