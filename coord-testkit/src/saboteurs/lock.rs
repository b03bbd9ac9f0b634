//! What breaks locks (R25 to R33).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Change, Compare, Op, Order, Range, Span, Store, StoreEvent, StoreWatch, Txn};
use coord_api::{
    Error, ErrorKind, FencingToken, HandleState, LeaseId, LockGuard, LockOptions, Loss, Lost, Outcome, Result, Revision, Wait,
};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::handle::{BrokenHandle, EditedHandle, Guards, Kept, guard, guard_over, held_unless_released};
use super::provider::{BrokenProvider, Good};
use super::store::{self, BrokenStore, Edited};
use super::{Sabotage, Saboteur, Shared, locked};
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
    Saboteur::new("two-woken-by-one-release", "two waiters woken by one release", &["r25", "r28"], || Sabotage::client(|| WakesTwo)),
    Saboteur::new("cancelled-waiter-stays", "cancelled waiter stays in the queue", &["r29"], || Sabotage::provider(|| Detached(true))),
    Saboteur::new("renewal-dies-unsaid", "the renewal task dies and the guard still says held", &["r31", "r32"], || {
        Sabotage::client(PretendsToRenew::every_time).and_provider(|| Guards(|_: &Good, _: &LockGuard| UNLESS_RELEASED))
    }),
    Saboteur::new("never-lost-while-hanging", "never lost while the server hangs", &["r32"], || guards(LostWhenAnswered::new)),
    Saboteur::new("try-blocks", "try blocks", &["r27"], || Sabotage::provider(|| Tries(Try::Blocks(Duration::from_millis(300))))),
    Saboteur::new("try-blocks-for-long", "try blocks until the lock is free", &["r27"], || {
        Sabotage::provider(|| Tries(Try::Blocks(Duration::from_secs(60))))
    }),
    Saboteur::new("try-sleeps", "try sleeps and tries again before it says that the lock is held", &["r27"], || {
        Sabotage::provider(|| Tries(Try::Sleeps(Duration::from_millis(250))))
    }),
    Saboteur::new("try-leaves-entry", "a failed try stays in the queue for a while", &["r27"], || {
        Sabotage::provider(|| Tries(Try::StaysInLine(Duration::from_secs(1))))
    }),
    Saboteur::new("try-ignores-holder", "a try does not look whether anyone holds the lock", &["r25", "r27"], || {
        Sabotage::client(|| Edited {
            txn: Some(|mut txn| {
                txn.compares.retain(|compare| !matches!(compare, Compare::RangeAbsent(_)));
                txn
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("re-entrant", "two acquires of one key in one provider share an entry", &["r26"], || {
        Sabotage::provider(|| Shares(Shared::default()))
    }),
    Saboteur::new("nested-names-related", "`a` and `a/b` are one lock", &["r26"], || Sabotage::provider(|| FirstSegment)),
    Saboteur::new("stolen-when-held-long", "a waiter takes the lock away after a second", &["r25"], || Sabotage::provider(|| Steals)),
    Saboteur::new("polls-instead-of-queueing", "waiters poll, and whoever comes first is first", &["r28"], || Sabotage::provider(|| Polls)),
    Saboteur::new("last-come-first-served", "the waiters of a provider are served the last one first", &["r28"], || {
        Sabotage::provider(|| LastFirst(Shared::default()))
    }),
    Saboteur::new("handed-over-inside", "a hand-over inside a process writes nothing", &["r28"], || {
        Sabotage::provider(|| HandsOver(Shared::default()))
    }),
    Saboteur::new("watches-every-lock", "one watch for all locks", &["r28"], || Sabotage::client(|| WatchesAll)),
    Saboteur::new("reads-at-each-hand-over", "every event of a queue is followed by two reads", &["r28"], || Sabotage::client(|| ReadsOn)),
    Saboteur::new("timed-out-waiter-stays", "a waiter that timed out stays in the queue", &["r29"], || {
        Sabotage::provider(|| Detached(false))
    }),
    Saboteur::new("times-out-late", "an acquire times out after twice its time", &["r29"], || Sabotage::provider(|| Waits(2.0))),
    Saboteur::new("times-out-early", "an acquire times out after half its time", &["r29"], || Sabotage::provider(|| Waits(0.5))),
    Saboteur::new("cancel-needs-runtime", "a pending acquire panics when it is dropped outside of a runtime", &["r29"], || {
        Sabotage::provider(|| NeedsRuntime)
    }),
    Saboteur::new("granted-without-entry", "a waiter whose entry is gone is granted all the same", &["r30"], || {
        Sabotage::client(|| HidesRemoval(Shared::default()))
    }),
    Saboteur::new("granted-nearly-over", "a guard is handed out with a third of its TTL left", &["r30"], || {
        Sabotage::client(|| Edited { kept: Some(|kept| kept.map(|ttl| ttl * 3 / 10)), ..Edited::default() })
    }),
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

async fn late(lost: Lost) -> Loss {
    let loss = lost.await;
    sleep(Duration::from_millis(300)).await;
    loss
}

fn ok_when_lost(error: Error) -> Result<()> {
    if error.kind() == ErrorKind::LeaseLost { Ok(()) } else { Err(error) }
}

async fn acquire(good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
    good.provider.lock().acquire_with(key, options).await
}

/// Removes whoever holds the lock, whoever that is.
async fn remove_head(store: &dyn Store, key: &str) -> Result<()> {
    let oldest = Range::prefix(layout::lock_queue(key)).with_order(Order::OldestFirst).with_limit(1);
    for entry in store.range(oldest).await?.entries {
        store.txn(Txn::new().then(Op::delete(entry.key))).await?;
    }
    Ok(())
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

/// Tells of two deletions where there was one: that of the next in line, too.
struct WakesTwo;

#[async_trait]
impl BrokenStore for WakesTwo {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span.clone(), after).await?;
        if !span.start().starts_with(layout::LOCKS.as_bytes()) {
            return Ok(watch);
        }
        let (armed, good) = (watch.armed(), Arc::clone(good));
        Ok(StoreWatch::new(
            armed,
            watch.then(move |item| {
                let (good, span) = (Arc::clone(&good), span.clone());
                async move {
                    let Ok(StoreEvent::Batch(mut batch)) = item else { return item };
                    if batch.changes.iter().any(|change| matches!(change, Change::Delete { .. })) {
                        let line = good.range(Range::new(span).with_order(Order::OldestFirst).with_limit(2)).await?.entries;
                        if let [next, _] = line.as_slice() {
                            batch.changes.push(Change::Delete { key: next.key.clone() });
                        }
                    }
                    Ok(StoreEvent::Batch(batch))
                }
            }),
        ))
    }
}

/// An acquire goes on when its caller has left; where it is said to, what it then gets is kept for ever.
struct Detached(bool);

#[async_trait]
impl BrokenProvider for Detached {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let (tell, told) = oneshot::channel();
        let (good, key, kept) = (good.clone(), key.to_owned(), self.0);
        let patient = if let Wait::For(_) = options.wait { options.with_wait(Wait::Forever) } else { options };
        tokio::spawn(async move {
            if let Err(unwanted) = tell.send(acquire(&good, &key, patient).await) {
                if kept {
                    std::future::pending::<()>().await;
                }
                drop(unwanted);
            }
        });
        let answered = async { told.await.unwrap_or_else(|_| Err(Error::closed("lock.acquire"))) };
        match options.wait {
            Wait::For(limit) => tokio::time::timeout(limit, answered)
                .await
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "lock.acquire", "it was not free in time"))),
            _ => answered.await,
        }
    }
}

/// Says that leases were renewed, and sends nothing, or not each time.
pub(super) struct PretendsToRenew {
    granted: Shared<HashMap<LeaseId, (Duration, u32)>>,
    sent_every: u32,
}

impl PretendsToRenew {
    pub(super) fn every_time() -> Self {
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

/// What a try does when it finds the lock held.
#[derive(Clone, Copy)]
enum Try {
    Blocks(Duration),
    Sleeps(Duration),
    StaysInLine(Duration),
}

struct Tries(Try);

#[async_trait]
impl BrokenProvider for Tries {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let tried = acquire(good, key, options).await;
        if options.wait != Wait::Never || !tried.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict) {
            return tried;
        }
        match self.0 {
            Try::Blocks(limit) => acquire(good, key, options.with_wait(Wait::For(limit))).await.or(tried),
            Try::Sleeps(pause) => {
                sleep(pause).await;
                acquire(good, key, options).await
            }
            Try::StaysInLine(limit) => {
                let (good, key) = (good.clone(), key.to_owned());
                tokio::spawn(async move { acquire(&good, &key, options.with_wait(Wait::For(limit))).await.map(drop) });
                sleep(Duration::from_millis(1)).await;
                tried
            }
        }
    }
}

/// The locks that this provider holds, each shared by all who ask for it.
struct Shares(Shared<HashMap<String, std::sync::Weak<Kept>>>);

struct SharedGuard(Arc<Kept>);

impl BrokenHandle for SharedGuard {
    fn state(&self, _: &Arc<Kept>) -> HandleState {
        self.0.state()
    }
}

#[async_trait]
impl BrokenProvider for Shares {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let held = locked(&self.0).get(key).and_then(std::sync::Weak::upgrade).filter(|held| held.state().is_held());
        let held = match held {
            Some(held) => held,
            None => Arc::new(Kept::Guard(acquire(good, key, options).await?)),
        };
        locked(&self.0).insert(key.to_owned(), Arc::downgrade(&held));
        Ok(guard_over(key, Arc::clone(&held), SharedGuard(held)))
    }
}

