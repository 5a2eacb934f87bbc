//! Reads one image from a request's body and checks its name, type and dimensions.
//!
//! ```text
//!                            ┌ boundaries, headers → multer
//! body ─┬─ form: FormParts ──┴ data of the part named `file` ─┬→ head: name, type, dimensions → chunks → end
//!       └─ image/*, octet-stream: the body itself ────────────┘
//! ```

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use std::future::Future;
use std::sync::Arc;

use crate::error::{BoxError, Error, Result};
use crate::format::{Format, ImageInfo};
use crate::policy::Policy;

mod body;
mod content_type;
mod delimiter;
mod disposition;
mod form;
mod params;
pub mod sniff;
#[cfg(test)]
pub(crate) mod tests;
mod transfer_encoding;

pub(crate) use body::error_from_body;
pub use content_type::BodyKind;

use body::BodyStream;
use disposition::Disposition;
use form::{FilePart, Form};

/// A request's body, before its image was looked for.
pub struct IncomingBody(BodySource);

enum BodySource {
    Form {
        form: Box<Form>,
        /// Minimum length of the body in bytes.
        length: u64,
    },
    Raw(BodyStream),
}

impl IncomingBody {
    /// Wraps a request's body of this kind. Reads nothing yet.
    pub fn new<B>(kind: BodyKind, body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let length = body.size_hint().lower();
        let body = BodyStream::new(body);
        IncomingBody(match kind {
            BodyKind::Form { boundary } => BodySource::Form { form: Box::new(Form::new(boundary, body)), length },
            BodyKind::Raw => BodySource::Raw(body),
        })
    }

    /// Returns the value of a form's field `grant`, if it precedes the file and is within the form's first 64 KiB. No more
    /// than that is read, and hardly any of it is kept.
    ///
    /// # Errors
    /// Returns the errors of [`IncomingImage::open`].
    pub async fn find_grant(&mut self) -> Result<Option<String>> {
        match &mut self.0 {
            BodySource::Form { form, .. } => form.find_grant().await,
            BodySource::Raw(_) => Ok(None),
        }
    }
}

/// An image that is being received. Its type and dimensions are checked before any of its bytes are returned.
pub struct IncomingImage {
    source: Source,
    info: ImageInfo,
    extension: &'static str,
    /// The bytes that were read for the checks and are not in the [`PrefixBuffer`], until they are returned.
    pending: Bytes,
}

/// A buffer for an image's leading bytes, until they are enough to detect its type and dimensions.
///
/// The bytes are later sent to the store from this buffer. So they are never held twice, and the memory they use is the
/// upload's reservation.
pub trait PrefixBuffer: Send {
    /// Moves as many bytes from the front of `chunk` into the buffer as fit. Bytes remain in `chunk` only if the buffer
    /// then contains more than [`Policy::header_scan_limit`] bytes.
    fn push(&mut self, chunk: &mut Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Returns the first `limit` bytes in the buffer.
    fn prefix(&self, limit: usize) -> impl Future<Output = Result<impl AsRef<[u8]> + Send>> + Send;
}

/// The source of the image's bytes. It counts them.
struct Source {
    kind: SourceKind,
    policy: Arc<Policy>,
    /// Number of bytes of the image so far.
    size: u64,
}

enum SourceKind {
    Form(Box<Form>),
    Raw(BodyStream),
    /// Reading failed. Later calls return an error, so that the image does not seem complete.
    Failed,
}

impl IncomingImage {
    /// Reads a request's body until the image's type and dimensions are known and allowed.
    ///
    /// Afterwards `head` contains the bytes before the chunk with which they became known.
    /// [`IncomingImage::next_chunk`] returns the bytes after those in `head`. One chunk is held in addition to `head`.
    ///
    /// # Errors
    ///
    /// Returns the error of the check that failed. If reading the body fails, returns the [`Error`] that the body's
    /// error contains, or [`Error::TruncatedBody`] if it contains none.
    pub async fn open(body: IncomingBody, policy: Arc<Policy>, head: &mut impl PrefixBuffer) -> Result<Self> {
        match body.0 {
            BodySource::Form { mut form, length } => {
                let file = form.find_file(&policy).await?;
                if !form.is_encoded() {
                    content_type::check_form_length(length, &policy)?;
                }
                Self::of_form(form, file, policy, head).await
            }
            BodySource::Raw(body) => Self::read(SourceKind::Raw(body), None, policy, head).await,
        }
    }

    /// Whether this file is not the image after all, because it has no file name and a file with a name follows.
    pub fn is_replaced(&self) -> bool {
        matches!(&self.source.kind, SourceKind::Form(form) if form.has_replacement())
    }

    /// Whether this file may turn out not to be the image, when it was read to its end.
    pub fn may_be_replaced(&self) -> bool {
        matches!(&self.source.kind, SourceKind::Form(form) if !form.is_named())
    }

    /// Continues with the file that replaces this one, in the same way as [`IncomingImage::open`].
    ///
    /// # Errors
    /// Returns the errors of [`IncomingImage::open`], and [`Error::NoFile`] if no file follows.
    pub async fn replacement(self, head: &mut impl PrefixBuffer) -> Result<Self> {
        let Source { kind: SourceKind::Form(mut form), policy, .. } = self.source else {
            return Err(Error::NoFile { fields: None });
        };
        let file = form.replacement().ok_or_else(|| form.no_file())?;
        Self::of_form(form, file, policy, head).await
    }

