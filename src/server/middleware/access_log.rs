//! The access log: one log line per request, and the request metrics.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, header};
use std::error::Error as _;
use std::time::{Duration, Instant};
use tracing::field::Empty;
use tracing::{Instrument, Level, Span};
use uuid::Uuid;

use crate::error::Error;
use crate::server::request::{Invocation, RequestFacts};
use crate::server::response::Logged;
use crate::telemetry::metrics::{Metrics, ReceivedBytes, defs};
use crate::telemetry::span::RequestSpan;
use crate::telemetry::trace::{self, TraceContext};

/// Fields that handlers add to the log line of their request, with [`record_field`].
pub mod field {
    pub const S3_KEY: &str = "s3_key";
    pub const SIZE: &str = "size";
    pub const CONTENT_TYPE: &str = "content_type";
    /// The name of the API key of the request, never the key itself.
    pub const API_KEY_NAME: &str = "api_key_name";
    /// The name of the key that signed the grant a request was sent with, never the grant. Empty without keys.
    pub const GRANTED_BY: &str = "granted_by";
}

/// Adds a field to the log line of the current request.
pub fn record_field<V: tracing::Value>(field: &str, value: V) {
    Span::current().record(field, value);
}

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The status that is counted for a request whose client disconnected before the response. nginx uses the same one.
const CLIENT_GONE: u16 = 499;
/// Maximum bytes of a `User-Agent` that are logged.
const MAX_USER_AGENT: usize = 256;
/// The status that is counted for a request that was cut off at shutdown.
const CUT_OFF: u16 = 503;

/// Accepts or creates the request's id, adds it to the response, logs the request and counts it.
pub async fn observe_request(State(metrics): State<Metrics>, mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned();
    let method = method_label(request.method());
    let trace = RequestSpan::begin(request.headers(), method, &route);
    let context = trace.context().cloned();
    let span = span(&request, &id, &route, context.as_ref());
    let counted = Counted { metrics, route, method };
    let line = AccessLogEntry {
        began: Instant::now(),
        span: span.clone(),
        quiet: is_probe(&request),
        received: request.extensions().get().cloned().unwrap_or_default(),
        written: false,
        counted,
        trace,
    };
    let mut response = trace::within(context, next.run(request).instrument(span)).await;
    response.headers_mut().insert(REQUEST_ID, id);
    line.answered(&response);
    response
}

fn span(request: &Request, id: &HeaderValue, route: &str, trace: Option<&TraceContext>) -> Span {
    let span = tracing::info_span!(
        "request",
        request_id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        route,
        client = Empty,
        user_agent = Empty,
        bytes_received = Empty,
        s3_key = Empty,
        content_type = Empty,
        size = Empty,
        api_key_name = Empty,
        granted_by = Empty,
        lambda_request_id = Empty,
        trace_id = Empty,
        span_id = Empty,
    );
    if let Some(client) = request.extensions().get().and_then(|facts: &RequestFacts| facts.client) {
        span.record("client", tracing::field::display(client));
    }
    if let Some(agent) = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()) {
        span.record("user_agent", &agent[..agent.len().min(MAX_USER_AGENT)]);
    }
    if let Some(invocation) = request.extensions().get::<Invocation>() {
        span.record("lambda_request_id", &invocation.request_id);
    }
    if let Some(trace) = trace {
        span.record("trace_id", trace.trace_id());
        span.record("span_id", trace.span_id());
    }
    span
}

/// Returns the client's own id if it is safe to log, otherwise a new one.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID);
    let is_safe = |id: &&HeaderValue| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    given.filter(is_safe).cloned().unwrap_or_else(|| {
        let mut buffer = Uuid::encode_buffer();
        let id = Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
        HeaderValue::from_str(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
    })
}

/// Probes and scrapers send requests every few seconds, so these are logged at the debug level only.
fn is_probe(request: &Request) -> bool {
    request.method() == Method::GET && matches!(request.uri().path(), "/healthz" | "/readyz" | "/metrics")
}

/// The log line of a request. If the client disconnects, the future of the request is dropped, and this value with it;
/// its `Drop` then writes the line.
struct AccessLogEntry {
    began: Instant,
    span: Span,
    quiet: bool,
    received: ReceivedBytes,
    written: bool,
    counted: Counted,
    trace: RequestSpan,
}

impl AccessLogEntry {
    fn answered(mut self, response: &Response) {
        self.written = true;
        let status = response.status().as_u16();
        let code = response.extensions().get::<Logged>().map(|Logged(error)| error.code());
        let ms = self.end(status, code);
        let _entered = self.span.enter();
        let Some(Logged(error)) = response.extensions().get::<Logged>() else {
            if self.quiet {
                tracing::debug!(status, ms, "request completed");
            } else {
                tracing::info!(status, ms, "request completed");
            }
            return;
        };
        self.counted.rejected(error);
        let (code, detail) = (error.code(), error.to_string());
        match (error.log_level(), error.source()) {
            (Level::ERROR, Some(cause)) => tracing::error!(status, ms, code, cause, "request failed"),
            (Level::ERROR, None) => tracing::error!(status, ms, code, detail, "request failed"),
            (Level::WARN, _) => tracing::warn!(status, ms, code, detail, "request rejected"),
            (_, Some(cause)) => tracing::info!(status, ms, code, cause, "request rejected"),
            (_, None) => tracing::info!(status, ms, code, detail, "request rejected"),
        }
    }

    /// Counts the request and completes its spans. Returns the duration of the request in milliseconds.
    fn end(&mut self, status: u16, code: Option<&'static str>) -> u64 {
        let duration = self.began.elapsed();
        self.counted.answered(status, duration);
        self.span.record("bytes_received", self.received.get());
        self.trace.end(status, self.received.get(), code);
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for AccessLogEntry {
    fn drop(&mut self) {
        if self.written {
            return;
        }
        let cut_off = self.counted.metrics.is_cutting_off();
        let (status, code) = if cut_off { (CUT_OFF, "cut_off") } else { (CLIENT_GONE, "client_gone") };
        let ms = self.end(status, Some(code));
        let _entered = self.span.enter();
        if cut_off {
            tracing::warn!(ms, "request cut off at shutdown");
        } else {
            tracing::info!(ms, "client disconnected");
        }
    }
}

/// The labels of a request's metrics. Each has few values, regardless of what clients send.
struct Counted {
    metrics: Metrics,
    route: String,
    method: &'static str,
}

impl Counted {
    fn answered(&self, status: u16, duration: Duration) {
        self.metrics.counter(&defs::REQUESTS, &[&self.route, self.method, &status.to_string()]).increment(1);
        let labels = [&self.route, self.method, status_class(status)];
        self.metrics.histogram(&defs::REQUEST_DURATION, &labels).record(duration);
    }

    fn rejected(&self, error: &Error) {
        let detected = match error {
            Error::InvalidFileType { detected: Some(detected), .. } => detected,
            _ => "-",
        };
        self.metrics.counter(&defs::REFUSALS, &[error.code(), detected]).increment(1);
    }
}

fn status_class(status: u16) -> &'static str {
    match status {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}
