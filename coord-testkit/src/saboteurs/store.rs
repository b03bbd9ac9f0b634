//! A store that breaks what its hooks break, and is as good as the one inside it in all else.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Change, Lease, LeaseInfo, Op, OpReply, Range, RangeReply, Span, Store, StoreEvent, StoreStatus,
    StoreWatch, Txn, TxnReply, round_ttl,
};
use coord_api::{Error, LeaseId, Result, Revision};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::broadcast;

/// One hook for each request. A hook that is not written asks the good store.
#[async_trait]
pub(super) trait BrokenStore: Send + Sync + 'static {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        good.range(range).await
    }

    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        good.txn(txn).await
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        good.watch(span, after).await
    }

    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        good.grant_lease(ttl).await
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        good.keep_alive(id).await
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        good.lease(id).await
    }

    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        good.revoke_lease(id).await
    }

    async fn status(&self, good: &Arc<dyn Store>) -> Result<StoreStatus> {
        good.status().await
    }

    async fn close(&self, good: &Arc<dyn Store>) -> Result<()> {
        good.close().await
    }
}

/// A good store inside a broken one.
pub(super) struct Wrapped {
    pub(super) good: Arc<dyn Store>,
    pub(super) broken: Arc<dyn BrokenStore>,
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped").field("good", &self.good).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Wrapped {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.broken.range(&self.good, range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.broken.txn(&self.good, txn).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.broken.watch(&self.good, span, after).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.broken.grant_lease(&self.good, ttl).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.broken.keep_alive(&self.good, id).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.broken.lease(&self.good, id).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.broken.revoke_lease(&self.good, id).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.broken.status(&self.good).await
    }

    async fn close(&self) -> Result<()> {
        self.broken.close(&self.good).await
    }
}

/// The same watch, with each item made into any number of others.
pub(super) fn mapped(
    watch: StoreWatch,
    mut map: impl FnMut(Result<StoreEvent>) -> Vec<Result<StoreEvent>> + Send + 'static,
) -> StoreWatch {
    let armed = watch.armed();
    StoreWatch::new(armed, watch.flat_map(move |item| stream::iter(map(item))))
}

/// The same items; but of those that nobody has read, the oldest get lost when there are too many.
pub(super) fn loses_oldest<T: Clone + Send + 'static>(
    mut items: impl Stream<Item = T> + Send + Unpin + 'static,
    kept: usize,
) -> impl Stream<Item = T> + Send + 'static {
    let (sender, receiver) = broadcast::channel(kept);
    tokio::spawn(async move {
        while let Some(item) = items.next().await {
            if sender.send(item).is_err() {
                return;
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async {
        loop {
            match receiver.recv().await {
                Ok(item) => return Some((item, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    })
}

/// A store that edits what goes in and what comes out. Each edit that is given breaks something.
#[derive(Clone, Copy, Default)]
pub(super) struct Edited {
    /// Reads, also those inside of a transaction.
    pub(super) range: Option<fn(Range) -> Range>,
    /// What a read found, also inside of a transaction.
    pub(super) found: Option<fn(&Range, RangeReply) -> RangeReply>,
    pub(super) txn: Option<fn(Txn) -> Txn>,
    pub(super) reply: Option<fn(TxnReply) -> TxnReply>,
    pub(super) watch: Option<fn(Span) -> Span>,
    pub(super) told: Option<fn(StoreEvent) -> Vec<StoreEvent>>,
    /// The TTL that is really asked for.
    pub(super) ttl: Option<fn(Duration) -> Duration>,
    /// What is said of a renewal.
    pub(super) kept: Option<fn(Result<Duration>) -> Result<Duration>>,
    pub(super) lease: Option<fn(LeaseInfo) -> Option<LeaseInfo>>,
    pub(super) error: Option<fn(Error) -> Error>,
}

impl Edited {
    fn failed<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.error.map_or(error.clone(), |edit| edit(error)))
    }
}

#[async_trait]
impl BrokenStore for Edited {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let asked = range.clone();
        let found = self.failed(good.range(self.range.map_or(range.clone(), |edit| edit(range))).await)?;
        Ok(self.found.map_or(found.clone(), |edit| edit(&asked, found)))
    }

    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let mut txn = self.txn.map_or(txn.clone(), |edit| edit(txn));
        let lists = [txn.then.clone(), txn.otherwise.clone()];
        for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
            if let (Op::Range(range), Some(edit)) = (op, self.range) {
                *range = edit(range.clone());
            }
        }
        let mut reply = self.failed(good.txn(txn).await)?;
        let [then, otherwise] = &lists;
        for (op, answer) in if reply.succeeded { then } else { otherwise }.iter().zip(&mut reply.replies) {
            if let (Op::Range(range), OpReply::Range(found), Some(edit)) = (op, answer, self.found) {
                *found = edit(range, std::mem::take(found));
            }
        }
        Ok(self.reply.map_or(reply.clone(), |edit| edit(reply)))
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let span = self.watch.map_or(span.clone(), |edit| edit(span));
        let watch = self.failed(good.watch(span, after).await)?;
        let (told, edited) = (self.told, *self);
        Ok(mapped(watch, move |item| match (item, told) {
            (Ok(event), Some(edit)) => edit(event).into_iter().map(Ok).collect(),
            (item, _) => vec![edited.failed(item)],
        }))
    }

    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let Some(edit) = self.ttl else { return good.grant_lease(ttl).await };
        let said = round_ttl("store.grant_lease", ttl)?;
        Ok(Lease { ttl: said, ..good.grant_lease(edit(ttl)).await? })
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        let kept = good.keep_alive(id).await;
        self.kept.map_or(kept.clone(), |edit| edit(kept))
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let info = good.lease(id).await?;
        Ok(info.and_then(|info| self.lease.map_or(Some(info.clone()), |edit| edit(info))))
    }
}

/// Edits the changes of each batch; a batch that loses all of them is not told.
pub(super) fn changes(event: StoreEvent, edit: impl FnOnce(&mut Vec<Change>)) -> Vec<StoreEvent> {
    let StoreEvent::Batch(mut batch) = event else { return vec![event] };
    edit(&mut batch.changes);
    if batch.changes.is_empty() { Vec::new() } else { vec![StoreEvent::Batch(batch)] }
}
