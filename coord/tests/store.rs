//! The store that a source hands out: it has the layers of a provider, and one end.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use coord::prelude::*;
use coord::recipes::{ProviderOptions, StoreProvider};
use coord::store::{Compare, Op, Range, Store, Txn};
use coord::{ErrorKind, Source};

/// By when anything is done that is done at all, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// The store of this source and two sets of contracts over it, from the first write to the end.
async fn a_store_and_the_contracts_over_it(source: &Source) {
    let store = source.store().await.unwrap();
    let create = Txn::new()
        .when(Compare::Absent("/own/head".into()))
        .then(Op::put("/own/head", "1"))
        .then(Op::put("/own/log", "1"));
    assert!(store.txn(create.clone()).await.unwrap().succeeded);
    assert!(!store.txn(create).await.unwrap().succeeded);

    let over = |store: &Arc<dyn Store>, name: &str| {
        StoreProvider::new(Arc::clone(store), ProviderOptions::default().with_name(name))
    };
    let (one, other) = (over(&store, "one"), over(&store, "other"));
    let client = source.client().await.unwrap();
    one.config().set("greeting", "hello").await.unwrap();
    for provider in [&*other as &dyn Provider, &client] {
        let greeting = provider.config().get::<String>("greeting").await.unwrap();
        assert_eq!(greeting.as_deref(), Some("hello"));
    }
    let ttl = Duration::from_secs(3);
    let (mine, others) =
        (one.lock().acquire("mine", ttl).await.unwrap(), other.lock().acquire("others", ttl).await.unwrap());
    for (provider, taken) in [(&other, "mine"), (&one, "others")] {
        assert_eq!(provider.lock().try_acquire(taken, ttl).await.unwrap_err().kind(), ErrorKind::Conflict);
    }

    // The end of one is the end of the store, and so of the other one, which is told.
    one.close().await.unwrap();
    tokio::time::timeout(SOON, async { tokio::join!(mine.lost(), others.lost()) }).await.unwrap();
    assert_eq!(store.range(Range::key("/own/head")).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(other.config().get_raw("greeting").await.unwrap_err().kind(), ErrorKind::Closed);
    for _ in 0..2 {
        store.close().await.unwrap();
        other.close().await.unwrap();
        one.close().await.unwrap();
    }

    // What was closed with the store was given back; what was not has run out, or will.
    client.lock().try_acquire("mine", ttl).await.unwrap().unlock().await.unwrap();
    let freed = client.lock().acquire("others", ttl);
    tokio::time::timeout(SOON, freed).await.unwrap().unwrap().unlock().await.unwrap();

    // A further store is another client, and its end is not that of the others.
    let further = source.store().await.unwrap();
    assert_eq!(further.range(Range::key("/own/head")).await.unwrap().entries.len(), 1);
    further.close().await.unwrap();
    assert_eq!(client.config().get::<String>("greeting").await.unwrap().as_deref(), Some("hello"));
    client.close().await.unwrap();
}

/// What this source's store holds, by its keys.
#[cfg(any(feature = "sled", all(feature = "etcd", feature = "fake-etcd")))]
async fn keys(source: &Source) -> Vec<String> {
    let store = source.store().await.unwrap();
    let found = store.range(Range::prefix("/").with_keys_only()).await.unwrap().entries;
    store.close().await.unwrap();
    found.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect()
}

/// What is left by [`a_store_and_the_contracts_over_it`] in the namespace `shop`, as who has none
/// sees it.
#[cfg(any(feature = "sled", all(feature = "etcd", feature = "fake-etcd")))]
async fn all_lies_in_the_namespace(everything: &Source) {
    let found = keys(everything).await;
    for key in ["/shop/own/head", "/shop/own/log", "/shop/config/greeting"] {
        assert!(found.iter().any(|found| found == key), "no {key} in {found:?}");
    }
    assert!(found.iter().all(|key| key.starts_with("/shop/")), "{found:?}");
}

#[tokio::test]
async fn memory() {
    let through =
        async |url: &str| a_store_and_the_contracts_over_it(&Source::open(url).await.unwrap()).await;
    tokio::join!(through("memory://"), through("memory://?namespace=shop"));
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn sled() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sled://{}", directory.path().join("store").display());
    a_store_and_the_contracts_over_it(&Source::open(&format!("{url}?namespace=shop")).await.unwrap()).await;
    // A directory is open once at a time.
    all_lies_in_the_namespace(&Source::open(&url).await.unwrap()).await;
}

#[cfg(all(feature = "etcd", feature = "fake-etcd"))]
mod etcd {
    use coord::fake_etcd::{Failure, FakeEtcd, FakeEtcdOptions};

    use super::*;

    fn start() -> FakeEtcd {
        FakeEtcd::start(FakeEtcdOptions::default()).unwrap()
    }

    #[tokio::test]
    async fn at_once_lazy_and_with_batches() {
        let through = async |parameters: &str| {
            let server = start();
            let url = format!("{}/shop{parameters}", server.url());
            a_store_and_the_contracts_over_it(&Source::open(&url).await.unwrap()).await;
            all_lies_in_the_namespace(&Source::open(&server.url()).await.unwrap()).await;
        };
        tokio::join!(through(""), through("?lazy"), through("?batch=1"));
    }

    #[tokio::test]
    async fn repeats_what_may_be_repeated_as_often_as_the_url_says() {
        let server = start();
        let faults = server.faults();
        let read = async |parameters: &str, failures: usize| {
            let source = Source::open(&format!("{}?{parameters}", server.url())).await.unwrap();
            let store = source.store().await.unwrap();
            store.range(Range::key("/a")).await.unwrap();
            faults.fail_requests(Failure::NoLeader, failures);
            let answer = store.range(Range::key("/a")).await;
            faults.fail_requests(Failure::NoLeader, 0);
            store.close().await.unwrap();
            answer
        };
        read("initial_delay=1ms", 1).await.unwrap();
        // There is more that asks a cluster than these calls, so that all are failed.
        let error = read("attempts=1", usize::MAX).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }

    #[tokio::test]
    async fn waits_for_its_cluster_unless_it_is_lazy() {
        let server = start();
        let faults = server.faults();
        faults.refuse_connections(true);
        let opened = async |parameters: &str| {
            Source::open(&format!("{}/shop?{parameters}", server.url())).await.unwrap().store().await
        };
        let error = opened("connect_timeout=500ms").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

        let store = opened("lazy&total_timeout=500ms&attempt_timeout=200ms").await.unwrap();
        let error = store.range(Range::key("/a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        faults.refuse_connections(false);
        let contracts = StoreProvider::new(Arc::clone(&store), ProviderOptions::default());
        let there = async {
            while contracts.config().set("greeting", "hello").await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, there).await.unwrap();
        contracts.close().await.unwrap();
        assert_eq!(keys(&Source::open(&server.url()).await.unwrap()).await, ["/shop/config/greeting"]);
    }

    #[tokio::test]
    async fn a_namespace_that_cannot_be_is_refused_before_any_request() {
        let server = start();
        for url in [format!("{}/global", server.url()), format!("{}/shop/global?lazy", server.url())] {
            let error = Source::open(&url).await.unwrap().store().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
        assert_eq!(server.faults().connections(), 0);
    }
}
