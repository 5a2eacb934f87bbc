//! The parts of a form: multer finds them and parses their headers, and their data bypass it.
//!
//! multer copies its whole input into a buffer of its own. That suits a parser of boundaries and headers. For gigabytes of
//! data this copy would be half of the cost of an upload. Therefore multer never gets the data. It gets one slice at a
//! time, and only if it needs one, and no slice continues after the empty line that ends a part's headers. So when multer
//! announces a part, it has consumed its whole input, and the data begin with the next byte. The data are searched for
//! the [`Delimiter`] in place. Then multer gets the delimiter, and sees a part without data. It thus holds at most
//! [`HEAD_LIMIT`] bytes, whatever the body does.

use bytes::Bytes;
use futures::FutureExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use multer::{Field, Multipart};
use std::convert::Infallible;

use super::super::body::BodyStream;
use super::super::delimiter::{Delimiter, Piece};
use super::head::{HEAD_LIMIT, HeadCutter};
use crate::error::{Error, Result};

pub(super) struct FormParts {
    multer: Multipart<'static>,
    /// What multer reads. `None` after the end of the body.
    input: Option<UnboundedSender<Result<Bytes, Infallible>>>,
    body: BodyStream,
    /// The rest of the body's last chunk.
    rest: Bytes,
    delimiter: Delimiter,
    head: HeadCutter,
    /// Number of bytes within which multer must find headers.
    allowance: usize,
}

impl FormParts {
    pub(super) fn new(boundary: String, body: BodyStream) -> Self {
        let (input, slices) = unbounded();
        let delimiter = Delimiter::new(&boundary);
        FormParts {
            multer: Multipart::new(slices, boundary),
            input: Some(input),
            body,
            rest: Bytes::new(),
            head: HeadCutter::new(delimiter.boundary_line()),
            delimiter,
            allowance: HEAD_LIMIT,
        }
    }

    /// Returns the next part, whose [data](FormParts::data) come next. The data of the part before it must have been
    /// read to their end.
    pub(super) async fn next_part(&mut self) -> Result<Option<Field<'static>>> {
        loop {
            match self.multer.next_field().now_or_never() {
                None => self.feed().await?,
                Some(Ok(part)) => {
                    self.delimiter.start();
                    return Ok(part);
                }
                Some(Err(error)) => return Err(self.converted(error)),
            }
        }
    }

    /// Gives multer one more slice, or the end of the body.
    async fn feed(&mut self) -> Result<()> {
        if self.allowance == 0 {
            return Err(self.head.too_long());
        }
        let Some(chunk) = self.rest().await? else {
            self.input = None;
            return self.head.missing_boundary().map_or(Ok(()), Err);
        };
        let (slice, used) = self.head.cut(&chunk[..chunk.len().min(self.allowance)]);
        self.rest = chunk.slice(used..);
        self.allowance -= used;
        self.send(slice);
        Ok(())
    }

    fn send(&self, slice: Bytes) {
        // The receiver exists as long as multer does.
        self.input.as_ref().map(|input| input.unbounded_send(Ok(slice)));
    }

    /// Returns the next data of the part, never an empty chunk. Returns `None` once, at the end of the part.
    pub(super) async fn data(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.delimiter.split(&mut self.rest) {
                Some(Piece::Data(data)) => return Ok(Some(data)),
                Some(Piece::End) => break,
                None => self.rest = self.body.chunk().await?.ok_or_else(no_closing_boundary)?,
            }
        }
        let delimiter = self.delimiter.bytes();
        self.allowance = HEAD_LIMIT.saturating_sub(delimiter.len());
        self.head.skip_boundary();
        self.send(delimiter);
        Ok(None)
    }

    /// Returns how many bytes of the form certainly follow (see [`BodyStream::left`]).
    pub(super) fn left(&self) -> u64 {
        self.rest.len() as u64 + self.body.left()
    }

    /// Returns the bytes that are not used up yet: the rest of the last chunk, then the rest of the body.
    pub(super) async fn rest(&mut self) -> Result<Option<Bytes>> {
        if self.rest.is_empty() { self.body.chunk().await } else { Ok(Some(std::mem::take(&mut self.rest))) }
    }

    /// Converts an error of multer to one for clients. multer's own texts can contain whole headers.
    fn converted(&self, error: multer::Error) -> Error {
        match error {
            multer::Error::IncompleteStream if self.input.is_none() => no_closing_boundary(),
            multer::Error::IncompleteStream => Error::MalformedForm("a boundary line has extra characters".to_owned()),
            multer::Error::LockFailure => Error::Internal(Box::new(error)),
            _ => Error::MalformedForm("the headers of a part are invalid".to_owned()),
        }
    }
}

/// The error for a body that is complete, but whose form is not. If the client has left, reading the body fails instead.
fn no_closing_boundary() -> Error {
    Error::MalformedForm("it has no closing boundary".to_owned())
}
