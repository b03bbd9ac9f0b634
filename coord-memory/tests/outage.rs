//! A client that is cut off from its store, in virtual time: what tests of an outage rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Range, Span, Store, Txn};
use coord_api::{ErrorKind, Outcome, WatchStart};
use coord_memory::{MemoryProvider, MemoryStore};

const TTL: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn calls_of_the_client_are_unavailable_and_change_nothing_and_others_go_on() {
    let store = MemoryStore::new();
    let other = store.client();
    let lease = store.grant_lease(TTL).await.unwrap();
    let mut watch = store.watch(Span::prefix(""), None).await.unwrap();
    let mut late = store.watch(Span::prefix(""), None).await.unwrap();
    let pending = tokio::spawn(async move { watch.next().await.unwrap().unwrap_err().kind() });
    tokio::task::yield_now().await;
    store.disconnect();
    store.disconnect();
    assert_eq!(pending.await.unwrap(), ErrorKind::Unavailable);
    let put = || Txn::new().then(Op::put("a", "1"));
    let errors = [
        store.txn(put()).await.unwrap_err(),
        store.range(Range::key("a")).await.unwrap_err(),
        store.keep_alive(lease.id).await.unwrap_err(),
        store.lease(lease.id).await.unwrap_err(),
        store.revoke_lease(lease.id).await.unwrap_err(),
        store.grant_lease(TTL).await.unwrap_err(),
        store.watch(Span::key("a"), None).await.unwrap_err(),
        store.status().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied), "{error}");
    }
    assert!(other.range(Range::prefix("")).await.unwrap().entries.is_empty());
    other.txn(put()).await.unwrap();
    store.reconnect();
    store.reconnect();
    assert_eq!(
        late.next().await.unwrap().unwrap_err().kind(),
        ErrorKind::Unavailable,
        "also the stream that was not polled meanwhile"
    );
    assert!(late.next().await.is_none());
    assert_eq!(store.range(Range::key("a")).await.unwrap().entries.len(), 1);
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    assert_eq!(store.lease(lease.id).await.unwrap(), None, "nobody renewed it");
}

#[tokio::test(start_paused = true)]
async fn closing_while_cut_off_is_unavailable_and_closes() {
    let one = MemoryProvider::new();
    let _guard = one.lock().acquire("job", TTL).await.unwrap();
    one.disconnect();
    let start = tokio::time::Instant::now();
    assert_eq!(one.close().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() <= Duration::from_secs(5));
    assert_eq!(one.config().get_raw("a").await.unwrap_err().kind(), ErrorKind::Closed);
    let store = MemoryStore::new();
    store.disconnect();
    assert_eq!(store.close().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(store.close().await.is_ok());
    assert_eq!(store.range(Range::key("a")).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_lost_at_its_deadline_and_before_another_has_it() {
    let one = MemoryProvider::new();
    let two = one.client();
    let guard = one.lock().acquire("job", TTL).await.unwrap();
    one.disconnect();
    let start = tokio::time::Instant::now();
    let waiter = tokio::spawn(async move {
        let next = two.lock().acquire("job", TTL).await.unwrap();
        (tokio::time::Instant::now(), next.fencing_token())
    });
    guard.lost().await;
    let lost = tokio::time::Instant::now();
    assert!(!guard.is_held());
    assert!(lost - start >= TTL / 2 && lost - start <= TTL, "{:?}", lost - start);
    let (granted, token) = waiter.await.unwrap();
    assert!(granted > lost && token > guard.fencing_token());
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_back_and_a_watch_has_no_gap_after_it() {
    let one = MemoryProvider::new();
    let two = one.client();
    let mut watch = one.config().watch_raw("a", WatchStart::Now).await.unwrap();
    let handle =
        one.registry().register(coord_api::ServiceInstance::new("svc", "1", "127.0.0.1", 1)).await.unwrap();
    one.disconnect();
    let versions = [
        two.config().set_raw("a", "1".into()).await.unwrap(),
        two.config().set_raw("a", "2".into()).await.unwrap(),
    ];
    tokio::time::sleep(TTL + Duration::from_secs(5)).await;
    assert!(two.registry().discover("svc").await.unwrap().items.is_empty(), "its lease ran out");
    one.reconnect();
    let back = async {
        while two.registry().discover("svc").await.unwrap().items.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back).await.expect("it comes back");
    for version in versions {
        let event =
            tokio::time::timeout(Duration::from_secs(60), watch.next()).await.unwrap().unwrap().unwrap();
        assert!(format!("{event:?}").contains(&version.get().to_string()), "{event:?}");
    }
    drop(handle);
}
