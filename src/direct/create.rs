//! Beginning a direct upload. A multipart upload begins here, and ends here too if its client never gets the plan.

use std::sync::Arc;
use tokio::sync::oneshot;

use super::plan::{Plan, UploadMethod, ValidatedRequest, part_size};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::reconcile::Reconciler;
use crate::store::s3::is_outcome_unknown;
use crate::store::{CustomMetadata, Metadata, ObjectName, Store};
use crate::tasks::Tasks;
use crate::telemetry::trace;
use crate::upload::undo::UndoOnDrop;

/// A plan that its client does not have yet. Dropped before [`PendingPlan::acknowledged`], its upload is aborted.
pub struct PendingPlan {
    pub plan: Plan,
    upload: Option<UndoOnDrop>,
}

impl PendingPlan {
    /// The client has the plan: from now on its upload is the client's business, and then the sweep's.
    pub fn acknowledged(self) {
        self.upload.into_iter().for_each(UndoOnDrop::disarm);
    }
}

/// Turns a draft into a plan, by its size. Of a plan in parts `custom` is kept with the upload from now on.
///
/// `tasks` is waited for when the process ends.
pub async fn create(
    store: &Arc<dyn Store>,
    reconciler: &Reconciler,
    tasks: &Tasks,
    config: &Config,
    draft: ValidatedRequest,
    custom: CustomMetadata,
) -> Result<PendingPlan> {
    let put_max = config.direct.put_max;
    let ValidatedRequest { key, size, format, sha256 } = draft;
    if size <= put_max {
        return Ok(PendingPlan { plan: Plan { key, size, format, door: UploadMethod::Put { sha256 } }, upload: None });
    }
    if sha256.is_some() {
        return Err(Error::InvalidRequest(format!(
            "sha256 can be checked up to {put_max} bytes only: S3 has it for a single PUT and not for parts"
        )));
    }
    let metadata = Metadata::unverified(format.content_type(), custom);
    let name = ObjectName::Incoming(key.clone());
    let (sender, receiver) = oneshot::channel();
    let (store, reconciler, tracker) = (Arc::clone(store), reconciler.clone(), tasks.clone());
    // On a task of its own: this future is dropped when its client goes, and an upload whose id nothing knows could not be
    // aborted. If nothing receives what is sent, it is dropped, and that aborts it.
    tasks.spawn(trace::carried(async move {
        let created = reconciler.create_upload(&name, &metadata).await;
        let is_open = created.as_ref().is_err_and(is_outcome_unknown);
        let _ = sender.send(created.map(|upload| (upload.id.clone(), UndoOnDrop::new(store, tracker, upload))));
        if is_open {
            reconciler.created_none(&name).await;
        }
    }));
    let created = receiver.await.map_err(|gone| Error::Internal(gone.into()))?;
    let (upload_id, upload) = created.map_err(Error::from)?;
    let part_size = part_size(size, config.upload.part_size as u64);
    let plan = Plan { key, size, format, door: UploadMethod::Multipart { upload_id, part_size } };
    Ok(PendingPlan { plan, upload: Some(upload) })
}
