//! Tracks the earlier attempts of a call. The SDK retries a call and reports only the result of the last attempt. An
//! earlier attempt whose response was lost may still have taken effect, whatever the last attempt returned.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::{FinalizerInterceptorContextRef, InterceptorContext};
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::errors::{classify, is_attempt_outcome_unknown, is_outcome_unknown};
use crate::error::BoxError;
use crate::store::StoreError;

/// Records whether an attempt of one call may have taken effect without a response. `E` is the operation's error type.
pub(super) struct Attempts<E> {
    unanswered: Arc<AtomicBool>,
    error: PhantomData<fn() -> E>,
}

impl<E> Attempts<E> {
    pub(super) fn watch() -> Self {
        Attempts { unanswered: Arc::default(), error: PhantomData }
    }

    /// Whether the outcome of an attempt is unknown.
    pub(super) fn unanswered(&self) -> bool {
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
        if self.unanswered() && !is_unknown {
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
            let error = error.as_operation_error().and_then(|error| error.downcast_ref::<E>());
            if is_unknown(error, context.response()) {
                self.unanswered.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Prevents the SDK from repeating an attempt whose outcome is unknown. `E` is the operation's error type.
#[derive(Debug)]
pub(super) struct UnknownOutcome<E>(PhantomData<fn() -> E>);

impl<E> UnknownOutcome<E> {
    pub(super) fn never_retried() -> Self {
        UnknownOutcome(PhantomData)
    }
}

impl<E> ClassifyRetry for UnknownOutcome<E>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(Err(error)) = context.output_or_error() else { return RetryAction::NoActionIndicated };
        let error = error.as_operation_error().and_then(|error| error.downcast_ref::<E>());
        match is_unknown(error, context.response()) {
            true => RetryAction::RetryForbidden,
            false => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "UnknownOutcome"
    }
}

/// Whether a failed attempt may have taken effect.
fn is_unknown<E: ProvideErrorMetadata>(error: Option<&E>, response: Option<&HttpResponse>) -> bool {
    let code = error.and_then(E::code);
    is_attempt_outcome_unknown(response.map(|response| response.status().as_u16()), code)
}
