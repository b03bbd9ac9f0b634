//! A store over a database with transactions (S1 to S5).

use std::fmt;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{
    Effect, Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{Error, LeaseId, Result, Revision};
use tokio::time::Instant;

use super::leases::LeaseClock;
use super::paged::{History, paged_watch};
use super::place::{Page, PageRequest};
use super::txn::{TxnState, run_txn};

/// A client of a database that keeps its history: all that [`DatabaseStore`] needs to know of it.
pub trait Database: Clone + fmt::Debug + Send + Sync + 'static {
    /// An open transaction.
    type Txn<'a>: DatabaseTxn;

    /// Runs `work` once in a transaction of its own, and commits what it wrote.
    ///
    /// Transactions are linearizable: they see what was committed before they began, and nothing of
    /// those that have not ended. `effect` says what `work` does; it writes nothing where that is
    /// [`Effect::Read`]. Where `work` fails, nothing that it wrote is left. Work may block where
    /// the database does; [`blocking`](super::blocking) is for that.
    ///
    /// # Errors
    ///
    /// What `work` fails with, and whatever keeps the transaction from being begun or committed, in
    /// this operation: with the outcome of [`Effect::in_doubt`] where it may have been committed.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped at any await point, or left alone after a poll: then the whole transaction
    /// is committed, or nothing of it, and it holds up no other one.
    fn transact<T: Send + 'static>(
        &self,
        operation: &'static str,
        effect: Effect,
        work: impl FnOnce(&mut Self::Txn<'_>) -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send;

    /// As [`History::changed`]: resolves once the present revision is beyond `seen`, or too early.
    ///
    /// # Errors
    ///
    /// What keeps the client from noticing changes. Its watches end with it.
    ///
    /// # Cancel safety
    ///
    /// As [`transact`](Self::transact).
    fn changed(&self, seen: Revision) -> impl Future<Output = Result<()>> + Send;

    /// Lets go of what the client holds: [`Store::close`], behind
    /// [`Bounded`](crate::layers::Bounded).
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being let go of.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped at any await point. It can be called again.
    fn close(&self) -> impl Future<Output = Result<()>> + Send;
}

/// An open transaction of a [`Database`]: keys as [`TxnState`] has them, history and leases.
///
/// A range that is all of a transaction may name a revision of the past:
/// [`Range::revision`](coord_api::store::Range::revision) says which one is read.
pub trait DatabaseTxn: TxnState<Error = Error> {
    /// Reads a page of history, as [`History::page`] does.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being read.
    fn page(&mut self, request: &PageRequest) -> Result<Page>;

    /// Adds a lease, whose renewal is number zero, under an id that was never given before.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being written.
    fn create_lease(&mut self, ttl: Duration) -> Result<LeaseId>;

    /// Looks up a lease, if it lives.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being read.
    fn lease(&mut self, id: LeaseId) -> Result<Option<LeaseRecord>>;

    /// Raises the number of the last renewal of a lease that lives by one.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being written.
    fn renew_lease(&mut self, id: LeaseId) -> Result<()>;

    /// Removes a lease that lives, and leaves its keys as they are.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being written.
    fn remove_lease(&mut self, id: LeaseId) -> Result<()>;

    /// The keys on a lease.
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being read.
    fn keys_of(&mut self, id: LeaseId) -> Result<Vec<Bytes>>;

    /// When leases end, as this client sees it.
    ///
    /// The database shows it what is committed, and only that: a number that was rolled back may be
    /// given to another renewal later, which must have its whole TTL. Soon after a lease is over by
    /// it, the database ends it with [`end_lease`], though nobody calls anything.
    fn clock(&mut self) -> &mut LeaseClock;

    /// Reads which store this is, and of which version.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being read.
    fn status(&mut self) -> Result<StoreStatus>;
}

/// A lease that lives, as a database keeps it: without any time (see [`LeaseClock`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The granted TTL.
    pub ttl: Duration,
    /// The number of its last renewal.
    pub renewal: u64,
}

/// Ends a lease, if it lives and, where `renewal` names one, that is its last renewal: its keys are
/// deleted in the revision of the transaction (S5).
///
/// What [`LeaseClock::over`] names is ended by this, each lease in a transaction of its own: one
/// that was renewed by somebody else meanwhile lives on.
///
/// # Errors
///
/// What the transaction fails with.
pub fn end_lease(txn: &mut impl DatabaseTxn, id: LeaseId, renewal: Option<u64>) -> Result<()> {
    let meant = |lease: LeaseRecord| renewal.is_none_or(|renewal| lease.renewal == renewal);
    if txn.lease(id)?.is_some_and(meant) {
        txn.remove_lease(id)?;
        for key in txn.keys_of(id)? {
            txn.write(key, None, None)?;
        }
    }
    Ok(())
}

/// The store over a [`Database`] (S1 to S5): each request is one transaction, and its watches read
/// history page by page, as [`paged_watch`] does.
///
/// It checks nothing and has no deadlines: put [`Bounded`](crate::layers::Bounded) around it.
/// Clones are the same client.
///
/// # Cancel safety
///
/// That of [`Database::transact`].
#[derive(Clone, Debug)]
pub struct DatabaseStore<D>(D);

impl<D: Database> DatabaseStore<D> {
    /// The store over a database.
    pub fn new(database: D) -> Self {
        DatabaseStore(database)
    }

    /// The database inside.
    pub fn inner(&self) -> &D {
        &self.0
    }
}

#[async_trait]
impl<D: Database> Store for DatabaseStore<D> {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.0.transact("store.range", Effect::Read, move |txn| txn.read(&range)).await
    }

    async fn txn(&self, asked: Txn) -> Result<TxnReply> {
        self.0.transact("store.txn", asked.effect(), |txn| run_txn(txn, asked)).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        paged_watch(Watched(self.0.clone()), span, after).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        let grant = move |txn: &mut D::Txn<'_>| Ok(Lease { id: txn.create_lease(ttl)?, ttl });
        self.0.transact("store.grant_lease", Effect::Write, grant).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        const OPERATION: &str = "store.keep_alive";
        let renew = move |txn: &mut D::Txn<'_>| {
            let gone = || Error::lease_lost(OPERATION, "the lease is gone");
            let LeaseRecord { ttl, .. } = txn.lease(id)?.ok_or_else(gone)?;
            txn.renew_lease(id)?;
            Ok(ttl)
        };
        self.0.transact(OPERATION, Effect::Idempotent, renew).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let look_up = move |txn: &mut D::Txn<'_>| {
            let Some(LeaseRecord { ttl, renewal }) = txn.lease(id)? else { return Ok(None) };
            let now = Instant::now();
            let remaining = txn.clock().see(id, ttl, renewal, now).saturating_duration_since(now);
            Ok(Some(LeaseInfo { remaining, keys: txn.keys_of(id)? }))
        };
        self.0.transact("store.lease", Effect::Read, look_up).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        let revoke = move |txn: &mut D::Txn<'_>| end_lease(txn, id, None);
        self.0.transact("store.revoke_lease", Effect::Idempotent, revoke).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.0.transact("store.status", Effect::Read, |txn| txn.status()).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

/// The history of a database.
struct Watched<D>(D);

#[async_trait]
impl<D: Database> History for Watched<D> {
    async fn page(&self, request: PageRequest) -> Result<Page> {
        self.0.transact("store.watch", Effect::Read, move |txn| txn.page(&request)).await
    }

    async fn changed(&self, seen: Revision) -> Result<()> {
        self.0.changed(seen).await
    }
}

#[cfg(test)]
mod tests;
