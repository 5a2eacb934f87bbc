//! The body between its form and multer: what stands around the parts' data goes to multer, the data past it.
//!
//! multer copies all it is given into a buffer of its own. That is what a parser of boundaries and headers has to do, and
//! half of what an upload would cost where gigabytes of data go the same way; so multer never sees those. It is given one
//! slice at a time and none goes on behind an empty line, which is what ends a part's headers: when multer announces a part
//! it has used up all it was given, and the data begin with the next byte. They are searched for the [`Delimiter`] where
//! they lie, and multer, which takes the part for an empty one, goes on with that. Headers that are none end with the line
//! behind the boundary's; multer reads on for another, and gets it from here.
//!
//! multer refuses headers that go on in a line that begins with a space or a tab (RFC 5322, 2.2.3), which clients built on
//! mail libraries write. It is given such a header in one line.
//!
//! multer takes from its stream until that is pending, reads end-of-stream before it has searched what came with it, and
//! asks again before it has searched what it got last. Here the body is asked once for each look at it; in between the
//! stream seems pending. [`MulterInput::reopen`] tells that from a body that really is, so nothing has to be woken. So multer
//! holds at most [`HEAD_LIMIT`], whatever the body does.

use bytes::Bytes;
use futures::Stream;
use memchr::memmem;
use parking_lot::{Mutex, MutexGuard};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::body::Data;
use super::delimiter::{Delimiter, LINE_END, Piece};
use crate::error::{Error, Result};

/// The longest headers of a part, in bytes.
pub(super) const HEADER_LIMIT: usize = 16 * 1024;

/// The most multer may ask for before it finds a part's headers: those, and the boundary's line.
pub(super) const HEAD_LIMIT: usize = HEADER_LIMIT + 1024;

/// Shared by a form and its multer. Never locked across an await.
#[derive(Clone)]
pub(super) struct MulterInput(Arc<Mutex<State>>);

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
    place: Place,
    ended: bool,
}

/// Where in the form multer's next slice begins.
enum Place {
    Preamble(Preamble),
    /// Behind a boundary.
    Head(HeadLines),
}

/// What comes before the first boundary.
#[derive(Default)]
struct Preamble {
    /// What the body ended with so far, shorter than the boundary.
    tail: Vec<u8>,
    /// Bytes so far.
    len: usize,
}

/// The rest of a boundary's line, and the header lines behind it.
#[derive(Default)]
struct HeadLines {
    /// The boundary's line is over.
    in_headers: bool,
    /// Headers so far.
    headers: usize,
    /// Bytes of the line so far.
    line: usize,
    /// The last byte was a CR, which is not passed on yet.
    cr: bool,
    /// A header's line has ended, and its end is not passed on yet: the next byte says whether the header has.
    held: bool,
}

