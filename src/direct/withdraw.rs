//! Ends direct uploads: withdraws what is under `incoming/`, and deletes and aborts images' uploads. `promote` says which rules
//! keep that consistent with promotions that are running.

use futures::future::try_join_all;

use super::layout::{DirectUpload, UploadInParts};
use super::verify::Verifier;
use crate::error::{Error, Result};
use crate::store::{ImageKey, Marker, ObjectName};

impl Verifier {
    /// Removes everything that could still become this image: replaces the object under `incoming/` with a marker, then
    /// aborts all running promotions.
    async fn withdraw(&self, key: &ImageKey) -> Result<()> {
        let (incoming, image) = (ObjectName::Incoming(key.clone()), ObjectName::Image(key.clone()));
        self.store.put_marker(&incoming, &Marker::Withdrawn, None).await.map_err(Error::from)?;
        let uploads = self.store.uploads_of(&image).await.map_err(Error::from)?;
        let aborts = uploads.iter().map(|upload| self.store.abort_upload(upload));
        try_join_all(aborts).await.map(drop).map_err(Error::from)
    }

    /// Deletes an image permanently. No direct upload that was planned before can create it again.
    ///
    /// A plan is known by what it has left under `incoming/`. Under a key that was fixed by a grant, the image itself says
    /// that there may be plans that have not left anything yet.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if there is no image.
    pub async fn delete(&self, key: &ImageKey) -> Result<()> {
        let image = ObjectName::Image(key.clone());
        let mut found = self.store.find(&image).await?;
        let may_be_planned = found.as_ref().is_some_and(|found| found.may_be_planned);
        if may_be_planned || self.store.find(&ObjectName::Incoming(key.clone())).await?.is_some() {
            self.withdraw(key).await?;
            if found.is_none() {
                found = self.store.find(&image).await?;
            }
        }
        if found.is_none() {
            return Err(Error::NotFound);
        }
        self.store.delete(&image).await.map_err(Error::from)
    }

    /// Removes an upload that is not an image yet. Never deletes an image.
    ///
    /// # Errors
    /// Returns [`Error::AlreadyComplete`] if the image exists.
    pub async fn abort(&self, upload: &DirectUpload) -> Result<()> {
        let is_complete = self.store.find(&upload.image()).await?.is_some();
        // Before the marker is written, so that the upload's object cannot replace it. If another attempt under a fixed
        // key has made the image, this upload still exists.
        if let Some(UploadInParts { upload, .. }) = &upload.parts {
            self.store.abort_upload(upload).await.map_err(Error::from)?;
        }
        if is_complete {
            return Err(Error::AlreadyComplete);
        }
        self.withdraw(&upload.key).await?;
        // A promotion may have been faster.
        match self.store.find(&upload.image()).await? {
            Some(_) => Err(Error::AlreadyComplete),
            None => Ok(()),
        }
    }
}

/// Returns the error for an upload that has ended, as its marker says.
pub fn over(marker: &Marker) -> Error {
    let reason = match marker {
        Marker::Spent(_) => "The image of this upload was deleted".to_owned(),
        Marker::Withdrawn => return withdrawn(),
        Marker::Rejected(code) => format!("The upload was rejected ({code})"),
    };
    Error::UploadOver { reason }
}

pub(super) fn withdrawn() -> Error {
    Error::UploadOver { reason: "The upload was aborted, or its image was deleted".to_owned() }
}
