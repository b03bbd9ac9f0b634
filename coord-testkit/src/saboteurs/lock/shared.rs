//! What breaks shared locks (R45 to R47).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Op, Order, Range, Txn};
use coord_api::{FencingToken, LockGuard, LockMode, LockOptions, Result, Wait};
use tokio::time::sleep;

use super::super::handle::{Guards, Hooks, guard, hooks};
use super::super::provider::{BrokenProvider, Good};
use super::super::{Sabotage, Saboteur};
use super::acquire;
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("mode-ignored", "every lock is exclusive, whatever was asked for", &["r45"], || {
        Sabotage::provider(|| Mode(LockMode::Exclusive))
    }),
    Saboteur::new("all-shared", "every lock is shared, whatever was asked for", &["r25", "r45"], || {
        Sabotage::provider(|| Mode(LockMode::Shared))
    }),
    Saboteur::new("reader-overtakes-writer", "a reader overtakes a writer that waits", &["r45"], || {
        Sabotage::provider(|| Overtakes)
    }),
    Saboteur::new("shared-try-waits", "a shared try waits for a moment", &["r45"], || {
        Sabotage::provider(|| Patient)
    }),
    Saboteur::new("says-exclusive", "a shared guard says that it is exclusive", &["r45", "r46"], || {
        guards(|_, _| hooks().mode(|_| LockMode::Exclusive))
    }),
    Saboteur::new("downgrade-does-nothing", "downgrade says Ok and writes nothing", &["r46"], || {
        guards(|_, _| hooks().mode(|_| LockMode::Shared).downgrade(|_| async { Ok(()) }))
    }),
    Saboteur::new("downgrade-unlocks", "downgrade lets the next writer in", &["r46"], || {
        guards(|_, _| hooks().downgrade(|good| async move { good.release().await }))
    }),
    Saboteur::new(
        "downgrade-removes-the-entry",
        "downgrade removes the entry and keeps the guard",
        &["r46"],
        || guards(removes),
    ),
    Saboteur::new("downgrade-says-too-little", "a lost guard is downgraded and says Ok", &["r46"], || {
        guards(|_, _| {
            hooks().downgrade(|good| async move {
                let _ = good.downgrade().await;
                Ok(())
            })
        })
    }),
    Saboteur::new("downgrade-repeats", "a shared guard is downgraded by a request", &["r46"], || {
        guards(asks_again)
    }),
    Saboteur::new("shared-tokens-constant", "shared guards have the token 1", &["r47"], || {
        guards(|_, good| {
            let shared = good.mode() == LockMode::Shared;
            if shared { hooks().token(|_| FencingToken::new(1)) } else { hooks() }
        })
    }),
];

fn guards(make: fn(&Good, &LockGuard) -> Hooks) -> Sabotage {
    Sabotage::provider(move || Guards(make))
}

/// Acquires in one mode only.
struct Mode(LockMode);

#[async_trait]
impl BrokenProvider for Mode {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        acquire(good, key, options.with_mode(self.0)).await
    }
}

/// Removes the entry of a guard, and says that it is shared.
fn removes(good: &Good, guard: &LockGuard) -> Hooks {
    let (store, queue) = (Arc::clone(&good.store), layout::lock_queue(guard.key()));
    hooks().mode(|_| LockMode::Shared).downgrade(move |good| {
        let (store, queue) = (Arc::clone(&store), queue.clone());
        async move {
            let token = good.fencing_token().get();
            for entry in store.range(Range::prefix(queue)).await?.entries {
                if entry.created.get() == token {
                    store.txn(Txn::new().then(Op::delete(entry.key))).await?;
                }
            }
            Ok(())
        }
    })
}

/// Asks the store before each downgrade.
fn asks_again(good: &Good, _: &LockGuard) -> Hooks {
    let store = Arc::clone(&good.store);
    hooks().downgrade(move |good| {
        let store = Arc::clone(&store);
        async move {
            store.range(Range::key("anything")).await?;
            good.downgrade().await
        }
    })
}

/// Holds a lock as soon as readers, and nobody else, hold it.
struct Overtakes;

#[async_trait]
impl BrokenProvider for Overtakes {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        if options.mode != LockMode::Shared || options.wait == Wait::Never {
            return acquire(good, key, options).await;
        }
        loop {
            // Whoever is the oldest decides.
            let oldest = Range::prefix(layout::lock_queue(key)).with_order(Order::OldestFirst).with_limit(1);
            let found = good.store.range(oldest).await?.entries;
            if found.first().is_some_and(|first| first.key.windows(4).any(|part| part == b"/~r/")) {
                // Under the name of a lock that nobody else wants.
                let beside = acquire(good, &format!("{key}~beside"), options).await?;
                return Ok(guard(beside, hooks()));
            }
            match acquire(good, key, options.with_wait(Wait::Never)).await {
                Err(error) if error.kind() == coord_api::ErrorKind::Conflict => {
                    sleep(Duration::from_millis(5)).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Waits where it was told not to.
struct Patient;

#[async_trait]
impl BrokenProvider for Patient {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let options = match options.wait {
            Wait::Never if options.mode == LockMode::Shared => {
                options.with_wait(Wait::For(Duration::from_millis(50)))
            }
            _ => options,
        };
        acquire(good, key, options).await
    }
}
