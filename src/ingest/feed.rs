//! What multer is fed with: one bounded slice of the body at a time, and only when it has looked at all it has.
//!
//! multer takes from its stream until that is pending, buffers whatever it got while it looks for a part's headers, reads
//! end-of-stream before it has searched what came with it, and asks again before it has searched what it got last. Here
//! the body is asked once for each look at it; in between the stream seems pending. [`Feed::reopen`] tells that from a
//! body that really is, so nothing has to be woken. So multer holds at most one [`SLICE`] and [`HEAD_LIMIT`], whatever
//! the body does.

use bytes::Bytes;
use futures::Stream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use super::body::Data;
use crate::error::{Error, Result};

/// The most multer gets at once, in bytes. It copies that into a buffer of its own, of twice the size and for as long as the
/// form lasts.
pub(super) const SLICE: usize = 32 * 1024;

/// The longest headers of a part, in bytes.
pub(super) const HEADER_LIMIT: usize = 16 * 1024;

/// The most multer may ask for before it finds a part's headers: those, and the boundary's line.
pub(super) const HEAD_LIMIT: usize = HEADER_LIMIT + 1024;

/// The body between its form and multer, shared by both. Never locked across an await.
#[derive(Clone)]
pub(super) struct Feed(Arc<Mutex<State>>);

struct State {
    body: Data,
    /// Of the chunk that was too long to hand on at once.
    rest: Bytes,
    gate: Gate,
    /// What multer may still have before it must have found headers; none while it reads a part's data.
    head_allowance: Option<usize>,
    ended: bool,
}

/// Whether multer's next call reaches the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// Something came: multer is to look at it first.
    Shut,
    /// Nothing is there; the body wakes the task.
    Waiting,
}

impl Feed {
    pub(super) fn new(body: Data) -> Self {
        let state =
            State { body, rest: Bytes::new(), gate: Gate::Shut, head_allowance: Some(HEAD_LIMIT), ended: false };
        Feed(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on multer looks for a part's headers.
    pub(super) fn expect_headers(&self) {
        self.state().head_allowance = Some(HEAD_LIMIT);
    }

    /// From here on multer reads a part's data.
    pub(super) fn expect_data(&self) {
        self.state().head_allowance = None;
    }

    /// Lets one more slice through; false where there is none yet, and the body is what is waited for.
    pub(super) fn reopen(&self) -> bool {
        let mut state = self.state();
        let shut = state.gate == Gate::Shut;
        state.gate = if shut { Gate::Open } else { Gate::Shut };
        shut
    }

    /// Whether multer has been told that the body is over.
    pub(super) fn ended(&self) -> bool {
        self.state().ended
    }

    /// What multer has not been given yet: the chunk's rest, then the body's.
    pub(super) fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        self.state().poll_chunk(cx)
    }
}

impl State {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.rest.is_empty() {
            self.body.poll_chunk(cx)
        } else {
            Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))))
        }
    }

    fn poll_slice(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.gate != Gate::Open {
            return Poll::Pending;
        }
        if self.head_allowance == Some(0) {
            let reason = format!("no part's headers end within {HEADER_LIMIT} bytes");
            return Poll::Ready(Some(Err(Error::MalformedForm(reason))));
        }
        self.gate = Gate::Waiting;
        let next = ready!(self.poll_chunk(cx));
        self.gate = Gate::Shut;
        self.ended = next.is_none();
        Poll::Ready(next.map(|chunk| chunk.map(|chunk| self.cut(chunk))))
    }

    /// Keeps for later what multer is not to have yet.
    fn cut(&mut self, mut chunk: Bytes) -> Bytes {
        let most = self.head_allowance.unwrap_or(SLICE);
        if chunk.len() > most {
            self.rest = chunk.split_off(most);
        }
        if let Some(allowance) = &mut self.head_allowance {
            *allowance -= chunk.len();
        }
        chunk
    }
}

impl Stream for Feed {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.state().poll_slice(cx)
    }
}
