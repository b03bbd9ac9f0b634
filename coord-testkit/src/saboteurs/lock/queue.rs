//! What breaks acquiring: the queue, tries, waits, cancels (R25 to R30).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Change, Compare, Order, Range, Span, Store, StoreEvent, StoreWatch};
use coord_api::{Error, ErrorKind, HandleState, LockGuard, LockOptions, Loss, Result, Revision, Wait};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::super::handle::{Hooks, Kept, guard_over, hooks};
use super::super::provider::{BrokenProvider, Good};
use super::super::store::{self, BrokenStore, Edited};
use super::super::{Sabotage, Saboteur, Shared, locked};
use super::{acquire, remove_head};
use crate::handle::Handle;
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("two-woken-by-one-release", "two waiters woken by one release", &["r25", "r28"], || {
        Sabotage::client(|| WakesTwo)
    }),
    Saboteur::new("cancelled-waiter-stays", "cancelled waiter stays in the queue", &["r29"], || {
        Sabotage::provider(|| Detached(true))
    }),
    Saboteur::new("try-blocks", "try blocks", &["r27"], || {
        Sabotage::provider(|| Tries(Try::Blocks(Duration::from_millis(300))))
    }),
    Saboteur::new("try-blocks-for-long", "try blocks until the lock is free", &["r27"], || {
        Sabotage::provider(|| Tries(Try::Blocks(Duration::from_secs(60))))
    }),
    Saboteur::new(
        "try-sleeps",
        "try sleeps and tries again before it says that the lock is held",
        &["r27"],
        || Sabotage::provider(|| Tries(Try::Sleeps(Duration::from_millis(250)))),
    ),
    Saboteur::new("try-leaves-entry", "a failed try stays in the queue for a while", &["r27"], || {
        Sabotage::provider(|| Tries(Try::StaysInLine(Duration::from_secs(1))))
    }),
    Saboteur::new(
        "try-ignores-holder",
        "a try does not look whether anyone holds the lock",
        &["r25", "r27"],
        || {
            Sabotage::client(|| Edited {
                txn: Some(|mut txn| {
                    txn.compares.retain(|compare| !matches!(compare, Compare::RangeAbsent(_)));
                    txn
                }),
                ..Edited::default()
            })
        },
    ),
    Saboteur::new("re-entrant", "two acquires of one key in one provider share an entry", &["r26"], || {
        Sabotage::provider(|| Shares(Shared::default()))
    }),
    Saboteur::new("nested-names-related", "`a` and `a/b` are one lock", &["r26"], || {
        Sabotage::provider(|| FirstSegment)
    }),
    Saboteur::new("stolen-when-held-long", "a waiter takes the lock away after a second", &["r25"], || {
        Sabotage::provider(|| Steals)
    }),
    Saboteur::new(
        "polls-instead-of-queueing",
        "waiters poll, and whoever comes first is first",
        &["r28"],
        || Sabotage::provider(|| Polls),
    ),
    Saboteur::new(
        "last-come-first-served",
        "the waiters of a provider are served the last one first",
        &["r28"],
        || Sabotage::provider(|| LastFirst(Shared::default())),
    ),
    Saboteur::new("handed-over-inside", "a hand-over inside a process writes nothing", &["r28"], || {
        Sabotage::provider(|| HandsOver(Shared::default()))
    }),
    Saboteur::new("watches-every-lock", "one watch for all locks", &["r28"], || {
        Sabotage::client(|| WatchesAll)
    }),
    Saboteur::new(
        "reads-at-each-hand-over",
        "every event of a queue is followed by two reads",
        &["r28"],
        || Sabotage::client(|| ReadsOn),
    ),
    Saboteur::new("timed-out-waiter-stays", "a waiter that timed out stays in the queue", &["r29"], || {
        Sabotage::provider(|| Detached(false))
    }),
    Saboteur::new("times-out-late", "an acquire times out after twice its time", &["r29"], || {
        Sabotage::provider(|| Waits(2.0))
    }),
    Saboteur::new(
        "no-time-no-lock",
        "without time to wait, what is free is not had either",
        &["r28"],
        || Sabotage::provider(|| NeedsTime),
    ),
    Saboteur::new("times-out-early", "an acquire times out after half its time", &["r29"], || {
        Sabotage::provider(|| Waits(0.5))
    }),
    Saboteur::new(
        "cancel-needs-runtime",
        "a pending acquire panics when it is dropped outside of a runtime",
        &["r29"],
        || Sabotage::provider(|| NeedsRuntime),
    ),
    Saboteur::new(
        "granted-without-entry",
        "a waiter whose entry is gone is granted all the same",
        &["r30"],
        || Sabotage::client(|| HidesRemoval(Shared::default())),
    ),
    Saboteur::new(
        "granted-nearly-over",
        "a guard is handed out with a third of its TTL left",
        &["r30"],
        || {
            Sabotage::client(|| Edited {
                kept: Some(|kept| kept.map(|ttl| ttl * 3 / 10)),
                ..Edited::default()
            })
        },
    ),
];

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
                        let line = good
                            .range(Range::new(span).with_order(Order::OldestFirst).with_limit(2))
                            .await?
                            .entries;
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

