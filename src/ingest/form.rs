//! multipart/form-data (RFC 7578): one file among other fields.
//!
//! multer finds the parts and reads their headers; their data go past it ([`super::multer_input`]). What it leaves open is settled
//! here: the names ([`super::disposition`]), how much may stand beside the file, and what its errors mean.

use bytes::Bytes;
use futures::future::poll_fn;
use multer::{Field, Multipart};
use std::task::{Context, Poll};

use super::body::{Data, error_from_body};
use super::disposition::{Disposition, FILE};
use super::multer_input::{HEADER_LIMIT, MulterInput};
use super::sniff::{self, Known, Sniff};
use super::transfer_encoding::Decoder;
use crate::error::{Error, Result};
use crate::policy::Policy;

/// Fields beside the file, at most.
const MAX_FIELDS: usize = 64;

/// Bytes in all fields beside the file, at most.
const MAX_FIELDS_SIZE: usize = 1024 * 1024;

/// Bytes before the field `grant`, heads of fields included, at most: nothing is reserved for who has shown no right yet.
const MAX_BEFORE_GRANT: usize = 64 * 1024;

/// Bytes read and dropped behind the closing boundary, so that the connection can be used again.
const MAX_EPILOGUE: usize = 64 * 1024;

/// Characters that are kept of a field's name.
const MAX_NAME: usize = 100;

/// A form, read part by part.
pub(super) struct Form {
    parts: Multipart<'static>,
    feed: MulterInput,
    reading: Reading,
    /// Undoes the encoding of the file.
    decoder: Decoder,
    /// The file's head was read where something else was looked for.
    found: Option<Disposition>,
    /// What was read of the file to see whether it is one.
    peeked: Bytes,
    /// The file that was found has a name, so that a part without one is no file.
    named: bool,
    /// How many parts there were, their names, and the bytes of those beside the file.
    count: usize,
    names: Vec<String>,
    fields_size: usize,
    /// Bytes of all parts' headers.
    headers_size: usize,
}

/// Whose data come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Nobody's: a boundary, or the form's end.
    Between,
    Field,
    File,
    /// Those of a part that must have none.
    Empty,
}

/// The part named `file`.
pub(super) struct FilePart {
    /// None if the client gave none, or an empty one.
    pub file_name: Option<String>,
}

impl Form {
    /// `boundary` is the Content-Type's parameter.
    pub(super) fn new(boundary: String, body: Data) -> Self {
        let feed = MulterInput::new(&boundary, body);
        let parts = Multipart::new(feed.clone(), boundary);
        Form {
            parts,
            feed,
            reading: Reading::Between,
            decoder: Decoder::Identity,
            found: None,
            peeked: Bytes::new(),
            named: false,
            count: 0,
            names: Vec::new(),
            fields_size: 0,
            headers_size: 0,
        }
    }

