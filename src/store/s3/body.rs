//! A request body from memory or from a file. It is sent without copying or hashing, and can be sent again in a retry.

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use futures::FutureExt;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::store::{Content, Payload, ReadAt, Reading};

/// Size of the pieces in which a file is read. A piece is read only after the previous one was sent, so each part that
/// is being sent holds one piece in memory outside the budget.
const FILE_PIECE: u64 = 32 << 10;

/// Size of the pieces in which bytes are sent from scarce memory, and how many of them are sent at once.
const MEMORY_PIECE: usize = 200 << 10;
const MEMORY_PIECES: usize = 2;

/// The bodies of one call, which end with it.
///
/// A store may answer before it has read the body, and then neither read on nor close the connection. hyper keeps such a
/// connection and what it still has to send, without a limit of time. So a body in pieces fails when its call has ended:
/// hyper then closes the connection and drops the part. Memory is sent in pieces only if it is scarce, because that takes
/// more CPU time. So such a store gets at most half of it.
///
/// Over HTTP/1, hyper asks a body for more while less than 408 KiB of it are unsent; [`MEMORY_PIECES`] are less. A body whose
/// last pieces hyper already has can no longer fail. Over HTTP/2, hyper asks only if the store reads on.
pub(super) struct Sending(DropGuard);

impl Sending {
    pub(super) fn new() -> Self {
        Sending(CancellationToken::new().drop_guard())
    }

    /// Returns a body that the SDK neither copies nor hashes, and can send again.
    ///
    /// With `SdkBody::from`, the SDK would treat `Bytes` as an in-memory body and hash it before sending.
    pub(super) fn retryable(&self, payload: &Payload) -> ByteStream {
        let (payload, call) = (payload.clone(), self.0.token().clone());
        ByteStream::new(SdkBody::retryable(move || body(&payload, &call)))
    }

    /// Returns a body that is sent once.
    pub(super) fn once(&self, payload: &Payload) -> SdkBody {
        body(payload, self.0.token())
    }
}

fn body(payload: &Payload, call: &CancellationToken) -> SdkBody {
    match payload.content.clone() {
        Content::Memory(bytes) => SdkBody::from_body_1_x(MemoryBody { rest: bytes, pieces: None }),
        Content::ScarceMemory(bytes) => {
            let pieces = Some(Pieces::new(MEMORY_PIECES, call));
            SdkBody::from_body_1_x(MemoryBody { rest: bytes, pieces })
        }
        Content::File(file) => SdkBody::from_body_1_x(FileBody::new(file, payload.len, call)),
    }
}

/// Limits how many pieces of a body are being sent.
struct Pieces {
    call: Pin<Box<WaitForCancellationFutureOwned>>,
    max: usize,
    /// Each resolves when its piece is dropped.
    unsent: VecDeque<oneshot::Receiver<()>>,
}

