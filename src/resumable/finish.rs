//! Makes the image from the parts of an upload, or removes the upload.

use super::transfer::joined;
use super::{FinishedImage, ResumableUpload, Service, empty, interrupted};
use crate::error::{Error, Result};
use crate::store::{Kept, ObjectDigest, ObjectInfo, Part, StoreError, Upload, Written};
use crate::upload::Stored;
use crate::upload::fixed::check_same;
use crate::upload::undo::{abort, retry};

impl Service {
    /// Completes the upload. Whatever the store answers, a look at the final key decides: some stores answer 200 to both
    /// Complete and Abort, and others lose the answer.
    pub(super) async fn complete(
        &self,
        upload: &ResumableUpload,
        target: &Upload,
        mut parts: Vec<Part>,
        mut whole: ObjectDigest,
    ) -> Result<FinishedImage> {
        if !are_all(&parts, upload.part_size, whole.size) {
            parts = self.list_all(upload, target, whole.size).await?;
        }
        let place = self.uploads.turns().join(&upload.key);
        let _turn = match upload.is_fixed_key && !self.store.honours_if_none_match() {
            true => Some(place.turn(true).await),
            false => None,
        };
        if upload.is_fixed_key
            && let Some(found) = self.store.find(&upload.image()).await.map_err(interrupted)?
        {
            return self.judge(upload, target, found, whole, false).await;
        }
        let mut completed = self.store.complete_upload(target, &parts, whole).await;
        if completed.as_ref().is_err_and(is_other_part) {
            // A request in another process has sent a part again meanwhile.
            parts = self.list_all(upload, target, whole.size).await?;
            whole.crc64 = joined(parts.iter(), whole.size);
            completed = self.store.complete_upload(target, &parts, whole).await;
        }
        let found = self.store.find(&upload.image()).await;
        match (found, completed) {
            (Ok(Some(found)), completed) => {
                self.judge(upload, target, found, whole, matches!(completed, Ok(Written::Now))).await
            }
            (Ok(None), Err(StoreError::NoSuchUpload)) => Err(Error::UploadGone),
            (Ok(None), Err(error)) | (Err(error), _) => Err(Error::OutcomeUnknown(error.into())),
            (Ok(None), Ok(_)) => Err(Error::OutcomeUnknown("there is no image after Complete".into())),
        }
    }

    /// Decides what the image that exists means for the upload. `is_new` says whether this request has created it.
    async fn judge(
        &self,
        upload: &ResumableUpload,
        target: &Upload,
        object: ObjectInfo,
        whole: ObjectDigest,
        is_new: bool,
    ) -> Result<FinishedImage> {
        let is_ours = object.origin == Some(upload.id);
        if !is_ours {
            let compared = self.compare(upload, &object, whole).await;
            // As long as it is not known whether they are the same, another request can find it out.
            if matches!(compared, Ok(()) | Err(Error::AlreadyExists)) {
                abort(self.store.as_ref(), target).await;
            }
            compared?;
        }
        let (key, crc64) = (upload.key.clone(), whole.crc64.or(object.known_crc64()));
        Ok(FinishedImage { key, object, info: None, crc64, is_new: is_ours && is_new })
    }

    /// Checks that another upload's image consists of the same bytes as this upload. This is recorded, because it cannot be
    /// checked any more after the upload has ended.
    ///
    /// # Errors
    /// Returns [`Error::AlreadyExists`] if it does not, or if the checksum of this upload is not known.
    async fn compare(&self, upload: &ResumableUpload, image: &ObjectInfo, whole: ObjectDigest) -> Result<()> {
        let sent = Stored { size: whole.size, crc64: whole.crc64.ok_or(Error::AlreadyExists)? };
        check_same(self.store.as_ref(), &upload.image(), image, sent).await?;
        let same = upload.kept(Kept::same_as(image.etag.as_deref()));
        self.store.put_kept(&same, empty(), None).await.map_err(interrupted)
    }

