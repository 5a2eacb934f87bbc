//! From a request's body to one checked image: its bytes, its type, its dimensions.
//!
//! ```text
//!                     ┌ boundaries, headers → multer
//! body ─┬─ form: feed ┴ data of the part named `file` ─┬→ head: name, type, dimensions → chunks → end of the form
//!       └─ image/*: the body itself ───────────────────┘
//! ```

use bytes::Bytes;
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
mod multer_input;
mod params;
pub mod sniff;
#[cfg(test)]
pub(crate) mod tests;
mod transfer_encoding;

pub(crate) use body::error_from_body;
pub use content_type::BodyKind;

use body::Data;
use form::Form;

/// A request's body on its way in, before its image was looked for.
pub struct IncomingBody(BodySource);

enum BodySource {
    Form(Box<Form>),
    Raw(Data),
}

impl IncomingBody {
    /// A request's body, of this kind. Nothing is read yet.
    pub fn new<B>(kind: BodyKind, body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body = Data::new(body);
        IncomingBody(match kind {
            BodyKind::Form { boundary } => BodySource::Form(Box::new(Form::new(boundary, body))),
            BodyKind::Raw => BodySource::Raw(body),
        })
    }

    /// The value of a form's field `grant`, if it stands before the file and within the form's first 64 KiB. No more than
    /// that is read, and hardly any of it kept.
    ///
    /// # Errors
    /// As [`IncomingImage::open`].
    pub async fn find_grant(&mut self) -> Result<Option<String>> {
        match &mut self.0 {
            BodySource::Form(form) => form.find_grant().await,
            BodySource::Raw(_) => Ok(None),
        }
    }
}

/// One image on its way in: sniffed and checked before the first byte is handed on.
pub struct IncomingImage {
    source: Source,
    info: ImageInfo,
    extension: &'static str,
    /// What was read to know the above and did not go to the [`PrefixBuffer`], until it is handed on.
    pending: Bytes,
}

/// Where an image's leading bytes are kept while they do not show yet what it is.
///
/// It is the place they are sent from later: an image is never held twice, and what is held is what was admitted.
pub trait PrefixBuffer: Send {
    /// Takes as many bytes off the front of `chunk` as there is room for: not all only where more than
    /// [`Policy::header_scan_limit`] are kept.
    fn push(&mut self, chunk: &mut Bytes) -> impl Future<Output = Result<()>> + Send;

    /// The first `limit` of the bytes that were kept.
    fn prefix(&self, limit: usize) -> impl Future<Output = Result<impl AsRef<[u8]> + Send>> + Send;
}

/// Where the image's bytes come from, counted.
struct Source {
    kind: SourceKind,
    policy: Arc<Policy>,
    /// Bytes of the image so far.
    size: u64,
}

enum SourceKind {
    Form(Box<Form>),
    Raw(Data),
    /// It ended with an error, so it must not seem complete.
    Failed,
}

impl IncomingImage {
    /// Reads a request's body up to where the image's type and dimensions are known and allowed.
    ///
    /// What came before the chunk that showed them is in `head` then; [`IncomingImage::next_chunk`] goes on behind it.
    /// One chunk is held beside that.
    ///
    /// # Errors
    ///
    /// An [`Error`] of ours inside the body's own is passed on; any other is [`Error::TruncatedBody`].
    pub async fn open(body: IncomingBody, policy: Arc<Policy>, head: &mut impl PrefixBuffer) -> Result<Self> {
        let (kind, named) = match body.0 {
            BodySource::Form(form) => find_file(form, &policy).await?,
            BodySource::Raw(body) => (SourceKind::Raw(body), None),
        };
        let mut source = Source { kind, policy, size: 0 };
        let read = source.read_head(head).await;
        let (info, pending) = read.map_err(|error| source.explained(error))?;
        Ok(IncomingImage { source, info, extension: extension(named, info.format), pending })
    }

    pub fn info(&self) -> ImageInfo {
        self.info
    }

    /// The extension for the key: it follows the bytes.
    ///
    /// A `.png` that holds a JPEG becomes `jpg`; a `.jpeg` stays `jpeg`.
    pub fn extension(&self) -> &'static str {
        self.extension
    }

    /// The next bytes of the image, never none of them.
    ///
    /// `None` comes only after the whole request proved right: of a form, the closing boundary was read and there was no
    /// second file. An error is final. The future may be dropped; nothing is lost.
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

/// Finds the form's file and checks its name before any of its bytes.
async fn find_file(mut form: Box<Form>, policy: &Policy) -> Result<(SourceKind, Option<(Format, &'static str)>)> {
    let file = form.find_file(policy).await?;
    let named = file.file_name.map(|name| policy.check_name(&name)).transpose()?.flatten();
    Ok((SourceKind::Form(form), named))
}

/// The name's own extension where the bytes are what it says, else the usual one of what they are.
fn extension(named: Option<(Format, &'static str)>, format: Format) -> &'static str {
    match named {
        Some((claimed, extension)) if claimed == format => extension,
        _ => format.extensions().first().copied().unwrap_or(format.name()),
    }
}

impl Source {
    /// Reads until the image has shown itself, and returns what of that is not in `head`.
    async fn read_head(&mut self, head: &mut impl PrefixBuffer) -> Result<(ImageInfo, Bytes)> {
        // Most show themselves in what comes first, and that is handed on as it came.
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
        // Looking again only at twice the bytes keeps the work linear in them, however small the chunks are.
        let mut look_at = (chunk.len() * 2).min(limit);
        let mut len = chunk.len();
        head.push(&mut chunk).await?;
        loop {
            let next = self.chunk().await?;
            let whole = next.is_none();
            chunk = next.unwrap_or_default();
            len += chunk.len();
            head.push(&mut chunk).await?;
            if !whole && len < look_at {
                continue;
            }
            // A head that is in a file comes to memory for this.
            let _permit = sniff::long_look(len.min(limit) as u64).await;
            if let Some(info) = sniff::check(head.prefix(limit).await?.as_ref(), whole, &self.policy)? {
                return Ok((info, chunk));
            }
            look_at = (len * 2).min(limit);
        }
    }

    /// A file that is empty is none: the error then says what else the form had.
    fn explained(&self, error: Error) -> Error {
        match (&self.kind, error) {
            (SourceKind::Form(form), Error::NoFile { .. }) => form.no_file(),
            (_, error) => error,
        }
    }

    /// The image's next bytes; at its end, none once what follows it is right too.
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
