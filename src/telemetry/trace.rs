//! W3C Trace Context: read from the headers of a request, and propagated to all calls for that request.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::future::Future;
use uuid::Uuid;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Maximum bytes of a `tracestate` that is propagated. The standard requires at least this many. A longer one is
/// omitted.
const MAX_STATE: usize = 512;
/// The flags that are propagated: sampled and random. The others must be zero in version 00, which the service sends.
const FLAGS: u8 = 0x03;

tokio::task_local! {
    static CURRENT: Option<TraceContext>;
}

/// Returns the trace of the current task, or `None` if its request has no trace.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Runs `work` as part of a trace.
pub fn within<F: Future>(trace: Option<TraceContext>, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(trace, work)
}

/// Runs `work` as part of the current trace, also if it is spawned as another task.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    within(current(), work)
}

/// A request's place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: String,
    /// The service's own span, which is the parent of all calls for the request. The caller's span is not propagated.
    span_id: String,
    flags: u8,
    state: Option<HeaderValue>,
}

impl TraceContext {
    /// Returns the place of a request with these headers, which has a new span id. Returns `None` if there is no valid
    /// `traceparent`.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        TraceContext::of_caller(headers).map(|caller| TraceContext { span_id: new_span_id(), ..caller })
    }

    #[cfg(feature = "otlp")]
    pub(super) fn new(trace_id: String, span_id: String, flags: u8, state: Option<HeaderValue>) -> Self {
        TraceContext { trace_id, span_id, flags: flags & FLAGS, state }
    }

    /// Parses `traceparent`: `<version>-<trace id>-<parent id>-<flags>`. Returns `None` if the header is invalid or
    /// occurs more than once. The span is the caller's.
    pub(super) fn of_caller(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        let text = line.to_str().ok()?;
        let fields: Vec<&str> = text.split('-').collect();
        let [version, trace_id, parent_id, flags, ref more @ ..] = fields[..] else { return None };
        let hex = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let id = |text: &str, digits| hex(text, digits) && text.bytes().any(|byte| byte != b'0');
        // Later versions may have more fields. Version ff is invalid.
        let valid_version = hex(version, 2) && version != "ff" && (version != "00" || more.is_empty());
        if !(valid_version && id(trace_id, 32) && id(parent_id, 16) && hex(flags, 2)) {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()? & FLAGS;
        let (trace_id, span_id) = (trace_id.to_owned(), parent_id.to_owned());
        Some(TraceContext { trace_id, span_id, flags, state: state(headers) })
    }

    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }

    /// The span of the request within the trace.
    pub fn span_id(&self) -> &str {
        &self.span_id
    }

    #[cfg(feature = "otlp")]
    pub(super) fn flags(&self) -> u8 {
        self.flags
    }

    /// Returns `tracestate`.
    #[cfg(feature = "otlp")]
    pub(super) fn state(&self) -> Option<&str> {
        self.state.as_ref()?.to_str().ok()
    }

    /// Returns the headers for a call that is made for the request.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let TraceContext { trace_id, span_id, flags, .. } = self;
        let parent = HeaderValue::try_from(format!("00-{trace_id}-{span_id}-{flags:02x}")).ok();
        let state = self.state.clone();
        parent.map(|parent| (TRACEPARENT, parent)).into_iter().chain(state.map(|state| (TRACESTATE, state)))
    }
}

/// Returns a random span id. It is never zero, which would be invalid, because this half of a UUID contains its
/// version.
fn new_span_id() -> String {
    let (id, _) = Uuid::new_v4().as_u64_pair();
    format!("{id:016x}")
}

/// Returns `tracestate`, which may be split into several headers.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines: Option<Vec<&str>> = headers.get_all(TRACESTATE).iter().map(|line| line.to_str().ok()).collect();
    let joined = lines?.join(",");
    let fits = (1..=MAX_STATE).contains(&joined.len());
    fits.then(|| HeaderValue::try_from(joined).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn parse(lines: &[(HeaderName, String)]) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        TraceContext::of(&headers)
    }

    #[test]
    fn only_valid_traceparent_is_accepted() {
        for good in [format!("00-{TRACE}-{PARENT}-01"), format!("cc-{TRACE}-{PARENT}-01-later")] {
            let trace = parse(&[(TRACEPARENT, good.clone())]);
            assert_eq!(trace.as_ref().map(TraceContext::trace_id), Some(TRACE), "{good}");
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
            assert_eq!(parse(&[(TRACEPARENT, bad.clone())]), None, "{bad}");
        }
        let one = || (TRACEPARENT, format!("00-{TRACE}-{PARENT}-01"));
        assert_eq!(parse(&[one(), one()]), None, "several");
    }

    #[test]
    fn only_flags_of_version_00_are_propagated() {
        for (given, sent) in [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("05", "01"), ("fc", "00")] {
            let trace = parse(&[(TRACEPARENT, format!("cc-{TRACE}-{PARENT}-{given}"))]).unwrap();
            let (_, parent) = trace.headers().next().unwrap();
            assert_eq!(parent, format!("00-{TRACE}-{}-{sent}", trace.span_id()), "{given}");
        }
    }

    #[test]
    fn calls_have_the_request_span_as_parent() {
        let parent = (TRACEPARENT, format!("00-{TRACE}-{PARENT}-03"));
        let trace = parse(&[parent.clone(), (TRACESTATE, "a=1".into()), (TRACESTATE, "b=2".into())]).unwrap();
        let call: Vec<_> = trace.headers().collect();
        let text = call[0].1.to_str().unwrap();
        assert_eq!(text, format!("00-{TRACE}-{}-03", trace.span_id()));
        assert!(parse(&[(TRACEPARENT, text.to_owned())]).is_some() && !text.contains(PARENT), "{text}");
        assert_eq!(call[1], (TRACESTATE, HeaderValue::from_static("a=1,b=2")));
        assert_eq!(call, trace.clone().headers().collect::<Vec<_>>(), "the same for every call");
        let another = parse(std::slice::from_ref(&parent)).unwrap();
        assert_ne!(another.span_id(), trace.span_id(), "another request's");
        for (state, kept) in [("x".repeat(512), true), ("x".repeat(513), false), (String::new(), false)] {
            let trace = parse(&[parent.clone(), (TRACESTATE, state)]).unwrap();
            assert_eq!(trace.headers().count(), if kept { 2 } else { 1 });
        }
    }

    #[tokio::test]
    async fn trace_is_carried_to_spawned_tasks() {
        let trace = parse(&[(TRACEPARENT, format!("00-{TRACE}-{PARENT}-01"))]);
        let carried = within(trace.clone(), async { tokio::spawn(carried(async { current() })).await.unwrap() }).await;
        assert_eq!(carried, trace);
        assert_eq!(current(), None);
    }
}
