//! What became of a call's earlier attempts. The SDK tries again by itself and reports only the last one; an earlier one
//! whose answer was lost may still have its effect, whatever the last one was answered.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::errors::{classify, is_open, is_outcome_unknown};
use crate::error::BoxError;
use crate::store::StoreError;

/// Notes whether an attempt of one call may have had an effect that no answer told of. `E` is the operation's error.
pub(super) struct Attempts<E> {
    unanswered: Arc<AtomicBool>,
    error: PhantomData<fn() -> E>,
}

impl<E> Attempts<E> {
    pub(super) fn watch() -> Self {
        Attempts { unanswered: Arc::default(), error: PhantomData }
    }

    /// Whether an attempt's outcome is unknown.
    pub(super) fn unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed)
    }
}

impl<E> Attempts<E>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    /// The error of the whole call: what its last attempt was rejected with says nothing of one before whose answer was
    /// lost.
    pub(super) fn classify(&self, operation: &'static str, error: SdkError<E, HttpResponse>) -> StoreError {
        let last = classify(operation, error);
        let says_so = is_outcome_unknown(&last) && !matches!(last, StoreError::Precondition);
        if self.unanswered() && !says_so {
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

    /// Runs after every attempt, also after one that timed out.
    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(Err(error)) = context.output_or_error() {
            let code = error.as_operation_error().and_then(|error| error.downcast_ref::<E>()).and_then(E::code);
            let status = context.response().map(|response| response.status().as_u16());
            if is_open(status, code) {
                self.unanswered.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
