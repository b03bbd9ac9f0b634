//! What breaks a guard: its token, its renewal, its loss, its release (R25, R31 to R33).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{
    Error, ErrorKind, FencingToken, HandleState, LeaseId, LockGuard, LockOptions, Loss, Lost, Outcome, Result,
};
use tokio::time::{Instant, sleep};

use super::super::handle::{
    Guards, Hooks, counts_from_one, guard, guard_over, held_unless_released, hooks, releases_later,
    says_of_release,
};
use super::super::provider::{BrokenProvider, Good};
use super::super::store::BrokenStore;
use super::super::{Sabotage, Saboteur, Shared, locked};
use super::{acquire, remove_head};
use crate::handle::IsHeld as _;
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("unlock-asks-for-no-owner", "unlock asks for no owner", &["r33"], || {
        guards(|good, guard| unlocks_head(good, guard, 0))
    }),
    Saboteur::new(
        "second-unlock-frees-next",
        "an old guard's second unlock frees the next holder",
        &["r33"],
        || guards(|good, guard| unlocks_head(good, guard, 1)),
    ),
    Saboteur::new("token-constant", "token constant or restarted", &["r25"], || {
        guards(|_, _| hooks().token(|_| FencingToken::new(1)))
    }),
    Saboteur::new("token-restarted", "token constant or restarted", &["r25"], || {
        Sabotage::provider(|| {
            let numbered = counts_from_one();
            Guards(move |_: &Good, _: &LockGuard| numbered())
        })
    }),
    Saboteur::new(
        "renewal-dies-unsaid",
        "the renewal task dies and the guard still says held",
        &["r31", "r32"],
        || {
            Sabotage::client(PretendsToRenew::every_time).and_provider(|| {
                Guards(|_: &Good, _: &LockGuard| hooks().state(|good| held_unless_released(good.state())))
            })
        },
    ),
    Saboteur::new(
        "dies-with-its-runtime",
        "a lock is lost with the runtime that acquired it",
        &["r31"],
        || guards(|_, _| dies_with_its_runtime()),
    ),
    Saboteur::new("never-lost-while-hanging", "never lost while the server hangs", &["r32"], || {
        guards(lost_when_answered)
    }),
    Saboteur::new("renewed-late", "only every third renewal is sent", &["r31"], || {
        Sabotage::client(PretendsToRenew::two_of_three)
    }),
    Saboteur::new("held-by-a-flag", "is_held reads what a task has set, not the clock", &["r32"], || {
        guards(by_flag)
    }),
    Saboteur::new("lost-never-fires", "lost() never fires", &["r32"], || {
        guards(|_, _| hooks().lost(|_| std::future::pending()))
    }),
    Saboteur::new("lost-fires-late", "lost() fires 300 ms late", &["r32"], || {
        guards(|_, _| hooks().lost(|good| late(good.lost())))
    }),
    Saboteur::new("held-again", "a lost guard is held again after a while", &["r32"], || {
        guards(|_, _| held_again())
    }),
    Saboteur::new("loss-unlocks-fine", "unlocking what was lost is Ok", &["r33"], || {
        guards(|_, _| says_of_release(|said| said.or_else(ok_when_lost)))
    }),
    Saboteur::new("failed-unlock-not-applied", "a failed unlock is said not to be applied", &["r33"], || {
        guards(|_, _| says_of_release(|said| said.map_err(|error| error.with_outcome(Outcome::NotApplied))))
    }),
    Saboteur::new("failed-unlock-still-held", "a guard is held until its unlock succeeded", &["r33"], || {
        guards(|_, _| held_until_unlocked())
    }),
    Saboteur::new("unlocks-later", "unlock returns before the lock is free", &["r33"], || {
        guards(|_, _| releases_later())
    }),
    Saboteur::new("ttl-is-constant", "ttl() is the granted TTL, whatever is left of it", &["r33"], || {
        Sabotage::provider(|| ConstantTtl)
    }),
    Saboteur::new("key-is-the-stores", "key() is the key in the store", &["r33"], || {
        Sabotage::provider(|| StoresKey)
    }),
];

fn guards(make: fn(&Good, &LockGuard) -> Hooks) -> Sabotage {
    Sabotage::provider(move || Guards(make))
}

fn ok_when_lost(error: Error) -> Result<()> {
    if error.kind() == ErrorKind::LeaseLost { Ok(()) } else { Err(error) }
}