/// A piece of a body that is being sent.
struct Piece {
    bytes: Bytes,
    _sent: oneshot::Sender<()>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Pieces {
    fn new(max: usize, call: &CancellationToken) -> Self {
        Pieces { call: Box::pin(call.clone().cancelled_owned()), max, unsent: VecDeque::with_capacity(max) }
    }

    /// Waits until another piece may be sent.
    ///
    /// # Errors
    /// Fails when the call has ended.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.call.poll_unpin(cx).is_ready() {
            return Poll::Ready(Err(io::Error::other("the call has ended")));
        }
        // They are sent in this order.
        while let Some(first) = self.unsent.front_mut()
            && first.poll_unpin(cx).is_ready()
        {
            self.unsent.pop_front();
        }
        if self.unsent.len() < self.max { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn add(&mut self, bytes: Bytes) -> Frame<Bytes> {
        let (_sent, sent) = oneshot::channel();
        self.unsent.push_back(sent);
        Frame::data(Bytes::from_owner(Piece { bytes, _sent }))
    }
}

/// Bytes in memory.
struct MemoryBody {
    rest: Bytes,
    /// `None` if all bytes are one piece.
    pieces: Option<Pieces>,
}

impl MemoryBody {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Frame<Bytes>>> {
        let Some(pieces) = &mut self.pieces else {
            return Poll::Ready(Ok(Frame::data(std::mem::take(&mut self.rest))));
        };
        ready!(pieces.poll_turn(cx))?;
        Poll::Ready(Ok(pieces.add(self.rest.split_to(MEMORY_PIECE.min(self.rest.len())))))
    }
}

impl Body for MemoryBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rest.is_empty() { Poll::Ready(None) } else { self.poll_piece(cx).map(Some) }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// A file, read piece by piece.
struct FileBody {
    file: Arc<dyn ReadAt>,
    at: u64,
    len: u64,
    pieces: Pieces,
    reading: Option<Reading>,
}

impl FileBody {
    fn new(file: Arc<dyn ReadAt>, len: u64, call: &CancellationToken) -> Self {
        FileBody { file, at: 0, len, pieces: Pieces::new(1, call), reading: None }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let (file, at, len) = (&self.file, self.at, FILE_PIECE.min(self.len - self.at) as usize);
        let reading = self.reading.get_or_insert_with(|| file.read_at(at, len));
        let read = ready!(reading.poll_unpin(cx));
        self.reading = None;
        Poll::Ready(read)
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Frame<Bytes>>> {
        ready!(self.pieces.poll_turn(cx))?;
        let bytes = ready!(self.poll_read(cx))?;
        self.at += bytes.len() as u64;
        Poll::Ready(Ok(self.pieces.add(bytes)))
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.at == self.len { Poll::Ready(None) } else { self.poll_piece(cx).map(Some) }
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

    fn scarce(bytes: Bytes) -> Payload {
        Payload { content: Content::ScarceMemory(bytes.clone()), ..memory(bytes) }
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
        let mut body = MemoryBody { rest: bytes.clone(), pieces: None };
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(64), false));
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.as_ptr(), bytes.as_ptr());
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }

    #[tokio::test]
    async fn memory_and_file_bodies_can_be_sent_again() {
        let long: Vec<u8> = (0..4 * MEMORY_PIECE + 1).map(|at| (at % 251) as u8).collect();
        let sending = Sending::new();
        for (payload, bytes) in [
            (memory(Bytes::from_static(b"abc")), b"abc".to_vec()),
            (memory(Bytes::new()), Vec::new()),
            (scarce(Bytes::from(long.clone())), long.clone()),
            (scarce(Bytes::new()), Vec::new()),
            (file(long.clone(), long.len()), long),
        ] {
            let body = sending.retryable(&payload).into_inner();
            let again = body.try_clone().expect("a retryable body");
            for body in [body, again] {
                assert_eq!(body.content_length(), Some(bytes.len() as u64));
                assert!(send(body).await.unwrap() == bytes);
            }
        }
    }

    #[tokio::test]
    async fn next_piece_is_read_after_the_previous_one_was_sent() {
        let call = CancellationToken::new();
        let mut body = FileBody::new(Arc::new(Fake(vec![7; 2 * FILE_PIECE as usize])), 2 * FILE_PIECE, &call);
        let first = body.frame().await.unwrap().unwrap();
        assert!(body.frame().now_or_never().is_none());
        assert!(body.reading.is_none(), "nothing is read ahead");
        drop(first);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len() as u64, FILE_PIECE);
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn few_pieces_are_unsent_and_none_is_added_after_the_call() {
        let long = scarce(Bytes::from(vec![7; 4 * MEMORY_PIECE]));
        let sending = Sending::new();
        let mut body = sending.once(&long);
        let mut unsent = VecDeque::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never() {
            unsent.push_back(frame.unwrap().unwrap());
        }
        assert_eq!(unsent.len(), MEMORY_PIECES);
        let next = async |mut body: SdkBody| (poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap(), body);
        let mut send_first = async || drop(unsent.pop_front());
        let ((added, body), ()) = futures::join!(next(body), send_first());
        assert!(added.is_ok());
        let end_call = async move || drop(sending);
        let ((late, _), ()) = futures::join!(next(body), end_call());
        assert!(late.is_err());
    }

    #[tokio::test]
    async fn file_that_cannot_be_read_is_an_error() {
        let body = Sending::new().retryable(&file(vec![0; 10], 20));
        assert!(send(body.into_inner()).await.is_err());
    }
}