    /// Checks the file's name before any of its bytes are read.
    async fn of_form(
        form: Box<Form>,
        file: FilePart,
        policy: Arc<Policy>,
        head: &mut impl PrefixBuffer,
    ) -> Result<Self> {
        let named = file.file_name.map(|name| policy.check_name(&name)).transpose()?.flatten();
        Self::read(SourceKind::Form(form), named, policy, head).await
    }

    async fn read(
        kind: SourceKind,
        named: Option<(Format, &'static str)>,
        policy: Arc<Policy>,
        head: &mut impl PrefixBuffer,
    ) -> Result<Self> {
        let mut source = Source { kind, policy, size: 0 };
        let read = source.read_head(head).await;
        let (info, pending) = read.map_err(|error| source.add_fields(error))?;
        Ok(IncomingImage { source, info, extension: extension(named, info.format), pending })
    }

    pub fn info(&self) -> ImageInfo {
        self.info
    }

    /// Returns the size that the image has at least, as far as the length of the request's body is known. 0 if the image
    /// may be replaced.
    pub fn min_size(&self) -> u64 {
        let left = match &self.source.kind {
            SourceKind::Form(form) if !form.is_named() => return 0,
            SourceKind::Form(form) => form.min_left_of_file(),
            SourceKind::Raw(body) => body.left(),
            SourceKind::Failed => 0,
        };
        self.source.size + left
    }

    /// Returns the extension for the key, which depends on the detected format.
    ///
    /// For a `.png` that contains a JPEG it is `jpg`; for a `.jpeg` it remains `jpeg`.
    pub fn extension(&self) -> &'static str {
        self.extension
    }

    /// Returns the next bytes of the image, never an empty chunk.
    ///
    /// Returns `None` only after the whole request was received and is valid, or if the image
    /// [is replaced](IncomingImage::is_replaced). A form is valid if its closing boundary was read and there was no
    /// second file. An error is final. The future may be dropped without losing data.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.pending.is_empty() {
            return Ok(Some(std::mem::take(&mut self.pending)));
        }
        let next = self.source.chunk_or_end().await;
        if next.is_err() {
            self.source.kind = SourceKind::Failed;
        }
        next
    }
}

/// Returns the file name in the Content-Disposition of a request (RFC 6266).
pub fn file_name(headers: &HeaderMap) -> Option<String> {
    Disposition::of(headers).file_name
}

/// Returns the file name's extension if it matches the detected format, otherwise the usual extension of that format.
fn extension(named: Option<(Format, &'static str)>, format: Format) -> &'static str {
    match named {
        Some((claimed, extension)) if claimed == format => extension,
        _ => format.extensions().first().copied().unwrap_or(format.name()),
    }
}

impl Source {
    /// Reads until the image's type and dimensions are known. Returns the bytes that were read and are not in `head`.
    async fn read_head(&mut self, head: &mut impl PrefixBuffer) -> Result<(ImageInfo, Bytes)> {
        // The first chunk is enough for most images. It is then returned without being copied.
        let first = self.chunk().await?;
        let whole = first.is_none();
        let first = first.unwrap_or_default();
        match sniff::check(&first, whole, &self.policy)? {
            Some(info) => Ok((info, first)),
            None => self.read_long_head(first, head).await,
        }
    }

    async fn read_long_head(&mut self, mut chunk: Bytes, head: &mut impl PrefixBuffer) -> Result<(ImageInfo, Bytes)> {
        let limit = self.policy.header_scan_limit;
        // The next check happens when the number of bytes has doubled. So the work remains linear in this number,
        // however small the chunks are.
        let mut next_check = (chunk.len() * 2).min(limit);
        let mut len = chunk.len();
        head.push(&mut chunk).await?;
        loop {
            let next = self.chunk().await?;
            let whole = next.is_none();
            chunk = next.unwrap_or_default();
            len += chunk.len();
            head.push(&mut chunk).await?;
            if !whole && len < next_check {
                continue;
            }
            // This reads a head that is in a file into memory.
            let _permit = sniff::long_look(len.min(limit) as u64).await;
            if let Some(info) = sniff::check(head.prefix(limit).await?.as_ref(), whole, &self.policy)? {
                return Ok((info, chunk));
            }
            next_check = (len * 2).min(limit);
        }
    }

    /// Adds the names of the form's fields to [`Error::NoFile`], which is also the error for an empty file.
    fn add_fields(&self, error: Error) -> Error {
        match (&self.kind, error) {
            (SourceKind::Form(form), Error::NoFile { .. }) => form.no_file(),
            (_, error) => error,
        }
    }

    /// Returns the image's next bytes. At its end, checks the rest of the request and then returns `None`.
    async fn chunk_or_end(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.chunk().await?;
        if let (None, SourceKind::Form(form)) = (&chunk, &mut self.kind) {
            form.finish().await?;
        }
        Ok(chunk)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = match &mut self.kind {
            SourceKind::Form(form) => form.file_chunk().await?,
            SourceKind::Raw(data) => data.chunk().await?,
            SourceKind::Failed => return Err(Error::TruncatedBody(None)),
        };
        self.size += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        self.policy.check_stream_size(self.size)?;
        Ok(chunk)
    }
}
