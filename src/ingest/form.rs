//! Reads multipart/form-data (RFC 7578): one file among other fields.
//!
//! multer finds the parts and parses their headers ([`parts`]). This module does what multer does not: it parses the
//! names ([`super::disposition`]), limits the number and size of the other fields, and decides which part is the file.

use bytes::Bytes;

use super::body::BodyStream;
use super::content_type::FORM_ALLOWANCE;
use super::disposition::{Disposition, FILE};
use super::sniff::{self, Known, Sniff};
use super::transfer_encoding::Decoder;
use crate::error::{Error, Result};
use crate::policy::Policy;

mod fields;
mod grant;
pub(super) mod head;
mod parts;

use fields::Fields;
use parts::FormParts;

/// Maximum number of bytes after the closing boundary that are read and dropped so that the connection can be reused.
const MAX_EPILOGUE: usize = 64 * 1024;

/// A form, read part by part.
pub(super) struct Form {
    parts: FormParts,
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
    fields: Fields,
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
        Form {
            parts: FormParts::new(boundary, body),
            reading: Reading::Between,
            decoder: Decoder::Identity,
            found: None,
            peeked: Bytes::new(),
            named: false,
            replacement: None,
            fields: Fields::default(),
        }
    }

    /// Skips the fields before the file and returns the file.
    ///
    /// A part without a file name is the file if it contains an accepted image and no part with a file name follows, because
    /// some clients omit the file name. Otherwise it is a field with the name of the file's field: an input that was
    /// left empty (RFC 7578, 4.2), or the metadata that FilePond sends before each file.
    ///
    /// # Errors
    /// Returns [`Error::NoFile`] if the form has no file, and [`Error::InvalidFileType`] if it has only a part without
    /// a file name that is not an accepted image.
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
                    rejected = Some(policy.invalid_type(detected));
                    self.fields.size += std::mem::take(&mut self.peeked).len();
                    self.skip_field().await?;
                }
                Some(_) => match sniff::reject_early(&self.peeked, policy) {
                    Ok(()) => return Ok(FilePart { file_name: None }),
                    Err(error) => {
                        rejected = Some(error);
                        self.skip_image(policy).await?;
                    }
                },
            }
        }
        Err(rejected.unwrap_or_else(|| self.no_file()))
    }

    /// Skips an image that is not accepted. It can be larger than a field.
    async fn skip_image(&mut self, policy: &Policy) -> Result<()> {
        let mut size = std::mem::take(&mut self.peeked).len() as u64;
        while let Some(chunk) = self.chunk().await? {
            size += chunk.len() as u64;
            policy.check_stream_size(size)?;
        }
        Ok(())
    }

    /// Returns the error for a form whose file is missing or empty.
    pub(super) fn no_file(&self) -> Error {
        Error::NoFile { fields: Some(self.fields.names.clone()) }
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

    /// Returns how many bytes of the file follow at least, as far as the length of the form is known. The rest of the
    /// form is at most [`FORM_ALLOWANCE`] long, except for an epilogue, which no known client sends.
    pub(super) fn min_left_of_file(&self) -> u64 {
        // An encoding can make a file of any size as long as the form.
        let follows = self.reading == Reading::File && !self.is_encoded();
        if follows { self.parts.left().saturating_sub(FORM_ALLOWANCE) } else { 0 }
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

    /// Whether the file has a file name.
    pub(super) fn is_named(&self) -> bool {
        self.named
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
        let chunk = self.parts.data().await?;
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
        let Some(part) = self.parts.next_part().await? else { return Ok(None) };
        self.reading = Reading::Field;
        let disposition = Disposition::of(part.headers());
        self.fields.add(part.headers(), disposition.name.as_deref())?;
        if disposition.is_file() {
            self.decoder = Decoder::of(part.headers())?;
        }
        Ok(Some(disposition))
    }

    async fn skip_field(&mut self) -> Result<()> {
        while let Some(chunk) = self.chunk().await? {
            if self.reading == Reading::Empty {
                return Err(second_file());
            }
            self.fields.add_data(chunk.len())?;
        }
        Ok(())
    }

    /// Reads and drops the epilogue, at most [`MAX_EPILOGUE`] bytes. An error of the body is still an error of the
    /// request. The transport handles the rest of a longer body.
    async fn drop_epilogue(&mut self) -> Result<()> {
        let mut dropped = 0;
        while dropped < MAX_EPILOGUE {
            match self.parts.rest().await? {
                Some(chunk) => dropped += chunk.len(),
                None => break,
            }
        }
        Ok(())
    }
}

fn second_file() -> Error {
    Error::MalformedForm(format!("more than one file; send one field named '{FILE}'"))
}
