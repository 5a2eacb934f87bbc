//! The spans of requests and of their calls to S3. Without the feature `otlp`, a span is only a place in a trace.

use http::HeaderMap;
use std::time::Duration;

#[cfg(feature = "otlp")]
use super::otlp;
#[cfg(feature = "otlp")]
use super::trace;
use super::trace::TraceContext;

/// Reports a call to S3 that has just ended, as part of the current trace.
#[cfg_attr(not(feature = "otlp"), expect(unused_variables, reason = "spans are not exported"))]
pub fn record_call(operation: &'static str, outcome: &'static str, took: Duration) {
    #[cfg(feature = "otlp")]
    if let Some(request) = trace::current() {
        otlp::record_call(&request, operation, outcome, took);
    }
}

/// The span of a request, from its head to the head of its response.
pub struct RequestSpan {
    context: Option<TraceContext>,
    #[cfg(feature = "otlp")]
    exported: Option<otlp::RequestSpan>,
}

impl RequestSpan {
    /// Begins the span of a request with these headers. It has a trace if the caller sent one, or if spans are exported.
    #[cfg(feature = "otlp")]
    pub fn begin(headers: &HeaderMap, method: &'static str, route: &str) -> Self {
        let exported = otlp::RequestSpan::begin(TraceContext::of_caller(headers).as_ref(), method, route);
        let context = exported.as_ref().map(otlp::RequestSpan::context).or_else(|| TraceContext::of(headers));
        RequestSpan { context, exported }
    }

    /// Begins the span of a request with these headers. It has a trace if the caller sent one.
    #[cfg(not(feature = "otlp"))]
    pub fn begin(headers: &HeaderMap, _method: &'static str, _route: &str) -> Self {
        RequestSpan { context: TraceContext::of(headers) }
    }

    /// Returns the span's place in its trace, or `None` if it has no trace.
    pub fn context(&self) -> Option<&TraceContext> {
        self.context.as_ref()
    }

    /// Ends the span with the status of the response, the number of received bytes, and the code of an error.
    #[cfg_attr(not(feature = "otlp"), expect(unused_variables, reason = "spans are not exported"))]
    pub fn end(&mut self, status: u16, bytes_received: u64, code: Option<&'static str>) {
        #[cfg(feature = "otlp")]
        if let Some(span) = self.exported.take() {
            span.end(status, bytes_received, code);
        }
    }
}
