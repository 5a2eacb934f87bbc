//! From a request's body to one checked image: its bytes, its type, its dimensions.
//!
//! ```text
//! body ─┬─ form: feed → multer → the part named `file` ─┬→ head: name, type, dimensions → chunks → end of the form
//!       └─ image/*: the body itself ────────────────────┘
//! ```

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http_body::Body;
use std::sync::Arc;

use crate::error::{BoxError, Error, Result};
use crate::format::{Format, ImageInfo};
use crate::policy::Policy;

mod body;
mod content_type;
mod disposition;
mod feed;
mod form;
mod params;
pub mod sniff;
#[cfg(test)]
pub(crate) mod tests;

use body::Data;
use content_type::Kind;
use form::Form;

/// One image on its way in: sniffed and checked before the first byte is handed on.
pub struct IncomingImage {
    source: Source,
    info: ImageInfo,
    extension: &'static str,
    /// The bytes that were read to know the above, until they are handed on.
    head: Option<Bytes>,
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
    /// At most [`Policy::header_scan_limit`] bytes of the image and one chunk are held for that.
    ///
    /// # Errors
    ///
    /// An [`Error`] of ours inside the body's own is passed on; any other is [`Error::TruncatedBody`].
    pub async fn open<B>(content_type: Option<&HeaderValue>, body: B, policy: Arc<Policy>) -> Result<Self>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body = Data::new(body);
        let (kind, named) = match content_type::kind(content_type, &policy)? {
            Kind::Form { boundary } => open_form(boundary, body, &policy).await?,
            Kind::Raw => (SourceKind::Raw(body), None),
        };
        let mut source = Source { kind, policy, size: 0 };
        let (info, head) = source.read_head().await?;
        Ok(IncomingImage { source, info, extension: extension(named, info.format), head: Some(head) })
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
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        let next = self.source.chunk_or_end().await;
        if next.is_err() {
            self.source.kind = SourceKind::Failed;
        }
        next
    }
}

/// Finds the form's file and checks its name before any of its bytes.
async fn open_form(
    boundary: String,
    body: Data,
    policy: &Policy,
) -> Result<(SourceKind, Option<(Format, &'static str)>)> {
    let mut form = Form::new(boundary, body);
    let file = form.find_file().await?;
    let named = file.file_name.map(|name| policy.check_name(&name)).transpose()?.flatten();
    Ok((SourceKind::Form(Box::new(form)), named))
}

/// The name's own extension where the bytes are what it says, else the usual one of what they are.
fn extension(named: Option<(Format, &'static str)>, format: Format) -> &'static str {
    match named {
        Some((claimed, extension)) if claimed == format => extension,
        _ => format.extensions().first().copied().unwrap_or(format.name()),
    }
}

impl Source {
    /// Collects leading bytes until they show an allowed image.
    async fn read_head(&mut self) -> Result<(ImageInfo, Bytes)> {
        let mut head = Bytes::new();
        // Looking again only at twice the bytes keeps the work linear in them, however small the chunks are.
        let mut look_at = 1;
        loop {
            let chunk = self.chunk().await?;
            let whole = chunk.is_none();
            head = join(head, chunk.unwrap_or_default());
            if !whole && head.len() < look_at {
                continue;
            }
            if let Some(info) = sniff::check(&head, whole, &self.policy)? {
                return Ok((info, head));
            }
            look_at = (head.len() * 2).min(self.policy.header_scan_limit);
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
        self.policy.check_size(self.size)?;
        Ok(chunk)
    }
}

/// Copies only where both hold something.
fn join(head: Bytes, chunk: Bytes) -> Bytes {
    if head.is_empty() {
        return chunk;
    }
    // The second time on, `head` is the only handle to its memory, and this takes it back without a copy.
    let mut joined = BytesMut::from(head);
    joined.extend_from_slice(&chunk);
    joined.freeze()
}
