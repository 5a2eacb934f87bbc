//! Logs: one structured line a request, with its id; the private source of an error is told there and nowhere else.
//!
//! Lines hold the route's template and the key; never a query, a presigned URL, an upload id or a credential.

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, header};
use std::error::Error as _;
use std::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use uuid::Uuid;

use crate::error::Logged;
use crate::transport::Invocation;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Fields that handlers add to their request's line, with [`note`].
pub mod field {
    pub const S3_KEY: &str = "s3_key";
    pub const SIZE: &str = "size";
    pub const CONTENT_TYPE: &str = "content_type";
    /// The name of the key a request was sent with, never the key.
    pub const API_KEY_NAME: &str = "api_key_name";
}

/// Adds a field to the line of the request that is being handled.
pub fn note<V: tracing::Value>(field: &str, value: V) {
    Span::current().record(field, value);
}

/// These put whole requests into their lines and spans, presigned queries and upload ids with them.
const SILENT: [&str; 5] = ["s3s=off", "s3s_fs=off", "aws_smithy_runtime=warn", "aws_runtime=warn", "aws_sigv4=warn"];

/// Logs to standard error, filtered by `RUST_LOG` (default: info).
pub fn init(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let filter = SILENT.iter().filter_map(|directive| directive.parse().ok()).fold(filter, EnvFilter::add_directive);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    if json {
        registry.with(layer.json().flatten_event(true).with_span_list(false)).init();
    } else {
        use std::io::IsTerminal;
        registry.with(layer.with_ansi(std::io::stderr().is_terminal())).init();
    }
}

/// Takes or makes the request's id, answers with it, and writes the request's line.
pub async fn log_request(mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        route,
        s3_key = Empty,
        content_type = Empty,
        size = Empty,
        api_key_name = Empty,
        lambda_request_id = Empty,
        trace_id = Empty,
    );
    if let Some(invocation) = request.extensions().get::<Invocation>() {
        span.record("lambda_request_id", &invocation.request_id);
    }
    if let Some(trace_id) = trace_id(&request) {
        span.record("trace_id", trace_id);
    }
    let line = Line { began: Instant::now(), span: span.clone(), quiet: is_probe(&request), written: false };
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id);
    // Most answers hold links that end, or a state that passes; what may be kept says so itself.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    line.answered(&response);
    response
}

/// The client's own id where it is fit for a log, else a fresh one.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(REQUEST_ID);
    let fit = |id: &&HeaderValue| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    given.filter(fit).cloned().unwrap_or_else(|| {
        let mut buffer = Uuid::encode_buffer();
        let id = Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
        HeaderValue::from_str(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
    })
}

/// The trace a request belongs to, from its W3C `traceparent`: `<version>-<trace id>-<parent id>-<flags>`.
fn trace_id(request: &Request) -> Option<&str> {
    let text = request.headers().get(TRACEPARENT)?.to_str().ok()?;
    let fields: Vec<&str> = text.split('-').collect();
    let [version, trace_id, parent_id, flags, ref later @ ..] = fields[..] else { return None };
    let hex = |text: &str, digits| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let id = |text: &str, digits| hex(text, digits) && text.bytes().any(|byte| byte != b'0');
    // A later version may have more fields; the first version has not, and ff is none.
    let known = hex(version, 2) && version != "ff" && (version != "00" || later.is_empty());
    (known && id(trace_id, 32) && id(parent_id, 16) && hex(flags, 2)).then_some(trace_id)
}

/// Probes ask every few seconds; their lines are for debugging.
fn is_probe(request: &Request) -> bool {
    request.method() == Method::GET && matches!(request.uri().path(), "/healthz" | "/readyz")
}

/// A request's line, also where nobody waits for the answer any more: then the future is dropped, and this with it.
struct Line {
    began: Instant,
    span: Span,
    quiet: bool,
    written: bool,
}

impl Line {
    fn answered(mut self, response: &Response) {
        self.written = true;
        let _entered = self.span.enter();
        let ms = self.ms();
        let status = response.status().as_u16();
        let Some(Logged(error)) = response.extensions().get::<Logged>() else {
            if self.quiet {
                tracing::debug!(status, ms, "answered");
            } else {
                tracing::info!(status, ms, "answered");
            }
            return;
        };
        let (code, detail) = (error.code(), error.to_string());
        match error.source() {
            Some(cause) if status >= 500 => tracing::error!(status, ms, code, cause, "failed"),
            _ if status >= 500 => tracing::error!(status, ms, code, detail, "failed"),
            Some(cause) => tracing::info!(status, ms, code, cause, "refused"),
            None => tracing::info!(status, ms, code, detail, "refused"),
        }
    }

    fn ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.written {
            let _entered = self.span.enter();
            tracing::info!(ms = self.ms(), "the client went away");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn a_trace_is_taken_from_a_whole_traceparent_only() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        const PARENT: &str = "00f067aa0ba902b7";
        let taken = |text: String| {
            let request = Request::builder().header(TRACEPARENT, text).body(Body::empty()).unwrap();
            trace_id(&request).map(str::to_owned)
        };
        for good in [format!("00-{TRACE}-{PARENT}-01"), format!("cc-{TRACE}-{PARENT}-01-later")] {
            assert_eq!(taken(good.clone()).as_deref(), Some(TRACE), "{good}");
        }
        for bad in [
            String::new(),
            TRACE.to_owned(),
            format!("00-{TRACE}-{PARENT}-01-later"),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}x-{PARENT}-01"),
        ] {
            assert_eq!(taken(bad.clone()), None, "{bad}");
        }
    }
}
