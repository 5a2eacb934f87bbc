//! `image-store sweep`: removes unfinished multipart uploads and unverified objects that a killed process or an
//! abandoned plan left behind.
//!
//! On AWS the bucket's lifecycle rules do this. On other stores the operator runs `image-store sweep`. The embedded S3
//! is swept automatically.

use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::auth::tokens::PLAN_LIFETIME;
use crate::store::{Leftover, Store};

/// The age at which an object under `incoming/` counts as left behind if no request is running: nothing that a token allows
/// lasts longer.
pub const AGE: Duration = PLAN_LIFETIME;

/// Returns the age at which an upload or an object counts as left behind. A request may have begun just before the token of
/// its upload expired.
pub fn safe_age(request_timeout: Duration) -> Duration {
    AGE + request_timeout
}

/// The result of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Multipart uploads aborted.
    pub uploads: usize,
    /// Unverified objects deleted.
    pub objects: usize,
    /// Uploads and objects that could not be removed. Each was logged.
    pub failed: usize,
    /// Kinds that the store could not list, so that some may remain. Each was logged.
    pub unlisted: Vec<&'static str>,
}

impl Swept {
    /// Returns whether nothing remains that is old enough.
    pub fn is_complete(&self) -> bool {
        self.failed == 0 && self.unlisted.is_empty()
    }

    async fn remove(&mut self, store: &dyn Store, leftovers: impl Iterator<Item = &Leftover>) {
        for leftover in leftovers {
            match store.remove_leftover(leftover).await {
                Ok(()) if leftover.upload_id.is_some() => self.uploads += 1,
                Ok(()) => self.objects += 1,
                Err(error) => {
                    self.failed += 1;
                    let error = &error as &dyn Error;
                    tracing::error!(object = leftover.object_key, error, "a leftover could not be removed");
                }
            }
        }
    }
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "aborted {} unfinished uploads, deleted {} unverified objects", self.uploads, self.objects)?;
        if self.failed > 0 {
            write!(f, "; {} could not be removed", self.failed)?;
        }
        if !self.unlisted.is_empty() {
            write!(f, "; could not list {}", self.unlisted.join(" and "))?;
        }
        Ok(())
    }
}

/// Aborts unfinished uploads and deletes objects under `incoming/` that are older than `age`.
///
/// Markers are kept for at least `url_ttl`, the lifetime of a presigned PUT, which could be used again without its
/// marker.
///
/// Failures to list or remove something are counted, and the sweep continues, because some stores cannot list uploads.
pub async fn sweep(store: &dyn Store, age: Duration, url_ttl: Duration) -> Swept {
    let mut swept = Swept::default();
    let now = SystemTime::now();
    let before = |age| now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    let (others, markers) = (before(age), before(age.max(url_ttl)));
    let is_old = |leftover: &&Leftover| leftover.since <= if leftover.is_empty { markers } else { others };
    for (what, listed) in [
        ("unfinished uploads", store.unfinished_uploads().await),
        ("unverified objects", store.unverified_objects().await),
    ] {
        match listed {
            Ok(found) => swept.remove(store, found.iter().filter(is_old)).await,
            Err(error) => {
                swept.unlisted.push(what);
                tracing::error!(what, error = &error as &dyn Error, "the store could not list leftovers");
            }
        }
    }
    swept
}
