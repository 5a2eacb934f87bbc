//! Reads multipart/form-data (RFC 7578): one file among other fields.
//!
//! multer finds the parts and parses their headers. The data of the parts bypass it ([`super::multer_input`]). This
//! module does what multer does not: it parses the names ([`super::disposition`]), limits the number and size of the
//! other fields, and converts multer's errors.

use bytes::Bytes;
use futures::future::poll_fn;
use multer::{Field, Multipart};
use std::task::{Context, Poll};

use super::body::{BodyStream, error_from_body};
use super::disposition::{Disposition, FILE};
use super::multer_input::{HEADER_LIMIT, MulterInput};
use super::sniff::{self, Known, Sniff};
use super::transfer_encoding::Decoder;
use crate::error::{Error, Result};
use crate::policy::Policy;

/// Maximum number of fields besides the file.
const MAX_FIELDS: usize = 64;

/// Maximum number of bytes in all fields besides the file.
const MAX_FIELDS_SIZE: usize = 1024 * 1024;

/// Maximum number of bytes before the field `grant`, including the headers of fields. Nothing is reserved for a client
/// that has not been authorized yet.
const MAX_BEFORE_GRANT: usize = 64 * 1024;

/// Maximum number of bytes after the closing boundary that are read and dropped so that the connection can be reused.
const MAX_EPILOGUE: usize = 64 * 1024;

/// Maximum number of characters of a field's name that are stored.
const MAX_NAME: usize = 100;

/// A form, read part by part.
pub(super) struct Form {
    parts: Multipart<'static>,
    input: MulterInput,
    reading: Reading,
    /// Decodes the file's Content-Transfer-Encoding.
    decoder: Decoder,
    /// The part with the file, if its headers were read while a grant was looked for.
    found: Option<Disposition>,
    /// The bytes of the file that were read to detect whether it is an image.
    peeked: Bytes,
    /// Whether the file has a file name. Parts without one are then not files.
    named: bool,
    /// The file name of a part that follows a file without a file name and replaces it.
    replacement: Option<String>,
    /// The number of parts so far, their names, and the number of bytes in those besides the file.
    count: usize,
    names: Vec<String>,
    fields_size: usize,
    /// Bytes of all parts' headers.
    headers_size: usize,
}

/// The part whose data come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// None: a boundary or the end of the form comes next.
    Between,
    Field,
    File,
    /// A part that must have no data.
    Empty,
}

/// The part named `file`.
pub(super) struct FilePart {
    /// `None` if the client sent none, or an empty one.
    pub file_name: Option<String>,
}

impl Form {
    /// Creates the form. `boundary` is the parameter of the Content-Type.
    pub(super) fn new(boundary: String, body: BodyStream) -> Self {
        let input = MulterInput::new(&boundary, body);
        let parts = Multipart::new(input.clone(), boundary);
        Form {
            parts,
            input,
            reading: Reading::Between,
            decoder: Decoder::Identity,
            found: None,
            peeked: Bytes::new(),
            named: false,
            replacement: None,
            count: 0,
            names: Vec::new(),
            fields_size: 0,
            headers_size: 0,
        }
    }

