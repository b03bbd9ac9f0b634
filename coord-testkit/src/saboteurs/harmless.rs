//! What the contract allows: backends that are odd and not broken, and must pass everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Batch, Change, Compare, Entry, Lease, LeaseInfo, Op, OpReply, Range, RangeReply, Span, Store, StoreEvent,
    StoreWatch, Txn, TxnReply, round_ttl,
};
use coord_api::{Error, ErrorKind, LeaseId, Result, Revision};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::sleep;

use super::store::{BrokenStore, Edited};
use super::{Sabotage, Saboteur, Shared, locked};
use crate::wrap::Delayed;

/// By how much revisions differ at least.
const GAP: u64 = 3;

/// How late an expiry is noticed.
const LATE: Duration = Duration::from_secs(1);

pub(super) const HARMLESS: &[Saboteur] = &[
    Saboteur::new("latency", "50 ms of random latency", &[], || {
        let seeds = AtomicU64::new(0);
        Sabotage::wrapping(move |good| {
            Arc::new(Delayed::new(good, Duration::from_millis(25), seeds.fetch_add(1, Ordering::SeqCst)))
        })
    }),
    Saboteur::new("resync-at-times", "a Resync now and then", &[], || Sabotage::client(|| Resyncs)),
    Saboteur::new("batches", "batches", &[], || Sabotage::store(|| Bursts)),
    Saboteur::new("gaps", "revisions with gaps", &[], || {
        Sabotage::store(|| Gaps).and_compacts(|through| Revision::new(through.get() / GAP))
    }),
    Saboteur::new("expires-with-lag", "expiry up to the lag late", &[], || {
        Sabotage::store(|| Late(Shared::default())).and_lag(LATE)
    }),
    Saboteur::new("ttl-rounded-up", "TTLs rounded up", &[], || Sabotage::store(|| RoundsUp)),
    Saboteur::new("reconnects", "a reconnect every 200 ms that resumes rightly", &[], || {
        Sabotage::store(|| Reconnects)
    }),
    Saboteur::new("progress-often", "progress after every batch", &[], || {
        Sabotage::store(|| Edited {
            told: Some(|event| match event {
                StoreEvent::Batch(batch) => {
                    let progress = StoreEvent::Progress(batch.revision);
                    vec![StoreEvent::Batch(batch), progress.clone(), progress]
                }
                event => vec![event],
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new(
        "arms-in-the-past",
        "a watch from now on that tells what was just written, too",
        &[],
        || Sabotage::store(|| ArmsInThePast),
    ),
    Saboteur::new("closes-slowly", "a store that takes two seconds to close", &[], || {
        Sabotage::store(|| ClosesSlowly)
    }),
];

/// Loses its history now and then.
struct Resyncs;

#[async_trait]
impl BrokenStore for Resyncs {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let lost = stream::once(async { Err(Error::compacted("store.watch", None)) });
        Ok(StoreWatch::new(watch.armed(), watch.take(37).chain(lost)))
    }
}

/// Tells nothing for a while, and then all at once.
struct Bursts;

#[async_trait]
impl BrokenStore for Bursts {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let armed = watch.armed();
        let bursts = stream::unfold(watch, |mut watch| async {
            let mut burst = vec![watch.next().await?];
            sleep(Duration::from_millis(20)).await;
            while let Some(Some(item)) = watch.next().now_or_never() {
                burst.push(item);
            }
            Some((stream::iter(burst), watch))
        });
        Ok(StoreWatch::new(armed, bursts.flatten()))
    }
}

/// Every revision is a multiple.
struct Gaps;

fn out(revision: Revision) -> Revision {
    Revision::new(revision.get() * GAP)
}

/// The last revision of the good store that is not later.
fn within(revision: Revision) -> Revision {
    Revision::new(revision.get() / GAP)
}

/// Exactly this revision, or one that never was.
fn exactly(revision: Revision) -> Revision {
    if revision.get() % GAP == 0 { within(revision) } else { Revision::new(u64::MAX) }
}

fn entry_out(entry: &mut Entry) {
    entry.created = out(entry.created);
    entry.modified = out(entry.modified);
}

fn found_out(found: &mut RangeReply) {
    found.revision = out(found.revision);
    found.entries.iter_mut().for_each(entry_out);
}

fn range_in(mut range: Range) -> Range {
    range.at = range.at.map(within);
    range.max_created = range
        .max_created
        .map(|revision| Revision::new(within(revision).get().max(u64::from(revision.get() > 0))));
    range
}

fn error_out(error: Error) -> Error {
    match error.oldest_revision() {
        Some(oldest) => Error::compacted("store", Some(out(oldest))),
        None => error,
    }
}

fn event_out(event: StoreEvent) -> StoreEvent {
    match event {
        StoreEvent::Progress(revision) => StoreEvent::Progress(out(revision)),
        StoreEvent::Batch(Batch { revision, mut changes }) => {
            for change in &mut changes {
                if let Change::Put(entry) = change {
                    entry_out(entry);
                }
            }
            StoreEvent::Batch(Batch { revision: out(revision), changes })
        }
    }
}

#[async_trait]
impl BrokenStore for Gaps {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        range.validate()?;
        let mut found = good.range(range_in(range)).await.map_err(error_out)?;
        found_out(&mut found);
        Ok(found)
    }

    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        for compare in &mut txn.compares {
            if let Compare::Modified(_, revision) | Compare::Created(_, revision) = compare {
                *revision = exactly(*revision);
            }
        }
        for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
            if let Op::Range(range) = op {
                *range = range_in(range.clone());
            }
        }
        let mut reply = good.txn(txn).await.map_err(error_out)?;
        reply.revision = out(reply.revision);
        for answer in &mut reply.replies {
            if let OpReply::Range(found) = answer {
                found_out(found);
            }
        }
        Ok(reply)
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after.map(within)).await.map_err(error_out)?;
        let armed = match after {
            Some(after) if within(after) == watch.armed() => after,
            _ => out(watch.armed()),
        };
        Ok(StoreWatch::new(armed, watch.map(|item| item.map(event_out).map_err(error_out))))
    }
}

