//! One HTTP/1.1 connection: what it holds, how long it may take, and how its requests reach the router.

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

/// A request's head must be there within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// As that, for a connection beyond the limit.
const EXTRA_HEADER_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection beyond the limit may take this long in all: its client may not have read the answer, or may still send.
const EXTRA_TIMEOUT: Duration = Duration::from_secs(3);
/// Milliseconds for which what was sent may stay unacknowledged, or untaken.
const UNTAKEN_TIMEOUT_MS: u32 = 60_000;
/// What a connection reads at once, about; while a chunk of that is being taken it has two of them. Every read costs the
/// system an acknowledgement to the peer and a wake-up of it, so the first connections read much at once. A crowd's do not:
/// their buffers are memory beside the budget.
const BUFFER: usize = 256 << 10;
const SMALL_BUFFER: usize = head::MAX_HEAD;
/// A connection gets an equal share of this, by how many there are when it comes.
const BUFFERS: usize = 2 << 20;

/// What answers the requests of one connection.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) router: Router,
    pub(super) metrics: Metrics,
    pub(super) peer: Peer,
    pub(super) limits: PaceLimits,
    /// It is beyond the limit: one request, and `/healthz` alone.
    pub(super) extra: bool,
}

/// What a connection may read at once where `open` others are open. hyper answers 431 to a head that does not fit.
pub(super) fn buffer_size(open: usize) -> usize {
    (BUFFERS / (open + 1)).clamp(SMALL_BUFFER, BUFFER)
}

impl Service {
    /// Prepares a connection that reads about `buffer` bytes at once. Its requests and timeouts start when it is polled.
    pub(super) fn connect(
        self,
        stream: TcpStream,
        buffer: usize,
    ) -> (impl GracefulConnection<Error = hyper::Error> + Send, Watched) {
        // Small answers must not wait for an acknowledgement of the one before (Nagle).
        let _ = stream.set_nodelay(true);
        // A client that takes no answer must not keep its connection for ever.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNTAKEN_TIMEOUT_MS);
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
        let body = RequestBody::new(body, length, self.limits, expects_continue, self.metrics.received());
        let ended = body.ended();
        let rejected = self.check(&parts).err();
        // What came behind a rejected head may not be what it seems, so no next request is looked for.
        let close = self.extra || rejected.is_some();
        parts.extensions.insert(self.peer);
        if let Some(error) = rejected {
            parts.extensions.insert(Rejected(Arc::new(error)));
        }
        let mut response = self.router.oneshot(Request::from_parts(parts, Body::new(body))).await?;
        if close || !ended.get() {
            // What is left of the body is thrown away, not parsed for a next request.
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
    // A client that has sent its whole request may close its half and still wants the answer.
    builder.half_close(true);
    builder
}

/// Serves a connection to its end. Where its client resets it, what it was doing is dropped at once.
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

/// As [`serve_regular`], for a connection beyond the limit.
pub(super) async fn serve_extra<C>(connection: C, socket: Watched)
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    // Cut off, it may lose an answer that its client does not take.
    let _ = tokio::time::timeout(EXTRA_TIMEOUT, serve_regular(connection, socket)).await;
}