struct FirstSegment;

#[async_trait]
impl BrokenProvider for FirstSegment {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let first = key.trim_start_matches('/').split('/').next().unwrap_or(key);
        acquire(good, first, options).await
    }
}

struct Steals;

#[async_trait]
impl BrokenProvider for Steals {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        if options.wait != Wait::Forever {
            return acquire(good, key, options).await;
        }
        loop {
            match acquire(good, key, options.with_wait(Wait::For(Duration::from_secs(1)))).await {
                Err(error) if error.kind() == ErrorKind::Timeout => remove_head(&*good.store, key).await?,
                answer => return answer,
            }
        }
    }
}

struct Polls;

#[async_trait]
impl BrokenProvider for Polls {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        loop {
            match acquire(good, key, options.with_wait(Wait::Never)).await {
                Err(error) if error.kind() == ErrorKind::Conflict && options.wait == Wait::Forever => {
                    sleep(Duration::from_secs(1)).await;
                }
                answer => return answer,
            }
        }
    }
}

type Waiters<T> = Shared<HashMap<String, Vec<oneshot::Sender<T>>>>;

/// Whoever asked last gets what comes next.
struct LastFirst(Waiters<Result<LockGuard>>);

#[async_trait]
impl BrokenProvider for LastFirst {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        if options.wait != Wait::Forever {
            return acquire(good, key, options).await;
        }
        let (tell, told) = oneshot::channel();
        locked(&self.0).entry(key.to_owned()).or_default().push(tell);
        let (good, key, waiters) = (good.clone(), key.to_owned(), Arc::clone(&self.0));
        tokio::spawn(async move {
            let granted = acquire(&good, &key, options).await;
            let newest = locked(&waiters).get_mut(&key).and_then(Vec::pop);
            newest.map(|newest| newest.send(granted))
        });
        told.await.unwrap_or_else(|_| Err(Error::closed("lock.acquire")))
    }
}