    /// Ends an upload whose whole file was stored under a key that was fixed beforehand. Another upload may have created the
    /// image.
    pub(super) async fn conclude(&self, upload: &ResumableUpload, whole: ObjectDigest) -> Result<()> {
        match self.store.find(&upload.image()).await.map_err(interrupted)? {
            Some(image) if image.origin != Some(upload.id) => self.compare(upload, &image, whole).await,
            _ => Ok(()),
        }
    }

    /// Returns the parts of a file of `size` bytes.
    ///
    /// # Errors
    /// Returns [`Error::UploadInterrupted`] if the store does not list all of them.
    async fn list_all(&self, upload: &ResumableUpload, target: &Upload, size: u64) -> Result<Vec<Part>> {
        let mut parts = match self.store.list_parts(target).await {
            Ok(parts) => parts,
            Err(error) => return Err(interrupted(error)),
        };
        parts.retain(|part| u64::from(part.number) <= size.div_ceil(upload.part_size));
        if are_all(&parts, upload.part_size, size) {
            return Ok(parts);
        }
        Err(interrupted(StoreError::IntegrityMismatch("the store does not list all parts that it has taken".into())))
    }

    /// Cancels the upload. After its Abort no image can appear, so that a look at the final key is final.
    pub(super) async fn cancel(&self, upload: &ResumableUpload) -> Result<()> {
        if let Some(multipart) = upload.multipart() {
            retry(|| self.store.abort_upload(&multipart)).await.map_err(interrupted)?;
        }
        match self.find_image(upload).await {
            Ok(Some(_)) => Err(Error::AlreadyComplete),
            Ok(None) | Err(Error::AlreadyExists) => {
                self.remove_all(upload).await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes an upload that its client does not know or that was refused. What fails is left to the sweep.
    pub(super) async fn discard(&self, upload: &ResumableUpload) {
        if let Some(multipart) = upload.multipart() {
            abort(self.store.as_ref(), &multipart).await;
        }
        self.remove_all(upload).await;
    }

    /// Removes an image that no client knows, because the answer to the request that created it was never sent.
    pub(super) async fn discard_image(&self, upload: &ResumableUpload) {
        let name = upload.image();
        let found = self.store.find(&name).await;
        let is_ours = found.is_ok_and(|image| image.is_some_and(|image| image.origin == Some(upload.id)));
        if is_ours && let Err(error) = retry(|| self.store.delete(&name)).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(s3_key = %upload.key, error, "an image that was not acknowledged could not be deleted");
        }
    }

    async fn remove_all(&self, upload: &ResumableUpload) {
        match self.store.list_kept(&upload.key, upload.id).await {
            Ok(kept) => self.remove(upload, kept.iter()).await,
            Err(error) => log_left(upload, &error),
        }
    }

    /// Removes what is not needed any more. What fails is left to the sweep.
    pub(super) async fn remove(&self, upload: &ResumableUpload, kept: impl Iterator<Item = &Kept>) {
        for kept in kept {
            if let Err(error) = self.store.delete(&upload.kept(*kept)).await {
                log_left(upload, &error);
            }
        }
    }
}

fn log_left(upload: &ResumableUpload, error: &StoreError) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(s3_key = %upload.key, error, "the rest of a resumable upload was not removed; sweep removes it");
}

/// Whether these are exactly the parts of a file of `size` bytes, in order.
pub(super) fn are_all(parts: &[Part], part_size: u64, size: u64) -> bool {
    let whole: u64 = parts.iter().map(|part| part.size).sum();
    let is_exact = |(number, part): (u32, &Part)| {
        let before = u64::from(number - 1) * part_size;
        part.number == number && part.size == size.saturating_sub(before).min(part_size) && part.size > 0
    };
    whole == size && (1..).zip(parts).all(is_exact)
}

/// Whether Complete has failed because a part is another than the one that was named.
fn is_other_part(error: &StoreError) -> bool {
    matches!(error, StoreError::Rejected { code, .. } if code == "InvalidPart" || code == "BadDigest")
}
