//! Tracks the earlier attempts of a call. The SDK retries a call and reports only the result of the last attempt. An
//! earlier attempt whose response was lost may still have taken effect, whatever the last attempt returned.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::errors::{classify, is_attempt_outcome_unknown, is_outcome_unknown};
use crate::error::BoxError;
use crate::store::StoreError;

/// Records whether an attempt of one call may have taken effect without a response. `E` is the operation's error type.
pub(super) struct Attempts<E> {
    unanswered: Arc<AtomicUsize>,
    error: PhantomData<fn() -> E>,
}

impl<E> Attempts<E> {
    pub(super) fn watch() -> Self {
        Attempts { unanswered: Arc::default(), error: PhantomData }
    }

    /// Returns the number of attempts whose outcome is unknown.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }
}

impl<E> Attempts<E>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    /// Returns the error of the whole call. If the response to an earlier attempt was lost, the error of the last
    /// attempt does not show the outcome of the call.
    pub(super) fn classify(&self, operation: &'static str, error: SdkError<E, HttpResponse>) -> StoreError {
        let last = classify(operation, error);
        let is_unknown = is_outcome_unknown(&last) && !matches!(last, StoreError::Precondition);
        if self.unanswered() > 0 && !is_unknown {
            return StoreError::OutcomeUnknown { operation, source: last.into() };
        }
        last
    }
}

impl<E> Clone for Attempts<E> {
    fn clone(&self) -> Self {
        Attempts { unanswered: Arc::clone(&self.unanswered), error: PhantomData }
    }
}

impl<E> fmt::Debug for Attempts<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts").field("unanswered", &self.unanswered()).finish()
    }
}

impl<E> Intercept for Attempts<E>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn name(&self) -> &'static str {
        "Attempts"
    }

    /// Runs after every attempt, including one that timed out.
    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(Err(error)) = context.output_or_error() {
            let code = error.as_operation_error().and_then(|error| error.downcast_ref::<E>()).and_then(E::code);
            let status = context.response().map(|response| response.status().as_u16());
            if is_attempt_outcome_unknown(status, code) {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
