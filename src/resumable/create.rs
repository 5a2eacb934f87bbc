//! Creates resumable uploads.

use tokio::runtime::Handle;
use uuid::Uuid;

use super::{ResumableUpload, ResumableUploads, interrupted};
use crate::error::{Error, Result};
use crate::format::Format;
use crate::store::{CustomMetadata, ImageKey, Metadata, StoreError};
use crate::telemetry::trace;
use crate::upload::undo::Creating;

/// An upload to create.
#[derive(Clone, Debug)]
pub struct NewUpload {
    pub key: ImageKey,
    /// The format of the key's extension.
    pub format: Format,
    /// The length of the file in bytes, if it is known.
    pub length: Option<u64>,
    /// Maximum length of the file in bytes.
    pub max_size: u64,
    /// To be kept with the image.
    pub custom: CustomMetadata,
    /// As [`ResumableUpload::tus_metadata`].
    pub tus_metadata: Option<String>,
    /// Whether the key was fixed beforehand, so that others may upload under it too.
    pub is_fixed_key: bool,
}

impl NewUpload {
    /// Returns the upload of a file that comes as a whole with the request that creates the upload, and the metadata of its
    /// image. The file is stored like every other file that comes in one request, under `key`, and must have these metadata.
    pub fn of_whole_file(self, part_size: usize) -> (ResumableUpload, Metadata) {
        let upload = self.upload(None, part_size as u64);
        let metadata = self.metadata(upload.id);
        (upload, metadata)
    }

    fn upload(&self, upload_id: Option<String>, part_size: u64) -> ResumableUpload {
        ResumableUpload {
            key: self.key.clone(),
            id: Uuid::new_v4(),
            upload_id,
            length: self.length,
            part_size,
            max_size: self.max_size,
            is_fixed_key: self.is_fixed_key,
            tus_metadata: self.tus_metadata.clone(),
        }
    }

    fn metadata(self, id: Uuid) -> Metadata {
        let unverified = Metadata::unverified(self.format.content_type(), self.custom);
        // A backend may also have planned a direct upload under a grant's key.
        Metadata { origin: Some(id), may_be_planned: self.is_fixed_key, ..unverified }
    }
}

/// An upload whose address was not yet sent to its client. If it is dropped before [`CreatedUpload::acknowledged`], it is
/// removed with everything that was stored of it.
pub struct CreatedUpload {
    uploads: ResumableUploads,
    runtime: Handle,
    upload: ResumableUpload,
    is_acknowledged: bool,
}

impl CreatedUpload {
    pub fn upload(&self) -> &ResumableUpload {
        &self.upload
    }

    /// Keeps the upload, because its address was sent.
    pub fn acknowledged(mut self) {
        self.is_acknowledged = true;
    }
}

impl Drop for CreatedUpload {
    fn drop(&mut self) {
        if self.is_acknowledged {
            return;
        }
        let (uploads, upload) = (self.uploads.clone(), self.upload.clone());
        let tasks = uploads.0.uploads.tasks().clone();
        let discard = async move {
            let _turn = uploads.0.takeovers.begin(upload.id).await;
            uploads.0.discard(&upload).await;
            if !upload.is_fixed_key {
                uploads.0.discard_image(&upload).await;
            }
        };
        tasks.spawn_on(trace::carried(discard), &self.runtime);
    }
}

pub(super) async fn create(uploads: &ResumableUploads, new: NewUpload) -> Result<CreatedUpload> {
    let service = &uploads.0;
    super::resolve::check_length(new.length, new.max_size)?;
    let (store, manager) = (&service.store, &service.uploads);
    if !manager.tasks().has_room() {
        return Err(Error::OverCapacity(None));
    }
    let mut upload = new.upload(None, service.part_size);
    if new.is_fixed_key && store.find(&upload.image()).await.map_err(interrupted)?.is_some() {
        return Err(Error::AlreadyExists);
    }
    let (name, is_fixed_key, metadata) = (upload.image(), new.is_fixed_key, new.metadata(upload.id));
    let creating = match is_fixed_key {
        true => Creating::of_fixed_name(store, manager.tasks(), name, metadata),
        false => Creating::of_random_name(store, manager.tasks(), manager.reconciler(), name, metadata),
    };
    let (created, undo) = creating.await.map_err(|error: StoreError| interrupted(error))?;
    upload.upload_id = Some(created.id);
    // From here on `CreatedUpload` removes the upload.
    undo.disarm();
    Ok(CreatedUpload { uploads: uploads.clone(), runtime: Handle::current(), upload, is_acknowledged: false })
}
