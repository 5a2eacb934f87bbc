//! The input of multer: passes the boundaries and headers of a form to multer, and the data of the parts to the form.
//!
//! multer copies its whole input into a buffer of its own. That suits a parser of boundaries and headers. For gigabytes of
//! data this copy would be half of the cost of an upload. Therefore multer never gets the data. It gets
//! one slice at a time, and no slice continues after an empty line, because an empty line ends a part's headers. So
//! when multer announces a part, it has consumed its whole input, and the data begin with the next byte. The data are
//! searched for the [`Delimiter`] in place. Then multer gets the delimiter, and sees a part without data. A part
//! without headers has only the empty line after its boundary line. multer expects two line ends there, so this module
//! adds one.
//!
//! multer rejects folded headers, which continue in a line that begins with a space or a tab (RFC 5322, 2.2.3). Clients
//! that are based on mail libraries send them. This module unfolds such a header into one line.
//!
//! multer polls its stream until that is pending. It processes the end of the stream before it has searched the bytes
//! that came with it, and polls again before it has searched the last bytes. Therefore the body is polled only once
//! each time multer is polled; in between, the stream is pending. [`MulterInput::reopen`] distinguishes this from a
//! body that is really pending, so no wake-up is necessary. multer thus holds at most [`HEAD_LIMIT`] bytes, whatever
//! the body does.

use bytes::Bytes;
use futures::Stream;
use memchr::memmem;
use parking_lot::{Mutex, MutexGuard};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::body::BodyStream;
use super::delimiter::{Delimiter, LINE_END, Piece};
use crate::error::{Error, Result};

/// Maximum size of a part's headers, in bytes.
pub(super) const HEADER_LIMIT: usize = 16 * 1024;

/// Maximum number of bytes that multer gets before it must have found a part's headers. It includes the boundary line.
pub(super) const HEAD_LIMIT: usize = HEADER_LIMIT + 1024;

/// The input that a form and its multer parser share. The mutex is never locked across an await.
#[derive(Clone)]
pub(super) struct MulterInput(Arc<Mutex<State>>);

struct State {
    body: BodyStream,
    delimiter: Delimiter,
    /// Whether the part's data have ended and the delimiter is multer's next slice.
    at_delimiter: bool,
    /// The rest of the last chunk, which was not returned yet.
    rest: Bytes,
    polling: Polling,
    /// Number of bytes that multer may still get before it must have found headers.
    allowance: usize,
    position: Position,
    ended: bool,
}

/// The position in the form at which multer's next slice begins.
enum Position {
    Preamble(Preamble),
    /// After a boundary.
    Head(HeadLines),
}

/// The bytes before the first boundary.
#[derive(Default)]
struct Preamble {
    /// The last bytes so far, fewer than the boundary has.
    tail: Vec<u8>,
    /// Number of bytes so far.
    len: usize,
}

/// The rest of a boundary line, and the header lines after it.
#[derive(Default)]
struct HeadLines {
    /// Whether the boundary line has ended.
    in_headers: bool,
    /// Number of headers so far.
    headers: usize,
    /// Number of bytes of the line so far.
    line: usize,
    /// Whether the last byte was a CR that is not passed on yet.
    cr: bool,
    /// Whether a header line has ended and its end is not passed on yet: the next byte shows if the header continues.
    held: bool,
}

/// The empty line that ends a part's headers.
struct EmptyLine {
    /// The position at which the data begin.
    end: usize,
    /// Whether there is no header before it.
    alone: bool,
}

/// Whether multer's next poll of its stream polls the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Polling {
    Allowed,
    /// Not until multer has searched the bytes that it received last.
    Suspended,
    /// The body was pending. It wakes the task.
    Waiting,
}

impl MulterInput {
    pub(super) fn new(boundary: &str, body: BodyStream) -> Self {
        let state = State {
            body,
            delimiter: Delimiter::new(boundary),
            at_delimiter: false,
            rest: Bytes::new(),
            polling: Polling::Suspended,
            allowance: HEAD_LIMIT,
            position: Position::Preamble(Preamble::default()),
            ended: false,
        };
        MulterInput(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Reports that multer searches for a part's headers from here on.
    pub(super) fn expect_headers(&self) {
        self.state().allowance = HEAD_LIMIT;
    }

    /// Reports that multer has announced a part, whose data come next.
    pub(super) fn expect_data(&self) {
        self.state().delimiter.start();
    }

    /// Allows multer to get one more slice. Returns `false` if the body itself is pending.
    pub(super) fn reopen(&self) -> bool {
        let mut state = self.state();
        let suspended = state.polling == Polling::Suspended;
        state.polling = if suspended { Polling::Allowed } else { Polling::Suspended };
        suspended
    }

    /// Whether multer has received the end of the body.
    pub(super) fn ended(&self) -> bool {
        self.state().ended
    }

    /// Returns the next data of the part that multer has announced, never an empty chunk. Returns `None` once, at the
    /// end of the part.
    pub(super) fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        self.state().poll_data(cx)
    }

    /// Returns the bytes that multer has not received: the rest of the last chunk, then the rest of the body.
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
        if self.polling != Polling::Allowed {
            return Poll::Pending;
        }
        if self.allowance == 0 {
            return Poll::Ready(Some(Err(Error::MalformedForm(self.limit_reason()))));
        }
        if std::mem::take(&mut self.at_delimiter) {
            self.polling = Polling::Suspended;
            self.position = Position::Head(HeadLines::default());
            let delimiter = self.delimiter.bytes();
            self.allowance = self.allowance.saturating_sub(delimiter.len());
            return Poll::Ready(Some(Ok(delimiter)));
        }
        self.polling = Polling::Waiting;
        let next = ready!(self.poll_chunk(cx));
        self.polling = Polling::Suspended;
        self.ended = next.is_none();
        match next {
            Some(chunk) => Poll::Ready(Some(chunk.map(|chunk| self.cut(chunk)))),
            None => Poll::Ready(self.missing_boundary().map(Err)),
        }
    }

