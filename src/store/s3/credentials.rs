//! Remembers when the credentials in use end, because a presigned URL ends with them.

use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_s3::config::SharedCredentialsProvider;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// When the last credentials that were handed out end; none where they do not, or do not say.
///
/// On Lambda they come from the environment, which does not say.
#[derive(Clone, Debug, Default)]
pub(super) struct Expiry(Arc<Mutex<Option<SystemTime>>>);

impl Expiry {
    pub(super) fn get(&self) -> Option<SystemTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, at: Option<SystemTime>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

/// A provider that notes the expiry of what passes through. The SDK asks it only when its own cache has nothing.
#[derive(Debug)]
pub(super) struct Noting {
    pub(super) inner: SharedCredentialsProvider,
    pub(super) expiry: Expiry,
}

impl ProvideCredentials for Noting {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let credentials: provider::Result = self.inner.provide_credentials().await;
            if let Ok(credentials) = &credentials {
                self.expiry.set(credentials.expiry());
            }
            credentials
        })
    }
}
