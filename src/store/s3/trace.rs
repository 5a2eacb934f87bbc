//! Calls to S3 carry the trace of the request they are made for.

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use http::header;

use crate::error::BoxError;
use crate::telemetry::trace;

/// Adds the trace's headers to every attempt.
#[derive(Debug)]
pub(super) struct Traced;

impl Intercept for Traced {
    fn name(&self) -> &'static str {
        "Traced"
    }

    /// After signing, so that what is on the way may change them, as the standard wants it.
    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        // A presigned URL, signed in its query, comes through here too: its headers are its holder's to send.
        if headers.contains_key(header::AUTHORIZATION.as_str())
            && let Some(trace) = trace::current()
        {
            for (name, value) in trace.headers() {
                headers.try_insert(name.as_str().to_owned(), value.to_str()?.to_owned())?;
            }
        }
        Ok(())
    }
}
