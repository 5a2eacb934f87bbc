//! Choosing a plan's door. A multipart upload begins here, and ends here too where its client never hears of it.

use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::plan::{Door, Draft, Plan, part_size};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::{Metadata, Name, Store, Upload};
use crate::telemetry::trace;

/// A plan that nobody has been told of. Dropped before [`Begun::told`], its upload is aborted.
pub struct Begun {
    pub plan: Plan,
    unheard: Unheard,
}

impl Begun {
    /// The client has the plan: from now on its upload is the client's business, and then the sweep's.
    pub fn told(mut self) {
        self.unheard.upload = None;
    }
}

/// Turns a draft into a plan, by its size.
///
/// `tasks` is waited for when the process ends.
pub async fn begin(store: &Arc<dyn Store>, tasks: &TaskTracker, config: &Config, draft: Draft) -> Result<Begun> {
    let put_max = config.direct.put_max;
    let Draft { key, size, format, sha256 } = draft;
    let mut unheard =
        Unheard { store: Arc::clone(store), tasks: tasks.clone(), runtime: Handle::current(), upload: None };
    if size <= put_max {
        return Ok(Begun { plan: Plan { key, size, format, door: Door::Put { sha256 } }, unheard });
    }
    if sha256.is_some() {
        return Err(Error::InvalidRequest(format!(
            "sha256 can be checked up to {put_max} bytes only: S3 has it for a single PUT and not for parts"
        )));
    }
    let metadata = Metadata { content_type: format.content_type().to_owned(), dimensions: None };
    let name = Name::Incoming(key.clone());
    let (begun, receiver) = oneshot::channel();
    // On a task of its own: this future is dropped when its client goes, and an upload whose id nobody heard could not be
    // aborted. Where nobody takes what is sent, it is dropped, and that aborts it.
    tasks.spawn(trace::carried(async move {
        let created = unheard.store.create_upload(&name, &metadata).await;
        let _ = begun.send(created.map(|upload| {
            unheard.upload = Some(upload.clone());
            (upload.id, unheard)
        }));
    }));
    let created = receiver.await.map_err(|gone| Error::Internal(gone.into()))?;
    let (upload_id, unheard) = created.map_err(Error::Storage)?;
    let part_size = part_size(size, config.sink.part_size as u64);
    Ok(Begun { plan: Plan { key, size, format, door: Door::Multipart { upload_id, part_size } }, unheard })
}

/// Aborts an upload when it is dropped.
struct Unheard {
    store: Arc<dyn Store>,
    tasks: TaskTracker,
    runtime: Handle,
    upload: Option<Upload>,
}

impl Drop for Unheard {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let store = Arc::clone(&self.store);
        let abort = async move {
            if let Err(error) = store.abort_upload(&upload).await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(s3_key = %upload.name.key(), error, "a plan nobody has was not aborted; sweep does it");
            }
        };
        self.tasks.spawn_on(trace::carried(abort), &self.runtime);
    }
}
