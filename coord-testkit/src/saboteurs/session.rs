//! What breaks sessions, drops and doubts (R2, R7 to R9a).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::store::{Compare, Lease, Op, Store, Txn, TxnReply};
use coord_api::{
    ConfigCenter, Error, ErrorKind, LeaseId, LockGuard, LockOptions, Loss, Lost, Outcome, Result, Value,
    Version,
};
use tokio::time::{Instant, sleep};

use super::handle::{Guards, Hooks, Kept, entry_of, hooks, keep_for_ever, revokes_all};
use super::provider::{BrokenProvider, Good};
use super::store::{BrokenStore, Edited};
use super::{Sabotage, Saboteur, Shared, locked};
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "failed-release-forgotten",
        "a drop whose release failed is forgotten while its lease is renewed",
        &["r9"],
        || guards(|good, _| releases_itself(good, 1)),
    ),
    Saboteur::new(
        "renewed-after-deadline",
        "a lease past its local deadline is renewed after healing",
        &["r9a"],
        || Sabotage::client(|| RenewsAfterDeadline(Shared::default())),
    ),
    Saboteur::new("set-is-sent-again", "a re-sent set makes A-B-A", &["r2"], || {
        Sabotage::client(|| SendsAgain)
    }),
    Saboteur::new(
        "late-writes-not-fenced",
        "a write that was given up is applied late",
        &["r2", "r29", "r38"],
        || {
            Sabotage::client(|| Edited {
                txn: Some(|mut txn| {
                    txn.compares
                    .retain(|compare| !matches!(compare, Compare::Modified(key, _) if key.starts_with(layout::SESSIONS.as_bytes())));
                    txn
                }),
                ..Edited::default()
            })
        },
    ),
    Saboteur::new(
        "reads-to-settle-a-set",
        "a set in doubt is taken for done when its value is found",
        &["r2"],
        || Sabotage::provider(|| SettlesByValue),
    ),
    Saboteur::new(
        "own-retry-conflicts",
        "a compare-and-set in doubt is sent again, and conflicts with itself",
        &["r2"],
        || Sabotage::client(|| SendsAgain),
    ),
    Saboteur::new("doubt-is-a-failure", "a write in doubt is Internal", &["r2"], || {
        Sabotage::client(|| Edited {
            error: Some(|error| match error.outcome() {
                Outcome::Unknown => Error::new(ErrorKind::Internal, "store", "no answer"),
                Outcome::NotApplied => error,
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("dropped-is-kept", "a dropped guard stays held", &["r9"], || {
        guards(|_, _| hooks().dropped(keep_for_ever))
    }),
    Saboteur::new("drop-needs-runtime", "a drop outside of a runtime panics", &["r9"], || {
        guards(|_, _| hooks().dropped(needs_runtime))
    }),
    Saboteur::new("pending-for-ever", "a pending release keeps its lease for ever", &["r9"], || {
        guards(|good, _| releases_itself(good, u32::MAX))
    }),
    Saboteur::new("one-lease-each", "every lock has a lease of its own", &["r9a"], || {
        Sabotage::provider(|| LeaseEach(AtomicU32::new(0)))
    }),
    Saboteur::new("idle-lease-kept", "a lease that carries nothing is renewed for ever", &["r9a"], || {
        Sabotage::client(|| NeverRevokes)
    }),
    Saboteur::new("release-revokes-lease", "releasing one handle revokes the lease of all", &["r9a"], || {
        guards(|good, _| revokes_all(good))
    }),
    Saboteur::new("session-without-key", "a session has no key of its own", &["r9a"], || {
        Sabotage::client(|| NoSessionKey)
    }),
    Saboteur::new("ttl-ignored", "TTL ignored", &["r7", "s5"], || grants(|_| Duration::from_secs(3_600))),
    Saboteur::new("ttl-rounded-down", "fractions of a second rounded down", &["s5"], || {
        Sabotage::store(|| RoundsDown)
    }),
    Saboteur::new(
        "lock-ttl-rounded-down",
        "fractions of a second rounded down, by the contracts",
        &["r7"],
        || {
            Sabotage::provider(|| {
                Asks(|ttl| if ttl.as_secs() > 0 { Duration::from_secs(ttl.as_secs()) } else { ttl })
            })
        },
    ),
    Saboteur::new("ttl-capped", "no lease lives longer than 5 s", &["r7", "s5"], || {
        grants(|ttl| ttl.min(Duration::from_secs(5)))
    }),
    Saboteur::new("expires-early", "a lease expires at nine tenths of its TTL", &["r7", "s5", "r36"], || {
        grants(|ttl| ttl - ttl / 10)
    }),
    Saboteur::new(
        "expires-late",
        "a lease expires two seconds late",
        &["r7", "s5", "r36", "r42", "r43"],
        || grants(|ttl| ttl + Duration::from_secs(2)),
    ),
    Saboteur::new("zero-ttl-is-a-second", "a TTL of zero is taken for one second", &["r7"], || {
        Sabotage::provider(|| Asks(|ttl| ttl.max(Duration::from_millis(1))))
    }),
    Saboteur::new("close-revokes-nothing", "closing leaves the leases to expire", &["r8", "r9a"], || {
        Sabotage::client(|| NeverRevokes)
    }),
    Saboteur::new("close-tells-nobody", "closing does not tell the handles", &["r8"], || {
        guards(|_, _| hooks().lost(|good| unless_closed(good.lost())))
    }),
    Saboteur::new("second-close-fails", "closing again fails", &["r8"], || {
        Sabotage::provider(|| ClosesOnce(Shared::default()))
    }),
    Saboteur::new("close-waits-for-ever", "closing waits until the store answers", &["r8"], || {
        Sabotage::provider(|| ClosesUntilDone)
    }),
    Saboteur::new("closed-is-unavailable", "calls after closing are Unavailable", &["r8"], || {
        Sabotage::provider(|| ClosedIsUnavailable)
    }),
];

fn guards(make: fn(&Good, &LockGuard) -> Hooks) -> Sabotage {
    Sabotage::provider(move || Guards(make))
}

/// Leases that say one thing and are another.
fn grants(real: fn(Duration) -> Duration) -> Sabotage {
    Sabotage::store(move || Grants { real, granted: Shared::default() })
}

/// Releases a dropped guard by itself, so many times at most, and keeps what it could not release.
fn releases_itself(good: &Good, tries: u32) -> Hooks {
    let store = Arc::clone(&good.store);
    hooks().dropped(move |good| {
        let (kept, store) = (Arc::clone(good), Arc::clone(&store));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            for _ in 0..tries {
                let released = async {
                    let Some(entry) = entry_of(&*store, kept.fencing_token()).await? else { return Ok(()) };
                    store.txn(Txn::new().then(Op::delete(entry.key))).await.map(drop)
                };
                if released.await.is_ok() {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
            kept.lost().await;
        });
    })
}

/// Renews what it should revoke, where the last renewal was answered a TTL ago.
struct RenewsAfterDeadline(Shared<HashMap<LeaseId, (Duration, Instant)>>);

#[async_trait]
impl BrokenStore for RenewsAfterDeadline {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let lease = good.grant_lease(ttl).await?;
        locked(&self.0).insert(lease.id, (lease.ttl, Instant::now()));
        Ok(lease)
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        let ttl = good.keep_alive(id).await?;
        locked(&self.0).insert(id, (ttl, Instant::now()));
        Ok(ttl)
    }

    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        let known = locked(&self.0).get(&id).copied();
        match known {
            Some((ttl, renewed)) if renewed.elapsed() > ttl - ttl / 10 => good.keep_alive(id).await.map(drop),
            _ => good.revoke_lease(id).await,
        }
    }
}

struct SendsAgain;

#[async_trait]
impl BrokenStore for SendsAgain {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        match good.txn(txn.clone()).await {
            Err(error) if error.outcome() == Outcome::Unknown => good.txn(txn).await,
            answer => answer,
        }
    }
}

struct SettlesByValue;

#[async_trait]
impl BrokenProvider for SettlesByValue {
    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        match good.provider.config().set_raw(key, value.clone()).await {
            Err(error) if error.outcome() == Outcome::Unknown => match self.get(good, key).await? {
                Some(found) if found.value == value => Ok(found.version),
                _ => Err(error.with_outcome(Outcome::NotApplied)),
            },
            answer => answer,
        }
    }
}

fn needs_runtime(good: &Kept) {
    let good = Arc::clone(good);
    tokio::spawn(async move { good.release().await });
}

struct LeaseEach(AtomicU32);

#[async_trait]
impl BrokenProvider for LeaseEach {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let more = Duration::from_secs(self.0.fetch_add(1, Ordering::SeqCst).into());
        good.provider.lock().acquire_with(key, options.with_ttl(options.ttl.saturating_add(more))).await
    }
}

