//! What breaks leases and durability (S5, S6).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{Lease, LeaseInfo, Op, Range, Store, Txn, TxnReply};
use coord_api::{Error, ErrorKind, LeaseId, Result};

use super::super::lock::PretendsToRenew;
use super::super::store::{BrokenStore, Edited};
use super::super::{Sabotage, Saboteur, Shared, locked};
use super::range::{LostIsPresent, Named};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("lease-revived", "an expired lease is revived", &["s5"], || {
        Sabotage::store(|| Edited {
            kept: Some(|kept| kept.or(Ok(Duration::from_secs(10)))),
            ..Edited::default()
        })
    }),
    Saboteur::new("keep-alive-does-nothing", "a renewal says Ok and renews nothing", &["s5"], || {
        Sabotage::store(PretendsToRenew::every_time)
    }),
    Saboteur::new("revoke-of-gone-fails", "revoking what is gone fails", &["s5"], || {
        Sabotage::store(|| RevokesOnce)
    }),
    Saboteur::new(
        "dead-lease-is-none",
        "a put under a dead lease is one without a lease",
        &["s5", "s3"],
        || Sabotage::store(|| DeadIsNone),
    ),
    Saboteur::new(
        "dead-lease-fails-in-part",
        "a put under a dead lease fails, and the rest is applied",
        &["s5", "s3"],
        || Sabotage::store(|| FailsInPart),
    ),
    Saboteur::new(
        "dead-lease-anywhere-fails",
        "a dead lease fails a transaction that does not use it",
        &["s5"],
        || Sabotage::store(|| FailsAnywhere),
    ),
    Saboteur::new(
        "moved-key-stays",
        "a key that moved to another lease goes with the first",
        &["s5"],
        || {
            let first = Shared::default();
            Sabotage::store(move || Stays(Arc::clone(&first)))
        },
    ),
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
    Saboteur::new("revoked-in-pieces", "revoking deletes the keys one by one", &["s5"], || {
        Sabotage::store(|| RevokesInPieces)
    }),
    Saboteur::new("revoked-without-keys", "revoking leaves the keys", &["s5", "r8"], || {
        Sabotage::store(|| LeavesKeys)
    }),
    Saboteur::new("leases-use-64-bits", "the number of a lease is 2^63 and more", &["s5"], || {
        Sabotage::store(|| LargeLeases)
    }),
    Saboteur::new("one-lease-for-all", "two grants give one lease", &["s5"], || {
        let granted = Shared::default();
        Sabotage::store(move || OneLease(Arc::clone(&granted)))
    }),
    Saboteur::new(
        "close-revokes-leases",
        "closing a client of the store revokes what it was granted",
        &["r8"],
        || Sabotage::store(|| CloseRevokes(Shared::default())),
    ),
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
            for entry in
                store.range(Range::prefix("")).await.map_or_else(|_| Vec::new(), |found| found.entries)
            {
                let bare = Op::Put { key: entry.key, value: entry.value, lease: None };
                let _ = store.txn(Txn::new().then(bare)).await;
            }
        })
    })
    .persistent(),
    Saboteur::new("leases-live-for-ever", "the leases of an opened store never expire", &["s6"], || {
        Sabotage::default().and_reopened(|store| async move {
            let leases =
                store.range(Range::prefix("")).await.map_or_else(|_| Vec::new(), |found| found.entries);
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
            let txn = std::mem::take(&mut *locked(&back))
                .into_iter()
                .fold(Txn::new(), |txn, key| txn.then(Op::put(key, "back")));
            async move { drop(store.txn(txn).await) }
        })
    })
    .persistent(),
    Saboteur::new(
        "lost-history-is-present",
        "history from before the opening reads as the present",
        &["s6"],
        || Sabotage::store(|| LostIsPresent),
    )
    .persistent(),
];

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

struct DeadIsNone;

#[async_trait]
impl BrokenStore for DeadIsNone {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        match good.txn(txn.clone()).await {
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                let bare = |op| {
                    Some(if let Op::Put { key, value, .. } = op {
                        Op::Put { key, value, lease: None }
                    } else {
                        op
                    })
                };
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
        let keys: Vec<Bytes> =
            locked(&self.0).iter().filter(|(_, lease)| **lease == id).map(|(key, _)| key.clone()).collect();
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
        let deleted: Vec<Bytes> = txn
            .then
            .iter()
            .filter_map(|op| if let Op::Delete { key } = op { Some(key.clone()) } else { None })
            .collect();
        let reply = good.txn(txn).await?;
        if !deleted.is_empty() {
            *locked(&self.0) = deleted;
        }
        Ok(reply)
    }
}

fn leases(edit: fn(LeaseInfo) -> Option<LeaseInfo>) -> Sabotage {
    Sabotage::store(move || Edited { lease: Some(edit), ..Edited::default() })
}

/// The transaction without what hangs on a lease that is gone.
fn without(txn: Txn, edit: impl Fn(Op) -> Option<Op>) -> Txn {
    Txn { then: txn.then.into_iter().filter_map(edit).collect(), ..txn }
}

struct LargeLeases;

#[async_trait]
impl BrokenStore for LargeLeases {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let lease = good.grant_lease(ttl).await?;
        Ok(Lease { id: LeaseId::new(lease.id.get() | (1 << 63)), ..lease })
    }
}
