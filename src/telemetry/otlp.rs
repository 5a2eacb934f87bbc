//! Spans for OpenTelemetry, exported with OTLP over HTTP to a collector.
//!
//! The standard variables configure it: spans are exported if `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is
//! set, unless `OTEL_SDK_DISABLED` is `true` or `OTEL_TRACES_EXPORTER` is `none`. The SDK itself reads the others:
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_BSP_…`.
//!
//! Each attribute is named here, so that a span contains no query, token, presigned URL, upload id or credential.

use http::HeaderValue;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer as _,
    TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use std::env;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use super::trace::TraceContext;

const SERVICE_NAME: &str = "image-store";
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Exports spans in the background. When it is dropped, it sends the last ones.
pub struct Exporting(SdkTracerProvider);

impl Drop for Exporting {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}

/// Starts to export spans, if the environment configures that. Must not be called inside a runtime, because the exporter
/// has its own.
///
/// # Errors
/// Returns an error if one of the variables is invalid.
pub fn start() -> Result<Option<Exporting>, String> {
    if !is_configured() {
        return Ok(None);
    }
    let exporter =
        SpanExporter::builder().with_http().build().map_err(|error| format!("OTEL_EXPORTER_OTLP_*: {error}"))?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
    // It is set only once, because the program calls this only once.
    let _ = TRACER.set(provider.tracer(SERVICE_NAME));
    Ok(Some(Exporting(provider)))
}

fn is_configured() -> bool {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found.trim().eq_ignore_ascii_case(value));
    let has_endpoint = ENDPOINTS.iter().any(|name| env::var(name).is_ok_and(|url| !url.is_empty()));
    has_endpoint && !is("OTEL_SDK_DISABLED", "true") && !is("OTEL_TRACES_EXPORTER", "none")
}

fn resource() -> Resource {
    let resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let is_named = env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|attributes| attributes.contains("service.name="));
    if is_named { resource.build() } else { resource.with_service_name(SERVICE_NAME).build() }
}

/// The exported span of a request.
pub struct RequestSpan(Span);

impl RequestSpan {
    /// Starts the span of a request. `caller` is the caller's span if the request has one. Returns `None` if no spans are
    /// exported.
    pub fn begin(caller: Option<&TraceContext>, method: &'static str, route: &str) -> Option<Self> {
        let tracer = TRACER.get()?;
        let builder = tracer.span_builder(format!("{method} {route}")).with_kind(SpanKind::Server);
        let builder = builder.with_attributes([
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route.to_owned()),
        ]);
        Some(RequestSpan(tracer.build_with_context(builder, &parent(caller))))
    }

    /// Returns the span's place in the trace, for the calls that are made for the request.
    pub fn context(&self) -> TraceContext {
        let context = self.0.span_context();
        let state = HeaderValue::try_from(context.trace_state().header()).ok().filter(|state| !state.is_empty());
        let flags = context.trace_flags().to_u8();
        TraceContext::new(context.trace_id().to_string(), context.span_id().to_string(), flags, state)
    }

    /// Ends the span with the status of the response and the code of its error.
    pub fn end(mut self, status: u16, bytes_received: u64, code: Option<&'static str>) {
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        let bytes = i64::try_from(bytes_received).unwrap_or(i64::MAX);
        self.0.set_attribute(KeyValue::new("http.request.body.size", bytes));
        if let Some(code) = code {
            self.0.set_attribute(KeyValue::new("error.type", code));
        }
        if status >= 500 {
            self.0.set_status(Status::error(code.unwrap_or_default()));
        }
        self.0.end();
    }
}

/// Exports the span of a call to S3 that has just ended.
pub fn record_call(request: &TraceContext, operation: &'static str, outcome: &'static str, took: Duration) {
    let Some(tracer) = TRACER.get() else { return };
    let end = SystemTime::now();
    let builder = tracer.span_builder(operation).with_kind(SpanKind::Client).with_start_time(end - took);
    let builder = builder.with_attributes([
        KeyValue::new("rpc.system.name", "aws-api"),
        KeyValue::new("rpc.method", format!("S3/{operation}")),
        KeyValue::new("image_store.outcome", outcome),
    ]);
    let mut span = tracer.build_with_context(builder, &parent(Some(request)));
    span.end_with_timestamp(end);
}

/// Returns the context of a span's parent. If that is `None`, the span is the first of a trace.
fn parent(parent: Option<&TraceContext>) -> Context {
    let Some(parent) = parent else { return Context::new() };
    // A trace context is only created with valid ids.
    let trace_id = TraceId::from_hex(parent.trace_id()).unwrap_or(TraceId::INVALID);
    let span_id = SpanId::from_hex(parent.span_id()).unwrap_or(SpanId::INVALID);
    let state = parent.state().and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    let context = SpanContext::new(trace_id, span_id, TraceFlags::new(parent.flags()), true, state);
    Context::new().with_remote_span_context(context)
}
