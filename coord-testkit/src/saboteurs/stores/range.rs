//! What breaks revisions and reads (S1, S2).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{Op, OpReply, Order, Range, RangeReply, Span, Store, StoreStatus, Txn, TxnReply};
use coord_api::{ErrorKind, Result, Revision};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::super::store::{BrokenStore, Edited};
use super::super::{Sabotage, Saboteur, Shared, locked};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "equal-value-is-no-change",
        "a put of an equal value changes nothing",
        &["s1", "r11"],
        || Sabotage::store(|| SkipsEqual),
    ),
    Saboteur::new(
        "nothing-raises-revision",
        "a transaction that changes nothing raises the revision",
        &["s1"],
        || Sabotage::store(|| Raises),
    ),
    Saboteur::new(
        "created-for-ever",
        "a key that is created again keeps its first create revision",
        &["s1"],
        || {
            let first = Shared::default();
            Sabotage::store(move || FirstCreated(Arc::clone(&first)))
        },
    ),
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
    Saboteur::new(
        "transaction-in-pieces",
        "the writes of a transaction are applied one by one",
        &["s1", "s3", "s4"],
        || Sabotage::store(|| InPieces),
    ),
    Saboteur::new("interval-with-end", "an interval holds its end", &["s2"], || {
        ranges(|mut range| {
            if let Span::Interval(from, to) = &range.span {
                range.span = Span::Interval(from.clone(), [to.as_ref(), b"\0"].concat().into());
            }
            range
        })
    }),
    Saboteur::new(
        "prefix-needs-slash",
        "a prefix is a directory, whether or not it ends in a slash",
        &["s2"],
        || {
            ranges(|mut range| {
                if let Span::Prefix(prefix) = &range.span {
                    if !prefix.is_empty() && !prefix.ends_with(b"/") {
                        range.span = Span::Prefix([prefix.as_ref(), b"/"].concat().into());
                    }
                }
                range
            })
        },
    ),
    Saboteur::new("order-ignored", "every range comes by key", &["s2", "s3"], || {
        ranges(|range| range.with_order(Order::Key))
    }),
    Saboteur::new("no-byte-order", "a range comes in no order", &["s2"], || {
        found(|range, mut found| {
            if range.order == Order::Key {
                found.entries.reverse();
            }
            found
        })
    }),
    Saboteur::new(
        "order-by-modification",
        "the oldest is the one that was not written for longest",
        &["s2"],
        || {
            found(|range, mut found| {
                if range.order == Order::OldestFirst {
                    found.entries.sort_by_key(|entry| entry.modified);
                }
                found
            })
        },
    ),
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
    Saboteur::new(
        "cut-off-at-a-thousand",
        "a range without a limit ends after a thousand entries",
        &["s2"],
        || {
            found(|range, mut found| {
                if range.limit.is_none() {
                    found.entries.truncate(1_000);
                }
                found
            })
        },
    ),
    Saboteur::new(
        "continues-with-last",
        "a continuation begins with the last key again",
        &["s2", "r14"],
        || Sabotage::store(|| ContinuesWithLast),
    ),
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
    Saboteur::new(
        "lost-past-is-present",
        "a revision that is not in history reads as the present",
        &["s2", "s4"],
        || Sabotage::store(|| LostIsPresent),
    ),
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
    Saboteur::new("stale-reads", "reads are of the revision before the last", &["s2", "s3", "r10"], || {
        Sabotage::store(|| Stale)
    }),
    Saboteur::new("no-snapshot", "the entries of a range are read one by one", &["s2"], || {
        Sabotage::store(|| OneByOne)
    }),
    Saboteur::new("torn-range", "a range of many keys is read page by page", &["s2"], || {
        Sabotage::store(|| Torn)
    }),
    Saboteur::new(
        "orders-cut-at-a-thousand",
        "a range by creation ends after a thousand entries",
        &["s2"],
        || {
            found(|range, mut found| {
                if range.order != Order::Key && range.limit.is_none() {
                    found.entries.truncate(1_000);
                }
                found
            })
        },
    ),
    Saboteur::new("limit-in-16-bits", "a limit is stored in 16 bits", &["s2", "s3"], || {
        ranges(|mut range| {
            range.limit = range.limit.map(|limit| (limit & 0xffff).max(1));
            range
        })
    }),
    Saboteur::new(
        "absence-is-remembered",
        "a key that was not there is taken for absent for a while",
        &["s2", "s3"],
        || Sabotage::store(|| Absent(Shared::default())),
    ),
    Saboteur::new("reads-are-remembered", "a key reads as it did a moment ago", &["s2", "s3"], || {
        Sabotage::store(|| Remembered(Shared::default()))
    }),
    Saboteur::new("bad-range-is-empty", "a bad range finds nothing", &["s2"], || Sabotage::store(|| Lenient)),
];

