//! The plain HTTP server: accepting, timeouts, and an orderly end.

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

/// Aborting what was cut off at the end may take this long.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the log says that the connection limit is reached.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

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

/// All connections there are.
struct Connections {
    router: Router,
    metrics: Metrics,
    limits: PaceLimits,
    limiter: ConnectionLimiter,
    graceful: GracefulShutdown,
    running: JoinSet<()>,
    /// When the log last said that the limit is reached.
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

    /// Serves a connection that was just accepted.
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
            tracing::warn!("MAX_CONNECTIONS are open: all others are answered 503, except for /healthz");
        }
    }

    async fn drain(mut self, app: &App, patience: Duration) -> bool {
        app.start_draining();
        tracing::info!(uploads = app.uploads.open(), "stopping");
        if tokio::time::timeout(patience, self.graceful.shutdown()).await.is_err() {
            tracing::warn!(uploads = app.uploads.open(), "cutting off what is still in flight");
        }
        app.metrics.start_cutting_off();
        // A request that is dropped here undoes its upload.
        self.running.shutdown().await;
        // Promotions outlive their connections: those that end by themselves may, the others are aborted.
        if tokio::time::timeout(CLEANUP_TIMEOUT / 2, app.uploads.finished()).await.is_err() {
            app.promotions.cut_off();
        }
        let clean = tokio::time::timeout(CLEANUP_TIMEOUT / 2, app.uploads.finished()).await.is_ok();
        if !clean {
            tracing::error!(
                uploads = app.uploads.open(),
                "uploads could not be cleaned up in time; sweep removes them"
            );
        }
        clean
    }
}
