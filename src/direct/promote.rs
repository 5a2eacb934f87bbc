//! From a verified object under `incoming/` to the image, and back: promote, withdraw, delete, abort.
//!
//! Every step may run at the same time in several processes, beside a delete, an abort or another PUT. Three rules hold
//! them together, on every store that ends a multipart upload once, by Complete or by Abort:
//!
//! - The copy is a multipart upload *on the final key*. It is invisible until it is completed and can be aborted until then.
//! - A promotion begins that upload before it copies, and whoever withdraws the image first closes `incoming/` and then
//!   aborts every upload of the final key. So a promotion is either listed, or finds the address closed, or is complete.
//! - An address under `incoming/` that held something is never empty again: after the bytes a [`Marker`] lies there. The
//!   presigned PUT signs `If-None-Match: *`, so an ETag stands for one content.
//!
//! Whoever finds the image closes `incoming/` before saying so. No promotion ever deletes a final key.

use futures::future::try_join_all;
use std::time::Duration;

use super::plan::{Expected, Plan, compare};
use super::verify::{Checked, HasWaiters, Verifier};
use crate::error::{Error, Result};
use crate::store::{
    CreatedUpload, ImageKey, Marker, Metadata, ObjectDigest, ObjectInfo, ObjectName, Part, StoreError, Upload,
};
use crate::upload::parts::payload;
use crate::upload::undo::Creating;

/// How often the steps are begun before the client gets the answer that the object keeps changing.
const ATTEMPTS: u32 = 3;
/// Before the second attempt; it doubles. Another promotion of the same object may be what is in the way.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Some stores copy no smaller source as a part: S3's smallest part that is not the last.
const SMALL_SOURCE: u64 = 5 << 20;

/// An image that was promoted, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub image: ObjectInfo,
    /// By this very call.
    pub new: bool,
}

impl Verifier {
    /// Completes a plan: assembles its parts if it has any, then promotes the object.
    ///
    /// # Errors
    /// 404 if nothing has arrived or the upload is over, 409 `parts_missing`, 400 if it is not an allowed image.
    pub async fn complete(&self, plan: &Plan, has_waiters: HasWaiters<'_>) -> Result<Verified> {
        if plan.upload().is_some() {
            if let Some(image) = self.find_promoted(&plan.key, plan.expected()).await? {
                return Ok(image);
            }
            if let Err(error) = self.assemble(plan).await {
                // Another complete may have made the image meanwhile, also by what this one has no answer to.
                if let Some(image) = self.find_promoted(&plan.key, plan.expected()).await.ok().flatten() {
                    return Ok(image);
                }
                // SeaweedFS lists no parts of an upload whose Complete is being answered. Then its object is there already.
                let is_assembled = matches!(error, Error::PartsMissing { .. })
                    && self.find(&plan.incoming()).await.is_ok_and(|arrived| arrived.is_some());
                if !is_assembled {
                    return Err(error);
                }
            }
        }
        self.promote(&plan.key, plan.expected(), has_waiters).await
    }

    /// Makes the parts of a multipart plan one object. An upload that is gone is no error: another complete may have been
    /// faster, and what is there now is looked at next.
    async fn assemble(&self, plan: &Plan) -> Result<()> {
        let Some((upload, part_size)) = plan.upload() else { return Ok(()) };
        for _ in 0..ATTEMPTS {
            let parts = match self.store.list_parts(&upload).await {
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
            match self.store.complete_upload(&upload, &parts, ObjectDigest { size: plan.size, crc64: None }).await {
                Ok(_) | Err(StoreError::NoSuchUpload) => return Ok(()),
                // A part was sent again after it was listed.
                Err(StoreError::Rejected { code, .. }) if code == "InvalidPart" => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::ChangedMeanwhile)
    }

    /// Verifies what lies under `incoming/` and makes it an image. Idempotent; safe beside itself.
    ///
    /// # Errors
    /// 404 if nothing is there, 400 if it is not an allowed image or not what was planned, 409 `changed_meanwhile`.
    pub async fn promote(&self, key: &ImageKey, expected: Expected, has_waiters: HasWaiters<'_>) -> Result<Verified> {
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(RETRY_DELAY * (1 << attempt)).await;
            }
            if let Some(image) = self.find_promoted(key, expected).await? {
                return Ok(image);
            }
            if let Some(made) = self.attempt(key, expected, has_waiters).await? {
                return Ok(made);
            }
        }
        self.find_promoted(key, expected).await?.ok_or(Error::ChangedMeanwhile)
    }

    /// One pass over the steps. None if something changed meanwhile, so that they must start over.
    async fn attempt(
        &self,
        key: &ImageKey,
        expected: Expected,
        has_waiters: HasWaiters<'_>,
    ) -> Result<Option<Verified>> {
        let incoming = ObjectName::Incoming(key.clone());
        let source = match self.find(&incoming).await? {
            Some(ObjectInfo { marker: Some(marker), .. }) => return self.overtaken(key, over(&marker)).await,
            None => return self.overtaken(key, Error::NotFound).await,
            Some(source) => source,
        };
        match self.check(&incoming, source, expected, has_waiters).await? {
            Some(checked) => self.copy(&incoming, &ObjectName::Image(key.clone()), &checked).await,
            None => Ok(None),
        }
    }

    /// Nothing to promote: another promotion may have made the image since it was looked for. Else `error`.
    async fn overtaken(&self, key: &ImageKey, error: Error) -> Result<Option<Verified>> {
        match self.find(&ObjectName::Image(key.clone())).await? {
            Some(_) => Ok(None),
            None => Err(error),
        }
    }

