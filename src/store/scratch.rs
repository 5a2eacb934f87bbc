//! What a trial of the store has made, or may have made, so that it can be removed.
//!
//! Its objects have random keys like the service's own. What a kill leaves of them under `incoming/`, and unfinished uploads
//! of any key, are removed by the sweep.

use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::s3::is_outcome_unknown;
use super::{ImageKey, Metadata, ObjectName, Result, Store, StoreError, Upload};

/// Names are noted before anything is sent, because a call that fails may have had its effect.
#[derive(Debug, Default)]
pub struct Scratch(Mutex<Made>);

#[derive(Debug, Default)]
struct Made {
    names: Vec<ObjectName>,
    uploads: Vec<Upload>,
    /// Names for which uploads may have been created whose ids never came.
    doubtful: Vec<ObjectName>,
}

impl Scratch {
    fn made(&self) -> MutexGuard<'_, Made> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, place: fn(ImageKey) -> ObjectName) -> ObjectName {
        let name = place(ImageKey::random("png"));
        self.made().names.push(name.clone());
        name
    }

    pub fn image(&self) -> ObjectName {
        self.name(ObjectName::Image)
    }

    pub fn incoming(&self) -> ObjectName {
        self.name(ObjectName::Incoming)
    }

    /// A multipart upload for a name from here.
    pub async fn upload(&self, store: &dyn Store, name: &ObjectName, metadata: &Metadata) -> Result<Upload> {
        self.made().doubtful.push(name.clone());
        let created = store.create_only_upload(name, metadata).await;
        let mut made = self.made();
        let is_doubtful = match &created {
            Ok(created) => {
                made.uploads.push(created.upload.clone());
                created.perhaps_others
            }
            Err(error) => is_outcome_unknown(error),
        };
        if !is_doubtful {
            made.doubtful.retain(|doubtful| doubtful != name);
        }
        created.map(|created| created.upload)
    }

    /// Removes everything, and says what of it may still be there, by its key in the bucket.
    pub async fn clear(&self, store: &dyn Store, prefix: &str) -> BTreeMap<String, StoreError> {
        let Made { names, uploads, doubtful } = std::mem::take(&mut *self.made());
        let (names, uploads, doubtful) = (&names, &uploads, &doubtful);
        let mut left = BTreeMap::new();
        // Aborted first: an upload may not become an object once that was deleted.
        left.extend(failed(uploads, prefix, |upload| &upload.name, |upload| store.abort_upload(upload)).await);
        left.extend(failed(names, prefix, |name| name, |name| remove(store, name)).await);
        let unknown = failed(doubtful, prefix, |name| name, |name| abort_all(store, name)).await;
        left.extend(unknown.into_iter().map(|(key, error)| (format!("{key} as an unfinished upload"), error)));
        left
    }
}

/// Does `work` for all at once, so that a store that hangs does so only once.
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

/// What may not be deleted need not be there.
async fn remove(store: &dyn Store, name: &ObjectName) -> Result<()> {
    let Err(error) = store.delete(name).await else { return Ok(()) };
    match store.head(name).await {
        Err(StoreError::NotFound) => Ok(()),
        _ => Err(error),
    }
}

/// Aborts uploads whose ids never came.
async fn abort_all(store: &dyn Store, name: &ObjectName) -> Result<()> {
    for upload in store.uploads_of(name).await? {
        store.abort_upload(&upload).await?;
    }
    Ok(())
}
