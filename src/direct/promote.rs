//! Promotes a verified object under `incoming/` to an image.
//!
//! Every step may run concurrently in several processes, together with a delete, an abort or another PUT (`withdraw`).
//! Three rules keep this consistent, on every store in which a multipart upload ends only once, by Complete or by Abort:
//!
//! - The copy is a multipart upload *on the final key*. It is invisible and can be aborted until it is completed.
//! - A promotion creates that upload before it copies. A withdrawal first replaces the object under `incoming/` with a
//!   [marker](crate::store::Marker) and then aborts all uploads of the final key. So a promotion is either listed and
//!   aborted, or finds the marker, or is already complete.
//! - A name under `incoming/` that was used is never empty again: a marker replaces the object. The presigned PUT
//!   signs `If-None-Match: *`, so an ETag always identifies the same content.
//!
//! A request that finds the image replaces the object under `incoming/` before it answers. No promotion ever deletes a
//! final key.

use std::time::Duration;

use super::identity::Match;
use super::layout::{DirectUpload, UploadInParts};
use super::plan::Expected;
use super::verify::{Checked, HasWaiters, Verifier};
use super::withdraw::{over, withdrawn};
use crate::error::{Error, Result};
use crate::store::limits::MIN_PART_SIZE;
use crate::store::{ImageKey, Metadata, ObjectDigest, ObjectInfo, ObjectName, Part, StoreError, Upload, Written};
use crate::upload::parts::payload;
use crate::upload::turns::create_new;
use crate::upload::undo::Creating;

/// Number of attempts before the request fails because the object keeps changing.
const ATTEMPTS: u32 = 3;
/// Delay before the second attempt. It doubles for each further one. Another promotion of the same object may be
/// running.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// An image that was promoted, by this call or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub image: ObjectInfo,
    /// Whether this call promoted it.
    pub new: bool,
}

impl Verifier {
    /// Completes an upload: joins its parts if it has any, then promotes the object.
    ///
    /// # Errors
    /// Returns a 404 error if nothing was uploaded or the upload has ended, 409 `parts_missing` if parts are missing, 409
    /// `already_exists` if the key has another image, and a 400 error if the object is not an allowed image.
    pub async fn complete(&self, upload: &DirectUpload, has_waiters: HasWaiters<'_>) -> Result<Verified> {
        match (&upload.parts, self.assemble_and_promote(upload, has_waiters).await) {
            (Some(parts), Err(error)) => Err(self.close_parts(&parts.upload, error).await),
            (_, completed) => completed,
        }
    }

    async fn assemble_and_promote(&self, upload: &DirectUpload, has_waiters: HasWaiters<'_>) -> Result<Verified> {
        let (key, mut expected) = (&upload.key, upload.expected);
        if let Some(parts) = &upload.parts {
            // If the size was not declared and the plan has no ID, only the parts tell whether an image of this key is the
            // one that was sent.
            if expected.size.is_some() || expected.origin.is_some() {
                match self.find_promoted(key, expected).await {
                    Ok(Some(image)) => return Ok(image),
                    // The parts can be compared with another upload's image after they were joined.
                    Ok(None) | Err(Error::AlreadyExists) => {}
                    Err(error) => return Err(error),
                }
            }
            match self.assemble(parts).await {
                Ok(size) => expected.size = expected.size.or(size),
                Err(error) => self.check_assembled(upload, error).await?,
            }
        }
        self.promote(key, expected, has_waiters).await
    }

    /// Checks whether the object or the image exists although `assemble` has failed with `error`.
    async fn check_assembled(&self, upload: &DirectUpload, error: Error) -> Result<()> {
        // Another complete may have created the image meanwhile. So may a call of this one whose answer was lost.
        let is_unknown = matches!(error, Error::Storage(_));
        if (upload.expected.size.is_some() || is_unknown)
            && let Ok(Some(image)) = self.store.find(&upload.image()).await
            // An object whose call was lost may still appear, and be equal to another upload's image.
            && (!is_unknown || upload.expected.compare(&image, None) == Match::Same)
        {
            return Ok(());
        }
        // SeaweedFS lists no parts of an upload whose Complete is in progress. The object already exists then.
        let is_assembled = matches!(error, Error::PartsMissing { .. })
            && self.store.find(&upload.incoming()).await.is_ok_and(|arrived| arrived.is_some());
        if is_assembled { Ok(()) } else { Err(error) }
    }

