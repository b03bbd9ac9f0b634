//! What breaks the time of leases, and what hangs on them (S5).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{Lease, LeaseInfo, Op, Range, RangeReply, Store, Txn, TxnReply, round_ttl};
use coord_api::{LeaseId, Result};
use tokio::time::{Instant, sleep};

use super::super::store::{BrokenStore, Edited};
use super::super::{Sabotage, Saboteur, Shared, locked};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "whole-second-expiry",
        "a lease ends at a whole second, and up to one too early",
        &["s5"],
        || {
            let (start, renewals) = (Shared::default(), Arc::new(AtomicU64::new(0)));
            Sabotage::store(move || WholeSeconds {
                start: Arc::clone(&start),
                renewals: Arc::clone(&renewals),
                granted: Shared::default(),
            })
        },
    ),
    Saboteur::new("put-renews", "a put under a lease renews it", &["s5"], || {
        Sabotage::store(|| Renews { by_put: true })
    }),
    Saboteur::new("lookup-renews", "a look-up renews a lease", &["s5"], || {
        Sabotage::store(|| Renews { by_put: false })
    }),
    Saboteur::new("renewed-by-default", "a renewal is for the TTL that the first lease had", &["s5"], || {
        Sabotage::store(|| ByFirst(Shared::default()))
    }),
    Saboteur::new("ttl-in-32-bits-of-ms", "a TTL is 32 bits of milliseconds", &["s5"], || {
        ttl(|ttl| Duration::from_millis((ttl.as_millis() & 0xffff_ffff).try_into().unwrap_or(u64::MAX)))
    }),
    Saboteur::new("ttl-in-16-bits", "a TTL is 16 bits of seconds", &["s5"], || {
        ttl(|ttl| Duration::from_secs((ttl.as_secs() & 0xffff).max(1)))
    }),
    Saboteur::new("ttl-in-31-bits", "a TTL is 31 bits of seconds", &["s5"], || {
        ttl(|ttl| Duration::from_secs((ttl.as_secs() & 0x7fff_ffff).max(1)))
    }),
    Saboteur::new("old-lookups", "a look-up is as old as a second", &["s5"], || {
        Sabotage::store(|| OldLookups(Shared::default()))
    }),
    Saboteur::new("lookup-of-a-thousand", "a look-up tells a thousand keys", &["s5"], || {
        Sabotage::store(|| Edited {
            lease: Some(|mut info| {
                info.keys.truncate(1_000);
                Some(info)
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("revokes-by-hundreds", "revoking takes a hundred keys at a time", &["s5"], || {
        Sabotage::store(|| ByHundreds(1))
    }),
    Saboteur::new("revokes-by-thousands", "revoking takes a thousand keys at a time", &["s5"], || {
        Sabotage::store(|| ByHundreds(10))
    }),
    Saboteur::new("leases-are-changes", "granting and revoking a lease raises the revision", &["s1"], || {
        Sabotage::store(|| Counted)
    }),
    Saboteur::new(
        "late-keys-stay",
        "a key that came late to a lease lasts a TTL of its own",
        &["s5"],
        || Sabotage::store(|| OwnTtl(Shared::default())),
    ),
    Saboteur::new(
        "put-after-the-end",
        "a put under a lease that just ended is one without a lease",
        &["s5"],
        || Sabotage::store(|| AfterTheEnd(Shared::default())),
    ),
    Saboteur::new("a-lease-of-another", "a key that moved is told on both leases", &["s5"], || {
        let told = Shared::default();
        Sabotage::store(move || Remembers(Arc::clone(&told)))
    }),
];

fn ttl(edit: fn(Duration) -> Duration) -> Sabotage {
    Sabotage::store(move || Edited { ttl: Some(edit), ..Edited::default() })
}

struct WholeSeconds {
    start: Shared<Option<Instant>>,
    renewals: Arc<AtomicU64>,
    granted: Shared<HashMap<LeaseId, u64>>,
}

impl WholeSeconds {
    /// Ends the lease where the second ends in which it was renewed, less its TTL.
    fn ends(&self, good: &Arc<dyn Store>, id: LeaseId, ttl: Duration) {
        let start = *locked(&self.start).get_or_insert_with(Instant::now);
        let early = Duration::from_nanos(start.elapsed().subsec_nanos().into());
        let renewal = self.renewals.fetch_add(1, Ordering::SeqCst);
        locked(&self.granted).insert(id, renewal);
        let (good, granted) = (Arc::clone(good), Arc::clone(&self.granted));
        tokio::spawn(async move {
            sleep(ttl.saturating_sub(early)).await;
            let last = locked(&granted).get(&id) == Some(&renewal);
            if last {
                let _ = good.revoke_lease(id).await;
            }
        });
    }
}

#[async_trait]
impl BrokenStore for WholeSeconds {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let lease = good.grant_lease(ttl).await?;
        self.ends(good, lease.id, lease.ttl);
        Ok(lease)
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        let kept = good.keep_alive(id).await?;
        self.ends(good, id, kept);
        Ok(kept)
    }
}

struct Renews {
    by_put: bool,
}

#[async_trait]
impl BrokenStore for Renews {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let leases: Vec<LeaseId> = txn
            .then
            .iter()
            .filter_map(|op| if let Op::Put { lease, .. } = op { *lease } else { None })
            .collect();
        let reply = good.txn(txn).await?;
        if self.by_put {
            for lease in leases {
                let _ = good.keep_alive(lease).await;
            }
        }
        Ok(reply)
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let info = good.lease(id).await?;
        if !self.by_put {
            let _ = good.keep_alive(id).await;
        }
        Ok(info)
    }
}

/// The TTL of the first lease, and what was asked for each.
struct ByFirst(Shared<(Option<Duration>, HashMap<LeaseId, Duration>)>);

#[async_trait]
impl BrokenStore for ByFirst {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let lease = good.grant_lease(ttl).await?;
        let mut known = locked(&self.0);
        known.0.get_or_insert(lease.ttl);
        known.1.insert(lease.id, lease.ttl);
        Ok(lease)
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        let kept = good.keep_alive(id).await?;
        let first = locked(&self.0).0.unwrap_or(kept);
        if first < kept {
            let good = Arc::clone(good);
            tokio::spawn(async move {
                sleep(first).await;
                let _ = good.revoke_lease(id).await;
            });
        }
        Ok(kept)
    }
}

struct OldLookups(Shared<HashMap<LeaseId, (Instant, Option<LeaseInfo>)>>);

#[async_trait]
impl BrokenStore for OldLookups {
    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let known = locked(&self.0).get(&id).cloned();
        if let Some((at, info)) = known {
            if at.elapsed() < Duration::from_secs(1) {
                return Ok(info);
            }
        }
        let info = good.lease(id).await?;
        locked(&self.0).insert(id, (Instant::now(), info.clone()));
        Ok(info)
    }
}

struct ByHundreds(usize);

#[async_trait]
impl BrokenStore for ByHundreds {
    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        let at_once = self.0 * 100;
        while let Some(info) = good.lease(id).await? {
            if info.keys.len() <= at_once {
                break;
            }
            // The rest moves to a lease that goes first.
            let part = good.grant_lease(Duration::from_secs(60)).await?;
            for keys in info.keys.chunks(at_once).next().unwrap_or_default().chunks(100) {
                let moved = keys
                    .iter()
                    .fold(Txn::new(), |txn, key| txn.then(Op::put_leased(key.clone(), "", part.id)));
                good.txn(moved).await?;
            }
            good.revoke_lease(part.id).await?;
        }
        good.revoke_lease(id).await
    }
}