/// Passes a lock on to the next of the same provider, and tells the store nothing of it.
struct HandsOver(Waiters<Arc<Kept>>);

struct HandedOver {
    key: String,
    waiters: Waiters<Arc<Kept>>,
    over: AtomicBool,
}

#[async_trait]
impl BrokenHandle for HandedOver {
    fn state(&self, good: &Arc<Kept>) -> HandleState {
        if self.over.load(Ordering::SeqCst) { HandleState::Ended(Loss::Released) } else { good.state() }
    }

    async fn release(&self, good: &Arc<Kept>) -> Result<()> {
        self.over.store(true, Ordering::SeqCst);
        let next = locked(&self.waiters).get_mut(&self.key).and_then(|waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            (!waiters.is_empty()).then(|| waiters.remove(0))
        });
        match next.map(|next| next.send(Arc::clone(good))) {
            Some(Ok(())) => Ok(()),
            _ => good.release().await,
        }
    }
}

#[async_trait]
impl BrokenProvider for HandsOver {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let (tell, told) = oneshot::channel();
        locked(&self.0).entry(key.to_owned()).or_default().push(tell);
        let granted = tokio::select! {
            biased;
            granted = acquire(good, key, options) => Arc::new(Kept::Guard(granted?)),
            Ok(granted) = told => granted,
        };
        let broken = HandedOver { key: key.to_owned(), waiters: Arc::clone(&self.0), over: AtomicBool::new(false) };
        Ok(guard_over(key, granted, broken))
    }
}

