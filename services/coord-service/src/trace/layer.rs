//! Requests from others, each in the context that its headers name.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tracing::{Span, field};

use super::{TraceContext, in_scope};

/// A layer for servers, of HTTP and gRPC alike (K4). For each request
///
/// - it takes the context from the headers ([`TraceContext::from_headers`]), puts it among the
///   request's extensions, and has all that answers run in it, the body of the answer included;
/// - it opens a span `request` with `method`, `path` (without the query, in which secrets travel)
///   and, once it is known, `status`;
/// - it answers with the `traceparent` of the step that ran here, and with `x-request-id` where the
///   request had an id.
///
/// ```
/// use axum::{Router, routing::get};
/// use coord_service::trace::TraceLayer;
///
/// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(TraceLayer::new());
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TraceLayer;

impl TraceLayer {
    /// The layer.
    pub fn new() -> Self {
        TraceLayer
    }
}

/// A server with [`TraceLayer`].
#[derive(Clone, Debug)]
pub struct TraceService<S> {
    inner: S,
}

impl<S> Layer<S> for TraceLayer {
    type Service = TraceService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TraceService { inner }
    }
}

impl<S, B, R> Service<Request<B>> for TraceService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<TraceBody<R>>;
    type Error = S::Error;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let context = TraceContext::from_headers(request.headers());
        let span = in_scope(context.clone(), || {
            let (method, path) = (request.method().as_str(), request.uri().path());
            tracing::info_span!("request", method, path, status = field::Empty)
        });
        request.extensions_mut().insert(context.clone());
        let within = Within { context, span };
        let inner = within.run(|| self.inner.call(request));
        TraceFuture { inner, within: Some(within) }
    }
}

/// Where a request's work runs.
#[derive(Debug)]
struct Within {
    context: TraceContext,
    span: Span,
}

impl Within {
    fn run<T>(&self, run: impl FnOnce() -> T) -> T {
        in_scope(self.context.clone(), || self.span.in_scope(run))
    }
}

pin_project! {
    /// The answer to a request, on its way. Cancel safe as that of the service within.
    #[derive(Debug)]
    pub struct TraceFuture<F> {
        #[pin]
        inner: F,
        // Moves into the body.
        within: Option<Within>,
    }
}

impl<F, R, E> Future for TraceFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<TraceBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = match &*this.within {
            Some(within) => ready!(within.run(|| this.inner.poll(cx))),
            None => ready!(this.inner.poll(cx)),
        };
        let within = this.within.take();
        Poll::Ready(answer.map(|mut answer| {
            if let Some(within) = &within {
                within.span.record("status", answer.status().as_u16());
                within.context.answer(answer.headers_mut());
            }
            answer.map(|inner| TraceBody { inner, within })
        }))
    }
}

pin_project! {
    /// The body of an answer, made in the context and span of its request.
    #[derive(Debug)]
    pub struct TraceBody<B> {
        #[pin]
        inner: B,
        within: Option<Within>,
    }
}

impl<B: Default> Default for TraceBody<B> {
    fn default() -> Self {
        TraceBody { inner: B::default(), within: None }
    }
}

impl<B: Body> Body for TraceBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        match &*this.within {
            Some(within) => within.run(|| this.inner.poll_frame(cx)),
            None => this.inner.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
