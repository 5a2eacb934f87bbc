//! A request body of bytes in memory or in a file, sent as they are and as often as a retry needs.

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

use crate::store::{Content, Payload, ReadAt};

/// A file is read in pieces of this size: one for each part on its way is in memory beside the budget.
const PIECE: u64 = 128 << 10;

/// A body the SDK neither copies nor hashes, and can send again.
///
/// `SdkBody::from` of a `Bytes` would be taken for an in-memory body and hashed before it is sent.
pub(super) fn retryable(payload: &Payload) -> ByteStream {
    let len = payload.len;
    ByteStream::new(match payload.content.clone() {
        Content::Memory(bytes) => SdkBody::retryable(move || SdkBody::from_body_1_x(Whole(bytes.clone()))),
        Content::File(file) => SdkBody::retryable(move || SdkBody::from_body_1_x(Pieces::new(file.clone(), len))),
    })
}

/// Bytes in memory, in one frame.
struct Whole(Bytes);

impl Body for Whole {
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

/// A file, read on the threads for blocking work.
struct Pieces {
    file: Arc<dyn ReadAt>,
    at: u64,
    len: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Pieces {
    fn new(file: Arc<dyn ReadAt>, len: u64) -> Self {
        Pieces { file, at: 0, len, reading: None }
    }

    fn read(&self) -> JoinHandle<io::Result<Bytes>> {
        let (file, at, piece) = (Arc::clone(&self.file), self.at, PIECE.min(self.len - self.at));
        tokio::task::spawn_blocking(move || file.read_at(at, piece as usize))
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.at == self.len {
            return Poll::Ready(None);
        }
        let mut reading = self.reading.take().unwrap_or_else(|| self.read());
        let Poll::Ready(read) = Pin::new(&mut reading).poll(cx) else {
            self.reading = Some(reading);
            return Poll::Pending;
        };
        let piece = read.map_err(io::Error::other).flatten();
        self.at += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(Some(piece.map(Frame::data)))
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
    use http_body_util::BodyExt;

    fn memory(bytes: Bytes) -> Payload {
        Payload { len: bytes.len() as u64, content: Content::Memory(bytes), crc64: 0 }
    }

    #[derive(Debug)]
    struct Fake(Vec<u8>);

    impl ReadAt for Fake {
        fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
            let at = usize::try_from(offset).unwrap();
            self.0.get(at..at + len).map(Bytes::copy_from_slice).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn file(bytes: Vec<u8>, len: usize) -> Payload {
        Payload { len: len as u64, content: Content::File(Arc::new(Fake(bytes))), crc64: 0 }
    }

    #[tokio::test]
    async fn memory_goes_out_without_a_copy() {
        let bytes = Bytes::from(vec![7; 64]);
        let mut body = Whole(bytes.clone());
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(64), false));
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.as_ptr(), bytes.as_ptr());
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }

    #[tokio::test]
    async fn both_can_be_sent_again() {
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
                assert!(ByteStream::new(body).collect().await.unwrap().into_bytes() == bytes);
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_an_error_and_not_an_end() {
        let body = retryable(&file(vec![0; 10], 20));
        assert!(body.collect().await.is_err());
    }
}