struct Counted;

#[async_trait]
impl BrokenStore for Counted {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let lease = good.grant_lease(ttl).await?;
        good.txn(super::log::bookkeeping()).await?;
        Ok(lease)
    }

    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let mut found = good.range(range).await?;
        found.entries.retain(|entry| !entry.key.starts_with(b"\0bookkeeping"));
        Ok(found)
    }
}

/// Which keys came under a lease, and when.
struct OwnTtl(Shared<HashMap<LeaseId, (Instant, Duration)>>);

#[async_trait]
impl BrokenStore for OwnTtl {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let lease = good.grant_lease(ttl).await?;
        locked(&self.0).insert(lease.id, (Instant::now(), lease.ttl));
        Ok(lease)
    }

    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let mut late = Vec::new();
        for op in &txn.then {
            if let Op::Put { key, value, lease: Some(lease) } = op {
                let known = locked(&self.0).get(lease).copied();
                if let Some((at, ttl)) = known.filter(|(at, _)| at.elapsed() > Duration::from_millis(500)) {
                    late.push((key.clone(), value.clone(), *lease, at + ttl));
                }
            }
        }
        let reply = good.txn(txn).await?;
        for (key, value, lease, end) in late {
            let good = Arc::clone(good);
            tokio::spawn(async move {
                tokio::time::sleep_until(end).await;
                sleep(Duration::from_millis(1)).await;
                if good.lease(lease).await.is_ok_and(|info| info.is_none()) {
                    let _ = good.txn(Txn::new().then(Op::put(key, value))).await;
                }
            });
        }
        Ok(reply)
    }
}

/// When each lease ends if nobody renews it.
struct AfterTheEnd(Shared<HashMap<LeaseId, Instant>>);

#[async_trait]
impl BrokenStore for AfterTheEnd {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let granted = round_ttl("store.grant_lease", ttl)?;
        let lease = good.grant_lease(ttl).await?;
        if let Some(end) = Instant::now().checked_add(granted) {
            locked(&self.0).insert(lease.id, end);
        }
        Ok(lease)
    }

    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        let now = Instant::now();
        for op in &mut txn.then {
            if let Op::Put { lease: Some(id), .. } = op {
                let end = locked(&self.0).get(id).copied();
                let just_ended = end.is_some_and(|end| now >= end && now < end + Duration::from_millis(20));
                if just_ended && good.lease(*id).await?.is_none() {
                    if let Op::Put { lease, .. } = op {
                        *lease = None;
                    }
                }
            }
        }
        good.txn(txn).await
    }
}

/// The keys that each lease ever had.
struct Remembers(Shared<HashMap<LeaseId, Vec<Bytes>>>);

#[async_trait]
impl BrokenStore for Remembers {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        for op in &txn.then {
            if let Op::Put { key, lease: Some(lease), .. } = op {
                locked(&self.0).entry(*lease).or_default().push(key.clone());
            }
        }
        good.txn(txn).await
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let Some(mut info) = good.lease(id).await? else { return Ok(None) };
        let known = locked(&self.0).get(&id).cloned().unwrap_or_default();
        for key in known {
            let there =
                good.range(Range::key(key.clone())).await?.entries.iter().any(|entry| entry.lease.is_some());
            if there && !info.keys.contains(&key) {
                info.keys.push(key);
            }
        }
        info.keys.sort_unstable();
        Ok(Some(info))
    }
}
