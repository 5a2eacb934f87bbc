//! Beginning a direct upload. A multipart upload begins here, and ends here too if its client never gets the plan.

use std::sync::Arc;

use super::plan::{Plan, UploadMethod, ValidatedRequest, part_size};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::reconcile::Reconciler;
use crate::store::{Metadata, ObjectName, Store};
use crate::tasks::Tasks;
use crate::upload::undo::{Creating, UndoOnDrop};

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

/// Turns a draft into a plan, by its size.
///
/// `tasks` is waited for when the process ends.
pub async fn create(
    store: &Arc<dyn Store>,
    reconciler: &Reconciler,
    tasks: &Tasks,
    config: &Config,
    draft: ValidatedRequest,
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
    let metadata = Metadata { content_type: format.content_type().to_owned(), dimensions: None };
    if !tasks.has_room() {
        return Err(Error::OverCapacity(None));
    }
    let name = ObjectName::Incoming(key.clone());
    let creating = Creating::of_random_name(store, tasks, reconciler, name, metadata);
    let (created, upload) = creating.await?;
    let upload_id = created.id;
    let part_size = part_size(size, config.upload.part_size as u64);
    let plan = Plan { key, size, format, door: UploadMethod::Multipart { upload_id, part_size } };
    Ok(PendingPlan { plan, upload: Some(upload) })
}
