//! What breaks locks (R25 to R33, R45 to R47).

use coord_api::store::{Op, Order, Range, Store, Txn};
use coord_api::{LockGuard, LockOptions, Result};

use super::Saboteur;
use super::provider::Good;
use crate::layout;

mod guard;
mod queue;
mod shared;

pub(super) use guard::PretendsToRenew;

pub(super) const SABOTEURS: [&[Saboteur]; 3] = [queue::SABOTEURS, guard::SABOTEURS, shared::SABOTEURS];

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
