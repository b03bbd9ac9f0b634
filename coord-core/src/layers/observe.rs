//! Spans and metrics for every request to a store, at next to no cost while nobody listens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreEvent, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{Error, LeaseId, Outcome, Result, Revision};
use coord_home::{Home, aside, meter};
use futures_util::Stream;
use futures_util::future::BoxFuture;
use metrics::{Counter, Histogram};
use tokio::time::Instant;
use tracing::Instrument;

const REQUESTS: &str = "coord_store_requests_total";
const SECONDS: &str = "coord_store_request_duration_seconds";
const WATCHES: &str = "coord_store_watches";

/// A store whose requests can be seen.
///
/// - **Spans** `store_request`, level debug: `backend`, `operation`, and what it is about: the kind
///   of span and its first key, numbers of operations, a lease. Never a value. A failure is an
///   event inside the span with `kind` and `outcome`, a dropped request one that says so.
/// - **Metrics** through the `metrics` facade, all with the label `backend`: the counter
///   `coord_store_requests_total` (`operation`, and `result`: `ok`, an error's kind, or
///   `cancelled`), the histogram `coord_store_request_duration_seconds` (`operation`), and the
///   gauge `coord_store_watches` of open watches.
///
/// Who listens to metrics is found out once: install the recorder before making the layer. A
/// recorder that takes neither the histogram nor the gauge gets no counter either. While nobody
/// listens a request costs two checks, and the clock is not read.
#[derive(Clone)]
pub struct Observe<S> {
    store: S,
    backend: &'static str,
    /// Whether anyone records metrics.
    metered: bool,
    meters: Meters,
}

impl<S: Store> Observe<S> {
    /// Makes the requests to `store` visible under the name `backend`, for example `memory`.
    pub fn new(store: S, backend: &'static str) -> Self {
        metrics::describe_counter!(REQUESTS, "Requests to the store");
        metrics::describe_histogram!(SECONDS, metrics::Unit::Seconds, "Time that requests to the store took");
        metrics::describe_gauge!(WATCHES, "Open watches on the store");
        let meters = Meters::new(backend);
        let watches = metrics::gauge!(WATCHES, "backend" => backend);
        let metered = meter::is_heard(&meters.range.seconds) || meter::is_gauge_heard(&watches);
        Observe { store, backend, metered, meters }
    }

    /// Runs a request whose span was made; without anyone to listen it is the request itself.
    fn observe<'a, T: Send + 'a>(
        &'a self,
        meter: &'a Meter,
        span: tracing::Span,
        request: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        if span.is_disabled() && !self.metered {
            return request;
        }
        let mut pending = Pending {
            backend: self.backend,
            meter,
            started: self.metered.then(Instant::now),
            answered: false,
        };
        let observed = async move {
            let result = request.await;
            pending.answered(result.as_ref().err());
            result
        };
        Box::pin(observed.instrument(span))
    }
}

/// Makes a request's span. A macro, so that its fields are not even looked at while nobody listens.
macro_rules! request_span {
    ($self:ident, $meter:ident $(, $($fields:tt)*)?) => {
        tracing::debug_span!("store_request", backend = $self.backend, operation = $self.meters.$meter.operation, $($($fields)*)?)
    };
}

