//! A request's body as the server hands it on: it must not come too slowly, it ends where its head says, and it is not
//! dropped rudely.
//!
//! Where a request is answered before its body has been read (413, a wrong type), closing the connection at once would
//! reset it, and the client, still sending, would see that and not the answer. So what nobody reads any more is read on
//! and thrown away for a while, as nginx does (`lingering_close`). A client that sent `Expect: 100-continue` and was not
//! told to go on sends nothing: there, reading would be what asks it to.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::timeout;

use super::pace::{Pace, PaceLimits};
use crate::error::{BoxError, Error};
use crate::telemetry::metrics::Received;

const BAD_CHUNKS: &str = "The body's chunks are malformed: each begins with a line that has its size in hexadecimal, and ends \
                          with CRLF (RFC 9112, 7.1)";

/// Reading on ends after this long in all,
const LINGER: Duration = Duration::from_secs(30);
/// after a pause of this length,
const LINGER_PAUSE: Duration = Duration::from_secs(5);
/// or after this many bytes.
const LINGER_BYTES: u64 = 1 << 30;

/// An HTTP body with a least pace and an exact length, which is read on for a while if it is dropped early.
pub struct RequestBody<B: Transported = Incoming> {
    /// None only while it is being dropped.
    inner: Option<B>,
    pace: Pace,
    /// Bytes still to come, where the head says how many.
    missing: Option<u64>,
    /// Nobody has asked for the body yet, and the client waits to be asked.
    unasked: bool,
    ended: Ended,
    /// None only while it is being dropped.
    received: Option<Received>,
}

/// A body as a transport has it.
pub trait Transported: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static> Transported for B {}

/// Tells whether a body has been read to its end, after the body itself was handed on.
#[derive(Clone, Default)]
pub struct Ended(Arc<AtomicBool>);

impl Ended {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl<B: Transported> RequestBody<B> {
    /// `length` is what the head says of it, in bytes: whatever `inner` takes for its end, fewer are an error.
    /// `expects_continue`: the request said `Expect: 100-continue`.
    pub fn new(inner: B, length: Option<u64>, limits: PaceLimits, expects_continue: bool, received: Received) -> Self {
        let ended = Ended::default();
        if inner.is_end_stream() {
            ended.set();
        }
        let (inner, received) = (Some(inner), Some(received));
        RequestBody { inner, pace: Pace::new(limits), missing: length, unasked: expects_continue, ended, received }
    }

    pub fn ended(&self) -> Ended {
        self.ended.clone()
    }

    /// Counts a frame, or the end that took its place.
    fn arrived(&mut self, frame: Option<Result<Frame<Bytes>, B::Error>>) -> Option<Result<Frame<Bytes>, BoxError>> {
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.ended.set();
                return Some(Err(meaning(error.into())));
            }
            None => {
                self.ended.set();
                // Told once: whoever polls again gets the end.
                let cut_short = self.missing.take().is_some_and(|bytes| bytes > 0);
                return cut_short.then(|| Err(Error::TruncatedBody(None).into()));
            }
        };
        let len = data_len(&frame);
        self.pace.received(len);
        if let Some(received) = &mut self.received {
            received.add(len);
        }
        self.missing = self.missing.map(|missing| missing.saturating_sub(len as u64));
        if self.is_end_stream() {
            self.ended.set();
        }
        Some(Ok(frame))
    }
}

impl<B: Transported> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        this.unasked = false;
        let Some(inner) = this.inner.as_mut() else {
            return Poll::Ready(None);
        };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(this.arrived(frame)),
            // Asked only now: a frame that is there wins over a timer that has run out.
            Poll::Pending => this.pace.poll_too_slow(cx).map(|error| Some(Err(error.into()))),
        }
    }

    /// Never before the last byte: an end that comes early is to be seen by polling.
    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.is_end_stream() && self.missing.unwrap_or(0) == 0)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl<B: Transported> Drop for RequestBody<B> {
    fn drop(&mut self) {
        let (Some(inner), Some(received)) = (self.inner.take(), self.received.take()) else { return };
        if self.ended.get() || self.unasked {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(timeout(LINGER, drain_remaining(inner, received)));
        }
    }
}

/// hyper's error for chunks that it cannot read looks like a body that was cut off.
fn meaning(error: BoxError) -> BoxError {
    let kind = error.source().and_then(|source| source.downcast_ref()).map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            Error::InvalidRequest(BAD_CHUNKS.to_owned()).into()
        }
        _ => error,
    }
}

async fn drain_remaining(mut body: impl Transported, mut received: Received) {
    let mut left = LINGER_BYTES;
    while let Ok(Some(Ok(frame))) = timeout(LINGER_PAUSE, body.frame()).await {
        let len = data_len(&frame);
        received.add(len);
        match left.checked_sub(len as u64) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn data_len(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use http_body_util::StreamBody;

    const LIMITS: PaceLimits = PaceLimits { idle: Duration::from_secs(30), min_rate: 1024 };

    /// What is read of a body that its head announces as `length` bytes, and that its transport ends cleanly after "abcdef".
    async fn read(length: Option<u64>) -> Result<Bytes, BoxError> {
        let pieces = ["abc", "def"].map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let inner = StreamBody::new(futures::stream::iter(pieces));
        let body = RequestBody::new(inner, length, LIMITS, false, Metrics::new().received());
        body.collect().await.map(http_body_util::Collected::to_bytes)
    }

    #[tokio::test]
    async fn a_clean_end_before_the_announced_length_is_an_error() {
        for length in [7, 1 << 40] {
            let error = read(Some(length)).await.unwrap_err().downcast::<Error>().unwrap();
            assert_eq!(error.code(), "truncated_body", "{length}");
        }
        for length in [None, Some(6)] {
            assert_eq!(read(length).await.unwrap(), "abcdef", "{length:?}");
        }
    }

    #[tokio::test]
    async fn a_transport_that_ends_at_once_does_not_make_a_body_whole() {
        let ended = |length| {
            let inner = http_body_util::Empty::<Bytes>::new();
            RequestBody::new(inner, length, LIMITS, false, Metrics::new().received())
        };
        assert!(ended(Some(0)).is_end_stream() && ended(None).is_end_stream());
        assert!(!ended(Some(1)).is_end_stream());
        assert!(ended(Some(1)).collect().await.is_err());
    }
}
