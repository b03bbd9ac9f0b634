//! What breaks transactions (S3).

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use coord_api::Result;
use coord_api::store::{Compare, Op, OpReply, Store, Txn, TxnReply};
use tokio::task::yield_now;

use super::super::store::{BrokenStore, Edited};
use super::super::{Sabotage, Saboteur, Shared, locked};
use super::range::Lenient;

pub(super) const SABOTEURS: &[Saboteur] = &[
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
