//! Requests to others, with the context of the task that makes them.

use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};

use super::try_current;

/// A layer for clients: each request takes along the context of the task that makes it. One that
/// is made outside of any trace goes as it is.
///
/// What is called is a step of its own: it makes itself a [`child`](super::TraceContext::child).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PropagateLayer;

impl PropagateLayer {
    /// The layer.
    pub fn new() -> Self {
        PropagateLayer
    }
}

/// A client with [`PropagateLayer`].
#[derive(Clone, Debug)]
pub struct PropagateService<S> {
    inner: S,
}

impl<S> Layer<S> for PropagateLayer {
    type Service = PropagateService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PropagateService { inner }
    }
}

impl<S, B> Service<Request<B>> for PropagateService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(context) = try_current() {
            context.inject(request.headers_mut());
        }
        self.inner.call(request)
    }
}