    /// Copies by an upload of its own on the final key. None if the source changed, or if somebody else's image was in the way.
    async fn copy(&self, incoming: &ObjectName, image: &ObjectName, checked: &Checked) -> Result<Option<Verified>> {
        let metadata = Metadata::verified(checked.info, checked.source.custom.clone());
        let creating = Creating::new(&self.store, &self.tasks, image.clone(), metadata);
        let (CreatedUpload { upload, perhaps_others }, undo) = creating.await.map_err(Error::from)?;
        let part = match self.copy_part(&upload, incoming, &checked.source).await {
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
        let whole = ObjectDigest { size: checked.source.size, crc64: part.crc64 };
        let completed = self.store.complete_upload(&upload, &[part], whole).await;
        match &completed {
            Ok(_) => undo.disarm(),
            // Before the look that decides: what is not complete by then never will be.
            Err(_) => undo.abort().await,
        }
        // Whatever Complete answered: some stores answer 200 to both Complete and Abort, and keep nothing.
        match (self.find(image).await?, completed) {
            (Some(image), completed) => {
                self.close(incoming, &Marker::Spent, checked.source.etag.as_deref().unwrap_or_default()).await;
                if perhaps_others {
                    self.abort_all(&ObjectName::Image(incoming.key().clone())).await;
                }
                Ok(Some(Verified { image, new: completed.is_ok() }))
            }
            (None, Err(StoreError::Precondition)) => Ok(None),
            (None, Ok(_) | Err(StoreError::NoSuchUpload)) => Err(withdrawn()),
            (None, Err(error)) => Err(error.into()),
        }
    }

    /// Once its image is there, no upload of a final key is wanted: what another promotion still does, it does for nothing.
    async fn abort_all(&self, image: &ObjectName) {
        let uploads = self.store.uploads_of(image).await.unwrap_or_default();
        if try_join_all(uploads.iter().map(|upload| self.store.abort_upload(upload))).await.is_err() {
            tracing::warn!(s3_key = %image.key(), "an upload that a lost call has begun is left to the sweep");
        }
    }

    /// Some stores refuse to copy a small source as a part; then it is read, charged to the budget, and sent.
    async fn copy_part(&self, upload: &Upload, from: &ObjectName, source: &ObjectInfo) -> Result<Part> {
        match self.store.copy_part(upload, from, source).await {
            Err(error) if source.size < SMALL_SOURCE && error.is_unsupported() => {
                let etag = source.etag.as_deref().unwrap_or_default();
                let _charged = self.budget.lend(source.size).await?;
                let bytes = self.store.read(from, 0..source.size, etag).await.map_err(Error::from)?;
                self.store.upload_part(upload, 1, payload(bytes)).await.map_err(Error::from)
            }
            copied => copied.map_err(Error::from),
        }
    }

    /// The image, if it has been made. Closes what it was made of.
    async fn find_promoted(&self, key: &ImageKey, expected: Expected) -> Result<Option<Verified>> {
        let Some(image) = self.find(&ObjectName::Image(key.clone())).await? else { return Ok(None) };
        if expected.size.is_some_and(|size| size != image.size) {
            return Err(Error::AlreadyComplete);
        }
        let incoming = ObjectName::Incoming(key.clone());
        if let Some(ObjectInfo { marker: None, etag: Some(etag), .. }) = self.find(&incoming).await? {
            self.close(&incoming, &Marker::Spent, &etag).await;
        }
        Ok(Some(Verified { image, new: false }))
    }

    /// Leaves nothing that could still become this image: closes `incoming/`, then revokes every promotion under way.
    async fn withdraw(&self, key: &ImageKey) -> Result<()> {
        let (incoming, image) = (ObjectName::Incoming(key.clone()), ObjectName::Image(key.clone()));
        self.store.put_marker(&incoming, &Marker::Withdrawn, None).await.map_err(Error::from)?;
        let uploads = self.store.uploads_of(&image).await.map_err(Error::from)?;
        let aborts = uploads.iter().map(|upload| self.store.abort_upload(upload));
        try_join_all(aborts).await.map(drop).map_err(Error::from)
    }

    /// Deletes an image for good: nothing that was uploaded directly brings it back.
    ///
    /// # Errors
    /// 404 if there is no image.
    pub async fn delete(&self, key: &ImageKey) -> Result<()> {
        let image = ObjectName::Image(key.clone());
        let mut found = self.find(&image).await?.is_some();
        if self.find(&ObjectName::Incoming(key.clone())).await?.is_some() {
            self.withdraw(key).await?;
            found |= self.find(&image).await?.is_some();
        }
        if !found {
            return Err(Error::NotFound);
        }
        self.store.delete(&image).await.map_err(Error::from)
    }

    /// Leaves nothing of an upload that is not an image yet, and never deletes an image.
    ///
    /// # Errors
    /// 409 `already_complete`.
    pub async fn abort(&self, plan: &Plan) -> Result<()> {
        if self.find(&plan.image()).await?.is_some() {
            return Err(Error::AlreadyComplete);
        }
        // First: it must not be assembled behind the marker.
        if let Some((upload, _)) = plan.upload() {
            self.store.abort_upload(&upload).await.map_err(Error::from)?;
        }
        self.withdraw(&plan.key).await?;
        // A promotion may have been faster.
        match self.find(&plan.image()).await? {
            Some(_) => Err(Error::AlreadyComplete),
            None => Ok(()),
        }
    }
}

/// What a closed address means to whoever asks for its image.
pub fn over(marker: &Marker) -> Error {
    let reason = match marker {
        Marker::Spent => "The image was made of this upload, and deleted since".to_owned(),
        Marker::Withdrawn => return withdrawn(),
        Marker::Rejected(code) => format!("The upload was rejected ({code})"),
    };
    Error::UploadOver { reason }
}

fn withdrawn() -> Error {
    Error::UploadOver { reason: "The upload was aborted, or its image deleted".to_owned() }
}
