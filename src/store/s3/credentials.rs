//! Keeps the current credentials in addition to the SDK's own cache. A presigned URL expires with the credentials that
//! signed it, and most URLs and calls are signed without the SDK ([`super::signer`]).

use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_s3::config::SharedCredentialsProvider;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long the SDK uses credentials without an expiry (default of `IdentityCache`).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// How long before their expiry the SDK requests new credentials (default of `IdentityCache`).
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// The last credentials that the provider returned. Empty before the first call.
#[derive(Clone, Debug, Default)]
pub(super) struct CurrentCredentials(Arc<Mutex<Option<Recorded>>>);

#[derive(Clone, Debug)]
struct Recorded {
    credentials: Arc<Credentials>,
    /// After this time, the SDK must be asked, which requests new credentials.
    usable_until: SystemTime,
}

impl CurrentCredentials {
    /// Returns the credentials with which the SDK signs now. `None` if the SDK would request new ones now or soon.
    pub(super) fn get(&self, now: SystemTime) -> Option<Arc<Credentials>> {
        let recorded = self.recorded()?;
        (now < recorded.usable_until).then_some(recorded.credentials)
    }

    /// Returns the expiry of the credentials. `None` if they do not expire or their expiry is unknown. On Lambda they
    /// come from the environment, which does not contain the expiry.
    pub(super) fn expiry(&self) -> Option<SystemTime> {
        self.recorded()?.credentials.expiry()
    }

    fn recorded(&self) -> Option<Recorded> {
        self.0.lock().clone()
    }

    pub(super) fn record(&self, credentials: Credentials, now: SystemTime) {
        let usable_until = credentials.expiry().unwrap_or(now + DEFAULT_LIFETIME) - EXPIRY_MARGIN;
        *self.0.lock() = Some(Recorded { credentials: Arc::new(credentials), usable_until });
    }
}

/// A credentials provider that records the credentials it returns. The SDK calls it only if its own cache is empty.
#[derive(Debug)]
pub(super) struct RecordingProvider {
    pub(super) inner: SharedCredentialsProvider,
    pub(super) in_use: CurrentCredentials,
}

impl ProvideCredentials for RecordingProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let requested_at = SystemTime::now();
            let credentials: provider::Result = self.inner.provide_credentials().await;
            if let Ok(credentials) = &credentials {
                self.in_use.record(credentials.clone(), requested_at);
            }
            credentials
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(expiry: Option<SystemTime>) -> Credentials {
        Credentials::new("AKID", "secret", None, expiry, "test")
    }

    #[test]
    fn credentials_are_used_until_shortly_before_their_expiry() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let expiry = now + Duration::from_secs(60);
        let in_use = CurrentCredentials::default();
        assert_eq!((in_use.get(now), in_use.expiry()), (None, None));
        in_use.record(credentials(Some(expiry)), now);
        assert_eq!((in_use.get(now), in_use.expiry()), (Some(Arc::new(credentials(Some(expiry)))), Some(expiry)));
        assert_eq!(in_use.get(expiry - EXPIRY_MARGIN), None);
    }

    #[test]
    fn credentials_without_expiry_are_used_for_the_default_lifetime() {
        let now = SystemTime::now();
        let in_use = CurrentCredentials::default();
        in_use.record(credentials(None), now);
        let unusable = now + DEFAULT_LIFETIME - EXPIRY_MARGIN;
        assert!(in_use.get(unusable - Duration::from_secs(1)).is_some());
        assert_eq!((in_use.get(unusable), in_use.expiry()), (None, None));
    }
}
