//! A store that was set back to what it was before, as one is that is restored from a backup.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Range, Store, Txn};
use coord_memory::MemoryStore;
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_testkit::wrap::Replaceable;
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(60);

/// In real time: what asks without end never lets virtual time pass.
#[tokio::test]
async fn a_session_that_is_older_in_the_store_than_it_was_is_lost_and_another_one_takes_its_place() {
    let (present, earlier) = (MemoryStore::new(), MemoryStore::new());
    for _ in 0..10 {
        present.client().txn(Txn::new().then(Op::put("/elsewhere", ""))).await.unwrap();
    }
    let store = Replaceable::new(Arc::new(present.client()));
    let coord = StoreProvider::new(Arc::new(store.clone()), ProviderOptions::default());
    let guard = coord.lock().acquire("job", TTL).await.unwrap();
    // The backup has the lease and the session on it, and not what came later.
    let before = earlier.client();
    let lease = before.grant_lease(TTL).await.unwrap();
    for session in present.client().range(Range::prefix("/sessions/")).await.unwrap().entries {
        assert_eq!(session.lease, Some(lease.id));
        before.txn(Txn::new().then(Op::put_leased(session.key, session.value, lease.id))).await.unwrap();
    }
    store.replace(Arc::new(before));
    let held = async {
        loop {
            match coord.lock().acquire("another", TTL).await {
                Ok(held) => return held,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let held = timeout(Duration::from_secs(20), held).await.expect("it is not asked without end");
    assert!(held.is_held() && !guard.is_held());
}
