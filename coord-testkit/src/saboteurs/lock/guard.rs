//! What breaks a guard: its token, its renewal, its loss, its release (R25, R31 to R33).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{Error, ErrorKind, FencingToken, HandleState, LeaseId, LockGuard, LockOptions, Loss, Lost, Outcome, Result};
use tokio::time::{Instant, sleep};

use super::super::handle::{BrokenHandle, EditedHandle, Guards, Kept, guard, guard_over, held_unless_released};
use super::super::provider::{BrokenProvider, Good};
use super::super::store::BrokenStore;
use super::super::{Sabotage, Saboteur, Shared, locked};
use super::{acquire, remove_head};
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("unlock-asks-for-no-owner", "unlock asks for no owner", &["r33"], || {
        guards(|good, guard| UnlocksHead::new(good, guard, 0))
    }),
    Saboteur::new("second-unlock-frees-next", "an old guard's second unlock frees the next holder", &["r33"], || {
        guards(|good, guard| UnlocksHead::new(good, guard, 1))
    }),
    Saboteur::new("token-constant", "token constant or restarted", &["r25"], || {
        edits(EditedHandle { token: Some(|_| FencingToken::new(1)), ..none() })
    }),
    Saboteur::new("token-restarted", "token constant or restarted", &["r25"], || {
        Sabotage::provider(|| {
            let granted = Arc::new(AtomicU64::new(0));
            Guards(move |_: &Good, _: &LockGuard| Numbered(FencingToken::new(granted.fetch_add(1, Ordering::SeqCst) + 1)))
        })
    }),
    Saboteur::new("renewal-dies-unsaid", "the renewal task dies and the guard still says held", &["r31", "r32"], || {
        Sabotage::client(PretendsToRenew::every_time).and_provider(|| Guards(|_: &Good, _: &LockGuard| UNLESS_RELEASED))
    }),
    Saboteur::new("dies-with-its-runtime", "a lock is lost with the runtime that acquired it", &["r31"], || {
        guards(|_, _| DiesWithItsRuntime(tokio::spawn(std::future::pending())))
    }),
    Saboteur::new("never-lost-while-hanging", "never lost while the server hangs", &["r32"], || guards(LostWhenAnswered::new)),
    Saboteur::new("renewed-late", "only every third renewal is sent", &["r31"], || Sabotage::client(PretendsToRenew::two_of_three)),
    Saboteur::new("held-by-a-flag", "is_held reads what a task has set, not the clock", &["r32"], || guards(|_, guard| ByFlag::new(guard))),
    Saboteur::new("lost-never-fires", "lost() never fires", &["r32"], || {
        edits(EditedHandle { lost: Some(|_| Lost::new(std::future::pending())), ..none() })
    }),
    Saboteur::new("lost-fires-late", "lost() fires 300 ms late", &["r32"], || {
        edits(EditedHandle { lost: Some(|lost| Lost::new(late(lost))), ..none() })
    }),
    Saboteur::new("held-again", "a lost guard is held again after a while", &["r32"], || guards(|_, _| HeldAgain(Shared::default()))),
    Saboteur::new("loss-unlocks-fine", "unlocking what was lost is Ok", &["r33"], || {
        edits(EditedHandle { released: Some(|released| released.or_else(ok_when_lost)), ..none() })
    }),
    Saboteur::new("failed-unlock-not-applied", "a failed unlock is said not to be applied", &["r33"], || {
        edits(EditedHandle { released: Some(|released| released.map_err(|error| error.with_outcome(Outcome::NotApplied))), ..none() })
    }),
    Saboteur::new("failed-unlock-still-held", "a guard is held until its unlock succeeded", &["r33"], || {
        guards(|_, _| HeldUntilUnlocked(AtomicBool::new(false)))
    }),
    Saboteur::new("unlocks-later", "unlock returns before the lock is free", &["r33"], || guards(|_, _| UnlocksLater)),
    Saboteur::new("ttl-is-constant", "ttl() is the granted TTL, whatever is left of it", &["r33"], || Sabotage::provider(|| ConstantTtl)),
    Saboteur::new("key-is-the-stores", "key() is the key in the store", &["r33"], || Sabotage::provider(|| StoresKey)),
];

const UNLESS_RELEASED: EditedHandle = EditedHandle { state: Some(held_unless_released), ..none() };

const fn none() -> EditedHandle {
    EditedHandle { token: None, state: None, ttl: None, lost: None, released: None }
}

fn edits(edited: EditedHandle) -> Sabotage {
    Sabotage::provider(move || Guards(move |_: &Good, _: &LockGuard| edited))
}

fn guards<B: BrokenHandle>(make: fn(&Good, &LockGuard) -> B) -> Sabotage {
    Sabotage::provider(move || Guards(make))
}

fn ok_when_lost(error: Error) -> Result<()> {
    if error.kind() == ErrorKind::LeaseLost { Ok(()) } else { Err(error) }
}

/// Unlocks whatever is locked, from the given call on.
struct UnlocksHead {
    good: Good,
    key: String,
    still_right: AtomicU64,
}

