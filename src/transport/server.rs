//! The plain HTTP server: accepting, timeouts, and an orderly end.

use axum::Router;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::Peer;
use super::body::RequestBody;
use super::places::Places;
use crate::app::App;
use crate::config;
use crate::telemetry::metrics::{self, Metrics};

/// A request's head must be there within this time; so must a connection's first request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Milliseconds for which what was sent may stay unacknowledged, or untaken.
const UNTAKEN_TIMEOUT_MS: u32 = 60_000;
/// What an HTTP/1 connection reads at once, about; while a chunk of that is being taken it has two of them. Every read costs the
/// system an acknowledgement to the peer and a wake-up of it, so the first connections read much at once. A crowd's do not:
/// their buffers are memory beside the budget.
const H1_BUFFER: usize = 256 << 10;
const H1_SMALL_BUFFER: usize = 32 << 10;
/// A connection gets an equal share of this, by how many there are when it comes.
const H1_BUFFERS: usize = 2 << 20;
/// The largest head of a request over HTTP/1. It fits the smallest buffer: hyper answers 431 to what does not, and to more
/// than 100 headers.
const H1_HEAD: usize = H1_SMALL_BUFFER;
/// Flow control windows of HTTP/2: what a connection, and each of its streams, may have in flight towards us. A client can
/// fill this while nobody reads, on every connection there may be.
const H2_CONNECTION_WINDOW: u32 = 128 << 10;
const H2_STREAM_WINDOW: u32 = 32 << 10;
const H2_STREAMS: u32 = 64;
/// Of one request, decompressed and with 32 bytes more for each (RFC 9113, 10.5.1); what is larger is 431.
const H2_HEADERS: u32 = 32 << 10;
/// Aborting what was cut off at the end may take this long.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that may wait to be accepted, and as many to be served. One that finds no place in the first row is dropped,
/// and its client tries again only after a second: too late for a refusal that is to come at once. The system's own limit
/// (somaxconn) holds beside it.
const BACKLOG: u32 = 4096;

/// A listener that a crowd may connect to at once.
///
/// # Errors
/// Where the address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As `TcpListener::bind` does: a restart must not wait for old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `app` until `stop` resolves, then lets what is in flight finish within `shutdown_timeout`, aborts the rest, and
/// returns when everything that was started has been completed or aborted: true; or false, where that took too long.
#[must_use]
pub async fn serve(listener: TcpListener, app: App, config: config::Server, stop: impl Future<Output = ()>) -> bool {
    let router = app.router();
    let places = Places::new(config.max_connections, BACKLOG as usize);
    let mut waiting = FuturesUnordered::new();
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut upkeep = tokio::time::interval(metrics::UPKEEP);
    tokio::pin!(stop);
    loop {
        let (stream, peer, place) = tokio::select! {
            () = &mut stop => break,
            Some((stream, peer, Some(place))) = waiting.next() => (stream, peer, place),
            accepted = accept(&listener) => {
                if let Some((stream, peer)) = accepted && places.has_room(peer, waiting.len()) {
                    let place = places.clone().take(peer);
                    waiting.push(async move { (stream, peer, place.await) });
                }
                continue;
            }
            Some(_) = connections.join_next() => continue,
            _ = upkeep.tick() => {
                app.metrics.upkeep();
                continue;
            }
        };
        let service =
            Service { router: router.clone(), metrics: app.metrics.clone(), peer, idle: config.body_idle_timeout };
        let buffer = (H1_BUFFERS / (connections.len() + 1)).clamp(H1_SMALL_BUFFER, H1_BUFFER);
        let connection = connection(stream, service, buffer, &graceful);
        let counted = app.metrics.connection();
        connections.spawn(async move {
            connection.await;
            drop((place, counted));
        });
    }
    drop((listener, waiting));
    drain(&app, graceful, connections, config.shutdown_timeout).await
}

/// The next connection; none where there was trouble.
async fn accept(listener: &TcpListener) -> Option<(TcpStream, Peer)> {
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, Peer(peer.ip()))),
        Err(error) => {
            // Out of file descriptors, most likely: the only cure is that connections end meanwhile.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// What answers the requests of one connection.
#[derive(Clone)]
struct Service {
    router: Router,
    metrics: Metrics,
    peer: Peer,
    /// How long a body may pause.
    idle: Duration,
}

fn connection(
    stream: TcpStream,
    service: Service,
    buffer: usize,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + use<> {
    let began = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&began);
    let answering = service_fn(move |request| {
        seen.store(true, Ordering::Relaxed);
        service.clone().answer(request)
    });
    // Small answers must not wait for an acknowledgement of the one before (Nagle).
    let _ = stream.set_nodelay(true);
    // A client that takes no answer must not keep its connection for ever.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNTAKEN_TIMEOUT_MS);
    let connection = builder(buffer).serve_connection_with_upgrades(TokioIo::new(stream), answering).into_owned();
    let connection = graceful.watch(connection);
    async move {
        tokio::pin!(connection);
        tokio::select! {
            ended = &mut connection => return log_end(ended),
            () = tokio::time::sleep(HEADER_TIMEOUT) => {}
        }
        // hyper's header timeout starts with the protocol, and a client that never sends a byte has none.
        if began.load(Ordering::Relaxed) {
            log_end(connection.await);
        }
    }
}

fn log_end<E: std::fmt::Display>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

fn builder(buffer: usize) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(buffer);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .max_concurrent_streams(H2_STREAMS)
        .max_header_list_size(H2_HEADERS)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

impl Service {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<axum::body::Body>, Infallible> {
        let http1 = request.version() < Version::HTTP_2;
        let expects_continue = request.headers().get(header::EXPECT).is_some();
        let too_large = http1 && head_len(&request) > H1_HEAD;
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(self.peer);
        let body = RequestBody::new(body, self.idle, expects_continue, self.metrics.received());
        if too_large {
            return Ok(head_too_large());
        }
        let ended = body.ended();
        let mut response = self.router.oneshot(Request::from_parts(parts, axum::body::Body::new(body))).await?;
        if http1 && !ended.get() {
            // What is left of the body is thrown away, not parsed for a next request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// The bytes of a head over HTTP/1, but for what is the same in all.
fn head_len<B>(request: &Request<B>) -> usize {
    let (method, uri) = (request.method().as_str(), request.uri());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    // ": " and the line's end.
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    method.len() + authority + path + headers.sum::<usize>()
}

/// What hyper answers to a head that does not fit its buffer.
fn head_too_large() -> Response<axum::body::Body> {
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn drain(app: &App, graceful: GracefulShutdown, mut connections: JoinSet<()>, patience: Duration) -> bool {
    app.start_draining();
    tracing::info!(uploads = app.uploads.open(), "stopping");
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        tracing::warn!(uploads = app.uploads.open(), "cutting off what is still in flight");
    }
    app.metrics.start_cutting_off();
    // A request that is dropped here undoes its upload.
    connections.shutdown().await;
    let clean = tokio::time::timeout(CLEANUP_TIMEOUT, app.uploads.finished()).await.is_ok();
    if !clean {
        tracing::error!(uploads = app.uploads.open(), "uploads could not be cleaned up in time; sweep removes them");
    }
    clean
}
