//! What breaks the store itself (S1 to S6).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{
    Batch, Change, Compare, Lease, LeaseInfo, Op, OpReply, Order, Range, RangeReply, Span, Store, StoreEvent, StoreStatus, StoreWatch, Txn,
    TxnReply,
};
use coord_api::{Error, ErrorKind, LeaseId, Result, Revision};
use futures_util::{StreamExt, stream};
use tokio::sync::broadcast;
use tokio::task::yield_now;

use super::lock::PretendsToRenew;
use super::store::{BrokenStore, Edited, changes, mapped};
use super::{Sabotage, Saboteur, Shared, locked};

pub(super) const SABOTEURS: &[Saboteur] = &[
    // S1
    Saboteur::new("equal-value-is-no-change", "a put of an equal value changes nothing", &["s1", "r11"], || Sabotage::store(|| SkipsEqual)),
    Saboteur::new("nothing-raises-revision", "a transaction that changes nothing raises the revision", &["s1"], || {
        Sabotage::store(|| Raises)
    }),
    Saboteur::new("created-for-ever", "a key that is created again keeps its first create revision", &["s1"], || {
        let first = Shared::default();
        Sabotage::store(move || FirstCreated(Arc::clone(&first)))
    }),
    Saboteur::new("lease-untold", "an entry does not tell its lease", &["s1"], || {
        found(|_, mut found| {
            found.entries.iter_mut().for_each(|entry| entry.lease = None);
            found
        })
    }),
    Saboteur::new("identity-each", "every client sees another identity", &["s1"], || {
        let clients = Arc::new(AtomicU64::new(0));
        Sabotage::store(move || Named(clients.fetch_add(1, Ordering::SeqCst)))
    }),
    Saboteur::new("transaction-in-pieces", "the writes of a transaction are applied one by one", &["s1", "s3", "s4"], || {
        Sabotage::store(|| InPieces)
    }),
    // S2
    Saboteur::new("interval-with-end", "an interval holds its end", &["s2"], || {
        ranges(|mut range| {
            if let Span::Interval(from, to) = &range.span {
                range.span = Span::Interval(from.clone(), [to.as_ref(), b"\0"].concat().into());
            }
            range
        })
    }),
    Saboteur::new("prefix-needs-slash", "a prefix is a directory, whether or not it ends in a slash", &["s2"], || {
        ranges(|mut range| {
            if let Span::Prefix(prefix) = &range.span {
                if !prefix.is_empty() && !prefix.ends_with(b"/") {
                    range.span = Span::Prefix([prefix.as_ref(), b"/"].concat().into());
                }
            }
            range
        })
    }),
    Saboteur::new("order-ignored", "every range comes by key", &["s2", "s3"], || ranges(|range| range.with_order(Order::Key))),
    Saboteur::new("no-byte-order", "a range comes in no order", &["s2"], || {
        found(|range, mut found| {
            if range.order == Order::Key {
                found.entries.reverse();
            }
            found
        })
    }),
    Saboteur::new("order-by-modification", "the oldest is the one that was not written for longest", &["s2"], || {
        found(|range, mut found| {
            if range.order == Order::OldestFirst {
                found.entries.sort_by_key(|entry| entry.modified);
            }
            found
        })
    }),
    Saboteur::new("more-untold", "a limit does not say that there is more", &["s2", "r14", "r35"], || {
        found(|_, mut found| {
            found.more = false;
            found
        })
    }),
    Saboteur::new("limit-ignored", "a limit is ignored", &["s2"], || {
        ranges(|mut range| {
            range.limit = None;
            range
        })
    }),
    Saboteur::new("cut-off-at-a-thousand", "a range without a limit ends after a thousand entries", &["s2"], || {
        found(|range, mut found| {
            if range.limit.is_none() {
                found.entries.truncate(1_000);
            }
            found
        })
    }),
    Saboteur::new("continues-with-last", "a continuation begins with the last key again", &["s2", "r14"], || {
        Sabotage::store(|| ContinuesWithLast)
    }),
    Saboteur::new("past-is-present", "a past revision reads as the present", &["s2", "s4"], || {
        ranges(|mut range| {
            range.at = None;
            range
        })
    }),
    Saboteur::new("past-is-one-off", "a past revision reads as the one before", &["s2"], || {
        ranges(|mut range| {
            range.at = range.at.map(|at| Revision::new(at.get().saturating_sub(1).max(1)));
            range
        })
    }),
    Saboteur::new("lost-past-is-present", "a revision that is not in history reads as the present", &["s2", "s4"], || {
        Sabotage::store(|| LostIsPresent)
    }),
    Saboteur::new("later-keys-stay", "later keys are not left out", &["s2", "s3"], || {
        ranges(|mut range| {
            range.max_created = None;
            range
        })
    }),
    Saboteur::new("values-stay", "values are not left out", &["s2", "s3"], || {
        ranges(|mut range| {
            range.keys_only = false;
            range
        })
    }),
    Saboteur::new("stale-reads", "reads are of the revision before the last", &["s2", "s3", "r10"], || Sabotage::store(|| Stale)),
    Saboteur::new("no-snapshot", "the entries of a range are read one by one", &["s2"], || Sabotage::store(|| OneByOne)),
    Saboteur::new("bad-range-is-empty", "a bad range finds nothing", &["s2"], || Sabotage::store(|| Lenient)),
    // S3
    Saboteur::new("absent-ignored", "the compare with absence always holds", &["s3", "r12"], || {
        compares(|compare| !matches!(compare, Compare::Absent(_)))
    }),
    Saboteur::new("present-ignored", "the compare with presence always holds", &["s3"], || {
        compares(|compare| !matches!(compare, Compare::Present(_)))
    }),
    Saboteur::new("modified-ignored", "the compare of mod revisions always holds", &["s3", "r12"], || {
        compares(|compare| !matches!(compare, Compare::Modified(..)))
    }),
    Saboteur::new("created-ignored", "the compare of create revisions always holds", &["s3"], || {
        compares(|compare| !matches!(compare, Compare::Created(..)))
    }),
    Saboteur::new("lease-ignored", "the compare of leases always holds", &["s3"], || {
        compares(|compare| !matches!(compare, Compare::Lease(..)))
    }),
    Saboteur::new("range-absent-ignored", "the compare with an empty range always holds", &["s3"], || {
        compares(|compare| !matches!(compare, Compare::RangeAbsent(_)))
    }),
    Saboteur::new("last-compare-decides", "the last compare decides alone", &["s3"], || {
        Sabotage::store(|| Edited {
            txn: Some(|mut txn| {
                txn.compares.drain(..txn.compares.len().saturating_sub(1));
                txn
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("otherwise-does-nothing", "the second list is never run", &["s3"], || {
        Sabotage::store(|| Edited {
            txn: Some(|mut txn| {
                txn.otherwise.clear();
                txn
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("checks-then-acts", "compares are checked before the writes, not with them", &["s3", "r12"], || {
        Sabotage::store(|| ChecksThenActs)
    }),
    Saboteur::new("reads-come-first", "the ranges of a transaction do not see its writes", &["s3"], || Sabotage::store(|| ReadsFirst)),
    Saboteur::new("deletes-always-existed", "a delete always says that the key existed", &["s3", "r13"], || {
        Sabotage::store(|| Edited {
            reply: Some(|mut reply| {
                for answer in &mut reply.replies {
                    if let OpReply::Delete { existed } = answer {
                        *existed = true;
                    }
                }
                reply
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("puts-unanswered", "puts are left out of the answers", &["s3"], || {
        Sabotage::store(|| Edited {
            reply: Some(|mut reply| {
                reply.replies.retain(|answer| *answer != OpReply::Put);
                reply
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("bad-transaction-is-nothing", "a bad transaction is said to have succeeded", &["s3"], || Sabotage::store(|| Lenient)),
    Saboteur::new("too-many-in-two", "too many operations are done in two transactions", &["s3"], || Sabotage::store(|| InTwo)),
    // S4
    Saboteur::new("store-watch-armed-late", "a watch of the store is armed when it is first polled", &["s4"], || {
        Sabotage::store(|| ArmedLate)
    }),
    Saboteur::new("store-after-inclusive", "a watch from a revision begins with it", &["s4"], || Sabotage::store(|| AfterInclusive)),
    Saboteur::new("past-is-not-told", "a watch from the past begins with the present", &["s4"], || Sabotage::store(|| NoPast)),
    Saboteur::new("batch-for-each-change", "each change is a batch of its own", &["s4"], || {
        tells(|event| match event {
            StoreEvent::Batch(Batch { revision, changes }) => {
                changes.into_iter().map(|change| StoreEvent::Batch(Batch { revision, changes: vec![change] })).collect()
            }
            event => vec![event],
        })
    }),
    Saboteur::new("changes-sorted", "the changes of a revision are sorted by key", &["s4"], || {
        tells(|event| changes(event, |all| all.sort_by(|one, other| one.key().cmp(other.key()))))
    }),
    Saboteur::new("store-watch-sees-neighbours", "a watch of a directory sees its neighbours", &["s4"], || {
        Sabotage::store(|| Edited {
            watch: Some(|span| match span {
                Span::Prefix(prefix) if prefix.ends_with(b"/") => Span::Prefix(prefix.slice(..prefix.len() - 1)),
                span => span,
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("every-put-creates", "every put is told as a creation", &["s4", "r21"], || {
        tells(|event| {
            changes(event, |all| {
                for change in all {
                    if let Change::Put(entry) = change {
                        entry.created = entry.modified;
                    }
                }
            })
        })
    }),
    Saboteur::new("deletions-untold", "deletions are not told", &["s4", "r21"], || {
        tells(|event| changes(event, |all| all.retain(|change| matches!(change, Change::Put(_)))))
    }),
    Saboteur::new("progress-ahead", "progress is told before what it covers", &["s4"], || {
        tells(|event| match event {
            StoreEvent::Batch(batch) => vec![StoreEvent::Progress(batch.revision), StoreEvent::Batch(batch)],
            event => vec![event],
        })
    }),
    Saboteur::new("batches-doubled", "every batch is told twice", &["s4"], || tells(|event| vec![event.clone(), event])),
    Saboteur::new("dropped-ends-others", "a watch that is dropped ends the others", &["s4"], || {
        let (ended, _) = broadcast::channel(1);
        Sabotage::store(move || EndsOthers(ended.clone()))
    }),
    Saboteur::new("store-laggard-loses", "a watch that is not read loses the oldest", &["s4"], || Sabotage::store(|| LosesOldest)),
    Saboteur::new("ends-without-error", "a watch of the store ends without an error", &["s4"], || Sabotage::store(|| EndsQuietly)),
    Saboteur::new("oldest-left-is-wrong", "lost history names as its oldest what is lost", &["s4"], || {
        Sabotage::store(|| Edited {
            error: Some(|error| match error.kind() {
                ErrorKind::Compacted => Error::compacted("store", Some(Revision::new(1))),
                _ => error,
            }),
            ..Edited::default()
        })
    }),
    // S5
    Saboteur::new("lease-revived", "an expired lease is revived", &["s5"], || {
        Sabotage::store(|| Edited { kept: Some(|kept| kept.or(Ok(Duration::from_secs(10)))), ..Edited::default() })
    }),
    Saboteur::new("keep-alive-does-nothing", "a renewal says Ok and renews nothing", &["s5"], || {
        Sabotage::store(PretendsToRenew::every_time)
    }),
    Saboteur::new("revoke-of-gone-fails", "revoking what is gone fails", &["s5"], || Sabotage::store(|| RevokesOnce)),
    Saboteur::new("dead-lease-is-none", "a put under a dead lease is one without a lease", &["s5", "s3"], || {
        Sabotage::store(|| DeadIsNone)
    }),
    Saboteur::new("dead-lease-fails-in-part", "a put under a dead lease fails, and the rest is applied", &["s5", "s3"], || {
        Sabotage::store(|| FailsInPart)
    }),
    Saboteur::new("dead-lease-anywhere-fails", "a dead lease fails a transaction that does not use it", &["s5"], || {
        Sabotage::store(|| FailsAnywhere)
    }),
    Saboteur::new("moved-key-stays", "a key that moved to another lease goes with the first", &["s5"], || {
        let first = Shared::default();
        Sabotage::store(move || Stays(Arc::clone(&first)))
    }),
    Saboteur::new("keys-of-lease-unsorted", "the keys of a lease come in no order", &["s5"], || {
        leases(|mut info| {
            info.keys.reverse();
            Some(info)
        })
    }),
    Saboteur::new("time-left-is-constant", "a look-up always tells an hour", &["s5"], || {
        leases(|info| Some(LeaseInfo { remaining: Duration::from_secs(3_600), ..info }))
    }),
    Saboteur::new("lookup-finds-nothing", "a look-up finds no lease", &["s5", "r31"], || leases(|_| None)),
    Saboteur::new("lookup-without-keys", "a look-up does not tell the keys", &["s5"], || {
        leases(|info| Some(LeaseInfo { keys: Vec::new(), ..info }))
    }),
    Saboteur::new("revoked-in-pieces", "revoking deletes the keys one by one", &["s5"], || Sabotage::store(|| RevokesInPieces)),
    Saboteur::new("revoked-without-keys", "revoking leaves the keys", &["s5", "r8"], || Sabotage::store(|| LeavesKeys)),
    Saboteur::new("one-lease-for-all", "two grants give one lease", &["s5"], || {
        let granted = Shared::default();
        Sabotage::store(move || OneLease(Arc::clone(&granted)))
    }),
    Saboteur::new("close-revokes-leases", "closing a client of the store revokes what it was granted", &["r8"], || {
        Sabotage::store(|| CloseRevokes(Shared::default()))
    }),
    // S6
    Saboteur::new("identity-changes", "an opened store is another one", &["s6"], || {
        let opened = Arc::new(AtomicU64::new(0));
        let reopened = Arc::clone(&opened);
        Sabotage::store(move || Named(opened.load(Ordering::SeqCst))).and_reopened(move |_| {
            reopened.fetch_add(1, Ordering::SeqCst);
            async {}
        })
    })
    .persistent(),
    Saboteur::new("leases-forgotten", "an opened store has forgotten its leases", &["s6"], || {
        Sabotage::default().and_reopened(|store| async move {
            for entry in store.range(Range::prefix("")).await.map_or_else(|_| Vec::new(), |found| found.entries) {
                let bare = Op::Put { key: entry.key, value: entry.value, lease: None };
                let _ = store.txn(Txn::new().then(bare)).await;
            }
        })
    })
    .persistent(),
    Saboteur::new("leases-live-for-ever", "the leases of an opened store never expire", &["s6"], || {
        Sabotage::default().and_reopened(|store| async move {
            let leases = store.range(Range::prefix("")).await.map_or_else(|_| Vec::new(), |found| found.entries);
            tokio::spawn(async move {
                loop {
                    for lease in leases.iter().filter_map(|entry| entry.lease) {
                        let _ = store.keep_alive(lease).await;
                    }
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            });
        })
    })
    .persistent(),
    Saboteur::new("deleted-comes-back", "what was deleted last is there again", &["s6"], || {
        let deleted = Shared::<Vec<Bytes>>::default();
        let back = Arc::clone(&deleted);
        Sabotage::store(move || RemembersDeleted(Arc::clone(&deleted))).and_reopened(move |store| {
            let txn = std::mem::take(&mut *locked(&back)).into_iter().fold(Txn::new(), |txn, key| txn.then(Op::put(key, "back")));
            async move { drop(store.txn(txn).await) }
        })
    })
    .persistent(),
    Saboteur::new("lost-history-is-present", "history from before the opening reads as the present", &["s6"], || {
        Sabotage::store(|| LostIsPresent)
    })
    .persistent(),
];

fn ranges(edit: fn(Range) -> Range) -> Sabotage {
    Sabotage::store(move || Edited { range: Some(edit), ..Edited::default() })
}

fn found(edit: fn(&Range, RangeReply) -> RangeReply) -> Sabotage {
    Sabotage::store(move || Edited { found: Some(edit), ..Edited::default() })
}

fn tells(edit: fn(StoreEvent) -> Vec<StoreEvent>) -> Sabotage {
    Sabotage::store(move || Edited { told: Some(edit), ..Edited::default() })
}

fn leases(edit: fn(LeaseInfo) -> Option<LeaseInfo>) -> Sabotage {
    Sabotage::store(move || Edited { lease: Some(edit), ..Edited::default() })
}

fn compares(kept: fn(&Compare) -> bool) -> Sabotage {
    Sabotage::store(move || Compares(kept))
}

struct Compares(fn(&Compare) -> bool);

#[async_trait]
impl BrokenStore for Compares {
    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        txn.compares.retain(self.0);
        good.txn(txn).await
    }
}

struct SkipsEqual;

#[async_trait]
impl BrokenStore for SkipsEqual {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        if let ([], [Op::Put { key, value, lease }]) = (txn.compares.as_slice(), txn.then.as_slice()) {
            txn.validate()?;
            let found = good.range(Range::key(key.clone())).await?;
            if let Some(entry) = found.entries.iter().find(|entry| entry.value == *value && entry.lease == *lease) {
                return Ok(TxnReply { succeeded: true, revision: entry.modified, replies: vec![OpReply::Put] });
            }
        }
        good.txn(txn).await
    }
}

struct Raises;

#[async_trait]
impl BrokenStore for Raises {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let reply = good.txn(txn).await?;
        if !reply.succeeded {
            good.txn(Txn::new().then(Op::put("\0", ""))).await?;
            good.txn(Txn::new().then(Op::delete("\0"))).await?;
        }
        Ok(reply)
    }
}

struct FirstCreated(Shared<HashMap<Bytes, Revision>>);

#[async_trait]
impl BrokenStore for FirstCreated {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let mut found = good.range(range).await?;
        for entry in &mut found.entries {
            entry.created = *locked(&self.0).entry(entry.key.clone()).or_insert(entry.created);
        }
        Ok(found)
    }
}

struct Named(u64);

#[async_trait]
impl BrokenStore for Named {
    async fn status(&self, good: &Arc<dyn Store>) -> Result<StoreStatus> {
        let status = good.status().await?;
        Ok(StoreStatus { store_id: format!("{}-{}", status.store_id, self.0), ..status })
    }
}

struct InPieces;

#[async_trait]
impl BrokenStore for InPieces {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        let mut all = good.txn(Txn { compares: txn.compares, ..Txn::new() }).await?;
        for op in if all.succeeded { txn.then } else { txn.otherwise } {
            let piece = good.txn(Txn::new().then(op)).await?;
            all.revision = piece.revision;
            all.replies.extend(piece.replies);
        }
        Ok(all)
    }
}

struct ContinuesWithLast;

#[async_trait]
impl BrokenStore for ContinuesWithLast {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let last = match &range.after_key {
            Some(last) => {
                let mut again = Range::key(last.clone());
                again.at = range.at;
                good.range(again).await?.entries
            }
            None => Vec::new(),
        };
        let mut found = good.range(range).await?;
        found.entries.splice(0..0, last);
        Ok(found)
    }
}

struct LostIsPresent;

#[async_trait]
impl BrokenStore for LostIsPresent {
    async fn range(&self, good: &Arc<dyn Store>, mut range: Range) -> Result<RangeReply> {
        match good.range(range.clone()).await {
            Err(error) if error.kind() == ErrorKind::Compacted => {
                range.at = None;
                good.range(range).await
            }
            found => found,
        }
    }
}

struct Stale;

#[async_trait]
impl BrokenStore for Stale {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let found = good.range(range.clone()).await?;
        let before = Revision::new(found.revision.get().saturating_sub(1).max(1));
        if range.at.is_some() { Ok(found) } else { good.range(range.with_at(before)).await.or(Ok(found)) }
    }
}

struct OneByOne;

#[async_trait]
impl BrokenStore for OneByOne {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let mut found = good.range(range.clone()).await?;
        if range.at.is_none() && found.entries.len() < 100 {
            for entry in &mut found.entries {
                yield_now().await;
                let now = good.range(Range::key(entry.key.clone())).await?.entries.pop();
                *entry = now.unwrap_or_else(|| entry.clone());
            }
        }
        Ok(found)
    }
}

/// Takes what it should refuse for a request that has nothing to do.
struct Lenient;

fn nothing<T: Default>(answer: Result<T>) -> Result<T> {
    answer.or_else(|error| if error.kind() == ErrorKind::InvalidArgument { Ok(T::default()) } else { Err(error) })
}

#[async_trait]
impl BrokenStore for Lenient {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        nothing(good.range(range).await)
    }

    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let reply = nothing(good.txn(txn).await.map(Some))?;
        Ok(reply.unwrap_or(TxnReply { succeeded: true, revision: Revision::ZERO, replies: Vec::new() }))
    }
}

struct ChecksThenActs;

#[async_trait]
impl BrokenStore for ChecksThenActs {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        let succeeded = good.txn(Txn { compares: txn.compares, ..Txn::new() }).await?.succeeded;
        yield_now().await;
        let reply = good.txn(Txn { then: if succeeded { txn.then } else { txn.otherwise }, ..Txn::new() }).await?;
        Ok(TxnReply { succeeded, ..reply })
    }
}

struct ReadsFirst;

#[async_trait]
impl BrokenStore for ReadsFirst {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let mut before = VecDeque::new();
        for op in &txn.then {
            if let Op::Range(range) = op {
                before.extend(good.range(range.clone()).await);
            }
        }
        let mut reply = good.txn(txn).await?;
        for answer in reply.replies.iter_mut().filter(|answer| matches!(answer, OpReply::Range(_))) {
            if let (true, Some(found)) = (reply.succeeded, before.pop_front()) {
                *answer = OpReply::Range(found);
            }
        }
        Ok(reply)
    }
}

struct InTwo;

#[async_trait]
impl BrokenStore for InTwo {
    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        let rest = txn.then.split_off(txn.then.len().min(coord_api::store::MAX_TXN_OPS));
        let reply = good.txn(txn).await?;
        if reply.succeeded && !rest.is_empty() {
            return good.txn(Txn { then: rest, ..Txn::new() }).await;
        }
        Ok(reply)
    }
}

struct ArmedLate;

#[async_trait]
impl BrokenStore for ArmedLate {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        span.validate("store.watch")?;
        if after.is_some() {
            return good.watch(span, after).await;
        }
        let (armed, good) = (good.range(Range::key("\0")).await?.revision, Arc::clone(good));
        let later = stream::once(async move { good.watch(span, None).await });
        Ok(StoreWatch::new(
            armed,
            later.flat_map(|watch| match watch {
                Ok(watch) => watch.boxed(),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            }),
        ))
    }
}

struct AfterInclusive;

#[async_trait]
impl BrokenStore for AfterInclusive {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let before = after.map(|after| Revision::new(after.get().saturating_sub(1)));
        let watch = good.watch(span, before).await?;
        Ok(StoreWatch::new(after.unwrap_or(watch.armed()), watch))
    }
}

struct NoPast;

#[async_trait]
impl BrokenStore for NoPast {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, None).await?;
        Ok(StoreWatch::new(after.unwrap_or(watch.armed()), watch))
    }
}

struct EndsOthers(broadcast::Sender<()>);

/// Tells the others when it is dropped.
struct Told(broadcast::Sender<()>);

impl Told {
    /// Keeps it inside of the closure that calls it.
    fn is_open(&self) {}
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[async_trait]
impl BrokenStore for EndsOthers {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let (armed, mut ended) = (watch.armed(), self.0.subscribe());
        let guard = Told(self.0.clone());
        let until = watch.take_until(async move { ended.recv().await });
        Ok(StoreWatch::new(armed, until.inspect(move |_| guard.is_open())))
    }
}

struct LosesOldest;

#[async_trait]
impl BrokenStore for LosesOldest {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let mut watch = good.watch(span, after).await?;
        let (armed, (sender, receiver)) = (watch.armed(), broadcast::channel(64));
        tokio::spawn(async move {
            while let Some(item) = watch.next().await {
                if sender.send(item).is_err() {
                    return;
                }
            }
        });
        let received = stream::unfold(receiver, |mut receiver| async {
            loop {
                match receiver.recv().await {
                    Ok(item) => return Some((item, receiver)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Ok(StoreWatch::new(armed, received))
    }
}

struct EndsQuietly;

#[async_trait]
impl BrokenStore for EndsQuietly {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = match good.watch(span, after).await {
            Err(error) if error.kind() == ErrorKind::Compacted => StoreWatch::new(after.unwrap_or_default(), stream::empty()),
            watch => watch?,
        };
        Ok(mapped(watch, |item| if item.is_err() { Vec::new() } else { vec![item] }))
    }
}

struct RevokesOnce;

#[async_trait]
impl BrokenStore for RevokesOnce {
    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        match good.lease(id).await? {
            Some(_) => good.revoke_lease(id).await,
            None => Err(Error::lease_lost("store.revoke_lease", "no such lease")),
        }
    }
}

/// The transaction without what hangs on a lease that is gone.
fn without(txn: Txn, edit: impl Fn(Op) -> Option<Op>) -> Txn {
    Txn { then: txn.then.into_iter().filter_map(edit).collect(), ..txn }
}

struct DeadIsNone;

#[async_trait]
impl BrokenStore for DeadIsNone {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        match good.txn(txn.clone()).await {
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                let bare = |op| Some(if let Op::Put { key, value, .. } = op { Op::Put { key, value, lease: None } } else { op });
                good.txn(without(txn, bare)).await
            }
            answer => answer,
        }
    }
}

struct FailsInPart;

#[async_trait]
impl BrokenStore for FailsInPart {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let answer = good.txn(txn.clone()).await;
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::LeaseLost) {
            let rest = |op| (!matches!(op, Op::Put { lease: Some(_), .. })).then_some(op);
            good.txn(without(txn, rest)).await?;
        }
        answer
    }
}

struct FailsAnywhere;

#[async_trait]
impl BrokenStore for FailsAnywhere {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        for op in txn.then.iter().chain(&txn.otherwise) {
            if let Op::Put { lease: Some(lease), .. } = op {
                if good.lease(*lease).await?.is_none() {
                    return Err(Error::lease_lost("store.txn", "a lease is gone"));
                }
            }
        }
        good.txn(txn).await
    }
}

/// The first lease of each key.
struct Stays(Shared<HashMap<Bytes, LeaseId>>);

#[async_trait]
impl BrokenStore for Stays {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        for op in &txn.then {
            if let Op::Put { key, lease: Some(lease), .. } = op {
                locked(&self.0).entry(key.clone()).or_insert(*lease);
            }
        }
        good.txn(txn).await
    }

    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        let keys: Vec<Bytes> = locked(&self.0).iter().filter(|(_, lease)| **lease == id).map(|(key, _)| key.clone()).collect();
        good.txn(keys.into_iter().take(100).fold(Txn::new(), |txn, key| txn.then(Op::delete(key)))).await?;
        good.revoke_lease(id).await
    }
}

struct RevokesInPieces;

#[async_trait]
impl BrokenStore for RevokesInPieces {
    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        for key in good.lease(id).await?.map_or_else(Vec::new, |info| info.keys) {
            good.txn(Txn::new().then(Op::delete(key))).await?;
        }
        good.revoke_lease(id).await
    }
}

struct LeavesKeys;

#[async_trait]
impl BrokenStore for LeavesKeys {
    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        for key in good.lease(id).await?.map_or_else(Vec::new, |info| info.keys) {
            good.txn(Txn::new().then(Op::put(key, "left"))).await?;
        }
        good.revoke_lease(id).await
    }
}

struct OneLease(Shared<HashMap<Duration, Lease>>);

#[async_trait]
impl BrokenStore for OneLease {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let known = locked(&self.0).get(&ttl).copied();
        if let Some(lease) = known {
            if good.lease(lease.id).await?.is_some() {
                return Ok(lease);
            }
        }
        let lease = good.grant_lease(ttl).await?;
        locked(&self.0).insert(ttl, lease);
        Ok(lease)
    }
}

struct CloseRevokes(Shared<Vec<LeaseId>>);

#[async_trait]
impl BrokenStore for CloseRevokes {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let lease = good.grant_lease(ttl).await?;
        locked(&self.0).push(lease.id);
        Ok(lease)
    }

    async fn close(&self, good: &Arc<dyn Store>) -> Result<()> {
        let granted = std::mem::take(&mut *locked(&self.0));
        for lease in granted {
            good.revoke_lease(lease).await?;
        }
        good.close().await
    }
}

/// Knows what was deleted last.
struct RemembersDeleted(Shared<Vec<Bytes>>);

#[async_trait]
impl BrokenStore for RemembersDeleted {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let deleted: Vec<Bytes> =
            txn.then.iter().filter_map(|op| if let Op::Delete { key } = op { Some(key.clone()) } else { None }).collect();
        let reply = good.txn(txn).await?;
        if !deleted.is_empty() {
            *locked(&self.0) = deleted;
        }
        Ok(reply)
    }
}
