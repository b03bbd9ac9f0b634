//! Traces: which request a piece of work belongs to, across tasks and processes.
//!
//! A [`TraceContext`] is what [W3C Trace Context](https://www.w3.org/TR/trace-context/) has
//! processes hand on in `traceparent` and `tracestate`. It belongs to a task: [`scope`] gives it
//! to a future, [`spawn`] takes it along into a task of its own, and [`current`] tells it, to be
//! handed on. The records that [`clog`](crate::clog) writes in it have its `trace_id`.
//!
//! ```
//! use coord_service::trace::{self, TraceContext};
//! use http::HeaderMap;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let mut request = HeaderMap::new();
//! let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
//! request.insert("traceparent", parent.parse().unwrap());
//!
//! trace::scope(TraceContext::from_headers(&request), async {
//!     let handed_on = trace::spawn(async {
//!         let mut headers = HeaderMap::new();
//!         trace::current().inject(&mut headers);
//!         headers["traceparent"].to_str().unwrap().to_owned()
//!     });
//!     assert!(handed_on.await.unwrap().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
//! })
//! .await;
//! # }
//! ```
//!
//! A server has [`TraceLayer`] do so for each request, and a client [`PropagateLayer`]; both are
//! layers of tower, for HTTP and gRPC alike. For what is no HTTP there are
//! [`TraceContext::from_pairs`] and [`TraceContext::pairs`].
//!
//! # What is promised (K4)
//!
//! - Headers that are no trace context begin a new trace; nothing about them fails a request.
//! - `traceparent` is read as strictly as W3C says, versions to come included; of `tracestate` no
//!   more than 32 members and 512 bytes are kept and handed on.
//! - Other ids of the request, from `x-request-id`, `x-correlation-id` or `x-trace-id`, do not
//!   become the trace's: they are its [`request_id`](TraceContext::request_id), which is logged and
//!   handed on as `x-request-id`.
//!
//! # Names
//!
//! | seeds (Go) | here |
//! |---|---|
//! | `clog.WithTraceID(ctx, id)` | [`scope`]`(context, future)`, [`in_scope`] |
//! | `clog.WithContext(ctx)`, `clog.C(ctx)` | none: records of a task have its ids by themselves |
//! | `ctx.Value(traceIDKey)` | [`current`], [`try_current`] |
//! | `go func() { … }` with `ctx` | [`spawn`] |
//! | HTTP middleware, gRPC server interceptor | [`TraceLayer`] |
//! | gRPC client interceptor | [`PropagateLayer`] |
//! | `X-Trace-ID` of answers | `traceparent` of answers; as `X-Trace-ID` of requests: `request_id` |

mod carrier;
mod context;
mod error;
mod ids;
mod layer;
mod propagate;
mod state;

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

pub use carrier::{REQUEST_ID, TRACEPARENT, TRACESTATE};
pub use context::TraceContext;
pub use error::{TraceStateError, TraceparentError};
pub use ids::{SpanId, TraceId};
pub use layer::{TraceBody, TraceFuture, TraceLayer, TraceService};
pub use propagate::{PropagateLayer, PropagateService};
pub use state::TraceState;

tokio::task_local! {
    /// What the present task works for.
    static CURRENT: TraceContext;
}

/// Runs a future in a context. Scopes may be nested: the innermost counts.
///
/// # Cancel safety
///
/// As the future.
pub fn scope<F: Future>(context: TraceContext, future: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(context, future)
}

/// Calls a function in a context: for threads, and for what runs in `spawn_blocking`.
pub fn in_scope<T>(context: TraceContext, run: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(context, run)
}

/// The context of the present task, or a new trace where there is none.
pub fn current() -> TraceContext {
    try_current().unwrap_or_default()
}

/// The context of the present task, where there is one.
pub fn try_current() -> Option<TraceContext> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Shows the context of the present task to a function, without a clone of it.
pub(crate) fn with_current<T>(show: impl Fn(&TraceContext) -> T) -> Option<T> {
    CURRENT.try_with(show).ok()
}

/// Spawns a task that works for the same trace as the present one, in the same span.
///
/// Its owner is whoever holds the handle, as with `tokio::spawn`: dropping that lets the task run.
///
/// # Panics
///
/// As `tokio::spawn`, outside of a tokio runtime.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match try_current() {
        Some(context) => tokio::spawn(CURRENT.scope(context, future).in_current_span()),
        None => tokio::spawn(future.in_current_span()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_has_the_context_of_its_innermost_scope() {
        assert_eq!(try_current(), None);
        assert_ne!(current(), current());
        let (outer, inner) = (TraceContext::new(), TraceContext::new());
        scope(outer.clone(), async {
            assert_eq!(current(), outer);
            scope(inner.clone(), async { assert_eq!(current(), inner) }).await;
            in_scope(inner.clone(), || assert_eq!(current(), inner));
            tokio::task::yield_now().await;
            assert_eq!(current(), outer);
        })
        .await;
        assert_eq!(try_current(), None);
    }

    #[tokio::test]
    async fn spawned_tasks_take_it_along_and_others_do_not() {
        let context = TraceContext::new();
        let (ours, others) = scope(context.clone(), async {
            (spawn(async { try_current() }), tokio::spawn(async { try_current() }))
        })
        .await;
        assert_eq!(ours.await.unwrap(), Some(context));
        assert_eq!(others.await.unwrap(), None);
        assert_eq!(spawn(async { try_current() }).await.unwrap(), None);
    }

    #[tokio::test]
    async fn it_is_shown_without_a_clone() {
        let context = TraceContext::new();
        assert_eq!(with_current(TraceContext::trace_id), None);
        scope(context.clone(), async {
            assert_eq!(with_current(TraceContext::trace_id), Some(context.trace_id()));
        })
        .await;
    }
}