    /// Joins the parts of a multipart upload to one object, and returns its size. A missing upload is not an error,
    /// because another complete may have been faster. The caller then looks for the object, whose size is unknown.
    async fn assemble(&self, UploadInParts { upload, layout }: &UploadInParts) -> Result<Option<u64>> {
        for _ in 0..ATTEMPTS {
            let parts = match self.store.list_parts(upload).await {
                Ok(parts) => parts,
                Err(StoreError::NoSuchUpload) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let size = layout.check(&parts)?;
            match self.store.complete_upload(upload, &parts, ObjectDigest { size, crc64: None }).await {
                Ok(_) => return Ok(Some(size)),
                Err(StoreError::NoSuchUpload) => return Ok(None),
                // Another complete was faster, or there is a marker. If there is no object, another call interfered.
                Err(StoreError::Precondition) if self.store.find(&upload.name).await?.is_some() => {
                    return Ok(Some(size));
                }
                Err(StoreError::Precondition) => {}
                // A part was uploaded again after it was listed.
                Err(StoreError::Rejected { code, .. }) if code == "InvalidPart" => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::ChangedMeanwhile)
    }

    /// Aborts an upload that cannot become the image any more, because its parts are too large together or another image
    /// exists. Returns `error`.
    async fn close_parts(&self, upload: &Upload, error: Error) -> Error {
        if matches!(error, Error::PayloadTooLarge { .. } | Error::AlreadyExists)
            && let Err(failed) = self.store.abort_upload(upload).await
        {
            let error = &failed as &dyn std::error::Error;
            tracing::warn!(s3_key = %upload.name.key(), error, "an upload was not aborted; sweep removes it");
        }
        error
    }

    /// Verifies the object under `incoming/` and promotes it to an image. Idempotent and safe to call concurrently.
    ///
    /// # Errors
    /// Returns a 404 error if there is no object, a 400 error if it is not an allowed image or differs from its plan,
    /// and 409 `changed_meanwhile` if it keeps changing.
    pub async fn promote(&self, key: &ImageKey, expected: Expected, has_waiters: HasWaiters<'_>) -> Result<Verified> {
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(RETRY_DELAY * (1 << attempt)).await;
            }
            if let Some(image) = self.find_promoted(key, expected).await? {
                return Ok(image);
            }
            if let Some(promoted) = self.attempt(key, expected, has_waiters).await? {
                return Ok(promoted);
            }
        }
        self.find_promoted(key, expected).await?.ok_or(Error::ChangedMeanwhile)
    }

    /// Makes one attempt. Returns `None` if something changed meanwhile, so that another attempt is required.
    async fn attempt(
        &self,
        key: &ImageKey,
        expected: Expected,
        has_waiters: HasWaiters<'_>,
    ) -> Result<Option<Verified>> {
        let incoming = ObjectName::Incoming(key.clone());
        let source = match self.store.find(&incoming).await? {
            Some(ObjectInfo { marker: Some(marker), .. }) => return self.overtaken(key, over(&marker)).await,
            None => return self.overtaken(key, Error::NotFound).await,
            Some(source) => source,
        };
        // The object of another plan becomes the image as if an event had reported it, which is not what this plan is answered.
        let checked = match expected.is_of_another(&source) {
            true => self.check(&incoming, source, Expected::default(), &|| false).await?,
            false => self.check(&incoming, source, expected, has_waiters).await?,
        };
        match checked {
            Some(checked) => self.copy(&incoming, &ObjectName::Image(key.clone()), checked, expected).await,
            None => Ok(None),
        }
    }

