//! A request body that is read from a file while it is sent.

use bytes::Bytes;
use futures::StreamExt;
use http_body::{Body, Frame, SizeHint};
use indicatif::ProgressBar;
use std::io::{self, SeekFrom};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, Take};
use tokio_util::io::ReaderStream;

/// Bytes per read: large enough for few reads, small enough for many bodies at once.
const CHUNK: usize = 256 << 10;

/// Counts the bytes of one request's body that were passed to its connection, and shows them on the progress bar. When
/// it is dropped, the bytes are subtracted from the bar again, unless [`Meter::keep`] was called.
pub struct Meter {
    sent: AtomicU64,
    total: u64,
    kept: AtomicU64,
    bar: ProgressBar,
}

impl Meter {
    pub fn new(total: u64, bar: &ProgressBar) -> Arc<Meter> {
        Arc::new(Meter { sent: AtomicU64::new(0), total, kept: AtomicU64::new(0), bar: bar.clone() })
    }

    /// Returns the bytes that were passed to the connection.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns whether the whole body was passed to the connection. Only then can the receiver have all of it.
    pub fn is_whole(&self) -> bool {
        self.sent() >= self.total
    }

    /// Records that the bytes have arrived, so that they stay on the progress bar.
    pub fn keep(&self) {
        self.kept.store(self.sent(), Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc(bytes);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.dec(self.sent() - self.kept.load(Ordering::Relaxed));
    }
}

/// The file could not be read, or became shorter. The type distinguishes it from network errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FileError(pub io::Error);

/// Bytes of a file, with optional bytes before and after. The body has exactly the announced length, or ends with an
/// error.
pub struct FileBody {
    before: Option<Bytes>,
    file: ReaderStream<Take<File>>,
    left_of_file: u64,
    after: Option<Bytes>,
    meter: Arc<Meter>,
}

impl FileBody {
    /// Opens `size` bytes of `path`, starting at `offset`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened.
    pub async fn open(path: &Path, offset: u64, size: u64, bar: &ProgressBar) -> io::Result<FileBody> {
        FileBody::framed(path, offset, size, [Bytes::new(), Bytes::new()], bar).await
    }

    /// Like [`FileBody::open`], with bytes before and after those of the file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened.
    pub async fn framed(
        path: &Path,
        offset: u64,
        size: u64,
        [before, after]: [Bytes; 2],
        bar: &ProgressBar,
    ) -> io::Result<FileBody> {
        let mut file = File::open(path).await?;
        file.seek(SeekFrom::Start(offset)).await?;
        let meter = Meter::new(before.len() as u64 + size + after.len() as u64, bar);
        let some = |bytes: Bytes| Some(bytes).filter(|bytes| !bytes.is_empty());
        let file = ReaderStream::with_capacity(file.take(size), CHUNK);
        Ok(FileBody { before: some(before), file, left_of_file: size, after: some(after), meter })
    }

    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    fn poll_file(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left_of_file == 0 {
            return Poll::Ready(None);
        }
        self.file.poll_next_unpin(cx).map(|read| match read {
            Some(Ok(bytes)) => {
                self.left_of_file = self.left_of_file.saturating_sub(bytes.len() as u64);
                Some(Ok(bytes))
            }
            Some(Err(error)) => Some(Err(error)),
            None => Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"))),
        })
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = FileError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, FileError>>> {
        let body = self.get_mut();
        let next = match body.before.take() {
            Some(bytes) => Some(Ok(bytes)),
            None => match body.poll_file(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => body.after.take().map(Ok),
                Poll::Ready(read) => read,
            },
        };
        if let Some(Ok(bytes)) = &next {
            body.meter.add(bytes.len() as u64);
        }
        Poll::Ready(next.map(|read| read.map(Frame::data).map_err(FileError)))
    }

    fn is_end_stream(&self) -> bool {
        self.before.is_none() && self.left_of_file == 0 && self.after.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        SizeHint::with_exact(len(&self.before) + self.left_of_file + len(&self.after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::io::Write;

    fn ten_bytes() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        file
    }

    #[tokio::test]
    async fn body_is_a_file_range_between_prefix_and_suffix() {
        let (file, bar) = (ten_bytes(), ProgressBar::hidden());
        let around = [Bytes::from_static(b"<"), Bytes::from_static(b">")];
        let body = FileBody::framed(file.path(), 2, 5, around, &bar).await.unwrap();
        let meter = body.meter();
        assert_eq!(body.size_hint().exact(), Some(7));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "<23456>");
        assert!(meter.is_whole());
        assert_eq!(bar.position(), 7);
        meter.keep();
        drop(meter);
        assert_eq!(bar.position(), 7);
    }

    #[tokio::test]
    async fn file_that_is_too_short_is_an_error_without_progress() {
        let (file, bar) = (ten_bytes(), ProgressBar::hidden());
        let body = FileBody::open(file.path(), 5, 6, &bar).await.unwrap();
        assert_eq!(body.collect().await.unwrap_err().0.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(bar.position(), 0);
    }
}
