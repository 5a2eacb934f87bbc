//! The body between its form and multer: what stands around the parts' data goes to multer, the data past it.
//!
//! multer copies all it is given into a buffer of its own. That is what a parser of boundaries and headers has to do, and
//! half of what an upload would cost where gigabytes of data go the same way; so multer never sees those. It is given one
//! slice at a time and none goes on behind an empty line, which is what ends a part's headers: when multer announces a part
//! it has used up all it was given, and the data begin with the next byte. They are searched for the [`Delimiter`] where
//! they lie, and multer, which takes the part for an empty one, goes on with that.
//!
//! multer takes from its stream until that is pending, reads end-of-stream before it has searched what came with it, and
//! asks again before it has searched what it got last. Here the body is asked once for each look at it; in between the
//! stream seems pending. [`Feed::reopen`] tells that from a body that really is, so nothing has to be woken. So multer
//! holds at most [`HEAD_LIMIT`], whatever the body does.

use bytes::Bytes;
use futures::Stream;
use memchr::memmem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use super::body::Data;
use super::delimiter::{Delimiter, Piece};
use crate::error::{Error, Result};

/// The longest headers of a part, in bytes.
pub(super) const HEADER_LIMIT: usize = 16 * 1024;

/// The most multer may ask for before it finds a part's headers: those, and the boundary's line.
pub(super) const HEAD_LIMIT: usize = HEADER_LIMIT + 1024;

const EMPTY_LINE: u32 = u32::from_be_bytes(*b"\r\n\r\n");

/// Shared by a form and its multer. Never locked across an await.
#[derive(Clone)]
pub(super) struct Feed(Arc<Mutex<State>>);

struct State {
    body: Data,
    delimiter: Delimiter,
    /// The data have ended; the delimiter is multer's next slice.
    at_delimiter: bool,
    /// Of the chunk that came last, what nobody has been given yet.
    rest: Bytes,
    gate: Gate,
    /// What multer may still have before it must have found headers.
    allowance: usize,
    /// What the body ended with so far, shorter than the boundary; none once that has come.
    preamble: Option<Vec<u8>>,
    /// The last four bytes multer was given.
    last: u32,
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
    pub(super) fn new(boundary: &str, body: Data) -> Self {
        let state = State {
            body,
            delimiter: Delimiter::new(boundary),
            at_delimiter: false,
            rest: Bytes::new(),
            gate: Gate::Shut,
            allowance: HEAD_LIMIT,
            preamble: Some(Vec::new()),
            last: 0,
            ended: false,
        };
        Feed(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on multer looks for a part's headers.
    pub(super) fn expect_headers(&self) {
        self.state().allowance = HEAD_LIMIT;
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

    /// The next data of the part multer has announced, never none of them; `None` once, at its end.
    pub(super) fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        self.state().poll_data(cx)
    }

    /// What multer has not been given: the chunk's rest, then the body's.
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

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            match self.delimiter.split(&mut self.rest) {
                Some(Piece::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Some(Piece::End) => {
                    self.at_delimiter = true;
                    return Poll::Ready(None);
                }
                None => {}
            }
            match ready!(self.body.poll_chunk(cx)) {
                Some(Ok(chunk)) => self.rest = chunk,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(Some(Err(Error::TruncatedBody(None)))),
            }
        }
    }

    fn poll_slice(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.gate != Gate::Open {
            return Poll::Pending;
        }
        if self.allowance == 0 {
            let reason = format!("no part's headers end within {HEADER_LIMIT} bytes");
            return Poll::Ready(Some(Err(Error::MalformedForm(reason))));
        }
        if std::mem::take(&mut self.at_delimiter) {
            self.gate = Gate::Shut;
            let delimiter = self.delimiter.bytes();
            self.allowance = self.allowance.saturating_sub(delimiter.len());
            return Poll::Ready(Some(Ok(delimiter)));
        }
        self.gate = Gate::Waiting;
        let next = ready!(self.poll_chunk(cx));
        self.gate = Gate::Shut;
        self.ended = next.is_none();
        Poll::Ready(next.map(|chunk| chunk.map(|chunk| self.cut(chunk))))
    }

    /// Keeps for later what multer is not to have yet, or not at all.
    fn cut(&mut self, mut chunk: Bytes) -> Bytes {
        let most = chunk.len().min(self.allowance);
        let end = self.end_of_slice(&chunk[..most]);
        self.rest = chunk.split_off(end);
        self.allowance -= chunk.len();
        chunk
    }

    /// Behind the first empty line. Those of a preamble do not count: multer looks at all of that at every slice.
    fn end_of_slice(&mut self, head: &[u8]) -> usize {
        let Some(start) = self.end_of_preamble(head) else { return head.len() };
        let empty_line = head[start..].iter().position(|byte| {
            self.last = self.last << 8 | u32::from(*byte);
            self.last == EMPTY_LINE
        });
        empty_line.map_or(head.len(), |at| start + at + 1)
    }

    /// Behind the first boundary; none where that has not come yet.
    fn end_of_preamble(&mut self, head: &[u8]) -> Option<usize> {
        let Some(before) = &mut self.preamble else { return Some(0) };
        let held = before.len();
        before.extend_from_slice(head);
        let boundary = self.delimiter.boundary_line();
        let Some(at) = memmem::find(before, boundary) else {
            before.drain(..before.len().saturating_sub(boundary.len() - 1));
            return None;
        };
        let end = at + boundary.len() - held;
        self.preamble = None;
        Some(end)
    }
}

impl Stream for Feed {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.state().poll_slice(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, StreamExt};
    use http_body_util::Full;

    /// Each slice is a look of multer's at all it has.
    #[test]
    fn a_preamble_of_empty_lines_is_no_more_slices_than_any_other() {
        let head = "\r\n".repeat(8_000) + "--XX\r\nContent-Disposition: form-data; name=file\r\n\r\n";
        let mut feed = Feed::new("XX", Data::new(Full::new(Bytes::from(head.clone() + "data"))));
        feed.reopen();
        let slice = feed.next().now_or_never().flatten().unwrap().unwrap();
        assert_eq!(slice, head);
    }
}
