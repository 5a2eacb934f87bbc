//! From what a client put under `incoming/` to an image: look, sniff, copy.
//!
//! The steps may run twice at once, in two processes, beside a delete or another PUT. What holds them together is the one
//! condition every store knows: CopySourceIfMatch. The ETag is taken before the bytes are looked at, so the bytes that are
//! copied are the bytes that were checked; where they changed in between, the steps start over.

use super::plan::{Door, Plan, compare};
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::ingest::sniff;
use crate::policy::Policy;
use crate::store::{ImageKey, Name, ObjectInfo, Store, StoreError, Whole};

/// How often the steps are begun before the client is told that somebody else keeps changing the object.
const TRIES: u32 = 3;
/// What is read of an object first; nearly every image shows its dimensions in it.
const HEAD: u64 = 64 << 10;

/// What becomes of an object that is not an allowed image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The client that put it there is told now.
    Delete,
    /// Its client has yet to ask; nobody can read it, and the lifecycle rule takes it.
    Leave,
}

/// What is known of an upload besides its key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Bytes.
    pub size: Option<u64>,
    pub sha256: Option<[u8; 32]>,
}

/// Completes a plan: assembles its parts where it has any, then promotes the object.
///
/// # Errors
/// 404 where nothing has arrived, 409 `parts_missing`, 400 where it is not an allowed image (which is deleted).
pub async fn complete(store: &dyn Store, policy: &Policy, plan: &Plan) -> Result<ObjectInfo> {
    if let Some(done) = find(store, &plan.image()).await? {
        return Ok(done);
    }
    assemble(store, plan).await?;
    let sha256 = match plan.door {
        Door::Put { sha256 } => sha256,
        Door::Multipart { .. } => None,
    };
    promote(store, policy, &plan.key, Expected { size: Some(plan.size), sha256 }, Refused::Delete).await
}

/// Makes the parts of a multipart plan one object. An upload that is gone is no error: another complete may have been
/// faster, and what is there now is looked at next.
async fn assemble(store: &dyn Store, plan: &Plan) -> Result<()> {
    let Some((upload, part_size)) = plan.upload() else { return Ok(()) };
    let parts = match store.list_parts(&upload).await {
        Ok(parts) => parts,
        Err(StoreError::NoSuchUpload) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let found = compare(&parts, plan.size, part_size);
    if !found.missing.is_empty() {
        return Err(Error::PartsMissing { parts: found.missing });
    }
    if !found.unexpected.is_empty() {
        return Err(Error::PartsUnexpected { parts: found.unexpected });
    }
    match store.complete_upload(&upload, &parts, Whole { size: plan.size, crc64: None }).await {
        Ok(()) | Err(StoreError::NoSuchUpload) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Checks what lies under `incoming/` and makes it an image. Idempotent; safe beside itself.
///
/// # Errors
/// 404 where nothing is there, 400 where it is not an allowed image or not what was expected, 409 `changed_meanwhile`.
pub async fn promote(
    store: &dyn Store,
    policy: &Policy,
    key: &ImageKey,
    expected: Expected,
    refused: Refused,
) -> Result<ObjectInfo> {
    let image = Name::Image(key.clone());
    for _ in 0..TRIES {
        if let Some(done) = find(store, &image).await? {
            return Ok(done);
        }
        let Some(checked) = check(store, policy, key, expected, refused).await? else { continue };
        if copy(store, key, &checked).await? {
            return finish(store, key).await;
        }
    }
    Err(Error::ChangedMeanwhile)
}

async fn find(store: &dyn Store, name: &Name) -> Result<Option<ObjectInfo>> {
    match store.head(name).await {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An object that was looked at, in the version it was looked at.
struct Checked {
    info: ImageInfo,
    etag: String,
}

/// None where it changed, or went, while it was looked at.
async fn check(
    store: &dyn Store,
    policy: &Policy,
    key: &ImageKey,
    expected: Expected,
    refused: Refused,
) -> Result<Option<Checked>> {
    let incoming = Name::Incoming(key.clone());
    let Some(found) = find(store, &incoming).await? else {
        // Another complete may have moved it since the image was looked for.
        return if find(store, &Name::Image(key.clone())).await?.is_some() { Ok(None) } else { Err(Error::NotFound) };
    };
    as_expected(&found, expected)?;
    let etag = found.etag.clone().ok_or_else(|| Error::Internal("the store gave no ETag".into()))?;
    let verdict = match look(store, policy, &incoming, &found, &etag).await {
        Err(Error::Storage(StoreError::Precondition | StoreError::NotFound)) => return Ok(None),
        verdict => verdict,
    };
    if let Err(error) = &verdict
        && error.status().is_client_error()
        && refused == Refused::Delete
    {
        // Not conditional: stores that ignore the condition would delete as well. Nobody can read it either way.
        store.delete(&incoming).await?;
    }
    Ok(Some(Checked { info: verdict?, etag }))
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

/// Reads as much of the beginning as the sniff needs, by the limits of every door.
async fn look(store: &dyn Store, policy: &Policy, name: &Name, found: &ObjectInfo, etag: &str) -> Result<ImageInfo> {
    policy.check_size(found.size)?;
    let limit = found.size.min(policy.header_scan_limit as u64);
    for end in [HEAD.min(limit), limit] {
        let head = store.read(name, 0..end, etag).await.map_err(Error::Storage)?;
        if let Some(info) = sniff::check(&head, end == found.size, policy)? {
            return Ok(info);
        }
    }
    Err(Error::InvalidFileType { detected: None })
}

/// False where the source changed or the image is there already.
async fn copy(store: &dyn Store, key: &ImageKey, checked: &Checked) -> Result<bool> {
    let (from, to) = (Name::Incoming(key.clone()), Name::Image(key.clone()));
    match store.copy(&from, &to, &checked.etag, &checked.info.into()).await {
        Ok(()) => Ok(true),
        // Whether a lost answer copied is seen when the image is looked for again.
        Err(StoreError::Precondition | StoreError::NotFound | StoreError::NoAnswer { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn finish(store: &dyn Store, key: &ImageKey) -> Result<ObjectInfo> {
    let done = store.head(&Name::Image(key.clone())).await?;
    if let Err(error) = store.delete(&Name::Incoming(key.clone())).await {
        // The image is there; the copy under incoming/ is swept.
        tracing::warn!(s3_key = %key, error = &error as &dyn std::error::Error, "a verified upload's source is left");
    }
    Ok(done)
}