    /// Skips to the field `grant` and returns its value. None if the file comes first, or the form ends, or there is more than
    /// [`MAX_BEFORE_GRANT`] of others: [`Form::find_file`] goes on from there.
    pub(super) async fn find_grant(&mut self) -> Result<Option<String>> {
        while let Some(part) = self.next_part().await? {
            if part.is_file() {
                self.found = Some(part);
                return Ok(None);
            }
            let is_grant = part.is_grant();
            match self.value_before_grant(is_grant).await? {
                // One that is empty is an input that was left so.
                Some(value) if is_grant && !value.trim_ascii().is_empty() => {
                    return Ok(Some(String::from_utf8_lossy(value.trim_ascii()).into_owned()));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Reads a field to its end, and returns its value if it is `wanted`. None if that goes beyond [`MAX_BEFORE_GRANT`].
    async fn value_before_grant(&mut self, wanted: bool) -> Result<Option<Vec<u8>>> {
        let mut value = Vec::new();
        loop {
            if self.fields_size + self.headers_size > MAX_BEFORE_GRANT {
                return Ok(None);
            }
            let Some(chunk) = self.chunk().await? else { return Ok(Some(value)) };
            self.fields_size += chunk.len();
            if wanted {
                value.extend_from_slice(&chunk);
            }
        }
    }

    /// Skips to the file.
    ///
    /// A part without a file name may be one too, if it holds an image: clients leave the name off. If it does not, it is a
    /// field of the file's name: an input that was left empty (RFC 7578, 4.2), or what FilePond sends before each file.
    ///
    /// # Errors
    /// [`Error::NoFile`] if the form has none; [`Error::InvalidFileType`] if all that it has is a part without a file name
    /// that is no image.
    pub(super) async fn find_file(&mut self, policy: &Policy) -> Result<FilePart> {
        let mut refused = None;
        if self.found.is_none() {
            // What is left of the field at which the search for a grant was given up.
            self.skip_field().await?;
        }
        while let Some(part) = self.found_or_next_part().await? {
            if !part.is_file() {
                self.skip_field().await?;
                continue;
            }
            self.reading = Reading::File;
            if part.file_name.is_some() {
                self.named = true;
                return Ok(FilePart { file_name: part.file_name });
            }
            match self.peek().await? {
                None => {}
                Some(Sniff::NotAnImage { detected }) => {
                    refused = Some(detected);
                    self.fields_size += std::mem::take(&mut self.peeked).len();
                    self.skip_field().await?;
                }
                Some(_) => return Ok(FilePart { file_name: None }),
            }
        }
        Err(refused.map_or_else(|| self.no_file(), |detected| policy.invalid_type(detected)))
    }

    /// The error for a form whose file is not there, or is empty.
    pub(super) fn no_file(&self) -> Error {
        Error::NoFile { fields: Some(self.names.clone()) }
    }

    /// The file's next bytes, never none of them.
    pub(super) async fn file_chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.peeked.is_empty() {
            return Ok(Some(std::mem::take(&mut self.peeked)));
        }
        if self.reading == Reading::File { self.decoded_chunk().await } else { Ok(None) }
    }

    /// Reads what stands behind the file: no second one, the closing boundary, an epilogue.
    ///
    /// May be dropped and called again.
    pub(super) async fn finish(&mut self) -> Result<()> {
        loop {
            self.skip_field().await?;
            let Some(part) = self.next_part().await? else { break };
            if part.is_file() {
                self.reading = self.second_file(&part)?;
            }
        }
        self.drop_epilogue().await
    }

    /// How to read another part named `file`. It is no file if it has no name beside one that has, or if it is empty.
    fn second_file(&self, part: &Disposition) -> Result<Reading> {
        match part.file_name {
            Some(_) => Err(second_file()),
            None if self.named => Ok(Reading::Field),
            None => Ok(Reading::Empty),
        }
    }

    /// What the part's beginning shows, which is kept for [`Form::file_chunk`]. None if the part is empty.
    async fn peek(&mut self) -> Result<Option<Sniff>> {
        while let Some(chunk) = self.decoded_chunk().await? {
            self.peeked = if self.peeked.is_empty() { chunk } else { [&self.peeked[..], &chunk].concat().into() };
            if self.peeked.len() >= sniff::TELLING {
                return Ok(Some(sniff::inspect(Known::beginning(&self.peeked))));
            }
        }
        let whole = || sniff::inspect(Known::whole(&self.peeked));
        Ok((!self.peeked.is_empty()).then(whole))
    }

    /// The file's next bytes without their encoding, never none of them.
    async fn decoded_chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(chunk) = self.chunk().await? {
            let decoded = self.decoder.decode(chunk)?;
            if !decoded.is_empty() {
                return Ok(Some(decoded));
            }
        }
        self.decoder.finish().map(|()| None)
    }

    /// The next bytes of the part that is being read, never none of them.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.reading == Reading::Between {
            return Ok(None);
        }
        let chunk = poll_fn(|cx| self.feed.poll_data(cx)).await.transpose()?;
        if chunk.is_none() {
            self.reading = Reading::Between;
        }
        Ok(chunk)
    }

