//! The credentials in use, beside the SDK's own cache: a presigned URL ends with those that signed it, and most are signed
//! here ([`super::presign_template`]).

use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_s3::config::SharedCredentialsProvider;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How long the SDK uses credentials that do not say when they end (`IdentityCache`'s default).
const UNTIL_ASKED_AGAIN: Duration = Duration::from_secs(15 * 60);
/// How long before they end the SDK asks for others (the same).
const BEFORE_THEY_END: Duration = Duration::from_secs(10);

/// The last credentials that were handed out; none before the first call.
#[derive(Clone, Debug, Default)]
pub(super) struct CurrentCredentials(Arc<Mutex<Option<Noted>>>);

#[derive(Clone, Debug)]
struct Noted {
    credentials: Credentials,
    /// Whoever wants to sign later asks the SDK.
    good_until: SystemTime,
}

impl CurrentCredentials {
    /// Those the SDK signs with now; none where it would, or soon will, ask for others.
    pub(super) fn get(&self, now: SystemTime) -> Option<Credentials> {
        let noted = self.noted()?;
        (now < noted.good_until).then_some(noted.credentials)
    }

    /// When they end; none where they do not, or do not say. On Lambda they come from the environment, which does not say.
    pub(super) fn end(&self) -> Option<SystemTime> {
        self.noted()?.credentials.expiry()
    }

    fn noted(&self) -> Option<Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, credentials: Credentials, now: SystemTime) {
        let good_until = credentials.expiry().unwrap_or(now + UNTIL_ASKED_AGAIN) - BEFORE_THEY_END;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Noted { credentials, good_until });
    }
}

/// A provider that notes what passes through. The SDK asks it only when its own cache has nothing.
#[derive(Debug)]
pub(super) struct Noting {
    pub(super) inner: SharedCredentialsProvider,
    pub(super) in_use: CurrentCredentials,
}

impl ProvideCredentials for Noting {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let asked = SystemTime::now();
            let credentials: provider::Result = self.inner.provide_credentials().await;
            if let Ok(credentials) = &credentials {
                self.in_use.note(credentials.clone(), asked);
            }
            credentials
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(end: Option<SystemTime>) -> Credentials {
        Credentials::new("AKID", "secret", None, end, "test")
    }

    #[test]
    fn credentials_are_used_until_shortly_before_they_end() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let end = now + Duration::from_secs(60);
        let in_use = CurrentCredentials::default();
        assert_eq!((in_use.get(now), in_use.end()), (None, None));
        in_use.note(credentials(Some(end)), now);
        assert_eq!((in_use.get(now), in_use.end()), (Some(credentials(Some(end))), Some(end)));
        assert_eq!(in_use.get(end - BEFORE_THEY_END), None);
    }

    #[test]
    fn those_that_do_not_say_are_asked_for_again() {
        let now = SystemTime::now();
        let in_use = CurrentCredentials::default();
        in_use.note(credentials(None), now);
        let asked_again = now + UNTIL_ASKED_AGAIN - BEFORE_THEY_END;
        assert!(in_use.get(asked_again - Duration::from_secs(1)).is_some());
        assert_eq!((in_use.get(asked_again), in_use.end()), (None, None));
    }
}
