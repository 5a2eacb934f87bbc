//! Makes routes cheap to clone.
//!
//! axum clones a route for each request, and each layer clones everything inside it again. With twenty layers that was a
//! tenth of the time of a small upload. Inside a [`Shared`] layer only a reference is cloned.

use std::sync::Arc;
use std::task::{Context, Poll};
use tower::util::Oneshot;
use tower::{Layer, Service, ServiceExt};

/// A layer that shares the service inside it between its clones. To be the innermost one of several that are added together.
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
