//! The trace a request belongs to (W3C Trace Context): taken from its headers, passed on with every call made for it.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::future::Future;
use uuid::Uuid;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// What the standard asks everybody to pass on, in bytes; what is longer is left out.
const LONGEST_STATE: usize = 512;

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

/// A trace, without the place in it that a header names too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: String,
    flags: String,
    state: Option<HeaderValue>,
}

impl TraceContext {
    /// From `traceparent`: `<version>-<trace id>-<parent id>-<flags>`.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(TRACEPARENT)?.to_str().ok()?;
        let fields: Vec<&str> = text.split('-').collect();
        let [version, trace_id, parent_id, flags, ref later @ ..] = fields[..] else { return None };
        let hex = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let id = |text: &str, digits| hex(text, digits) && text.bytes().any(|byte| byte != b'0');
        // A later version may have more fields; the first version has not, and ff is none.
        let known = hex(version, 2) && version != "ff" && (version != "00" || later.is_empty());
        let whole = known && id(trace_id, 32) && id(parent_id, 16) && hex(flags, 2);
        whole.then(|| TraceContext { trace_id: trace_id.to_owned(), flags: flags.to_owned(), state: state(headers) })
    }

    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }

    /// The headers of one call. Each call has a parent id of its own.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        // Never zero, which is no id: a UUID has its version in this half.
        let (parent_id, _) = Uuid::new_v4().as_u64_pair();
        let parent = HeaderValue::try_from(format!("00-{}-{parent_id:016x}-{}", self.trace_id, self.flags)).ok();
        let state = self.state.clone();
        parent.map(|parent| (TRACEPARENT, parent)).into_iter().chain(state.map(|state| (TRACESTATE, state)))
    }
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
    }

    #[test]
    fn it_is_passed_on_with_a_parent_of_its_own_each_time() {
        let parent = (TRACEPARENT, format!("00-{TRACE}-{PARENT}-03"));
        let trace = taken(&[parent.clone(), (TRACESTATE, "a=1".into()), (TRACESTATE, "b=2".into())]).unwrap();
        let calls: Vec<Vec<_>> = vec![trace.headers().collect(), trace.headers().collect()];
        for call in &calls {
            let text = call[0].1.to_str().unwrap();
            assert!(text.starts_with(&format!("00-{TRACE}-")) && text.ends_with("-03"), "{text}");
            assert!(taken(&[(TRACEPARENT, text.to_owned())]).is_some() && !text.contains(PARENT), "{text}");
            assert_eq!(call[1], (TRACESTATE, HeaderValue::from_static("a=1,b=2")));
        }
        assert_ne!(calls[0][0], calls[1][0]);
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
