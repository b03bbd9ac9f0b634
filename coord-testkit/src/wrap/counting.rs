//! A store that counts its requests.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{LeaseId, Result, Revision};
use futures_util::StreamExt;

/// How many requests of each kind a store was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub range: usize,
    /// Transactions.
    pub txn: usize,
    /// Watches opened.
    pub watch: usize,
    /// Leases granted.
    pub grant: usize,
    /// Leases renewed.
    pub keep_alive: usize,
    /// Leases looked up.
    pub lease: usize,
    /// Leases revoked.
    pub revoke: usize,
    /// Looks at the status.
    pub status: usize,
}

impl Counts {
    /// The requests that a rule bounds: all but watches and renewals, of which a look at the
    /// lease's keys is part (R32).
    pub fn requests(&self) -> usize {
        self.range + self.txn + self.grant + self.revoke
    }

    /// Every request.
    pub fn all(&self) -> usize {
        self.requests() + self.watch + self.keep_alive + self.lease + self.status
    }

    /// What came after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts {
            range: self.range - earlier.range,
            txn: self.txn - earlier.txn,
            watch: self.watch - earlier.watch,
            grant: self.grant - earlier.grant,
            keep_alive: self.keep_alive - earlier.keep_alive,
            lease: self.lease - earlier.lease,
            revoke: self.revoke - earlier.revoke,
            status: self.status - earlier.status,
        }
    }
}

#[derive(Debug, Default)]
struct Cells {
    range: AtomicUsize,
    txn: AtomicUsize,
    watch: AtomicUsize,
    grant: AtomicUsize,
    keep_alive: AtomicUsize,
    lease: AtomicUsize,
    revoke: AtomicUsize,
    status: AtomicUsize,
    open_watches: AtomicUsize,
}

/// Reads the counts of a [`Counting`] store. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    cells: Arc<Cells>,
}

impl Counter {
    /// The counts so far.
    pub fn counts(&self) -> Counts {
        let read = |cell: &AtomicUsize| cell.load(Ordering::SeqCst);
        Counts {
            range: read(&self.cells.range),
            txn: read(&self.cells.txn),
            watch: read(&self.cells.watch),
            grant: read(&self.cells.grant),
            keep_alive: read(&self.cells.keep_alive),
            lease: read(&self.cells.lease),
            revoke: read(&self.cells.revoke),
            status: read(&self.cells.status),
        }
    }

    /// The watches that are open at this moment.
    pub fn open_watches(&self) -> usize {
        self.cells.open_watches.load(Ordering::SeqCst)
    }

    /// Counts what `work` asks of the store.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> (T, Counts) {
        let before = self.counts();
        let output = work.await;
        (output, self.counts().since(&before))
    }
}

/// A store that counts its requests.
pub struct Counting<S> {
    inner: S,
    counter: Counter,
}

impl<S> Counting<S> {
    /// Counts the requests to `inner` in `counter`.
    pub fn new(inner: S, counter: Counter) -> Self {
        Counting { inner, counter }
    }

    fn count(&self, cell: impl FnOnce(&Cells) -> &AtomicUsize) {
        cell(&self.counter.cells).fetch_add(1, Ordering::SeqCst);
    }
}

/// A watch that is open.
struct Open {
    cells: Arc<Cells>,
}

impl Open {
    fn new(counter: &Counter) -> Self {
        counter.cells.open_watches.fetch_add(1, Ordering::SeqCst);
        Open { cells: Arc::clone(&counter.cells) }
    }

    /// Keeps the guard inside the closure that calls it.
    fn is_open(&self) {}
}

impl Drop for Open {
    fn drop(&mut self) {
        self.cells.open_watches.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<S: fmt::Debug> fmt::Debug for Counting<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counting")
            .field("inner", &self.inner)
            .field("counts", &self.counter.counts())
            .finish()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Counting<S> {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.count(|cells| &cells.range);
        self.inner.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.count(|cells| &cells.txn);
        self.inner.txn(txn).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.count(|cells| &cells.watch);
        let watch = self.inner.watch(span, after).await?;
        let armed = watch.armed();
        let open = Open::new(&self.counter);
        // The guard goes with the stream, whether it ends or is dropped.
        Ok(StoreWatch::new(armed, watch.inspect(move |_| open.is_open())))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.count(|cells| &cells.grant);
        self.inner.grant_lease(ttl).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.count(|cells| &cells.keep_alive);
        self.inner.keep_alive(id).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.count(|cells| &cells.lease);
        self.inner.lease(id).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.count(|cells| &cells.revoke);
        self.inner.revoke_lease(id).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.count(|cells| &cells.status);
        self.inner.status().await
    }

    coord_api::forward_store! { self => self.inner; close }
}
