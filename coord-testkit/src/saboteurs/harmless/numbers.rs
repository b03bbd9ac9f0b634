//! Odd numbers and names: revisions, leases, the store's identity.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Batch, Change, Compare, Entry, Lease, LeaseInfo, Op, OpReply, Range, RangeReply, Span, Store, StoreEvent,
    StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{Error, LeaseId, Result, Revision};
use futures_util::StreamExt;

use super::super::store::BrokenStore;

/// Does something to what the reads inside of a transaction found.
fn found(reply: &mut TxnReply, mut edit: impl FnMut(&mut RangeReply)) {
    for answer in &mut reply.replies {
        if let OpReply::Range(found) = answer {
            edit(found);
        }
    }
}

/// Does something to every entry of a batch.
fn put(batch: &mut Batch, mut edit: impl FnMut(&mut Entry)) {
    for change in &mut batch.changes {
        if let Change::Put(entry) = change {
            edit(entry);
        }
    }
}

/// Every revision but the one before every write is `BASE` and a multiple of `GAP`.
pub(super) struct Gaps<const GAP: u64, const BASE: u64>;

impl<const GAP: u64, const BASE: u64> Gaps<GAP, BASE> {
    fn out(revision: Revision) -> Revision {
        if revision == Revision::ZERO { revision } else { Revision::new(BASE + revision.get() * GAP) }
    }

    /// The last revision of the good store that is not later.
    pub(super) fn within(revision: Revision) -> Revision {
        Revision::new(revision.get().saturating_sub(BASE) / GAP)
    }

    /// Exactly this revision, or one that never was.
    fn exactly(revision: Revision) -> Revision {
        let within = Self::within(revision);
        if Self::out(within) == revision { within } else { Revision::new(u64::MAX) }
    }

    fn entry_out(entry: &mut Entry) {
        entry.created = Self::out(entry.created);
        entry.modified = Self::out(entry.modified);
    }

    fn found_out(found: &mut RangeReply) {
        found.revision = Self::out(found.revision);
        found.entries.iter_mut().for_each(Self::entry_out);
    }

    fn range_in(mut range: Range) -> Range {
        range.at = range.at.map(Self::within);
        range.max_created = range
            .max_created
            .map(|revision| Revision::new(Self::within(revision).get().max(u64::from(revision.get() > 0))));
        range
    }

    fn error_out(error: Error) -> Error {
        match error.oldest_revision() {
            Some(oldest) => Error::compacted("store", Some(Self::out(oldest))),
            None => error,
        }
    }

    fn event_out(event: StoreEvent) -> StoreEvent {
        match event {
            StoreEvent::Progress(revision) => StoreEvent::Progress(Self::out(revision)),
            StoreEvent::Batch(mut batch) => {
                put(&mut batch, Self::entry_out);
                batch.revision = Self::out(batch.revision);
                StoreEvent::Batch(batch)
            }
        }
    }
}

#[async_trait]
impl<const GAP: u64, const BASE: u64> BrokenStore for Gaps<GAP, BASE> {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        range.validate()?;
        let mut found = good.range(Self::range_in(range)).await.map_err(Self::error_out)?;
        Self::found_out(&mut found);
        Ok(found)
    }

    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        for compare in &mut txn.compares {
            if let Compare::Modified(_, revision) | Compare::Created(_, revision) = compare {
                *revision = Self::exactly(*revision);
            }
        }
        for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
            if let Op::Range(range) = op {
                *range = Self::range_in(range.clone());
            }
        }
        let mut reply = good.txn(txn).await.map_err(Self::error_out)?;
        reply.revision = Self::out(reply.revision);
        found(&mut reply, Self::found_out);
        Ok(reply)
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let present = Self::out(good.range(Range::key("\0")).await?.revision);
        let watch = good.watch(span, after.map(Self::within)).await.map_err(Self::error_out)?;
        let armed = match after {
            // A revision that is yet to come is no place to be armed at.
            Some(after) if Self::within(after) == watch.armed() && after <= present => after,
            _ => Self::out(watch.armed()),
        };
        Ok(StoreWatch::new(armed, watch.map(|item| item.map(Self::event_out).map_err(Self::error_out))))
    }
}

/// Leases have numbers near the largest that there may be.
pub(super) struct GreatLeases;

const FIRST_LEASE: u64 = i64::MAX.unsigned_abs() - (1 << 32);

fn lease_out(lease: LeaseId) -> LeaseId {
    LeaseId::new(FIRST_LEASE + lease.get())
}

/// The good store's lease, or one that it never had.
fn lease_in(lease: LeaseId) -> LeaseId {
    LeaseId::new(lease.get().checked_sub(FIRST_LEASE).unwrap_or(u64::MAX))
}

fn leased_out(entry: &mut Entry) {
    entry.lease = entry.lease.map(lease_out);
}

#[async_trait]
impl BrokenStore for GreatLeases {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let mut found = good.range(range).await?;
        found.entries.iter_mut().for_each(leased_out);
        Ok(found)
    }

    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        for compare in &mut txn.compares {
            if let Compare::Lease(_, lease) = compare {
                *lease = lease_in(*lease);
            }
        }
        for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
            if let Op::Put { lease: Some(lease), .. } = op {
                *lease = lease_in(*lease);
            }
        }
        let mut reply = good.txn(txn).await?;
        found(&mut reply, |found| found.entries.iter_mut().for_each(leased_out));
        Ok(reply)
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let armed = watch.armed();
        let out = |event| match event {
            StoreEvent::Batch(mut batch) => {
                put(&mut batch, leased_out);
                StoreEvent::Batch(batch)
            }
            event => event,
        };
        Ok(StoreWatch::new(armed, watch.map(move |item| item.map(out))))
    }

    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let lease = good.grant_lease(ttl).await?;
        Ok(Lease { id: lease_out(lease.id), ..lease })
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        good.keep_alive(lease_in(id)).await
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        good.lease(lease_in(id)).await
    }

    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        good.revoke_lease(lease_in(id)).await
    }
}

/// Its identity is long, and not all ASCII.
pub(super) struct LongName;

#[async_trait]
impl BrokenStore for LongName {
    async fn status(&self, good: &Arc<dyn Store>) -> Result<StoreStatus> {
        let status = good.status().await?;
        Ok(StoreStatus { store_id: format!("{}ü/{}", "x".repeat(999), status.store_id), ..status })
    }
}
