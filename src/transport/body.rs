//! A request's body as the server hands it on: it must not pause too long, and it is not dropped rudely.
//!
//! Where a request is answered before its body has been read (413, a wrong type), closing the connection at once would
//! reset it, and the client, still sending, would see that and not the answer. So what nobody reads any more is read on
//! and thrown away for a while, as nginx does (`lingering_close`). A client that sent `Expect: 100-continue` and was not
//! told to go on sends nothing: there, reading would be what asks it to.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::error::{BoxError, Error};
use crate::telemetry::metrics::Received;

/// Reading on ends after this long in all,
const LINGER: Duration = Duration::from_secs(30);
/// after a pause of this length,
const LINGER_PAUSE: Duration = Duration::from_secs(5);
/// or after this many bytes.
const LINGER_BYTES: u64 = 1 << 30;

/// An HTTP body with an idle timeout, which is read on for a while if it is dropped early.
pub struct RequestBody {
    /// None only while it is being dropped.
    inner: Option<Incoming>,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer runs since the last frame.
    waiting: bool,
    /// Nobody has asked for the body yet, and the client waits to be asked.
    unasked: bool,
    ended: Ended,
    /// None only while it is being dropped.
    received: Option<Received>,
}

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

impl RequestBody {
    /// `idle` is how long the client may pause. `expects_continue`: the request said `Expect: 100-continue`.
    pub fn new(inner: Incoming, idle: Duration, expects_continue: bool, received: Received) -> Self {
        let ended = Ended::default();
        if inner.is_end_stream() {
            ended.set();
        }
        let (inner, received) = (Some(inner), Some(received));
        RequestBody { inner, idle, timer: None, waiting: false, unasked: expects_continue, ended, received }
    }

    pub fn ended(&self) -> Ended {
        self.ended.clone()
    }

    /// Polled only after the body had nothing: a frame that is there wins over a timer that has run out.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = Instant::now() + self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.idle)));
        if !self.waiting {
            timer.as_mut().reset(deadline);
            self.waiting = true;
        }
        timer.as_mut().poll(cx)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        this.unasked = false;
        let Some(inner) = this.inner.as_mut() else {
            return Poll::Ready(None);
        };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.waiting = false;
                if let (Some(Ok(frame)), Some(received)) = (&frame, &mut this.received) {
                    received.add(data_len(frame));
                }
                if !matches!(frame, Some(Ok(_))) || this.is_end_stream() {
                    this.ended.set();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => match this.poll_idle(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(Error::ClientTooSlow { seconds: this.idle.as_secs() }.into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let (Some(inner), Some(received)) = (self.inner.take(), self.received.take()) else { return };
        if self.ended.get() || self.unasked {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(timeout(LINGER, read_on(inner, received)));
        }
    }
}

async fn read_on(mut body: Incoming, mut received: Received) {
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
