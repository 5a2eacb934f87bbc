//! A connection's socket, and whether its peer has reset it.
//!
//! A client may close its half of a connection after its request and still wants the answer, so hyper does not read while a
//! request is being answered, and cannot see a reset then. A reset is seen here, whoever reads or does not.
//!
//! What hyper writes by itself is exchanged here, too: see [`super::malformed`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::malformed::{answer_instead_of, has_unreadable_length};

/// A read of more bytes is of a body. No head that is only strange is this large.
const HEAD: usize = 4 << 10;

/// The half that hyper reads and writes.
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    /// What is being sent instead of what hyper wrote, as far as it is not yet.
    instead: Vec<u8>,
    /// What came last seems to be a head with such a length.
    unreadable_length: bool,
}

/// The half that is watched.
pub(super) struct Watched(Arc<TcpStream>);

/// Both halves of a socket.
pub(super) fn watched(stream: TcpStream) -> (Socket, Watched) {
    let stream = Arc::new(stream);
    (Socket { stream: Arc::clone(&stream), instead: Vec::new(), unreadable_length: false }, Watched(stream))
}

impl Watched {
    /// Resolves when the connection is dead in both directions: its peer has reset it, or acknowledges nothing any more
    /// (TCP_USER_TIMEOUT). The peer's FIN, which may be followed by nothing else, is none.
    pub(super) async fn reset(&self) {
        // The reactor's own error would be the process' end anyhow.
        let _ = self.0.ready(Interest::ERROR).await;
    }
}

impl Socket {
    /// A read that does not fill the buffer has taken all there was (epoll(7)), so the socket is no longer ready, and the
    /// next read need not ask the system to find that out. tokio's own streams do the same.
    fn receive(&self, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let nothing = || io::Error::from(io::ErrorKind::WouldBlock);
        let (space, mut read) = (buf.remaining(), Err(nothing()));
        let _ = self.stream.try_io(Interest::READABLE, || {
            read = self.stream.try_read_buf(buf);
            let took_all = read.as_ref().is_ok_and(|bytes| (1..space).contains(bytes));
            if took_all { Err(nothing()) } else { Ok(()) }
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
                // The readiness was that of bytes that are taken already.
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
        if this.instead.is_empty()
            && let [head] = bufs
            && let Some(answer) = answer_instead_of(head, this.unreadable_length)
        {
            this.instead = answer;
        }
        if this.instead.is_empty() {
            return this.poll_send(cx, bufs);
        }
        while !this.instead.is_empty() {
            let sent = ready!(this.poll_send(cx, &[IoSlice::new(&this.instead)]))?;
            this.instead.drain(..sent);
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
    async fn bytes_go_both_ways() {
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
    async fn a_reset_is_seen_though_nobody_reads() {
        for bytes in [&b""[..], b"unread"] {
            let (mut client, _socket, watched) = pair().await;
            client.write_all(bytes).await.unwrap();
            assert!(watched.reset().now_or_never().is_none());
            reset(client);
            assert!(is_reset(&watched).await);
        }
    }

    #[tokio::test]
    async fn an_end_is_no_reset_and_a_reset_after_it_is_one() {
        let (mut client, mut socket, watched) = pair().await;
        client.shutdown().await.unwrap();
        assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
        assert!(watched.reset().now_or_never().is_none());
        reset(client);
        assert!(is_reset(&watched).await);
    }
}