impl UnlocksHead {
    fn new(good: &Good, guard: &LockGuard, still_right: u64) -> Self {
        UnlocksHead { good: good.clone(), key: guard.key().to_owned(), still_right: AtomicU64::new(still_right) }
    }
}

#[async_trait]
impl BrokenHandle for UnlocksHead {
    async fn release(&self, good: &Arc<Kept>) -> Result<()> {
        if self.still_right.load(Ordering::SeqCst) == 0 {
            remove_head(&*self.good.store, &self.key).await?;
            let _ = good.release().await;
            return Ok(());
        }
        self.still_right.fetch_sub(1, Ordering::SeqCst);
        good.release().await
    }
}

struct Numbered(FencingToken);

impl BrokenHandle for Numbered {
    fn fencing_token(&self, _: &Arc<Kept>) -> FencingToken {
        self.0
    }
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
struct DiesWithItsRuntime(tokio::task::JoinHandle<()>);

impl BrokenHandle for DiesWithItsRuntime {
    fn state(&self, good: &Arc<Kept>) -> HandleState {
        if self.0.is_finished() { HandleState::Ended(Loss::Expired) } else { good.state() }
    }

    fn dropped(&self, _: &Arc<Kept>) {
        self.0.abort();
    }
}

/// Believes in the lock until the store has answered once more.
struct LostWhenAnswered {
    good: Good,
    answered: Arc<AtomicBool>,
}

impl LostWhenAnswered {
    fn new(good: &Good, guard: &LockGuard) -> Self {
        let broken = LostWhenAnswered { good: good.clone(), answered: Arc::default() };
        let (lost, store, answered) = (guard.lost(), Arc::clone(&good.store), Arc::clone(&broken.answered));
        tokio::spawn(async move {
            lost.await;
            let _ = store.status().await;
            answered.store(true, Ordering::SeqCst);
        });
        broken
    }
}

impl BrokenHandle for LostWhenAnswered {
    fn state(&self, good: &Arc<Kept>) -> HandleState {
        match good.state() {
            HandleState::Ended(Loss::Expired) if !self.answered.load(Ordering::SeqCst) => HandleState::Held,
            state => state,
        }
    }

    fn lost(&self, good: &Arc<Kept>) -> Lost {
        let (lost, store) = (good.lost(), Arc::clone(&self.good.store));
        Lost::new(async move {
            let loss = lost.await;
            let _ = store.status().await;
            loss
        })
    }
}

struct ByFlag(Shared<Option<Loss>>);

impl ByFlag {
    fn new(guard: &LockGuard) -> Self {
        let (flag, lost) = (Shared::default(), guard.lost());
        let set = Arc::clone(&flag);
        tokio::spawn(async move { *locked(&set) = Some(lost.await) });
        ByFlag(flag)
    }
}

impl BrokenHandle for ByFlag {
    fn state(&self, _: &Arc<Kept>) -> HandleState {
        locked(&self.0).map_or(HandleState::Held, HandleState::Ended)
    }
}

struct HeldAgain(Shared<Option<Instant>>);

impl BrokenHandle for HeldAgain {
    fn state(&self, good: &Arc<Kept>) -> HandleState {
        let state = good.state();
        if state.is_held() {
            return state;
        }
        let lost = *locked(&self.0).get_or_insert_with(Instant::now);
        if lost.elapsed() > Duration::from_secs(2) { held_unless_released(state) } else { state }
    }
}

struct HeldUntilUnlocked(AtomicBool);

#[async_trait]
impl BrokenHandle for HeldUntilUnlocked {
    fn state(&self, good: &Arc<Kept>) -> HandleState {
        if self.0.load(Ordering::SeqCst) { HandleState::Held } else { good.state() }
    }

    async fn release(&self, good: &Arc<Kept>) -> Result<()> {
        let released = good.release().await;
        self.0.store(released.as_ref().is_err_and(Error::is_transient), Ordering::SeqCst);
        released
    }
}

struct UnlocksLater;

#[async_trait]
impl BrokenHandle for UnlocksLater {
    async fn release(&self, good: &Arc<Kept>) -> Result<()> {
        let good = Arc::clone(good);
        tokio::spawn(async move {
            sleep(Duration::from_millis(5)).await;
            good.release().await
        });
        Ok(())
    }
}

struct ConstantTtl;

struct Ttl(Duration);

impl BrokenHandle for Ttl {
    fn ttl(&self, good: &Arc<Kept>) -> Duration {
        if good.state().is_held() { self.0 } else { Duration::ZERO }
    }
}

#[async_trait]
impl BrokenProvider for ConstantTtl {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        Ok(guard(acquire(good, key, options).await?, Ttl(options.ttl)))
    }
}

struct StoresKey;

#[async_trait]
impl BrokenProvider for StoresKey {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let inner = Arc::new(Kept::Guard(acquire(good, key, options).await?));
        Ok(guard_over(&layout::lock_queue(key), inner, none()))
    }
}

async fn late(lost: Lost) -> Loss {
    let loss = lost.await;
    sleep(Duration::from_millis(300)).await;
    loss
}