/// Renews for ever what it should revoke.
struct NeverRevokes;

#[async_trait]
impl BrokenStore for NeverRevokes {
    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        let good = Arc::clone(good);
        tokio::spawn(async move {
            while good.keep_alive(id).await.is_ok() {
                sleep(Duration::from_millis(500)).await;
            }
        });
        Ok(())
    }
}

struct NoSessionKey;

#[async_trait]
impl BrokenStore for NoSessionKey {
    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        let of_session = |key: &bytes::Bytes| key.starts_with(layout::SESSIONS.as_bytes());
        txn.compares.retain(|compare| !matches!(compare, Compare::Modified(key, _) if of_session(key)));
        txn.then.retain(|op| !matches!(op, Op::Put { key, .. } if of_session(key)));
        good.txn(txn).await
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<coord_api::store::LeaseInfo>> {
        let mut info = good.lease(id).await?;
        if let Some(info) = &mut info {
            info.keys.push(layout::session(id).into());
            info.keys.sort_unstable();
        }
        Ok(info)
    }
}

/// Says that it granted what was asked for.
struct Grants {
    real: fn(Duration) -> Duration,
    granted: Shared<HashMap<LeaseId, Duration>>,
}

#[async_trait]
impl BrokenStore for Grants {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let said = coord_api::store::round_ttl("store.grant_lease", ttl)?;
        let lease = good.grant_lease((self.real)(said)).await?;
        locked(&self.granted).insert(lease.id, said);
        Ok(Lease { ttl: said, ..lease })
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        let ttl = good.keep_alive(id).await?;
        Ok(locked(&self.granted).get(&id).copied().unwrap_or(ttl))
    }
}

