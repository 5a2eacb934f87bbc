//! Makes routes cheap to clone.
//!
//! For each request, axum clones a route with all layers inside it, at each of these layers once more. With twenty layers
//! that was a tenth of the time of a small upload. Below a [`Shared`] layer only a reference is cloned.

use std::sync::Arc;
use std::task::{Context, Poll};
use tower::util::Oneshot;
use tower::{Layer, Service, ServiceExt};

/// A layer that shares the service inside it between its clones. To be the innermost one of each call of
/// [`Router::layer`](axum::Router::layer).
#[derive(Clone, Copy)]
pub struct Shared;

/// The service of a [`Shared`] layer.
#[derive(Clone)]
pub struct SharedService<S>(Arc<S>);

impl<S> Layer<S> for Shared {
    type Service = SharedService<S>;

    fn layer(&self, inner: S) -> SharedService<S> {
        SharedService(Arc::new(inner))
    }
}

impl<R, S: Service<R> + Clone> Service<R> for SharedService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Oneshot<S, R>;

    /// Each call waits until its own clone is ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Oneshot<S, R> {
        S::clone(&self.0).oneshot(request)
    }
}
