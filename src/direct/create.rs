//! Creates plans of direct uploads. A plan in parts starts a multipart upload, which is aborted if the client does not
//! receive the plan.

use std::sync::Arc;
use uuid::Uuid;

use super::plan::{Plan, UploadMethod, ValidatedRequest, part_size};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::store::reconcile::Reconciler;
use crate::store::{CustomMetadata, ImageKey, Metadata, ObjectName, Store, Upload};
use crate::tasks::Tasks;
use crate::upload::undo::{Creating, UndoOnDrop};

/// A plan that was not yet sent to its client. If it is dropped before [`PendingPlan::acknowledged`], its upload is
/// aborted.
pub struct PendingPlan {
    pub plan: Plan,
    upload: Option<UndoOnDrop>,
}

impl PendingPlan {
    /// Keeps the upload, because the plan was sent. The client now completes or aborts it, otherwise a sweep removes
    /// it.
    pub fn acknowledged(self) {
        self.upload.into_iter().for_each(UndoOnDrop::disarm);
    }
}

/// The conditions of a plan that come from its authority.
pub struct PlanTerms {
    /// Metadata of the image. It is stored with the upload of a plan in parts.
    pub custom: CustomMetadata,
    /// The ID of the plan, if the key was fixed beforehand, so that other clients may upload under it too.
    pub id: Option<Uuid>,
}

impl PlanTerms {
    pub fn new(custom: CustomMetadata, is_fixed_key: bool) -> Self {
        PlanTerms { custom, id: is_fixed_key.then(Uuid::new_v4) }
    }
}

/// Creates a plan for the request, by its size.
///
/// The process waits for `tasks` before it exits.
pub async fn create(
    store: &Arc<dyn Store>,
    reconciler: &Reconciler,
    tasks: &Tasks,
    config: &Config,
    draft: ValidatedRequest,
    terms: PlanTerms,
) -> Result<PendingPlan> {
    let (put_max, id) = (config.direct.put_max, terms.id);
    let ValidatedRequest { key, size, format, sha256 } = draft;
    if size <= put_max {
        return Ok(PendingPlan {
            plan: Plan { key, id, size, format, method: UploadMethod::Put { sha256 } },
            upload: None,
        });
    }
    if sha256.is_some() {
        return Err(Error::InvalidRequest(format!(
            "sha256 is supported for files of up to {put_max} bytes only, because S3 cannot check it for parts; omit it"
        )));
    }
    let (Upload { id: upload_id, .. }, upload) = create_parts(store, reconciler, tasks, &key, format, terms).await?;
    let part_size = part_size(size, config.upload.part_size as u64);
    let plan = Plan { key, id, size, format, method: UploadMethod::Multipart { upload_id, part_size } };
    Ok(PendingPlan { plan, upload: Some(upload) })
}

/// Starts a multipart upload under `incoming/`. The guard aborts it, unless it is disarmed because the client knows of it.
pub async fn create_parts(
    store: &Arc<dyn Store>,
    reconciler: &Reconciler,
    tasks: &Tasks,
    key: &ImageKey,
    format: Format,
    terms: PlanTerms,
) -> Result<(Upload, UndoOnDrop)> {
    let metadata = Metadata { origin: terms.id, ..Metadata::unverified(format.content_type(), terms.custom) };
    if !tasks.has_room() {
        return Err(Error::OverCapacity(None));
    }
    let name = ObjectName::Incoming(key.clone());
    let creating = match terms.id.is_some() {
        true => Creating::of_fixed_name(store, tasks, name, metadata),
        false => Creating::of_random_name(store, tasks, reconciler, name, metadata),
    };
    creating.await.map_err(Error::from)
}
