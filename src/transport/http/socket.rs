//! The socket of a connection, which also detects that the peer has reset the connection.
//!
//! A client may close its half of a connection after the request and still expect the answer. So hyper does not read
//! while a request is being answered, and does not notice a reset. This module detects a reset without reading.
//!
//! It also replaces hyper's own error answers: see [`super::malformed`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::malformed::{answer_instead_of, has_unreadable_length};

/// Reads of more bytes contain a body. A head that is only malformed is smaller.
const HEAD: usize = 4 << 10;

/// The half that hyper reads and writes.
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    /// The remaining bytes of the answer that replaces what hyper wrote.
    replacement: Vec<u8>,
    /// Whether the last read looks like a head with a Content-Length that hyper does not support.
    unreadable_length: bool,
}

/// The half that detects a reset.
pub(super) struct Watched(Arc<TcpStream>);

/// Splits a socket into both halves.
pub(super) fn watched(stream: TcpStream) -> (Socket, Watched) {
    let stream = Arc::new(stream);
    (Socket { stream: Arc::clone(&stream), replacement: Vec::new(), unreadable_length: false }, Watched(stream))
}

impl Watched {
    /// Resolves when the connection is closed in both directions: the peer has reset it, or does not acknowledge data
    /// (TCP_USER_TIMEOUT). A FIN from the peer is not a reset.
    pub(super) async fn reset(&self) {
        // An error of the reactor itself would end the process anyway.
        let _ = self.0.ready(Interest::ERROR).await;
    }
}

impl Socket {
    /// Reads without blocking. A read that does not fill the buffer has taken all available bytes (epoll(7)), so the
    /// socket is marked as not ready, which saves a system call. tokio's own streams do the same.
    fn receive(&self, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let would_block = || io::Error::from(io::ErrorKind::WouldBlock);
        let (space, mut read) = (buf.remaining(), Err(would_block()));
        let _ = self.stream.try_io(Interest::READABLE, || {
            read = self.stream.try_read_buf(buf);
            let took_all = read.as_ref().is_ok_and(|bytes| (1..space).contains(bytes));
            if took_all { Err(would_block()) } else { Ok(()) }
        });
        read
    }

    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write_vectored(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), buf.filled().len());
        let read = loop {
            ready!(this.stream.poll_read_ready(cx))?;
            match this.receive(buf) {
                // The readiness was stale: the bytes were already read.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => break read,
            }
        };
        let bytes = &buf.filled()[before..];
        this.unreadable_length = bytes.len() <= HEAD && has_unreadable_length(bytes);
        Poll::Ready(read.map(drop))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.replacement.is_empty()
            && let [head] = bufs
            && let Some(answer) = answer_instead_of(head, this.unreadable_length)
        {
            this.replacement = answer;
        }
        if this.replacement.is_empty() {
            return this.poll_send(cx, bufs);
        }
        while !this.replacement.is_empty() {
            let sent = ready!(this.poll_send(cx, &[IoSlice::new(&this.replacement)]))?;
            this.replacement.drain(..sent);
        }
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Write).map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, Socket, Watched) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, watched) = watched(listener.accept().await.unwrap().0);
        (client, socket, watched)
    }

    async fn is_reset(watched: &Watched) -> bool {
        tokio::time::timeout(Duration::from_secs(10), watched.reset()).await.is_ok()
    }

    fn reset(client: TcpStream) {
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    }

    #[tokio::test]
    async fn bytes_are_sent_in_both_directions() {
        let (mut client, mut socket, _watched) = pair().await;
        client.write_all(b"question").await.unwrap();
        let mut read = [0; 8];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"question");
        let long = vec![7; 4 << 20];
        let (sent, mut received) = (long.clone(), Vec::new());
        let writing = async {
            socket.write_all(&sent).await.unwrap();
            socket.shutdown().await.unwrap();
        };
        let ((), read) = tokio::join!(writing, client.read_to_end(&mut received));
        read.unwrap();
        assert!(received == long);
    }

    #[tokio::test]
    async fn reset_is_detected_without_reading() {
        for bytes in [&b""[..], b"unread"] {
            let (mut client, _socket, watched) = pair().await;
            client.write_all(bytes).await.unwrap();
            assert!(watched.reset().now_or_never().is_none());
            reset(client);
            assert!(is_reset(&watched).await);
        }
    }

    #[tokio::test]
    async fn fin_is_not_a_reset() {
        let (mut client, mut socket, watched) = pair().await;
        client.shutdown().await.unwrap();
        assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
        assert!(watched.reset().now_or_never().is_none());
        reset(client);
        assert!(is_reset(&watched).await);
    }
}
