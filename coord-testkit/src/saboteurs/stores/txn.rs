//! What breaks transactions (S3).

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use coord_api::store::{Compare, Op, OpReply, Range, RangeReply, Store, Txn, TxnReply};
use coord_api::{Error, Result, Revision};
use tokio::task::yield_now;

use super::super::store::{BrokenStore, Edited};
use super::super::{Sabotage, Saboteur, Shared, locked};
use super::range::{Lenient, torn};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("revisions-use-64-bits", "the revision of a transaction is 2^63 and more", &["s1"], || {
        Sabotage::store(|| Edited {
            reply: Some(|reply| TxnReply {
                revision: Revision::new(reply.revision.get() | (1 << 63)),
                ..reply
            }),
            ..Edited::default()
        })
    }),
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
    Saboteur::new(
        "checks-then-acts",
        "compares are checked before the writes, not with them",
        &["s3", "r12"],
        || Sabotage::store(|| ChecksThenActs),
    ),
    Saboteur::new("reads-come-first", "the ranges of a transaction do not see its writes", &["s3"], || {
        Sabotage::store(|| ReadsFirst)
    }),
    Saboteur::new(
        "compares-alone-are-old",
        "a transaction that only compares is answered as it was once before",
        &["s3"],
        || Sabotage::store(|| ComparesOnce(Shared::default())),
    ),
    Saboteur::new(
        "deletes-always-existed",
        "a delete always says that the key existed",
        &["s3", "r13"],
        || {
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
        },
    ),
    Saboteur::new("puts-unanswered", "puts are left out of the answers", &["s3"], || {
        Sabotage::store(|| Edited {
            reply: Some(|mut reply| {
                reply.replies.retain(|answer| *answer != OpReply::Put);
                reply
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new(
        "bad-transaction-is-nothing",
        "a bad transaction is said to have succeeded",
        &["s3"],
        || Sabotage::store(|| Lenient),
    ),
    Saboteur::new(
        "sent-twice",
        "a transaction is sent twice, and the first answer is told",
        &["s3", "s4"],
        || Sabotage::store(|| Twice { second: false, unconditional: false }),
    ),
    Saboteur::new(
        "sent-twice-last-answer",
        "a transaction is sent twice, and the second answer is told",
        &["s3"],
        || Sabotage::store(|| Twice { second: true, unconditional: false }),
    ),
    Saboteur::new("put-twice", "a transaction without compares is sent twice", &["s3"], || {
        Sabotage::store(|| Twice { second: true, unconditional: true })
    }),
    Saboteur::new(
        "reads-inside-are-torn",
        "a range in a transaction is read page by page, before it",
        &["s3"],
        || Sabotage::store(|| TornInside),
    ),
    Saboteur::new("answers-by-kind", "the answers of a transaction come by their kinds", &["s3"], || {
        Sabotage::store(|| Edited {
            reply: Some(|mut reply| {
                reply.replies.sort_by_key(|answer| match answer {
                    OpReply::Put => 0,
                    OpReply::Delete { .. } => 1,
                    OpReply::Range(_) => 2,
                });
                reply
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new(
        "lists-share-their-bound",
        "both lists together hold 128 operations at most",
        &["s3"],
        || Sabotage::store(|| SharedBound),
    ),
    Saboteur::new(
        "otherwise-without-lease",
        "a put of the second list goes under no lease",
        &["s3", "s5"],
        || {
            Sabotage::store(|| Edited {
                txn: Some(|mut txn| {
                    for op in &mut txn.otherwise {
                        if let Op::Put { lease, .. } = op {
                            *lease = None;
                        }
                    }
                    txn
                }),
                ..Edited::default()
            })
        },
    ),
    Saboteur::new("numbers-in-32-bits", "revisions are compared in 32 bits", &["s3", "s2"], || {
        Sabotage::store(|| Narrow)
    }),
    Saboteur::new(
        "equal-value-keeps-lease",
        "a put of an equal value leaves the lease",
        &["s3", "s5"],
        || Sabotage::store(|| KeepsLease),
    ),
    Saboteur::new("too-many-in-two", "too many operations are done in two transactions", &["s3"], || {
        Sabotage::store(|| InTwo)
    }),
];

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

struct ChecksThenActs;

#[async_trait]
impl BrokenStore for ChecksThenActs {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        let succeeded = good.txn(Txn { compares: txn.compares, ..Txn::new() }).await?.succeeded;
        yield_now().await;
        let reply =
            good.txn(Txn { then: if succeeded { txn.then } else { txn.otherwise }, ..Txn::new() }).await?;
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

struct ComparesOnce(Shared<Vec<(Vec<Compare>, TxnReply)>>);

#[async_trait]
impl BrokenStore for ComparesOnce {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        if !txn.then.is_empty() || !txn.otherwise.is_empty() {
            return good.txn(txn).await;
        }
        let known = locked(&self.0)
            .iter()
            .find(|(compares, _)| *compares == txn.compares)
            .map(|(_, reply)| reply.clone());
        match known {
            Some(reply) => Ok(reply),
            None => {
                let reply = good.txn(txn.clone()).await?;
                locked(&self.0).push((txn.compares, reply.clone()));
                Ok(reply)
            }
        }
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

struct Twice {
    second: bool,
    /// Only where nothing is compared.
    unconditional: bool,
}

#[async_trait]
impl BrokenStore for Twice {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let first = good.txn(txn.clone()).await?;
        if txn.is_read_only() || (self.unconditional && !txn.compares.is_empty()) {
            return Ok(first);
        }
        let second = good.txn(txn).await?;
        Ok(if self.second { second } else { first })
    }
}

struct TornInside;

#[async_trait]
impl BrokenStore for TornInside {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let mut before = VecDeque::new();
        for op in &txn.then {
            match op {
                Op::Range(range) if before.is_empty() => {
                    before.push_back(Some(torn(good, range.clone()).await?))
                }
                Op::Range(_) => before.push_back(None),
                _ => {}
            }
        }
        let mut reply = good.txn(txn).await?;
        for answer in &mut reply.replies {
            if let (OpReply::Range(found), true, Some(Some(torn))) =
                (answer, reply.succeeded, before.pop_front())
            {
                if torn.entries.len() > 1_000 {
                    *found = RangeReply { revision: found.revision, ..torn };
                }
            }
        }
        Ok(reply)
    }
}

struct SharedBound;

#[async_trait]
impl BrokenStore for SharedBound {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        if txn.then.len() + txn.otherwise.len() > coord_api::store::MAX_TXN_OPS {
            return Err(Error::invalid_argument("store.txn", "too many operations"));
        }
        good.txn(txn).await
    }
}

struct Narrow;

fn narrow(revision: Revision) -> Revision {
    Revision::new((revision.get() & 0xffff_ffff).max(1))
}

#[async_trait]
impl BrokenStore for Narrow {
    async fn range(&self, good: &Arc<dyn Store>, mut range: Range) -> Result<RangeReply> {
        range.validate()?;
        range.max_created = range.max_created.map(narrow);
        range.at = range.at.map(narrow);
        good.range(range).await
    }

    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        for compare in &mut txn.compares {
            if let Compare::Modified(_, revision) | Compare::Created(_, revision) = compare {
                *revision = narrow(*revision);
            }
        }
        good.txn(txn).await
    }
}

struct KeepsLease;

#[async_trait]
impl BrokenStore for KeepsLease {
    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        for op in &mut txn.then {
            if let Op::Put { key, value, lease } = op {
                let found = good.range(Range::key(key.clone())).await?;
                if let Some(entry) =
                    found.entries.iter().find(|entry| entry.value == *value && entry.lease.is_some())
                {
                    *lease = entry.lease;
                }
            }
        }
        good.txn(txn).await
    }
}