/// An acquire goes on when its caller has left; where it is said to, what it then gets is kept for
/// ever.
struct Detached(bool);

#[async_trait]
impl BrokenProvider for Detached {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let (tell, told) = oneshot::channel();
        let (good, key, kept) = (good.clone(), key.to_owned(), self.0);
        let patient =
            if let Wait::For(_) = options.wait { options.with_wait(Wait::Forever) } else { options };
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
            Wait::For(limit) => tokio::time::timeout(limit, answered).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Timeout, "lock.acquire", "it was not free in time"))
            }),
            _ => answered.await,
        }
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
        if options.wait != Wait::Never
            || !tried.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict)
        {
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
                tokio::spawn(async move {
                    acquire(&good, &key, options.with_wait(Wait::For(limit))).await.map(drop)
                });
                sleep(Duration::from_millis(1)).await;
                tried
            }
        }
    }
}

/// The locks that this provider holds, each shared by all who ask for it.
struct Shares(Shared<HashMap<String, std::sync::Weak<dyn Handle>>>);

#[async_trait]
impl BrokenProvider for Shares {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let held =
            locked(&self.0).get(key).and_then(std::sync::Weak::upgrade).filter(|held| held.state().is_held());
        let held: Kept = match held {
            Some(held) => held,
            None => Arc::new(acquire(good, key, options).await?),
        };
        locked(&self.0).insert(key.to_owned(), Arc::downgrade(&held));
        Ok(guard_over(key, held, hooks()))
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
struct HandsOver(Waiters<Kept>);

fn handed_over(key: &str, waiters: &Waiters<Kept>) -> Hooks {
    let (key, waiters, over) = (key.to_owned(), Arc::clone(waiters), Arc::new(AtomicBool::new(false)));
    let is_over = Arc::clone(&over);
    hooks()
        .state(
            move |good| {
                if is_over.load(Ordering::SeqCst) { HandleState::Ended(Loss::Released) } else { good.state() }
            },
        )
        .release(move |good| {
            over.store(true, Ordering::SeqCst);
            let next = locked(&waiters).get_mut(&key).and_then(|waiters| {
                waiters.retain(|waiter| !waiter.is_closed());
                (!waiters.is_empty()).then(|| waiters.remove(0))
            });
            let passed_on = next.is_some_and(|next| next.send(Arc::clone(&good)).is_ok());
            async move { if passed_on { Ok(()) } else { good.release().await } }
        })
}

#[async_trait]
impl BrokenProvider for HandsOver {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let (tell, told) = oneshot::channel();
        locked(&self.0).entry(key.to_owned()).or_default().push(tell);
        let granted = tokio::select! {
            biased;
            granted = acquire(good, key, options) => Arc::new(granted?) as Kept,
            Ok(granted) = told => granted,
        };
        Ok(guard_over(key, granted, handed_over(key, &self.0)))
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
                store::changes(event, |changes| changes.retain(|change| span.contains(change.key())))
                    .into_iter()
                    .map(Ok)
                    .collect()
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
        let wait =
            if let Wait::For(limit) = options.wait { Wait::For(limit.mul_f64(self.0)) } else { options.wait };
        acquire(good, key, options.with_wait(wait)).await
    }
}

/// Gives up at once where there is no time to wait.
struct NeedsTime;

#[async_trait]
impl BrokenProvider for NeedsTime {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        match options.wait {
            Wait::For(Duration::ZERO) => {
                Err(Error::new(ErrorKind::Timeout, "lock.acquire", "it was not free in time"))
            }
            _ => acquire(good, key, options).await,
        }
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
            Ok(event) => store::changes(event, |changes| changes.retain(|change| !is_own(change)))
                .into_iter()
                .map(Ok)
                .collect(),
            Err(error) => vec![Err(error)],
        }))
    }
}
