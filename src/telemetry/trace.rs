//! The trace a request belongs to (W3C Trace Context): taken from its headers, passed on with every call made for it.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::future::Future;
use uuid::Uuid;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// What the standard asks everybody to pass on, in bytes; what is longer is left out.
const LONGEST_STATE: usize = 512;
/// The flags we pass on: sampled and random. The others must be zero in version 00, which is the one we write.
const FLAGS: u8 = 0x03;

tokio::task_local! {
    static CURRENT: Option<TraceContext>;
}

/// The trace of what runs now; none where its request came with none.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Runs `work` as part of a trace.
pub fn within<F: Future>(trace: Option<TraceContext>, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(trace, work)
}

/// Makes `work` part of the trace of what runs now, also on a task of its own.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    within(current(), work)
}

/// A request's place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: String,
    /// Ours: the parent of every call made for the request. The caller's own is not passed on.
    span_id: String,
    flags: u8,
    state: Option<HeaderValue>,
}

impl TraceContext {
    /// From `traceparent`: `<version>-<trace id>-<parent id>-<flags>`. None where there are several: nobody knows which is it.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        let text = line.to_str().ok()?;
        let fields: Vec<&str> = text.split('-').collect();
        let [version, trace_id, parent_id, flags, ref later @ ..] = fields[..] else { return None };
        let hex = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let id = |text: &str, digits| hex(text, digits) && text.bytes().any(|byte| byte != b'0');
        // A later version may have more fields; the first version has not, and ff is none.
        let known = hex(version, 2) && version != "ff" && (version != "00" || later.is_empty());
        if !(known && id(trace_id, 32) && id(parent_id, 16) && hex(flags, 2)) {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()? & FLAGS;
        Some(TraceContext { trace_id: trace_id.to_owned(), span_id: fresh_id(), flags, state: state(headers) })
    }

    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }

    /// The request's own place in the trace.
    pub fn span_id(&self) -> &str {
        &self.span_id
    }

    /// The headers of a call that is made for the request.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let TraceContext { trace_id, span_id, flags, .. } = self;
        let parent = HeaderValue::try_from(format!("00-{trace_id}-{span_id}-{flags:02x}")).ok();
        let state = self.state.clone();
        parent.map(|parent| (TRACEPARENT, parent)).into_iter().chain(state.map(|state| (TRACESTATE, state)))
    }
}

/// Never zero, which is no id: a UUID has its version in this half.
fn fresh_id() -> String {
    let (id, _) = Uuid::new_v4().as_u64_pair();
    format!("{id:016x}")
}

/// `tracestate`, which may come in several lines.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines: Option<Vec<&str>> = headers.get_all(TRACESTATE).iter().map(|line| line.to_str().ok()).collect();
    let joined = lines?.join(",");
    let fit = (1..=LONGEST_STATE).contains(&joined.len());
    fit.then(|| HeaderValue::try_from(joined).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn taken(lines: &[(HeaderName, String)]) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        TraceContext::of(&headers)
    }

    #[test]
    fn a_trace_is_taken_from_a_whole_traceparent_only() {
        for good in [format!("00-{TRACE}-{PARENT}-01"), format!("cc-{TRACE}-{PARENT}-01-later")] {
            let trace = taken(&[(TRACEPARENT, good.clone())]);
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
            assert_eq!(taken(&[(TRACEPARENT, bad.clone())]), None, "{bad}");
        }
        let one = || (TRACEPARENT, format!("00-{TRACE}-{PARENT}-01"));
        assert_eq!(taken(&[one(), one()]), None, "several");
    }

    #[test]
    fn only_flags_of_the_version_we_write_are_passed_on() {
        for (given, sent) in [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("05", "01"), ("fc", "00")] {
            let trace = taken(&[(TRACEPARENT, format!("cc-{TRACE}-{PARENT}-{given}"))]).unwrap();
            let (_, parent) = trace.headers().next().unwrap();
            assert_eq!(parent, format!("00-{TRACE}-{}-{sent}", trace.span_id()), "{given}");
        }
    }

    #[test]
    fn it_is_passed_on_with_the_request_s_own_place_as_parent() {
        let parent = (TRACEPARENT, format!("00-{TRACE}-{PARENT}-03"));
        let trace = taken(&[parent.clone(), (TRACESTATE, "a=1".into()), (TRACESTATE, "b=2".into())]).unwrap();
        let call: Vec<_> = trace.headers().collect();
        let text = call[0].1.to_str().unwrap();
        assert_eq!(text, format!("00-{TRACE}-{}-03", trace.span_id()));
        assert!(taken(&[(TRACEPARENT, text.to_owned())]).is_some() && !text.contains(PARENT), "{text}");
        assert_eq!(call[1], (TRACESTATE, HeaderValue::from_static("a=1,b=2")));
        assert_eq!(call, trace.clone().headers().collect::<Vec<_>>(), "the same for every call");
        let another = taken(std::slice::from_ref(&parent)).unwrap();
        assert_ne!(another.span_id(), trace.span_id(), "another request's");
        for (state, kept) in [("x".repeat(512), true), ("x".repeat(513), false), (String::new(), false)] {
            let trace = taken(&[parent.clone(), (TRACESTATE, state)]).unwrap();
            assert_eq!(trace.headers().count(), if kept { 2 } else { 1 });
        }
    }

    #[tokio::test]
    async fn it_follows_onto_another_task() {
        let trace = taken(&[(TRACEPARENT, format!("00-{TRACE}-{PARENT}-01"))]);
        let there = within(trace.clone(), async { tokio::spawn(carried(async { current() })).await.unwrap() }).await;
        assert_eq!(there, trace);
        assert_eq!(current(), None);
    }
}