    /// The file whose head was read before, else the next part.
    async fn found_or_next_part(&mut self) -> Result<Option<Disposition>> {
        match self.found.take() {
            None => self.next_part().await,
            found => Ok(found),
        }
    }

    async fn next_part(&mut self) -> Result<Option<Disposition>> {
        self.feed.expect_headers();
        let (feed, parts) = (&self.feed, &mut self.parts);
        let next = poll_fn(|cx| look_then_feed(feed, cx, |cx| parts.poll_next_field(cx))).await;
        let Some(part) = next.map_err(|error| self.error_from_body(error))? else {
            return Ok(None);
        };
        self.headers_size += headers_size(&part)?;
        self.feed.expect_data();
        self.reading = Reading::Field;
        let disposition = Disposition::of(part.headers());
        if disposition.is_file() {
            self.decoder = Decoder::of(part.headers())?;
        }
        self.count(disposition.name.as_deref())?;
        Ok(Some(disposition))
    }

    fn count(&mut self, name: Option<&str>) -> Result<()> {
        self.count += 1;
        if self.count > MAX_FIELDS + 1 {
            return Err(Error::MalformedForm(format!("more than {MAX_FIELDS} fields beside the file")));
        }
        let name = name.map(|name| name.chars().take(MAX_NAME).collect());
        if let Some(name) = name.filter(|name| !self.names.contains(name)) {
            self.names.push(name);
        }
        Ok(())
    }

    async fn skip_field(&mut self) -> Result<()> {
        while let Some(chunk) = self.chunk().await? {
            if self.reading == Reading::Empty {
                return Err(second_file());
            }
            self.fields_size += chunk.len();
            if self.fields_size > MAX_FIELDS_SIZE {
                return Err(Error::MalformedForm(format!("more than {MAX_FIELDS_SIZE} bytes beside the file")));
            }
        }
        Ok(())
    }

    /// A body that fails here did not come as it was sent. One that goes on for long is left to the transport.
    async fn drop_epilogue(&mut self) -> Result<()> {
        let mut dropped = 0;
        while dropped < MAX_EPILOGUE {
            match poll_fn(|cx| self.feed.poll_rest(cx)).await {
                Some(chunk) => dropped += chunk?.len(),
                None => break,
            }
        }
        Ok(())
    }

    /// What an error of multer's is to the client. Its own texts can hold whole headers.
    fn error_from_body(&self, error: multer::Error) -> Error {
        match error {
            multer::Error::StreamReadFailed(source) => error_from_body(source),
            multer::Error::IncompleteStream if self.feed.ended() => Error::TruncatedBody(None),
            multer::Error::IncompleteStream => Error::MalformedForm("a boundary's line goes on behind it".to_owned()),
            multer::Error::LockFailure => Error::Internal(Box::new(error)),
            _ => Error::MalformedForm("a part's headers are not valid".to_owned()),
        }
    }
}

fn second_file() -> Error {
    Error::MalformedForm(format!("more than one file; send one field named '{FILE}'"))
}

/// Lets multer look at what it has; only where that is not enough it gets a slice more.
fn look_then_feed<T>(
    feed: &MulterInput,
    cx: &mut Context<'_>,
    mut look: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    loop {
        match look(cx) {
            Poll::Pending if feed.reopen() => {}
            answer => return answer,
        }
    }
}

/// The feed bounds them together with the boundary's line; this bounds them alone.
fn headers_size(part: &Field<'static>) -> Result<usize> {
    // ": " and the line's end.
    let size = part.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > HEADER_LIMIT {
        return Err(Error::MalformedForm(format!("a part's headers are longer than {HEADER_LIMIT} bytes")));
    }
    Ok(size)
}
