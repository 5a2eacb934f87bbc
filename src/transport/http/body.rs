//! The body of a request: enforces a minimum rate and the announced length, and drains a body that is dropped early.
//!
//! If a request is answered before its body has been read (for example with 413), closing the connection at once would
//! reset it. The client is still sending and would see the reset instead of the answer. So the rest of the body is read
//! and discarded for a while, like nginx's `lingering_close`. A client that sent `Expect: 100-continue` sends nothing
//! before it gets `100 Continue`. In that case the body is not read, because reading would make hyper send `100
//! Continue`.

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

const BAD_CHUNKS: &str = "The body's chunks are malformed; each chunk must begin with its size in hexadecimal and a \
                          line break, and end with CRLF (RFC 9112, 7.1)";

/// Draining ends after this time in total.
const LINGER: Duration = Duration::from_secs(30);
/// Draining ends after a pause of this length.
const LINGER_PAUSE: Duration = Duration::from_secs(5);
/// Draining ends after this many bytes.
const LINGER_BYTES: u64 = 1 << 30;

/// An HTTP body with a minimum rate and an exact length, which is drained for a while if it is dropped early.
pub struct RequestBody<B: Transported = Incoming> {
    /// `None` only while it is being dropped.
    inner: Option<B>,
    pace: Pace,
    /// Bytes that have not arrived yet, if the head announces a length.
    missing: Option<u64>,
    /// The client expects `100 Continue`, which has not been sent because the body has not been read yet.
    awaits_continue: bool,
    ended: Ended,
    /// `None` only while it is being dropped.
    received: Option<Received>,
}

/// A body as the transport provides it.
pub trait Transported: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static> Transported for B {}

/// A flag that a body has been read to its end. It remains readable after the body was moved.
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
    /// Wraps `inner`. `length` is the length in bytes that the head announces: if `inner` ends earlier, that is an
    /// error. `expects_continue` means that the request has `Expect: 100-continue`.
    pub fn new(inner: B, length: Option<u64>, limits: PaceLimits, expects_continue: bool, received: Received) -> Self {
        let ended = Ended::default();
        if inner.is_end_stream() {
            ended.set();
        }
        let (inner, received) = (Some(inner), Some(received));
        RequestBody {
            inner,
            pace: Pace::new(limits),
            missing: length,
            awaits_continue: expects_continue,
            ended,
            received,
        }
    }

    pub fn ended(&self) -> Ended {
        self.ended.clone()
    }

    /// Processes a frame or the end of the body.
    fn arrived(&mut self, frame: Option<Result<Frame<Bytes>, B::Error>>) -> Option<Result<Frame<Bytes>, BoxError>> {
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.ended.set();
                return Some(Err(convert_error(error.into())));
            }
            None => {
                self.ended.set();
                // The error is returned once. Further polls return the end.
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
        this.awaits_continue = false;
        let Some(inner) = this.inner.as_mut() else {
            return Poll::Ready(None);
        };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(this.arrived(frame)),
            // The timer is checked after the body, so that a frame that has arrived takes precedence over an expired
            // timer.
            Poll::Pending => this.pace.poll_too_slow(cx).map(|error| Some(Err(error.into()))),
        }
    }

    /// Returns `false` before the last byte, so that a premature end is found by polling.
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
        if self.ended.get() || self.awaits_continue {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(timeout(LINGER, drain_remaining(inner, received)));
        }
    }
}

/// Converts hyper's error for malformed chunks, which otherwise looks like a truncated body.
fn convert_error(error: BoxError) -> BoxError {
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

    /// Reads a body that is announced with `length` bytes and that its transport ends cleanly after "abcdef".
    async fn read(length: Option<u64>) -> Result<Bytes, BoxError> {
        let pieces = ["abc", "def"].map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let inner = StreamBody::new(futures::stream::iter(pieces));
        let body = RequestBody::new(inner, length, LIMITS, false, Metrics::new().received());
        body.collect().await.map(http_body_util::Collected::to_bytes)
    }

    #[tokio::test]
    async fn body_shorter_than_announced_is_an_error() {
        for length in [7, 1 << 40] {
            let error = read(Some(length)).await.unwrap_err().downcast::<Error>().unwrap();
            assert_eq!(error.code(), "truncated_body", "{length}");
        }
        for length in [None, Some(6)] {
            assert_eq!(read(length).await.unwrap(), "abcdef", "{length:?}");
        }
    }

    #[tokio::test]
    async fn empty_body_with_announced_length_is_an_error() {
        let empty = |length| {
            let inner = http_body_util::Empty::<Bytes>::new();
            RequestBody::new(inner, length, LIMITS, false, Metrics::new().received())
        };
        assert!(empty(Some(0)).is_end_stream() && empty(None).is_end_stream());
        assert!(!empty(Some(1)).is_end_stream());
        assert!(empty(Some(1)).collect().await.is_err());
    }
}
