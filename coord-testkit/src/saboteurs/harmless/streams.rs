//! Odd streams, and odd ways to be told what history says.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Batch, Change, Order, Range, RangeReply, Span, Store, StoreEvent, StoreWatch};
use coord_api::{Error, ErrorKind, Result, Revision};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::sleep;

use super::super::store::BrokenStore;
use crate::layout;

/// Loses its history now and then.
pub(super) struct Resyncs;

#[async_trait]
impl BrokenStore for Resyncs {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let lost = stream::once(async { Err(Error::compacted("store.watch", None)) });
        Ok(StoreWatch::new(watch.armed(), watch.take(37).chain(lost)))
    }
}

/// Tells nothing for a while, and then all at once.
pub(super) struct Bursts;

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

/// Every watch breaks after 200 ms.
pub(super) struct Reconnects;

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
pub(super) struct ArmsInThePast(pub(super) u64);

#[async_trait]
impl BrokenStore for ArmsInThePast {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        if after.is_none() {
            let present = good.range(Range::new(span.clone()).with_limit(1).with_keys_only()).await?.revision;
            if let Ok(watch) =
                good.watch(span.clone(), Some(Revision::new(present.get().saturating_sub(self.0)))).await
            {
                return Ok(watch);
            }
        }
        good.watch(span, after).await
    }
}

/// Reads page by page underneath, each page one entry, all at one revision.
pub(super) struct Pages;

/// From so many entries on, one page is the rest.
const PAGES: usize = 300;

#[async_trait]
impl BrokenStore for Pages {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        range.validate()?;
        if range.order != Order::Key {
            return good.range(range).await;
        }
        let limit = range.limit.unwrap_or(usize::MAX);
        let mut all = good.range(range.clone().with_limit(1)).await?;
        while all.more && all.entries.len() < limit {
            let Some(last) = all.entries.last() else { break };
            let size = if all.entries.len() < PAGES { 1 } else { limit - all.entries.len() };
            let next = range.clone().with_after_key(last.key.clone()).with_at(all.revision).with_limit(size);
            let page = good.range(next).await?;
            all.more = page.more;
            all.entries.extend(page.entries);
        }
        Ok(all)
    }
}

/// A read at the cut itself is served or not.
pub(super) struct RefusesTheCut;

#[async_trait]
impl BrokenStore for RefusesTheCut {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let Some(at) = range.at else { return good.range(range).await };
        let found = good.range(range).await?;
        let before = Revision::new(at.get().saturating_sub(1));
        if before > Revision::ZERO && at < good.range(Range::key("\0")).await?.revision {
            match good.range(Range::key("\0").with_at(before)).await {
                Err(error) if error.kind() == ErrorKind::Compacted => return Err(error),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Keeps little more history than the contract asks for (S4).
pub(super) struct ShortHistory;

/// So many revisions, each of one change at least.
const KEPT: u64 = 1_000;

/// The revision before the oldest whose changes are left.
async fn cut(store: &dyn Store) -> Result<Revision> {
    let present = store.range(Range::key("no such key")).await?.revision;
    Ok(Revision::new(present.get().saturating_sub(KEPT)))
}

#[async_trait]
impl BrokenStore for ShortHistory {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        if let Some(at) = range.at {
            let cut = cut(&**good).await?;
            if at < cut {
                return Err(Error::compacted("store.range", Some(cut)));
            }
        }
        good.range(range).await
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        span.validate("store.watch")?;
        if let Some(after) = after {
            let cut = cut(&**good).await?;
            if after < cut {
                return Err(Error::compacted("store.watch", Some(cut.next())));
            }
        }
        let watch = good.watch(span, after).await?;
        let armed = watch.armed();
        let items = stream::unfold(Some((watch, Arc::clone(good))), |state| async {
            let (mut watch, store) = state?;
            let item = watch.next().await?;
            // What fell out of history before it was read is not told any more.
            let item = match (item, cut(&*store).await) {
                (Ok(StoreEvent::Batch(batch)), Ok(cut)) if batch.revision <= cut => {
                    Err(Error::compacted("store.watch", Some(cut.next())))
                }
                (item, _) => item,
            };
            let goes_on = item.is_ok().then_some((watch, store));
            Some((item, goes_on))
        });
        Ok(StoreWatch::new(armed, items))
    }
}

/// Every watch breaks after a few of the things that it tells.
pub(super) struct BreaksOften;

/// So many things a watch tells.
const UNBROKEN: usize = 10;

#[async_trait]
impl BrokenStore for BreaksOften {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let armed = watch.armed();
        let items = stream::unfold(Some((watch, UNBROKEN)), |state| async {
            let (mut watch, left) = state?;
            if left == 0 {
                return Some((Err(Error::new(ErrorKind::Unavailable, "store.watch", "it broke")), None));
            }
            let item = watch.next().await?;
            let goes_on = item.is_ok().then_some((watch, left - 1));
            Some((item, goes_on))
        });
        Ok(StoreWatch::new(armed, items))
    }
}

/// Tells how far it has come, again and again, also when nothing happens.
pub(super) struct TellsProgress;

#[async_trait]
impl BrokenStore for TellsProgress {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let armed = watch.armed();
        let items = stream::unfold(Some((watch, armed)), |state| async {
            let (mut watch, mut seen) = state?;
            let item = match tokio::time::timeout(Duration::from_millis(100), watch.next()).await {
                Ok(item) => item?,
                Err(_) => Ok(StoreEvent::Progress(seen)),
            };
            if let Ok(StoreEvent::Batch(Batch { revision, .. }) | StoreEvent::Progress(revision)) = item {
                seen = revision;
            }
            let goes_on = item.is_ok().then_some((watch, seen));
            Some((item, goes_on))
        });
        Ok(StoreWatch::new(armed, items))
    }
}

/// Keys of one create revision come backwards.
pub(super) fn ties_backwards(range: &Range, mut found: RangeReply) -> RangeReply {
    if range.limit.is_none() && range.order != Order::Key {
        found.entries.sort_by(|one, other| other.key.cmp(&one.key));
        match range.order {
            Order::NewestFirst => found.entries.sort_by_key(|entry| std::cmp::Reverse(entry.created)),
            _ => found.entries.sort_by_key(|entry| entry.created),
        }
    }
    found
}

/// The keys of a lease go backwards.
pub(super) fn deletions_backwards(event: StoreEvent) -> Vec<StoreEvent> {
    let StoreEvent::Batch(mut batch) = event else { return vec![event] };
    let session = |change: &Change| change.key().starts_with(layout::SESSIONS.as_bytes());
    let deletions = batch.changes.iter().all(|change| matches!(change, Change::Delete { .. }));
    // Deletions of a transaction keep their order: these are of a lease.
    if deletions && batch.changes.iter().any(session) {
        batch.changes.reverse();
    }
    vec![StoreEvent::Batch(batch)]
}