struct WatchesAll;

#[async_trait]
impl BrokenStore for WatchesAll {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        if !span.start().starts_with(layout::LOCKS.as_bytes()) {
            return good.watch(span, after).await;
        }
        let watch = good.watch(Span::prefix(layout::LOCKS), after).await?;
        Ok(store::mapped(watch, move |item| match item {
            Ok(event) => {
                store::changes(event, |changes| changes.retain(|change| span.contains(change.key()))).into_iter().map(Ok).collect()
            }
            Err(error) => vec![Err(error)],
        }))
    }
}

struct ReadsOn;

#[async_trait]
impl BrokenStore for ReadsOn {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let (watch, good) = (good.watch(span.clone(), after).await?, Arc::clone(good));
        let armed = watch.armed();
        Ok(StoreWatch::new(
            armed,
            watch.then(move |item| {
                let (good, span) = (Arc::clone(&good), span.clone());
                async move {
                    good.range(Range::new(span.clone())).await?;
                    good.range(Range::new(span)).await?;
                    item
                }
            }),
        ))
    }
}

/// Waits for so many times as long as it was asked to.
struct Waits(f64);

#[async_trait]
impl BrokenProvider for Waits {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let wait = if let Wait::For(limit) = options.wait { Wait::For(limit.mul_f64(self.0)) } else { options.wait };
        acquire(good, key, options.with_wait(wait)).await
    }
}

struct NeedsRuntime;

/// Spawns what is to be cleared up.
struct ClearsUp;

impl Drop for ClearsUp {
    fn drop(&mut self) {
        tokio::spawn(async {});
    }
}

#[async_trait]
impl BrokenProvider for NeedsRuntime {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let _clears_up = ClearsUp;
        acquire(good, key, options).await
    }
}

/// The leases of this client, of whose entries in a queue it does not hear that they were removed.
struct HidesRemoval(Shared<Vec<String>>);

#[async_trait]
impl BrokenStore for HidesRemoval {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<coord_api::store::Lease> {
        let lease = good.grant_lease(ttl).await?;
        locked(&self.0).push(format!("/{}-", lease.id));
        Ok(lease)
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let own = Arc::clone(&self.0);
        let is_own = move |change: &Change| {
            let key = String::from_utf8_lossy(change.key());
            matches!(change, Change::Delete { .. }) && locked(&own).iter().any(|lease| key.contains(lease))
        };
        Ok(store::mapped(good.watch(span, after).await?, move |item| match item {
            Ok(event) => store::changes(event, |changes| changes.retain(|change| !is_own(change))).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }))
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
