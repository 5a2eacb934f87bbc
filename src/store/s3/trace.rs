//! Adds the trace context of the current request to calls to S3.

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::http::Headers;
use http::header;

use crate::error::BoxError;
use crate::telemetry::trace;

/// An interceptor that adds the headers of the trace context to every attempt.
#[derive(Debug)]
pub(super) struct Traced;

impl Intercept for Traced {
    fn name(&self) -> &'static str {
        "Traced"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        // A presigned URL also passes through here. It is signed in its query, and its client sends the headers.
        if headers.contains_key(header::AUTHORIZATION.as_str()) { add_to(headers) } else { Ok(()) }
    }
}

/// Adds the headers of the trace context, if there is one. This is done after signing, so that intermediaries may change
/// them, as the W3C standard requires.
pub(super) fn add_to(headers: &mut Headers) -> Result<(), BoxError> {
    for (name, value) in trace::current().iter().flat_map(trace::TraceContext::headers) {
        headers.try_insert(name.as_str().to_owned(), value.to_str()?.to_owned())?;
    }
    Ok(())
}
