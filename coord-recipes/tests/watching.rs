//! Watches on stores that do not keep their word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::store::{Op, Range, RangeReply, Span, Store, StoreWatch, Txn};
use coord_api::{Error, Result, Revision, WatchStart};
use coord_memory::MemoryStore;
use coord_recipes::{ProviderOptions, StoreProvider};
use tokio::time::{sleep, timeout};

/// A store that takes one watch, breaks it, and from then on has no history at all, not even from
/// the present on.
#[derive(Clone, Debug)]
struct WithoutHistory {
    store: MemoryStore,
    watches: Arc<AtomicUsize>,
    reads: Arc<AtomicUsize>,
}

#[async_trait]
impl Store for WithoutHistory {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.store.range(range).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        if self.watches.fetch_add(1, Ordering::SeqCst) == 0 {
            return self.store.watch(span, after).await;
        }
        Err(Error::compacted("store.watch", None))
    }

    coord_api::forward_store! {
        self => self.store;
        txn, grant_lease, keep_alive, lease, revoke_lease, status, close
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_always_says_compacted_is_not_asked_without_end() {
    let memory = MemoryStore::new();
    let store = WithoutHistory { store: memory.clone(), watches: Arc::default(), reads: Arc::default() };
    let coord = StoreProvider::new(Arc::new(store.clone()), ProviderOptions::default());
    let mut watch = coord.config().watch_raw("app/", WatchStart::Now).await.unwrap();
    memory.disconnect();
    memory.client().txn(Txn::new().then(Op::put("/config/app/a", "1"))).await.unwrap();
    memory.reconnect();
    // The state is told all the same.
    timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap();
    let (reads, watches) = (store.reads.load(Ordering::SeqCst), store.watches.load(Ordering::SeqCst));
    sleep(Duration::from_secs(60)).await;
    let (reads, watches) =
        (store.reads.load(Ordering::SeqCst) - reads, store.watches.load(Ordering::SeqCst) - watches);
    assert!((10..200).contains(&reads) && watches < 200, "{reads} reads and {watches} watches in a minute");
}
