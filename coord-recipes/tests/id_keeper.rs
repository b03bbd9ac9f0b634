//! An id that heals: held by the clock, lost with the lease, taken anew by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, IdOptions, Wait, WriteOptions};
use coord_memory::MemoryProvider;
use coord_recipes::InstanceIdKeeper;
use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(600);

fn options() -> IdOptions {
    IdOptions::default().with_range(0..=3).with_ttl(TTL)
}

async fn keeper(provider: &MemoryProvider) -> InstanceIdKeeper {
    InstanceIdKeeper::acquire(Arc::clone(provider.allocator()), "flakes", options()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_longer_than_the_lease_there_is_an_id_again() {
    let provider = MemoryProvider::new();
    let keeper = keeper(&provider).await;
    let first = keeper.current().unwrap();
    let mut changes = keeper.changes();
    assert_eq!(changes.next().await, Some(Some(first.clone())), "it begins with what is held");
    provider.disconnect();
    sleep(TTL * 2).await;
    assert_eq!(keeper.current(), None);
    assert_eq!(changes.next().await, Some(None));
    assert_eq!(keeper.last_error().unwrap().kind(), ErrorKind::Unavailable);
    provider.reconnect();
    let second = timeout(LONG, changes.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(keeper.current(), Some(second.clone()));
    assert!(second.generation() > first.generation());
    assert!(keeper.last_error().is_none());
    sleep(TTL * 4).await;
    assert_eq!(keeper.current(), Some(second), "renewed like any other");
}

#[tokio::test(start_paused = true)]
async fn what_is_given_is_held_by_the_clock() {
    let provider = MemoryProvider::new();
    let keeper = keeper(&provider).await;
    provider.disconnect();
    // No task runs between these two: the clock alone decides.
    tokio::time::advance(TTL).await;
    assert_eq!(keeper.current(), None);
}

#[tokio::test(start_paused = true)]
async fn each_id_has_a_fence_of_its_own() {
    let provider = MemoryProvider::new();
    let keeper = keeper(&provider).await;
    let set = |fence| {
        let options = WriteOptions::default().with_fence(fence);
        provider.config().write_with("owner", "me".into(), options)
    };
    let first = keeper.current().unwrap();
    let fence = first.fence();
    assert!(first.is_held() && first.ttl() > TTL / 2);
    set(fence.clone()).await.unwrap();
    provider.disconnect();
    tokio::time::advance(TTL).await;
    assert!(!first.is_held() && first.ttl().is_zero(), "by the clock alone");
    let mut changes = keeper.changes();
    provider.reconnect();
    let second = loop {
        match timeout(LONG, changes.next()).await.unwrap().unwrap() {
            Some(kept) if kept.generation() > first.generation() => break kept,
            _ => {}
        }
    };
    assert_eq!(second.id(), first.id());
    for over in [fence, first.fence()] {
        assert_eq!(set(over).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
    set(second.fence()).await.unwrap();
    keeper.release().await.unwrap();
    assert!(!second.is_held(), "what was kept keeps nothing held");
}

#[tokio::test(start_paused = true)]
async fn where_none_is_free_it_waits_until_one_is() {
    let provider = MemoryProvider::new();
    let other = provider.client();
    let keeper = keeper(&provider).await;
    let mut changes = keeper.changes();
    changes.next().await;
    provider.disconnect();
    sleep(TTL * 2).await;
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(other.allocator().acquire_id_with("flakes", options()).await.unwrap());
    }
    provider.reconnect();
    sleep(TTL).await;
    assert_eq!(keeper.current(), None, "two holders of one number would be worse than none");
    let freed = taken.remove(2);
    freed.release().await.unwrap();
    while keeper.current().is_none() {
        timeout(LONG, changes.next()).await.unwrap().unwrap();
    }
    assert_eq!(keeper.current().unwrap().id(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_first_id_is_had_or_its_error_told() {
    let provider = MemoryProvider::new();
    let allocator = || Arc::clone(provider.allocator());
    let error = InstanceIdKeeper::acquire(allocator(), "a/b", options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let one = IdOptions::default().with_range(1..=1).with_wait(Wait::Never);
    let _held = InstanceIdKeeper::acquire(allocator(), "api", one.clone()).await.unwrap();
    let error = InstanceIdKeeper::acquire(allocator(), "api", one).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Exhausted, Some("api")));
}

#[tokio::test(start_paused = true)]
async fn it_gives_the_id_back_when_it_is_released_or_dropped_and_ends_when_the_provider_is_closed() {
    let provider = MemoryProvider::new();
    let other = provider.client();
    let released = keeper(&provider).await;
    let mut changes = released.changes();
    changes.next().await;
    released.release().await.unwrap();
    assert_eq!(timeout(LONG, changes.next()).await.unwrap(), Some(None));
    assert_eq!(timeout(LONG, changes.next()).await.unwrap(), None);
    drop(keeper(&provider).await);
    sleep(Duration::from_secs(1)).await;
    let free = other.allocator().acquire_id_with("flakes", options()).await.unwrap();
    assert_eq!(free.id(), 0);
    let closed = keeper(&provider).await;
    let mut changes = closed.changes();
    changes.next().await;
    provider.close().await.unwrap();
    assert_eq!(closed.current(), None);
    assert_eq!(timeout(LONG, changes.next()).await.unwrap(), Some(None));
    assert_eq!(timeout(LONG, changes.next()).await.unwrap(), None);
}

#[test]
fn it_outlives_the_runtime_that_made_it() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let provider = MemoryProvider::new();
    let short = IdOptions::default().with_range(1..=1).with_ttl(Duration::from_secs(1));
    let keeper = runtime()
        .block_on(InstanceIdKeeper::acquire(Arc::clone(provider.allocator()), "api", short))
        .unwrap();
    let first = keeper.current().unwrap();
    provider.disconnect();
    runtime().block_on(async {
        let mut changes = keeper.changes();
        assert_eq!(changes.next().await, Some(Some(first.clone())));
        assert_eq!(timeout(LONG, changes.next()).await.unwrap(), Some(None));
        provider.reconnect();
        let second = timeout(LONG, changes.next()).await.unwrap().unwrap().unwrap();
        assert!(second.generation() > first.generation());
    });
}
