//! What the integration tests share.
//!
//! - [`backend::Backend`]: an S3 of some kind with a store on it, clean at the end.
//! - [`strict::Strict`]: an in-memory S3 that behaves as AWS documents.
//! - [`faults::Faults`]: a proxy before any S3 that fails the calls it is told to.

pub mod app;
pub mod backend;
pub mod faults;
pub mod raw;
pub mod runtime_api;
pub mod samples;
pub mod scrape;
pub mod strict;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use std::error::Error;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub type BoxError = Box<dyn Error + Send + Sync>;

/// A server on a free port of the loopback, until it is dropped.
pub struct Server {
    /// `http://127.0.0.1:<port>`
    pub endpoint: String,
    _stopped: DropGuard,
}

/// Serves `service` over HTTP/1. An error of the service closes its connection without an answer.
pub async fn serve<S, B>(service: S) -> Server
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let stopped = CancellationToken::new();
    let running = stopped.clone();
    tokio::spawn(running.run_until_cancelled_owned(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let service = service.clone();
            tokio::spawn(async move {
                // A connection that ends in an error is what the tests are about.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }));
    Server { endpoint, _stopped: stopped.drop_guard() }
}
