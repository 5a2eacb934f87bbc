//! One HTTP/1.1 connection: its buffers and timeouts, and how its requests reach the router.

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tower::ServiceExt;

use super::body::RequestBody;
use super::head;
use super::pace::PaceLimits;
use super::socket::{self, Watched};
use crate::error::Error;
use crate::server::request::{Peer, Rejected};
use crate::telemetry::Metrics;

/// Timeout for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for the head of a request on a connection above the limit.
const EXTRA_HEADER_TIMEOUT: Duration = Duration::from_secs(1);
/// Total timeout of a connection above the limit. Its client may not read the answer, or may continue to send.
const EXTRA_TIMEOUT: Duration = Duration::from_secs(3);
/// Milliseconds after which a connection is closed if sent data is not acknowledged, or if the peer does not read.
const USER_TIMEOUT_MS: u32 = 60_000;
/// Bytes per read, approximately. While a chunk is being processed, a connection uses two such buffers. Each read costs
/// an acknowledgement and wakes the peer, so a small number of connections use large reads. With many connections, the
/// buffers are small because their memory is not part of the budget for parts.
const MAX_BUFFER: usize = 256 << 10;
const MIN_BUFFER: usize = head::MAX_HEAD;
/// Bytes that are shared equally by the buffers, by the number of connections when a connection is accepted.
const TOTAL_BUFFERS: usize = 2 << 20;

/// Handles the requests of one connection.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) router: Router,
    pub(super) metrics: Metrics,
    pub(super) peer: Peer,
    pub(super) limits: PaceLimits,
    /// Whether the connection is above the limit: only one request to `/healthz` is served.
    pub(super) extra: bool,
}

/// Returns the buffer size of a connection while `open` others are open. hyper answers 431 to a head that does not fit.
pub(super) fn buffer_size(open: usize) -> usize {
    (TOTAL_BUFFERS / (open + 1)).clamp(MIN_BUFFER, MAX_BUFFER)
}

impl Service {
    /// Prepares a connection that reads about `buffer` bytes at once. Its requests and timeouts start when it is first
    /// polled.
    pub(super) fn connect(
        self,
        stream: TcpStream,
        buffer: usize,
    ) -> (impl GracefulConnection<Error = hyper::Error> + Send, Watched) {
        // Small answers must not wait until the previous one is acknowledged (Nagle's algorithm).
        let _ = stream.set_nodelay(true);
        // A client that does not read its answer must not keep its connection forever.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS);
        let builder = builder(buffer, if self.extra { EXTRA_HEADER_TIMEOUT } else { HEADER_TIMEOUT });
        let (socket, watched) = socket::watched(stream);
        let answering = service_fn(move |request| self.clone().answer(request));
        (builder.serve_connection(TokioIo::new(socket), answering), watched)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let expected = request.headers().get(header::EXPECT);
        let expects_continue = expected.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let length = head::content_length(request.headers());
        let (mut parts, body) = request.into_parts();
        let received = self.metrics.received();
        parts.extensions.insert(received.total());
        let body = RequestBody::new(body, length, self.limits, expects_continue, received);
        let ended = body.ended();
        let rejected = self.check(&parts).err();
        // After a rejected head, the framing of the following bytes is uncertain (request smuggling), so the connection
        // is closed.
        let close = self.extra || rejected.is_some();
        parts.extensions.insert(self.peer);
        if let Some(error) = rejected {
            parts.extensions.insert(Rejected(Arc::new(error)));
        }
        let mut response = self.router.oneshot(Request::from_parts(parts, Body::new(body))).await?;
        if close || !ended.get() {
            // The rest of the body is discarded and not parsed as the next request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    fn check(&self, head: &http::request::Parts) -> crate::error::Result<()> {
        head::check(head)?;
        if self.extra && head.uri.path() != "/healthz" {
            return Err(Error::TooManyConnections);
        }
        Ok(())
    }
}

fn builder(buffer: usize, header_timeout: Duration) -> Builder {
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(buffer);
    // A client may close its half of the connection after the request and still expect the answer.
    builder.half_close(true);
    builder
}

/// Serves a connection until it ends. If the client resets it, the request in progress is dropped at once.
pub(super) async fn serve_regular<C>(connection: C, socket: Watched)
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = &mut connection => if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        },
        () = socket.reset() => tracing::debug!("a connection was reset"),
    }
}

/// Like [`serve_regular`], for a connection above the limit.
pub(super) async fn serve_extra<C>(connection: C, socket: Watched)
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    // After the timeout, an answer that the client has not read is lost.
    let _ = tokio::time::timeout(EXTRA_TIMEOUT, serve_regular(connection, socket)).await;
}