    fn limit_reason(&self) -> String {
        match &self.position {
            Position::Preamble(_) => format!("{} within its first {HEAD_LIMIT} bytes", self.no_boundary()),
            Position::Head(_) => format!("the headers of a part do not end within {HEADER_LIMIT} bytes"),
        }
    }

    /// Returns the error for a body that has ended and does not contain the boundary. `None` if the body may only have
    /// been cut off.
    fn missing_boundary(&self) -> Option<Error> {
        let Position::Preamble(preamble) = &self.position else { return None };
        let cut_off = preamble.len == preamble.tail.len() && self.delimiter.boundary_line().starts_with(&preamble.tail);
        (!cut_off).then(|| Error::MalformedForm(self.no_boundary()))
    }

    fn no_boundary(&self) -> String {
        let line = String::from_utf8_lossy(self.delimiter.boundary_line()).into_owned();
        format!("the boundary in the Content-Type does not occur in the body ('{line}')")
    }

    /// Returns the slice of `chunk` for multer. Stores the rest for later.
    fn cut(&mut self, mut chunk: Bytes) -> Bytes {
        let most = chunk.len().min(self.allowance);
        let Some(start) = self.head_start(&chunk[..most]) else {
            self.rest = chunk.split_off(most);
            self.allowance -= most;
            return chunk;
        };
        let Position::Head(lines) = &mut self.position else { return chunk };
        let mut unfolded = chunk[..start].to_vec();
        let empty_line = lines.unfold(&chunk[start..most], &mut unfolded);
        let end = empty_line.as_ref().map_or(most, |found| start + found.end);
        self.rest = chunk.split_off(end);
        self.allowance -= end;
        if empty_line.is_some_and(|found| found.alone) {
            // multer searches for two line ends after that of the boundary line.
            unfolded.extend_from_slice(LINE_END.as_bytes());
        }
        unfolded.into()
    }

    /// Returns the position at which a part's head begins or continues. `None` if all `bytes` belong to the preamble,
    /// which is not split at empty lines, because multer searches all of it again at every slice.
    fn head_start(&mut self, bytes: &[u8]) -> Option<usize> {
        let Position::Preamble(preamble) = &mut self.position else { return Some(0) };
        let start = preamble.end(bytes, self.delimiter.boundary_line())?;
        self.position = Position::Head(HeadLines::default());
        Some(start)
    }
}

impl Preamble {
    /// Returns the position after the first boundary, if that ends in `bytes`.
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
    /// Appends the lines up to the empty line to `unfolded`, each header in a single line.
    fn unfold(&mut self, bytes: &[u8], unfolded: &mut Vec<u8>) -> Option<EmptyLine> {
        for (at, &byte) in bytes.iter().enumerate() {
            let header_continues = matches!(byte, b' ' | b'\t');
            if std::mem::take(&mut self.held) && !header_continues {
                unfolded.extend_from_slice(LINE_END.as_bytes());
            }
            let after_cr = std::mem::replace(&mut self.cr, byte == b'\r');
            if !(after_cr && byte == b'\n') {
                self.line += 1;
                unfolded.extend(after_cr.then_some(b'\r'));
                unfolded.extend((!self.cr).then_some(byte));
                continue;
            }
            // The line contains only the CR.
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

    /// At each slice, multer searches its whole buffer.
    #[test]
    fn empty_lines_in_the_preamble_do_not_split_slices() {
        let head = "\r\n".repeat(8_000) + "--XX\r\nContent-Disposition: form-data; name=file\r\n\r\n";
        let mut input = MulterInput::new("XX", BodyStream::new(Full::new(Bytes::from(head.clone() + "data"))));
        input.reopen();
        let slice = input.next().now_or_never().flatten().unwrap().unwrap();
        assert_eq!(slice, head);
    }
}
