//! Records the objects and uploads that a test of the store has created, or may have created, so that they are removed.
//!
//! The objects have random keys like those of images. If the process is killed, a sweep removes the objects under
//! `incoming/` and the unfinished uploads of any key.

use futures::future::join_all;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;

use super::s3::is_outcome_unknown;
use super::{ImageKey, Metadata, ObjectName, Result, Store, StoreError, Upload};

/// Names of test objects and uploads. A name is recorded before a request is sent, because a call that fails may have
/// had its effect.
#[derive(Debug, Default)]
pub struct Scratch(Mutex<Created>);

#[derive(Debug, Default)]
struct Created {
    names: Vec<ObjectName>,
    uploads: Vec<Upload>,
    /// Names for which an upload may exist whose id is unknown.
    doubtful: Vec<ObjectName>,
}

impl Scratch {
    fn created(&self) -> MutexGuard<'_, Created> {
        self.0.lock()
    }

    fn name(&self, kind: fn(ImageKey) -> ObjectName) -> ObjectName {
        let name = kind(ImageKey::random("png"));
        self.created().names.push(name.clone());
        name
    }

    /// Returns a new name of an image.
    pub fn image(&self) -> ObjectName {
        self.name(ObjectName::Image)
    }

    /// Returns a new name of an unverified object.
    pub fn incoming(&self) -> ObjectName {
        self.name(ObjectName::Incoming)
    }

    /// Creates a multipart upload for a name from this list.
    pub async fn upload(&self, store: &dyn Store, name: &ObjectName, metadata: &Metadata) -> Result<Upload> {
        self.created().doubtful.push(name.clone());
        let result = store.create_only_upload(name, metadata).await;
        let mut created = self.created();
        let is_doubtful = match &result {
            Ok(only) => {
                created.uploads.push(only.upload.clone());
                only.perhaps_others
            }
            Err(error) => is_outcome_unknown(error),
        };
        if !is_doubtful {
            created.doubtful.retain(|doubtful| doubtful != name);
        }
        result.map(|only| only.upload)
    }

    /// Removes everything. Returns what may remain, by its key in the bucket, with the reason.
    pub async fn clear(&self, store: &dyn Store, prefix: &str) -> BTreeMap<String, StoreError> {
        let Created { names, uploads, doubtful } = std::mem::take(&mut *self.created());
        let (names, uploads, doubtful) = (&names, &uploads, &doubtful);
        let mut left = BTreeMap::new();
        // Uploads are aborted first, because an upload must not become an object after the objects were deleted.
        left.extend(failed(uploads, prefix, |upload| &upload.name, |upload| store.abort_upload(upload)).await);
        left.extend(failed(names, prefix, |name| name, |name| remove(store, name)).await);
        let unknown = failed(doubtful, prefix, |name| name, |name| abort_all(store, name)).await;
        left.extend(unknown.into_iter().map(|(key, error)| (format!("an unfinished upload for {key}"), error)));
        left
    }
}

/// Runs `work` for all `things` concurrently, so that calls to a store that hangs time out together. Returns the
/// failures.
async fn failed<'a, T, W: Future<Output = Result<()>>>(
    things: &'a [T],
    prefix: &str,
    name: impl Fn(&T) -> &ObjectName,
    work: impl Fn(&'a T) -> W,
) -> Vec<(String, StoreError)> {
    let results = join_all(things.iter().map(work)).await;
    let errors = things.iter().zip(results).filter_map(|(thing, result)| Some((thing, result.err()?)));
    errors.map(|(thing, error)| (name(thing).object_key(prefix), error)).collect()
}

/// Deletes an object. A failure to delete does not count if the object does not exist.
async fn remove(store: &dyn Store, name: &ObjectName) -> Result<()> {
    let Err(error) = store.delete(name).await else { return Ok(()) };
    match store.head(name).await {
        Err(StoreError::NotFound) => Ok(()),
        _ => Err(error),
    }
}

/// Aborts all uploads for `name`, including those whose ids are unknown.
async fn abort_all(store: &dyn Store, name: &ObjectName) -> Result<()> {
    for upload in store.uploads_of(name).await? {
        store.abort_upload(&upload).await?;
    }
    Ok(())
}
