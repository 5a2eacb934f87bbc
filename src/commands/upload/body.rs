//! A request's body, read from a file while it is sent.

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

/// What is read at once: large enough to make reads rare, small enough for many bodies at once.
const CHUNK: usize = 256 << 10;

/// How much of one request's body its connection has taken. Shown on the progress bar, and taken back
/// from it where the request fails: an attempt that is dropped counts for nothing unless it was [kept](Meter::keep).
pub struct Meter {
    taken: AtomicU64,
    total: u64,
    kept: AtomicU64,
    bar: ProgressBar,
}

impl Meter {
    pub fn new(total: u64, bar: &ProgressBar) -> Arc<Meter> {
        Arc::new(Meter { taken: AtomicU64::new(0), total, kept: AtomicU64::new(0), bar: bar.clone() })
    }

    /// Bytes.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether the connection has everything: only then may the other side have it.
    pub fn is_whole(&self) -> bool {
        self.taken() >= self.total
    }

    /// What was sent has arrived.
    pub fn keep(&self) {
        self.kept.store(self.taken(), Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc(bytes);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.dec(self.taken() - self.kept.load(Ordering::Relaxed));
    }
}

/// The file could not be read on, or was not what it was. Told from the network's errors by its type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FileError(pub io::Error);

/// Bytes of a file, between others. It is exactly as long as it says, or an error.
pub struct FileBody {
    before: Option<Bytes>,
    file: ReaderStream<Take<File>>,
    left_of_file: u64,
    after: Option<Bytes>,
    meter: Arc<Meter>,
}

impl FileBody {
    /// `size` bytes of `path` from `offset` on.
    ///
    /// # Errors
    /// What opening the file is refused with.
    pub async fn open(path: &Path, offset: u64, size: u64, bar: &ProgressBar) -> io::Result<FileBody> {
        FileBody::framed(path, offset, size, [Bytes::new(), Bytes::new()], bar).await
    }

    /// The same between two other pieces.
    ///
    /// # Errors
    /// What opening the file is refused with.
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
    async fn it_sends_a_range_between_two_pieces() {
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
    async fn a_file_that_is_too_short_is_an_error_and_counts_for_nothing() {
        let (file, bar) = (ten_bytes(), ProgressBar::hidden());
        let body = FileBody::open(file.path(), 5, 6, &bar).await.unwrap();
        assert_eq!(body.collect().await.unwrap_err().0.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(bar.position(), 0);
    }
}
