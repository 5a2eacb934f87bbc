//! A request body from memory or from a file. It is sent without copying or hashing, and can be sent again in a retry.

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use futures::FutureExt;
use http_body::{Body, Frame, SizeHint};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

use crate::store::{Content, Payload, ReadAt, Reading};

/// Size of the pieces in which a file is read. A piece is read only after the previous one was sent, so each part that
/// is being sent holds one piece in memory outside the budget.
const PIECE: u64 = 128 << 10;

/// Returns a body that the SDK neither copies nor hashes, and can send again.
///
/// With `SdkBody::from`, the SDK would treat `Bytes` as an in-memory body and hash it before sending.
pub(super) fn retryable(payload: &Payload) -> ByteStream {
    let payload = payload.clone();
    ByteStream::new(SdkBody::retryable(move || of(&payload)))
}

/// Returns a body that is sent once.
pub(super) fn of(payload: &Payload) -> SdkBody {
    match payload.content.clone() {
        Content::Memory(bytes) => SdkBody::from_body_1_x(MemoryBody(bytes)),
        Content::File(file) => SdkBody::from_body_1_x(FileBody::new(file, payload.len)),
    }
}

/// Bytes in memory, sent in one frame.
struct MemoryBody(Bytes);

impl Body for MemoryBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.0)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

/// A file, read piece by piece.
struct FileBody {
    file: Arc<dyn ReadAt>,
    at: u64,
    len: u64,
    /// Resolves when the previous piece is dropped. Without this, hyper would queue all pieces if the store is slow.
    sent: Option<oneshot::Receiver<()>>,
    reading: Option<Reading>,
}

/// A piece of a file that is being sent.
struct Piece {
    bytes: Bytes,
    _sent: oneshot::Sender<()>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl FileBody {
    fn new(file: Arc<dyn ReadAt>, len: u64) -> Self {
        FileBody { file, at: 0, len, sent: None, reading: None }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let (file, at, len) = (&self.file, self.at, PIECE.min(self.len - self.at) as usize);
        let reading = self.reading.get_or_insert_with(|| file.read_at(at, len));
        let read = ready!(reading.poll_unpin(cx));
        self.reading = None;
        Poll::Ready(read)
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.at == self.len {
            return Poll::Ready(None);
        }
        if let Some(sent) = &mut self.sent {
            let _dropped = ready!(Pin::new(sent).poll(cx));
            self.sent = None;
        }
        let bytes = match ready!(self.poll_read(cx)) {
            Ok(bytes) => bytes,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        self.at += bytes.len() as u64;
        let (sending, sent) = oneshot::channel();
        self.sent = Some(sent);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(Piece { bytes, _sent: sending })))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.len
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len - self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BoxError;
    use futures::future::{poll_fn, ready};
    use http_body_util::BodyExt;

    fn memory(bytes: Bytes) -> Payload {
        Payload { len: bytes.len() as u64, content: Content::Memory(bytes), crc64: 0 }
    }

    #[derive(Debug)]
    struct Fake(Vec<u8>);

    impl ReadAt for Fake {
        fn read_at(&self, offset: u64, len: usize) -> Reading {
            let at = usize::try_from(offset).unwrap();
            let bytes = self.0.get(at..at + len).map(Bytes::copy_from_slice);
            Box::pin(ready(bytes.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())))
        }
    }

    fn file(bytes: Vec<u8>, len: usize) -> Payload {
        Payload { len: len as u64, content: Content::File(Arc::new(Fake(bytes))), crc64: 0 }
    }

    /// Reads a body as a connection does: each frame is dropped after it was sent.
    async fn send(mut body: SdkBody) -> Result<Vec<u8>, BoxError> {
        let mut sent = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            sent.extend_from_slice(&frame?.into_data().expect("bytes"));
        }
        Ok(sent)
    }

    #[tokio::test]
    async fn memory_is_sent_without_a_copy() {
        let bytes = Bytes::from(vec![7; 64]);
        let mut body = MemoryBody(bytes.clone());
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(64), false));
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.as_ptr(), bytes.as_ptr());
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }

    #[tokio::test]
    async fn memory_and_file_bodies_can_be_sent_again() {
        let long: Vec<u8> = (0..3 * PIECE + 1).map(|at| (at % 251) as u8).collect();
        for (payload, bytes) in [
            (memory(Bytes::from_static(b"abc")), b"abc".to_vec()),
            (memory(Bytes::new()), Vec::new()),
            (file(long.clone(), long.len()), long),
        ] {
            let body = retryable(&payload).into_inner();
            let again = body.try_clone().expect("a retryable body");
            for body in [body, again] {
                assert_eq!(body.content_length(), Some(bytes.len() as u64));
                assert!(send(body).await.unwrap() == bytes);
            }
        }
    }

    #[tokio::test]
    async fn next_piece_is_read_after_the_previous_one_was_sent() {
        let mut body = FileBody::new(Arc::new(Fake(vec![7; 2 * PIECE as usize])), 2 * PIECE);
        let first = body.frame().await.unwrap().unwrap();
        assert!(body.frame().now_or_never().is_none());
        assert!(body.reading.is_none(), "nothing is read ahead");
        drop(first);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len() as u64, PIECE);
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn file_that_cannot_be_read_is_an_error() {
        let body = retryable(&file(vec![0; 10], 20));
        assert!(send(body.into_inner()).await.is_err());
    }
}
