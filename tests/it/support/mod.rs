//! Shared helpers of the integration tests.
//!
//! - [`backend::Backend`]: an S3 of some kind with a store on it, checked for leftovers at the end.
//! - [`strict::Strict`]: an in-memory S3 that behaves as AWS documents.
//! - [`faults::Faults`]: a proxy in front of any S3 that makes selected calls fail.

pub mod app;
pub mod backend;
pub mod faults;
pub mod raw;
pub mod runtime_api;
pub mod samples;
pub mod scrape;
pub mod strict;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub type BoxError = Box<dyn Error + Send + Sync>;

/// A server on a free loopback port. It runs until it is dropped.
pub struct Server {
    /// `http://127.0.0.1:<port>`
    pub endpoint: String,
    _stopped: DropGuard,
}

/// A body that is read to its end even if it is dropped earlier, like the bodies of the service. Otherwise the client
/// would see a reset after an early answer.
pub struct Drained(Option<Incoming>);

impl Drained {
    pub fn of(request: Request<Incoming>) -> Request<Drained> {
        request.map(|body| Drained(Some(body)))
    }
}

impl Body for Drained {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        if let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) {
            tokio::spawn(body.collect());
        }
    }
}

/// Serves `service` over HTTP/1. If the service returns an error, its connection is closed without an answer.
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
                // Tests break connections on purpose, so errors are ignored.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }));
    Server { endpoint, _stopped: stopped.drop_guard() }
}