    /// Returns `None` if another promotion has created the image meanwhile, because there was no object to promote.
    ///
    /// # Errors
    /// Returns `error` if there is no image.
    async fn overtaken(&self, key: &ImageKey, error: Error) -> Result<Option<Verified>> {
        match self.store.find(&ObjectName::Image(key.clone())).await? {
            Some(_) => Ok(None),
            None => Err(error),
        }
    }

    /// Copies the object with a new upload on the final key. Returns `None` if the source changed or another image of
    /// the key exists.
    async fn copy(
        &self,
        incoming: &ObjectName,
        image: &ObjectName,
        Checked { source, info }: Checked,
        expected: Expected,
    ) -> Result<Option<Verified>> {
        let metadata = Metadata { origin: source.origin, ..Metadata::verified(info, source.custom.clone()) };
        let key = image.key().clone();
        let creating = Creating::for_promotion(&self.store, &self.tasks, &self.reconciler, key, metadata);
        let (upload, undo) = creating.await?;
        let part = match self.copy_part(&upload, incoming, &source).await {
            Ok(part) => part,
            Err(error) => {
                undo.abort().await;
                return match StoreError::behind(&error) {
                    Some(StoreError::Precondition | StoreError::NotFound) => Ok(None),
                    Some(StoreError::NoSuchUpload) => self.overtaken(image.key(), withdrawn()).await,
                    _ => Err(error),
                };
            }
        };
        let whole = ObjectDigest { size: source.size, crc64: part.crc64 };
        let completed = self.create_image(&upload, part, whole).await;
        match &completed {
            Ok(_) => undo.disarm(),
            // Aborted before the image is looked for: an upload that is not complete by then never will be.
            Err(_) => undo.abort().await,
        }
        // The answer to Complete is not sufficient: some stores answer 200 to both Complete and Abort, and keep
        // nothing.
        match (self.store.find(image).await?, completed) {
            (Some(image), completed) => {
                let answer = self.answer_with(image, Some(source), incoming.key(), expected).await?;
                Ok(answer.map(|image| Verified { image, new: completed.is_ok() }))
            }
            (None, Err(StoreError::Precondition)) => Ok(None),
            (None, Ok(_) | Err(StoreError::NoSuchUpload)) => Err(withdrawn()),
            (None, Err(error)) => Err(error.into()),
        }
    }

    /// Completes the copy, in turn with uploads that this process receives: under a key that was fixed beforehand, one of
    /// them may be writing the same image.
    async fn create_image(&self, upload: &Upload, part: Part, whole: ObjectDigest) -> Result<Written, StoreError> {
        let place = self.turns.join(upload.name.key());
        let _turn = place.turn(!self.store.honours_if_none_match()).await;
        let parts = [part];
        create_new(self.store.as_ref(), &upload.name, self.store.complete_upload(upload, &parts, whole)).await
    }

    /// Copies the object as a part. If the store rejects a small source, the object is read and sent instead. Its size
    /// is charged to the budget.
    async fn copy_part(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo) -> Result<Part> {
        match self.store.copy_part(upload, from, source).await {
            Err(error) if source.size < MIN_PART_SIZE && error.is_unsupported() => {
                let etag = source.etag.as_deref().unwrap_or_default();
                let _charged = self.budget.lend(source.size).await?;
                let bytes = self.store.read(from, 0..source.size, etag).await.map_err(Error::from)?;
                self.store.upload_part(upload, 1, payload(bytes)).await.map_err(Error::from)
            }
            copied => copied.map_err(Error::from),
        }
    }

    /// Returns the image if it exists, after replacing the object under `incoming/` with a marker. Also returns `None` if that
    /// object changed meanwhile.
    async fn find_promoted(&self, key: &ImageKey, expected: Expected) -> Result<Option<Verified>> {
        let Some(image) = self.store.find(&ObjectName::Image(key.clone())).await? else { return Ok(None) };
        if expected.origin.is_none() && expected.size.is_some_and(|size| size != image.size) {
            return Err(Error::AlreadyComplete);
        }
        let arrived = self.store.find(&ObjectName::Incoming(key.clone())).await?;
        let answer = self.answer_with(image, arrived, key, expected).await?;
        Ok(answer.map(|image| Verified { image, new: false }))
    }
}