/// Unlocks whatever is locked, after so many calls that are right.
fn unlocks_head(good: &Good, guard: &LockGuard, right: u64) -> Hooks {
    let (store, key, calls) = (Arc::clone(&good.store), guard.key().to_owned(), AtomicU64::new(0));
    hooks().release(move |good| {
        let (store, key, is_right) =
            (Arc::clone(&store), key.clone(), calls.fetch_add(1, Ordering::SeqCst) < right);
        async move {
            if is_right {
                return good.release().await;
            }
            remove_head(&*store, &key).await?;
            let _ = good.release().await;
            Ok(())
        }
    })
}

/// Says that leases were renewed, and sends nothing, or not each time.
pub(in crate::saboteurs) struct PretendsToRenew {
    granted: Shared<HashMap<LeaseId, (Duration, u32)>>,
    sent_every: u32,
}

impl PretendsToRenew {
    pub(in crate::saboteurs) fn every_time() -> Self {
        PretendsToRenew { granted: Shared::default(), sent_every: u32::MAX }
    }

    fn two_of_three() -> Self {
        PretendsToRenew { granted: Shared::default(), sent_every: 3 }
    }
}

#[async_trait]
impl BrokenStore for PretendsToRenew {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<coord_api::store::Lease> {
        let lease = good.grant_lease(ttl).await?;
        locked(&self.granted).insert(lease.id, (lease.ttl, 0));
        Ok(lease)
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        let (ttl, asked) = {
            let mut granted = locked(&self.granted);
            let known = granted.entry(id).or_default();
            known.1 += 1;
            *known
        };
        if asked % self.sent_every == 0 { good.keep_alive(id).await } else { Ok(ttl) }
    }
}

/// Is held for as long as a task of the runtime that acquired it lives.
fn dies_with_its_runtime() -> Hooks {
    let task = tokio::spawn(std::future::pending::<()>());
    let end = task.abort_handle();
    hooks()
        .state(move |good| if task.is_finished() { HandleState::Ended(Loss::Expired) } else { good.state() })
        .dropped(move |_| end.abort())
}

/// Believes in the lock until the store has answered once more.
fn lost_when_answered(good: &Good, guard: &LockGuard) -> Hooks {
    let (store, answered) = (Arc::clone(&good.store), Arc::new(AtomicBool::new(false)));
    let (lost, asked, tell) = (guard.lost(), Arc::clone(&store), Arc::clone(&answered));
    tokio::spawn(async move {
        lost.await;
        let _ = asked.status().await;
        tell.store(true, Ordering::SeqCst);
    });
    hooks()
        .state(move |good| match good.state() {
            HandleState::Ended(Loss::Expired) if !answered.load(Ordering::SeqCst) => HandleState::Held,
            state => state,
        })
        .lost(move |good| {
            let (lost, store) = (good.lost(), Arc::clone(&store));
            async move {
                let loss = lost.await;
                let _ = store.status().await;
                loss
            }
        })
}

fn by_flag(_: &Good, guard: &LockGuard) -> Hooks {
    let (flag, lost) = (Shared::<Option<Loss>>::default(), guard.lost());
    let set = Arc::clone(&flag);
    tokio::spawn(async move { *locked(&set) = Some(lost.await) });
    hooks().state(move |_| locked(&flag).map_or(HandleState::Held, HandleState::Ended))
}

fn held_again() -> Hooks {
    let lost = Shared::<Option<Instant>>::default();
    hooks().state(move |good| {
        let state = good.state();
        if state.is_held() {
            return state;
        }
        let lost = *locked(&lost).get_or_insert_with(Instant::now);
        if lost.elapsed() > Duration::from_secs(2) { held_unless_released(state) } else { state }
    })
}

fn held_until_unlocked() -> Hooks {
    let failed = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&failed);
    hooks()
        .state(move |good| if failed.load(Ordering::SeqCst) { HandleState::Held } else { good.state() })
        .release(move |good| {
            let fails = Arc::clone(&fails);
            async move {
                let released = good.release().await;
                fails.store(released.as_ref().is_err_and(Error::is_transient), Ordering::SeqCst);
                released
            }
        })
}

struct ConstantTtl;

#[async_trait]
impl BrokenProvider for ConstantTtl {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let granted = options.ttl;
        let ttl = hooks().ttl(move |good| if good.is_held() { granted } else { Duration::ZERO });
        Ok(guard(acquire(good, key, options).await?, ttl))
    }
}

struct StoresKey;

#[async_trait]
impl BrokenProvider for StoresKey {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let inner = Arc::new(acquire(good, key, options).await?);
        Ok(guard_over(&layout::lock_queue(key), inner, hooks()))
    }
}

async fn late(lost: Lost) -> Loss {
    let loss = lost.await;
    sleep(Duration::from_millis(300)).await;
    loss
}