/// Every lease lives on for the lag.
struct Late(Shared<HashMap<LeaseId, Duration>>);

#[async_trait]
impl BrokenStore for Late {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let granted = round_ttl("store.grant_lease", ttl)?;
        let lease = good.grant_lease((granted + LATE).min(Duration::from_secs(9_000_000_000))).await?;
        locked(&self.0).insert(lease.id, granted);
        Ok(Lease { ttl: granted, ..lease })
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        let kept = good.keep_alive(id).await?;
        Ok(locked(&self.0).get(&id).copied().unwrap_or(kept.saturating_sub(LATE)))
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let info = good.lease(id).await?;
        Ok(info.map(|info| LeaseInfo { remaining: info.remaining.saturating_sub(LATE), ..info }))
    }
}

/// Grants whole multiples of five seconds.
struct RoundsUp;

#[async_trait]
impl BrokenStore for RoundsUp {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let asked = round_ttl("store.grant_lease", ttl)?.as_secs();
        good.grant_lease(Duration::from_secs(asked.div_ceil(5) * 5)).await
    }
}

/// Every watch breaks after 200 ms.
struct Reconnects;

#[async_trait]
impl BrokenStore for Reconnects {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let armed = watch.armed();
        let until = tokio::time::Instant::now() + Duration::from_millis(200);
        let broken = Error::new(ErrorKind::Unavailable, "store.watch", "reconnecting");
        let items = stream::unfold(Some(watch), move |watch| {
            let broken = broken.clone();
            async move {
                let mut watch = watch?;
                let item = tokio::time::timeout_at(until, watch.next()).await.unwrap_or(Some(Err(broken)))?;
                let goes_on = item.is_ok().then_some(watch);
                Some((item, goes_on))
            }
        });
        Ok(StoreWatch::new(armed, items))
    }
}

/// Watches at a replica that is a few revisions behind.
struct ArmsInThePast;

#[async_trait]
impl BrokenStore for ArmsInThePast {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        if after.is_none() {
            let present = good.range(Range::new(span.clone()).with_limit(1).with_keys_only()).await?.revision;
            if let Ok(watch) =
                good.watch(span.clone(), Some(Revision::new(present.get().saturating_sub(3)))).await
            {
                return Ok(watch);
            }
        }
        good.watch(span, after).await
    }
}

/// Takes its time when a client goes.
struct ClosesSlowly;

#[async_trait]
impl BrokenStore for ClosesSlowly {
    async fn close(&self, good: &Arc<dyn Store>) -> Result<()> {
        sleep(Duration::from_secs(2)).await;
        good.close().await
    }
}