    /// Skips to the field `grant` and returns its value. Returns `None` if the file comes first, if the form ends, or
    /// if the other fields exceed [`MAX_BEFORE_GRANT`]. [`Form::find_file`] continues at that position.
    pub(super) async fn find_grant(&mut self) -> Result<Option<String>> {
        while let Some(part) = self.next_part().await? {
            if part.is_file() {
                self.found = Some(part);
                return Ok(None);
            }
            let is_grant = part.is_grant();
            match self.value_before_grant(is_grant).await? {
                // An empty field is an input that was left empty.
                Some(value) if is_grant && !value.trim_ascii().is_empty() => {
                    return Ok(Some(String::from_utf8_lossy(value.trim_ascii()).into_owned()));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Reads a field to its end, and returns its value, which is empty unless `wanted`. Returns `None` if
    /// [`MAX_BEFORE_GRANT`] is exceeded.
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

    /// Skips the fields before the file and returns the file.
    ///
    /// A part without a file name is the file if it contains an image and no part with a file name follows, because
    /// some clients omit the file name. Otherwise it is a field with the name of the file's field: an input that was
    /// left empty (RFC 7578, 4.2), or the metadata that FilePond sends before each file.
    ///
    /// # Errors
    /// Returns [`Error::NoFile`] if the form has no file, and [`Error::InvalidFileType`] if it has only a part without
    /// a file name that is not an image.
    pub(super) async fn find_file(&mut self, policy: &Policy) -> Result<FilePart> {
        let mut rejected = None;
        if self.found.is_none() {
            // The rest of the field at which the search for a grant ended.
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
                    rejected = Some(detected);
                    self.fields_size += std::mem::take(&mut self.peeked).len();
                    self.skip_field().await?;
                }
                Some(_) => return Ok(FilePart { file_name: None }),
            }
        }
        Err(rejected.map_or_else(|| self.no_file(), |detected| policy.invalid_type(detected)))
    }

    /// Returns the error for a form whose file is missing or empty.
    pub(super) fn no_file(&self) -> Error {
        Error::NoFile { fields: Some(self.names.clone()) }
    }

    /// Whether the file has a Content-Transfer-Encoding that makes it longer in the body than its decoded bytes.
    pub(super) fn is_encoded(&self) -> bool {
        !matches!(self.decoder, Decoder::Identity)
    }

    /// Returns the file's next bytes, never an empty chunk.
    pub(super) async fn file_chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.peeked.is_empty() {
            return Ok(Some(std::mem::take(&mut self.peeked)));
        }
        if self.reading == Reading::File { self.decoded_chunk().await } else { Ok(None) }
    }

    /// Reads the rest of the form after the file: other fields, the closing boundary and the epilogue. Stops at a
    /// [`Form::replacement`]. A second file is an error.
    ///
    /// The future may be dropped and the function called again.
    pub(super) async fn finish(&mut self) -> Result<()> {
        while self.replacement.is_none() {
            self.skip_field().await?;
            let Some(part) = self.next_part().await? else { return self.drop_epilogue().await };
            if part.is_file() {
                self.reading = self.second_file(part)?;
            }
        }
        Ok(())
    }

    /// Returns the file that replaces the one that was read, if there is one.
    pub(super) fn replacement(&mut self) -> Option<FilePart> {
        self.replacement.take().map(|name| FilePart { file_name: Some(name) })
    }

    pub(super) fn has_replacement(&self) -> bool {
        self.replacement.is_some()
    }

    /// Returns how to read another part named `file`. It is not a file if it is empty, or if it has no file name and an
    /// earlier one has.
    fn second_file(&mut self, part: Disposition) -> Result<Reading> {
        match part.file_name {
            Some(_) if self.named => Err(second_file()),
            None if self.named => Ok(Reading::Field),
            None => Ok(Reading::Empty),
            name => {
                self.named = true;
                self.replacement = name;
                Ok(Reading::File)
            }
        }
    }

    /// Detects the part's type from its first bytes, which are stored for [`Form::file_chunk`]. `None` if the part is
    /// empty.
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

    /// Returns the file's next bytes, decoded, never an empty chunk.
    async fn decoded_chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(chunk) = self.chunk().await? {
            let decoded = self.decoder.decode(chunk)?;
            if !decoded.is_empty() {
                return Ok(Some(decoded));
            }
        }
        self.decoder.finish().map(|()| None)
    }

    /// Returns the next bytes of the current part, never an empty chunk.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.reading == Reading::Between {
            return Ok(None);
        }
        let chunk = poll_fn(|cx| self.input.poll_data(cx)).await.transpose()?;
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
        self.input.expect_headers();
        let (input, parts) = (&self.input, &mut self.parts);
        let next = poll_fn(|cx| poll_with_input(input, cx, |cx| parts.poll_next_field(cx))).await;
        let Some(part) = next.map_err(|error| self.error_from_body(error))? else {
            return Ok(None);
        };
        self.headers_size += headers_size(&part)?;
        self.input.expect_data();
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
            return Err(Error::MalformedForm(format!("more than {MAX_FIELDS} fields besides the file")));
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
                return Err(Error::MalformedForm(format!("more than {MAX_FIELDS_SIZE} bytes besides the file")));
            }
        }
        Ok(())
    }

    /// Reads and drops the epilogue, at most [`MAX_EPILOGUE`] bytes. An error of the body is still an error of the
    /// request. The transport handles the rest of a longer body.
    async fn drop_epilogue(&mut self) -> Result<()> {
        let mut dropped = 0;
        while dropped < MAX_EPILOGUE {
            match poll_fn(|cx| self.input.poll_rest(cx)).await {
                Some(chunk) => dropped += chunk?.len(),
                None => break,
            }
        }
        Ok(())
    }

    /// Converts an error of multer to one for clients. multer's own texts can contain whole headers.
    fn error_from_body(&self, error: multer::Error) -> Error {
        match error {
            multer::Error::StreamReadFailed(source) => error_from_body(source),
            multer::Error::IncompleteStream if self.input.ended() => Error::TruncatedBody(None),
            multer::Error::IncompleteStream => Error::MalformedForm("a boundary line has extra characters".to_owned()),
            multer::Error::LockFailure => Error::Internal(Box::new(error)),
            _ => Error::MalformedForm("the headers of a part are invalid".to_owned()),
        }
    }
}

fn second_file() -> Error {
    Error::MalformedForm(format!("more than one file; send one field named '{FILE}'"))
}

/// Polls multer with the bytes that it has. Gives it one more slice only if they are not enough.
fn poll_with_input<T>(
    input: &MulterInput,
    cx: &mut Context<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    loop {
        match poll(cx) {
            Poll::Pending if input.reopen() => {}
            answer => return answer,
        }
    }
}

/// Returns the size of a part's headers, and limits it. [`MulterInput`] limits it only together with the boundary's line.
fn headers_size(part: &Field<'static>) -> Result<usize> {
    // ": " and the line's end.
    let size = part.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > HEADER_LIMIT {
        return Err(Error::MalformedForm(format!("the headers of a part exceed the limit of {HEADER_LIMIT} bytes")));
    }
    Ok(size)
}
