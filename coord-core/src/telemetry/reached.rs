//! A store whose answers tell whether it can be reached.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{LeaseId, Result, Revision};

use super::Telemetry;

/// The provider's own wrapper around its store.
pub(crate) struct Reached {
    store: Arc<dyn Store>,
    telemetry: Arc<Telemetry>,
}

impl Reached {
    pub(crate) fn new(store: Arc<dyn Store>, telemetry: Arc<Telemetry>) -> Self {
        Reached { store, telemetry }
    }

    fn hear<'a, T>(&'a self, request: Answer<'a, T>) -> Answer<'a, T>
    where
        T: 'a,
    {
        Box::pin(Heard { request, telemetry: &self.telemetry })
    }
}

/// What `#[async_trait]` makes of an `async fn`, written out: the request's own future is handed
/// on, not wrapped in a large one.
type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A request whose answer is heard.
struct Heard<'a, T> {
    request: Answer<'a, T>,
    telemetry: &'a Telemetry,
}

impl<T> Future for Heard<'_, T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.request.as_mut().poll(cx));
        self.telemetry.heard(&answer);
        Poll::Ready(answer)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Reached {
    fn range<'a, 'r>(&'a self, range: Range) -> Answer<'r, RangeReply>
    where
        'a: 'r,
        Self: 'r,
    {
        self.hear(self.store.range(range))
    }

    fn txn<'a, 'r>(&'a self, txn: Txn) -> Answer<'r, TxnReply>
    where
        'a: 'r,
        Self: 'r,
    {
        self.hear(self.store.txn(txn))
    }

    fn watch<'a, 'r>(&'a self, span: Span, after: Option<Revision>) -> Answer<'r, StoreWatch>
    where
        'a: 'r,
        Self: 'r,
    {
        self.hear(self.store.watch(span, after))
    }

    fn grant_lease<'a, 'r>(&'a self, ttl: Duration) -> Answer<'r, Lease>
    where
        'a: 'r,
        Self: 'r,
    {
        self.hear(self.store.grant_lease(ttl))
    }

    fn keep_alive<'a, 'r>(&'a self, id: LeaseId) -> Answer<'r, Duration>
    where
        'a: 'r,
        Self: 'r,
    {
        self.hear(self.store.keep_alive(id))
    }

    fn lease<'a, 'r>(&'a self, id: LeaseId) -> Answer<'r, Option<LeaseInfo>>
    where
        'a: 'r,
        Self: 'r,
    {
        self.hear(self.store.lease(id))
    }

    fn revoke_lease<'a, 'r>(&'a self, id: LeaseId) -> Answer<'r, ()>
    where
        'a: 'r,
        Self: 'r,
    {
        self.hear(self.store.revoke_lease(id))
    }

    fn status<'a, 'r>(&'a self) -> Answer<'r, StoreStatus>
    where
        'a: 'r,
        Self: 'r,
    {
        self.hear(self.store.status())
    }

    coord_api::forward_store! { self => self.store; close }
}

impl fmt::Debug for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}
