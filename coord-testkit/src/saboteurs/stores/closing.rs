//! What breaks the end of a client of a store (R2, R8), and what comes after it is opened again
//! (S6).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, Op, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{Error, ErrorKind, LeaseId, Outcome, Result, Revision};
use futures_util::stream;
use tokio::time::sleep;

use super::super::store::BrokenStore;
use super::super::{Sabotage, Saboteur};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "cut-off-is-not-applied",
        "a write that close cuts off is said not to be applied",
        &["r2", "r8"],
        || Sabotage::store(|| CutsOff { closed: AtomicBool::new(false), late: false }),
    ),
    Saboteur::new(
        "cut-off-is-applied-later",
        "a write that close cuts off is said not to be applied, and is applied later",
        &["r2", "r8"],
        || Sabotage::store(|| CutsOff { closed: AtomicBool::new(false), late: true }),
    ),
    Saboteur::new(
        "streams-wait-for-ever",
        "a stream that waits does not notice that its client is closed",
        &["r8"],
        || Sabotage::store(|| Unnoticed(Arc::default())),
    ),
    Saboteur::new(
        "half-a-transaction",
        "of the last transaction before a kill half is there",
        &["s6"],
        || {
            Sabotage::default().and_reopened(|store| async move {
                let all =
                    store.range(Range::prefix("")).await.map_or_else(|_| Vec::new(), |found| found.entries);
                let last = all.iter().map(|entry| entry.modified).max();
                if let Some(half) = all.iter().rfind(|entry| Some(entry.modified) == last) {
                    let _ = store.txn(Txn::new().then(Op::delete(half.key.clone()))).await;
                }
            })
        },
    )
    .persistent(),
    Saboteur::new(
        "no-text-is-lost",
        "keys that are no text are lost when a store is opened again",
        &["s6"],
        || {
            Sabotage::default().and_reopened(|store| async move {
                let all =
                    store.range(Range::prefix("")).await.map_or_else(|_| Vec::new(), |found| found.entries);
                for entry in all.into_iter().filter(|entry| std::str::from_utf8(&entry.key).is_err()) {
                    let _ = store.txn(Txn::new().then(Op::delete(entry.key))).await;
                }
            })
        },
    )
    .persistent(),
    Saboteur::new(
        "opened-watch-begins-late",
        "a watch from before the opening begins with the present",
        &["s6"],
        || Sabotage::store(|| BeginsWithPresent),
    )
    .persistent(),
];

struct CutsOff {
    closed: AtomicBool,
    late: bool,
}

impl CutsOff {
    fn cut_off<T>(&self, answer: Result<T>) -> Result<T> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::closed("store").with_outcome(Outcome::NotApplied));
        }
        answer
    }
}

/// How long a write is under way.
const UNDER_WAY: Duration = Duration::from_millis(10);

#[async_trait]
impl BrokenStore for CutsOff {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        if !self.late {
            let answer = good.txn(txn).await;
            sleep(UNDER_WAY).await;
            return self.cut_off(answer);
        }
        self.cut_off(Ok(()))?;
        let good = Arc::clone(good);
        let sent = tokio::spawn(async move {
            sleep(UNDER_WAY).await;
            good.txn(txn).await
        });
        let answer = sent.await.unwrap_or_else(|_| Err(Error::closed("store.txn")));
        self.cut_off(answer)
    }

    async fn close(&self, good: &Arc<dyn Store>) -> Result<()> {
        self.closed.store(true, Ordering::SeqCst);
        if self.late {
            // Whoever is under way arrives, though nobody waits for it.
            return Ok(());
        }
        good.close().await
    }

    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        self.cut_off(Ok(()))?;
        good.range(range).await
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.cut_off(Ok(()))?;
        good.watch(span, after).await
    }
}

/// Whether the client is closed.
struct Unnoticed(Arc<AtomicBool>);

impl Unnoticed {
    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(Error::closed("store")) } else { Ok(()) }
    }
}

#[async_trait]
impl BrokenStore for Unnoticed {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        self.check()?;
        good.range(range).await
    }

    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        self.check()?;
        good.txn(txn).await
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.check()?;
        let watch = good.watch(span, after).await?;
        let (armed, closed) = (watch.armed(), Arc::clone(&self.0));
        let items = stream::unfold(Some(watch), move |watch| {
            let is_closed = closed.load(Ordering::SeqCst);
            async move {
                let mut watch = watch?;
                if is_closed {
                    return Some((Err(Error::closed("store.watch")), None));
                }
                let item = watch.next().await?;
                Some((item, Some(watch)))
            }
        });
        Ok(StoreWatch::new(armed, items))
    }

    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        self.check()?;
        good.grant_lease(ttl).await
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        self.check()?;
        good.keep_alive(id).await
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.check()?;
        good.lease(id).await
    }

    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        self.check()?;
        good.revoke_lease(id).await
    }

    async fn status(&self, good: &Arc<dyn Store>) -> Result<StoreStatus> {
        self.check()?;
        good.status().await
    }

    async fn close(&self, _: &Arc<dyn Store>) -> Result<()> {
        self.0.store(true, Ordering::SeqCst);
        Ok(())
    }
}

struct BeginsWithPresent;

#[async_trait]
impl BrokenStore for BeginsWithPresent {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        match good.watch(span.clone(), after).await {
            Err(error) if error.kind() == ErrorKind::Compacted => {
                let watch = good.watch(span, None).await?;
                Ok(StoreWatch::new(after.unwrap_or_default(), watch))
            }
            watch => watch,
        }
    }
}
