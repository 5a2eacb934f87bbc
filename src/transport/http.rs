//! The HTTP server: accepts connections, enforces timeouts, and shuts down gracefully.

use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

mod body;
mod connection;
mod head;
mod limiter;
mod malformed;
mod pace;
mod socket;

use self::connection::{Service, buffer_size, serve_extra, serve_regular};
use self::limiter::{Admission, ConnectionLimiter};
use self::pace::PaceLimits;
use crate::config;
use crate::server::App;
use crate::server::request::Peer;
use crate::telemetry::metrics::{self, Metrics};

/// How long the clean-up of uploads that were cut off at shutdown may take.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Minimum interval between warnings that the connection limit is reached.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// The length of the queue of connections that are not yet accepted. If the queue is full, a connection attempt is
/// dropped and the client repeats it only after a second, so that even a rejection would come late. The system limit
/// (somaxconn) also applies.
const BACKLOG: u32 = 4096;

/// Binds a listener with a backlog that is long enough for many clients that connect at the same time.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Like `TcpListener::bind`: a restart must not wait for old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `app` until `stop` resolves. Then requests in flight may finish within `shutdown_timeout`, and the rest is
/// aborted. Returns `true` when all uploads have been completed or aborted, or `false` if that took too long.
#[must_use]
pub async fn serve(listener: TcpListener, app: App, config: config::Server, stop: impl Future<Output = ()>) -> bool {
    let mut connections = Connections::new(&app, &config);
    let mut upkeep = tokio::time::interval(metrics::UPKEEP);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener) => if let Some((stream, peer)) = accepted {
                connections.admit(stream, peer).await;
            },
            Some(_) = connections.running.join_next() => {}
            _ = upkeep.tick() => app.metrics.upkeep(),
        }
    }
    drop(listener);
    connections.drain(&app, config.shutdown_timeout).await
}

/// Accepts the next connection. Returns `None` after an error.
async fn accept(listener: &TcpListener) -> Option<(TcpStream, Peer)> {
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, Peer(peer.ip()))),
        Err(error) => {
            // Most likely the process has no file descriptor left, so wait until other connections end.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// All open connections.
struct Connections {
    router: Router,
    metrics: Metrics,
    limits: PaceLimits,
    limiter: ConnectionLimiter,
    graceful: GracefulShutdown,
    running: JoinSet<()>,
    /// When the warning that the limit is reached was last logged.
    warned: Option<Instant>,
}

impl Connections {
    fn new(app: &App, config: &config::Server) -> Self {
        Connections {
            router: app.router(),
            metrics: app.metrics.clone(),
            limits: PaceLimits { idle: config.body_idle_timeout, min_rate: config.min_upload_rate },
            limiter: ConnectionLimiter::new(config.max_connections, config.extra_connections),
            graceful: GracefulShutdown::new(),
            running: JoinSet::new(),
            warned: None,
        }
    }

    /// Starts to serve a connection that was just accepted.
    async fn admit(&mut self, stream: TcpStream, peer: Peer) {
        let admission = self.limiter.admit().await;
        let extra = matches!(admission, Admission::Extra(_));
        let (router, metrics, limits) = (self.router.clone(), self.metrics.clone(), self.limits);
        let service = Service { router, metrics, peer, limits, extra };
        let (http, socket) = service.connect(stream, buffer_size(self.running.len()));
        let counted = self.metrics.connection();
        match admission {
            Admission::Regular(permit) => {
                let (http, held) = (self.graceful.watch(http), (counted, permit));
                self.running.spawn(async move {
                    serve_regular(http, socket).await;
                    drop(held);
                });
            }
            Admission::Extra(permit) => {
                self.warn();
                let held = (counted, permit);
                self.limiter.run_extra(&mut self.running, async move {
                    serve_extra(http, socket).await;
                    drop(held);
                });
            }
        }
    }

    fn warn(&mut self) {
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_INTERVAL) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                "MAX_CONNECTIONS reached: requests on further connections are rejected with 503, except /healthz"
            );
        }
    }

    async fn drain(mut self, app: &App, shutdown_timeout: Duration) -> bool {
        app.start_draining();
        tracing::info!(uploads = app.uploads.open(), "shutting down");
        if tokio::time::timeout(shutdown_timeout, self.graceful.shutdown()).await.is_err() {
            tracing::warn!(uploads = app.uploads.open(), "SHUTDOWN_TIMEOUT reached: aborting requests in flight");
        }
        app.metrics.start_cutting_off();
        // Dropping a request aborts its upload.
        self.running.shutdown().await;
        // Promotions continue after their connections have ended. They may finish within half of the timeout, then they
        // are aborted.
        if tokio::time::timeout(CLEANUP_TIMEOUT / 2, app.uploads.finished()).await.is_err() {
            app.promotions.cut_off();
        }
        let clean = tokio::time::timeout(CLEANUP_TIMEOUT / 2, app.uploads.finished()).await.is_ok();
        if !clean {
            tracing::error!(
                uploads = app.uploads.open(),
                "uploads could not be cleaned up in time; `image-store sweep` or a lifecycle rule removes them"
            );
        }
        clean
    }
}
