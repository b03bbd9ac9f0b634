//! Several locks at once, acquired wrongly: R33a.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use coord_api::{
    ConfigCenter, DistributedLock, InstanceIdAllocator, LockGuard, LockOptions, Provider, Result,
    ServiceRegistry,
};
use coord_tests::harness::sabotaged::Sabotage;

use super::{Saboteur, keeps};

pub(super) const SABOTEURS: &[Saboteur] = &[Saboteur {
    id: "several-locks-some-stay",
    breaks: "where one cannot be had the others stay",
    rules: &["r33a"],
    sends: |txn| keeps(txn, "/locks/"),
}];

/// Every second client acquires them in another order than the others do.
pub(super) fn in_another_order() -> Sabotage {
    let is_odd = AtomicBool::new(false);
    Sabotage::of_providers(
        "several-locks-in-another-order",
        "acquires them in another order than others do",
        &["r33a"],
        move |good| if is_odd.fetch_not(Ordering::SeqCst) { Arc::new(Swapped::new(good)) } else { good },
    )
}

/// The provider of a client that acquires several locks in another order than others do: what is
/// called `a` and `c`, and comes first and last, is the other one of the two.
struct Swapped {
    good: Arc<dyn Provider>,
    lock: Arc<dyn DistributedLock>,
}

impl Swapped {
    fn new(good: Arc<dyn Provider>) -> Self {
        let lock = Arc::new(SwappedLocks(Arc::clone(good.lock())));
        Swapped { good, lock }
    }
}

struct SwappedLocks(Arc<dyn DistributedLock>);

#[async_trait]
impl DistributedLock for SwappedLocks {
    async fn acquire_with(&self, key: &str, options: LockOptions) -> Result<LockGuard> {
        let other = match key {
            "a" => "c",
            "c" => "a",
            key => key,
        };
        self.0.acquire_with(other, options).await
    }
}

#[async_trait]
impl Provider for Swapped {
    fn config(&self) -> &Arc<dyn ConfigCenter> {
        self.good.config()
    }

    fn lock(&self) -> &Arc<dyn DistributedLock> {
        &self.lock
    }

    fn registry(&self) -> &Arc<dyn ServiceRegistry> {
        self.good.registry()
    }

    fn allocator(&self) -> &Arc<dyn InstanceIdAllocator> {
        self.good.allocator()
    }

    async fn close(&self) -> Result<()> {
        self.good.close().await
    }
}

impl fmt::Debug for Swapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swapped").finish_non_exhaustive()
    }
}

impl fmt::Debug for SwappedLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwappedLocks").finish_non_exhaustive()
    }
}