/// The empty line that ends a part's headers.
struct EmptyLine {
    /// Where the data begin.
    end: usize,
    /// No header stands before it.
    alone: bool,
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

impl MulterInput {
    pub(super) fn new(boundary: &str, body: Data) -> Self {
        let state = State {
            body,
            delimiter: Delimiter::new(boundary),
            at_delimiter: false,
            rest: Bytes::new(),
            gate: Gate::Shut,
            allowance: HEAD_LIMIT,
            place: Place::Preamble(Preamble::default()),
            ended: false,
        };
        MulterInput(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// From here on multer looks for a part's headers.
    pub(super) fn expect_headers(&self) {
        self.state().allowance = HEAD_LIMIT;
    }

    /// Multer has announced a part: its data come next.
    pub(super) fn expect_data(&self) {
        self.state().delimiter.start();
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
            return Poll::Ready(Some(Err(Error::MalformedForm(self.too_long()))));
        }
        if std::mem::take(&mut self.at_delimiter) {
            self.gate = Gate::Shut;
            self.place = Place::Head(HeadLines::default());
            let delimiter = self.delimiter.bytes();
            self.allowance = self.allowance.saturating_sub(delimiter.len());
            return Poll::Ready(Some(Ok(delimiter)));
        }
        self.gate = Gate::Waiting;
        let next = ready!(self.poll_chunk(cx));
        self.gate = Gate::Shut;
        self.ended = next.is_none();
        match next {
            Some(chunk) => Poll::Ready(Some(chunk.map(|chunk| self.cut(chunk)))),
            None => Poll::Ready(self.missing_boundary().map(Err)),
        }
    }

    fn too_long(&self) -> String {
        match &self.place {
            Place::Preamble(_) => format!("{} within its first {HEAD_LIMIT} bytes", self.no_boundary()),
            Place::Head(_) => format!("no part's headers end within {HEADER_LIMIT} bytes"),
        }
    }

    /// The error for a body that is over and was no form of this boundary. None if it only was cut off.
    fn missing_boundary(&self) -> Option<Error> {
        let Place::Preamble(preamble) = &self.place else { return None };
        let cut_off = preamble.len == preamble.tail.len() && self.delimiter.boundary_line().starts_with(&preamble.tail);
        (!cut_off).then(|| Error::MalformedForm(self.no_boundary()))
    }

    fn no_boundary(&self) -> String {
        let line = String::from_utf8_lossy(self.delimiter.boundary_line()).into_owned();
        format!("the boundary that its Content-Type names does not occur in the body ('{line}')")
    }

    /// Keeps for later what multer is not to have yet, or not at all.
    fn cut(&mut self, mut chunk: Bytes) -> Bytes {
        let most = chunk.len().min(self.allowance);
        let Some(start) = self.head_start(&chunk[..most]) else {
            self.rest = chunk.split_off(most);
            self.allowance -= most;
            return chunk;
        };
        let Place::Head(lines) = &mut self.place else { return chunk };
        let mut unfolded = chunk[..start].to_vec();
        let empty_line = lines.unfold(&chunk[start..most], &mut unfolded);
        let end = empty_line.as_ref().map_or(most, |found| start + found.end);
        self.rest = chunk.split_off(end);
        self.allowance -= end;
        if empty_line.is_some_and(|found| found.alone) {
            // What multer looks for is two line ends behind the boundary's.
            unfolded.extend_from_slice(LINE_END.as_bytes());
        }
        unfolded.into()
    }

    /// Where a part's head goes on or begins. Empty lines of a preamble do not count: multer looks at all of that at every
    /// slice.
    fn head_start(&mut self, bytes: &[u8]) -> Option<usize> {
        let Place::Preamble(preamble) = &mut self.place else { return Some(0) };
        let start = preamble.end(bytes, self.delimiter.boundary_line())?;
        self.place = Place::Head(HeadLines::default());
        Some(start)
    }
}

impl Preamble {
    /// Behind the first boundary, if it ends in `bytes`.
    fn end(&mut self, bytes: &[u8], boundary: &[u8]) -> Option<usize> {
        let held = self.tail.len();
        self.len += bytes.len();
        self.tail.extend_from_slice(bytes);
        let Some(at) = memmem::find(&self.tail, boundary) else {
            self.tail.drain(..self.tail.len().saturating_sub(boundary.len() - 1));
            return None;
        };
        Some(at + boundary.len() - held)
    }
}

impl HeadLines {
    /// Passes the lines on to `unfolded`, each header in one of them, up to the empty line.
    fn unfold(&mut self, bytes: &[u8], unfolded: &mut Vec<u8>) -> Option<EmptyLine> {
        for (at, &byte) in bytes.iter().enumerate() {
            let header_goes_on = matches!(byte, b' ' | b'\t');
            if std::mem::take(&mut self.held) && !header_goes_on {
                unfolded.extend_from_slice(LINE_END.as_bytes());
            }
            let after_cr = std::mem::replace(&mut self.cr, byte == b'\r');
            if !(after_cr && byte == b'\n') {
                self.line += 1;
                unfolded.extend(after_cr.then_some(b'\r'));
                unfolded.extend((!self.cr).then_some(byte));
                continue;
            }
            // Nothing but the CR.
            let is_empty = std::mem::take(&mut self.line) == 1;
            let in_headers = std::mem::replace(&mut self.in_headers, true);
            self.held = in_headers && !is_empty;
            if !self.held {
                unfolded.extend_from_slice(LINE_END.as_bytes());
            }
            if in_headers && is_empty {
                return Some(EmptyLine { end: at + 1, alone: self.headers == 0 });
            }
            self.headers += usize::from(in_headers);
        }
        None
    }
}

impl Stream for MulterInput {
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
        let mut feed = MulterInput::new("XX", Data::new(Full::new(Bytes::from(head.clone() + "data"))));
        feed.reopen();
        let slice = feed.next().now_or_never().flatten().unwrap().unwrap();
        assert_eq!(slice, head);
    }
}