fn ranges(edit: fn(Range) -> Range) -> Sabotage {
    Sabotage::store(move || Edited { range: Some(edit), ..Edited::default() })
}

fn found(edit: fn(&Range, RangeReply) -> RangeReply) -> Sabotage {
    Sabotage::store(move || Edited { found: Some(edit), ..Edited::default() })
}

struct SkipsEqual;

#[async_trait]
impl BrokenStore for SkipsEqual {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        if let ([], [Op::Put { key, value, lease }]) = (txn.compares.as_slice(), txn.then.as_slice()) {
            txn.validate()?;
            let found = good.range(Range::key(key.clone())).await?;
            if let Some(entry) =
                found.entries.iter().find(|entry| entry.value == *value && entry.lease == *lease)
            {
                return Ok(TxnReply {
                    succeeded: true,
                    revision: entry.modified,
                    replies: vec![OpReply::Put],
                });
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

pub(super) struct Named(pub(super) u64);

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

pub(super) struct LostIsPresent;

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
pub(super) struct Lenient;

fn nothing<T: Default>(answer: Result<T>) -> Result<T> {
    answer.or_else(
        |error| if error.kind() == ErrorKind::InvalidArgument { Ok(T::default()) } else { Err(error) },
    )
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

/// Reads page by page, each as of now.
pub(super) async fn torn(good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
    let whole = range.at.is_some() || range.limit.is_some() || range.order != Order::Key;
    if whole {
        return good.range(range).await;
    }
    let mut found = good.range(range.clone().with_limit(500)).await?;
    while found.more {
        yield_now().await;
        let last = found.entries.last().map(|entry| entry.key.clone()).unwrap_or_default();
        let page = good.range(range.clone().with_limit(500).with_after_key(last)).await?;
        found.entries.extend(page.entries);
        found.more = page.more;
    }
    Ok(found)
}

struct Torn;

#[async_trait]
impl BrokenStore for Torn {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        torn(good, range).await
    }
}

/// How long something is remembered.
const A_MOMENT: Duration = Duration::from_millis(100);

/// When keys were looked for in vain.
struct Absent(Shared<HashMap<Bytes, Instant>>);

#[async_trait]
impl BrokenStore for Absent {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let Span::Key(key) = range.span.clone() else { return good.range(range).await };
        let mut found = good.range(range).await?;
        let known = locked(&self.0).get(&key).is_some_and(|at| at.elapsed() < A_MOMENT);
        if known {
            found.entries.clear();
        } else if found.entries.is_empty() {
            locked(&self.0).insert(key, Instant::now());
        }
        Ok(found)
    }
}

/// What keys read as, and when.
struct Remembered(Shared<HashMap<Bytes, (Instant, RangeReply)>>);

#[async_trait]
impl BrokenStore for Remembered {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let key = match &range.span {
            Span::Key(key) if range.at.is_none() => key.clone(),
            _ => return good.range(range).await,
        };
        let known = locked(&self.0).get(&key).cloned();
        if let Some((_, found)) = known.filter(|(at, _)| at.elapsed() < A_MOMENT) {
            return Ok(found);
        }
        let found = good.range(range).await?;
        locked(&self.0).insert(key, (Instant::now(), found.clone()));
        Ok(found)
    }
}