/// What `#[async_trait]` makes of an `async fn`, written out: the request's own future is handed
/// on, not wrapped in another one.
type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Observe<S> {
    fn range<'a, 'r>(&'a self, range: Range) -> Answer<'r, RangeReply>
    where
        'a: 'r,
        Self: 'r,
    {
        let span =
            request_span!(self, range, span = kind(&range.span), key = %range.span.start().escape_ascii());
        self.observe(&self.meters.range, span, self.store.range(range))
    }

    fn txn<'a, 'r>(&'a self, txn: Txn) -> Answer<'r, TxnReply>
    where
        'a: 'r,
        Self: 'r,
    {
        let span = request_span!(
            self,
            txn,
            compares = txn.compares.len(),
            then = txn.then.len(),
            otherwise = txn.otherwise.len()
        );
        self.observe(&self.meters.txn, span, self.store.txn(txn))
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let request = request_span!(self, watch, span = kind(&span), key = %span.start().escape_ascii(), after = after.map(Revision::get));
        let stream = self.observe(&self.meters.watch, request, self.store.watch(span, after)).await?;
        Ok(StoreWatch::new(stream.armed(), ObservedWatch::new(stream, self.backend)))
    }

    fn grant_lease<'a, 'r>(&'a self, ttl: Duration) -> Answer<'r, Lease>
    where
        'a: 'r,
        Self: 'r,
    {
        let span = request_span!(self, grant_lease, ttl_seconds = ttl.as_secs_f64());
        self.observe(&self.meters.grant_lease, span, self.store.grant_lease(ttl))
    }

    fn keep_alive<'a, 'r>(&'a self, id: LeaseId) -> Answer<'r, Duration>
    where
        'a: 'r,
        Self: 'r,
    {
        let span = request_span!(self, keep_alive, lease = %id);
        self.observe(&self.meters.keep_alive, span, self.store.keep_alive(id))
    }

    fn lease<'a, 'r>(&'a self, id: LeaseId) -> Answer<'r, Option<LeaseInfo>>
    where
        'a: 'r,
        Self: 'r,
    {
        let span = request_span!(self, lease, lease = %id);
        self.observe(&self.meters.lease, span, self.store.lease(id))
    }

    fn revoke_lease<'a, 'r>(&'a self, id: LeaseId) -> Answer<'r, ()>
    where
        'a: 'r,
        Self: 'r,
    {
        let span = request_span!(self, revoke_lease, lease = %id);
        self.observe(&self.meters.revoke_lease, span, self.store.revoke_lease(id))
    }

    fn status<'a, 'r>(&'a self) -> Answer<'r, StoreStatus>
    where
        'a: 'r,
        Self: 'r,
    {
        let span = request_span!(self, status);
        self.observe(&self.meters.status, span, self.store.status())
    }

    fn close<'a, 'r>(&'a self) -> Answer<'r, ()>
    where
        'a: 'r,
        Self: 'r,
    {
        let span = request_span!(self, close);
        self.observe(&self.meters.close, span, self.store.close())
    }
}

impl<S: fmt::Debug> fmt::Debug for Observe<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observe")
            .field("store", &self.store)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

fn kind(span: &Span) -> &'static str {
    match span {
        Span::Key(_) => "key",
        Span::Prefix(_) => "prefix",
        Span::Interval(..) => "interval",
    }
}

/// What is measured of one operation.
#[derive(Clone)]
struct Meter {
    operation: &'static str,
    ok: Counter,
    seconds: Histogram,
}

impl Meter {
    fn new(backend: &'static str, operation: &'static str) -> Self {
        Meter {
            operation,
            ok: metrics::counter!(REQUESTS, "backend" => backend, "operation" => operation, "result" => "ok"),
            seconds: metrics::histogram!(SECONDS, "backend" => backend, "operation" => operation),
        }
    }

    fn record(&self, backend: &'static str, result: &'static str, took: Duration) {
        self.seconds.record(took);
        if result == "ok" {
            self.ok.increment(1);
        } else {
            let labels = [("backend", backend), ("operation", self.operation), ("result", result)];
            metrics::counter!(REQUESTS, &labels).increment(1);
        }
    }
}

#[derive(Clone)]
struct Meters {
    range: Meter,
    txn: Meter,
    watch: Meter,
    grant_lease: Meter,
    keep_alive: Meter,
    lease: Meter,
    revoke_lease: Meter,
    status: Meter,
    close: Meter,
}

impl Meters {
    fn new(backend: &'static str) -> Self {
        let meter = |operation| Meter::new(backend, operation);
        Meters {
            range: meter("range"),
            txn: meter("txn"),
            watch: meter("watch"),
            grant_lease: meter("grant_lease"),
            keep_alive: meter("keep_alive"),
            lease: meter("lease"),
            revoke_lease: meter("revoke_lease"),
            status: meter("status"),
            close: meter("close"),
        }
    }
}

/// A request under way. Dropped before it is answered, it was cancelled.
struct Pending<'a> {
    backend: &'static str,
    meter: &'a Meter,
    /// When it was sent, if anyone records metrics.
    started: Option<Instant>,
    answered: bool,
}

impl Pending<'_> {
    fn answered(&mut self, error: Option<&Error>) {
        self.answered = true;
        match error {
            None => self.record("ok"),
            Some(error) => {
                self.record(error.kind().as_str());
                failed(error);
            }
        }
    }

    fn record(&self, result: &'static str) {
        let Some(started) = self.started else { return };
        let (backend, meter, took) = (self.backend, self.meter, started.elapsed());
        if Home::is_here() {
            // A recorder is the user's, and may block.
            let seconds = meter.seconds.clone();
            aside(move || seconds.record(took));
            meter::count(
                REQUESTS,
                &[("backend", backend), ("operation", meter.operation), ("result", result)],
                1,
            );
        } else {
            meter.record(backend, result, took);
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.record("cancelled");
            coord_home::event!(DEBUG, "dropped before it was answered");
        }
    }
}

fn failed(error: &Error) {
    let outcome = match error.outcome() {
        Outcome::NotApplied => "not_applied",
        Outcome::Unknown => "unknown",
    };
    if Home::is_here() {
        let (kind, message) = (error.kind().as_str(), error.message().to_owned());
        coord_home::event!(DEBUG, kind, outcome, message);
    } else {
        tracing::debug!(kind = error.kind().as_str(), outcome, message = error.message());
    }
}

/// An open watch, counted.
struct ObservedWatch {
    stream: StoreWatch,
    backend: &'static str,
}

impl ObservedWatch {
    fn new(stream: StoreWatch, backend: &'static str) -> Self {
        meter::shift(WATCHES, &[("backend", backend)], 1.0);
        ObservedWatch { stream, backend }
    }
}

impl Stream for ObservedWatch {
    type Item = Result<StoreEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = Pin::new(&mut self.stream).poll_next(cx);
        if let Poll::Ready(Some(Err(error))) = &item {
            let (backend, kind) = (self.backend, error.kind().as_str());
            coord_home::event!(DEBUG, backend, operation = "watch", kind, "a watch ended");
        }
        item
    }
}

impl Drop for ObservedWatch {
    fn drop(&mut self) {
        meter::shift(WATCHES, &[("backend", self.backend)], -1.0);
    }
}
