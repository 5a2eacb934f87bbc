//! Removing what a kill or an abandoned plan left behind: unfinished multipart uploads, and objects nobody verified.
//!
//! On AWS the bucket's lifecycle rules do this; elsewhere `image-store sweep` does, and the embedded store by itself.

use std::time::{Duration, SystemTime};

use crate::store::{Result, Store};

/// How old something must be before it counts as left behind.
pub const AGE: Duration = Duration::from_secs(24 * 3600);

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Multipart uploads aborted.
    pub uploads: usize,
    /// Unverified objects deleted.
    pub objects: usize,
    /// What could not be removed; each was logged.
    pub failed: usize,
}

/// Aborts unfinished uploads and deletes objects under `incoming/` that are older than `age`.
///
/// # Errors
/// Where the store cannot say what it holds. What cannot be removed is counted and the rest goes on.
pub async fn sweep(store: &dyn Store, age: Duration) -> Result<Swept> {
    let mut swept = Swept::default();
    let before = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    for leftover in store.leftovers().await? {
        if leftover.since > before {
            continue;
        }
        match store.remove_leftover(&leftover).await {
            Ok(()) if leftover.upload_id.is_some() => swept.uploads += 1,
            Ok(()) => swept.objects += 1,
            Err(error) => {
                swept.failed += 1;
                let error = &error as &dyn std::error::Error;
                tracing::error!(object = leftover.object_key, error, "a leftover could not be removed");
            }
        }
    }
    Ok(swept)
}