struct RoundsDown;

#[async_trait]
impl BrokenStore for RoundsDown {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let down = if ttl.as_secs() == 0 { ttl } else { Duration::from_secs(ttl.as_secs()) };
        good.grant_lease(down).await
    }
}

/// Asks for another TTL than it was asked for.
struct Asks(fn(Duration) -> Duration);

#[async_trait]
impl BrokenProvider for Asks {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        good.provider.lock().acquire_with(key, options.with_ttl((self.0)(options.ttl))).await
    }
}

async fn unless_closed(lost: Lost) -> Loss {
    match lost.await {
        Loss::Closed => std::future::pending().await,
        loss => loss,
    }
}

struct ClosesOnce(Shared<bool>);

#[async_trait]
impl BrokenProvider for ClosesOnce {
    async fn close(&self, good: &Good) -> Result<()> {
        if std::mem::replace(&mut *locked(&self.0), true) {
            return Err(Error::closed("provider.close"));
        }
        good.provider.close().await
    }
}

struct ClosesUntilDone;

#[async_trait]
impl BrokenProvider for ClosesUntilDone {
    async fn close(&self, good: &Good) -> Result<()> {
        while good.provider.close().await.is_err() {
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}

struct ClosedIsUnavailable;

#[async_trait]
impl BrokenProvider for ClosedIsUnavailable {
    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        let config: &Arc<dyn ConfigCenter> = good.provider.config();
        config.set_raw(key, value).await.map_err(|error| match error.kind() {
            ErrorKind::Closed => Error::new(ErrorKind::Unavailable, "config.set", "not connected"),
            _ => error,
        })
    }
}
