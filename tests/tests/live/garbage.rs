//! What somebody else left under our prefixes: an error for that entry alone, with its bytes, and
//! everybody else is served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ConfigEvent, ErrorKind, Invalid, ServiceChange, ServiceEvent, ServiceInstance, WatchStart};
use coord_etcd::EtcdProvider;
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::within;
use etcd_client::Client;
use serde::{Deserialize, Serialize};

use super::{SOON, options, raw};

const TTL: Duration = Duration::from_secs(30);
const NO_UTF8: &[u8] = b"\xff\xfe";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Settings {
    workers: u32,
}

async fn start() -> (Cluster, Client, Arc<EtcdProvider>) {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let (client, provider) =
        (raw(&cluster, None).await, EtcdProvider::connect(options(&cluster)).await.unwrap());
    (cluster, client, provider)
}

fn key(directory: &str, rest: &[u8]) -> Vec<u8> {
    [directory.as_bytes(), rest].concat()
}

/// The keys of what does not decode, with the bytes that lie there, which an error names as what
/// they are.
fn told(invalid: &[Invalid]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    assert!(invalid.iter().all(|record| record.error.kind() == ErrorKind::Codec), "{invalid:?}");
    invalid.iter().map(|record| (record.key.to_vec(), record.value.as_bytes().to_vec())).collect()
}

fn pairs(pairs: &[(&[u8], &[u8])]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    pairs.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_config_centre_is_told_entry_by_entry() {
    let (_cluster, mut client, provider) = start().await;
    let config = provider.config();
    let garbage: [(&[u8], &[u8]); 4] = [
        (b"app/\xff\xfe", br#"{"workers":1}"#),
        (b"app/bytes", NO_UTF8),
        (b"app/json", br#"{"workers":"#),
        (b"app/other", br#"["workers"]"#),
    ];
    for (rest, value) in garbage {
        client.put(key("/config/", rest), value, None).await.unwrap();
    }
    let good = Settings { workers: 8 };
    config.set("app/good", &good).await.unwrap();

    let listed = config.list::<Settings>("app").await.unwrap();
    assert_eq!(
        listed.items.iter().map(|entry| (entry.key.as_str(), &entry.value)).collect::<Vec<_>>(),
        [("app/good", &good)]
    );
    assert_eq!(told(&listed.invalid), pairs(&garbage));
    assert_eq!(config.get::<Settings>("app/good").await.unwrap(), Some(good.clone()));
    for name in ["app/bytes", "app/json", "app/other"] {
        assert_eq!(config.get::<Settings>(name).await.unwrap_err().kind(), ErrorKind::Codec, "{name}");
        assert!(config.get_raw(name).await.unwrap().is_some(), "{name}: its bytes can be had");
    }

    // A watch begins with the same, is told of further garbage, and goes on.
    let mut watch = config.watch_prefix::<Settings>("app", WatchStart::Snapshot).await.unwrap();
    match within(SOON, "the state", watch.next()).await.unwrap().unwrap() {
        ConfigEvent::Resync(snapshot) => {
            assert_eq!(snapshot.items.len(), 1);
            assert_eq!(told(&snapshot.invalid), pairs(&garbage));
        }
        event => panic!("{event:?}"),
    }
    let more: [(&[u8], &[u8]); 3] =
        [(b"app/\xfe", br#"{"workers":2}"#), (b"app/good", NO_UTF8), (b"app/late", br#"{"workers":-1}"#)];
    for (rest, value) in more {
        client.put(key("/config/", rest), value, None).await.unwrap();
        match within(SOON, "the garbage", watch.next()).await.unwrap().unwrap() {
            ConfigEvent::Invalid { record, .. } => assert_eq!(told(&[record]), pairs(&[(rest, value)])),
            event => panic!("{event:?}"),
        }
    }
    let mended = config.set("app/good", &Settings { workers: 9 }).await.unwrap();
    match within(SOON, "what was mended", watch.next()).await.unwrap().unwrap() {
        ConfigEvent::Put { entry, .. } => {
            assert_eq!((entry.version, entry.value), (mended, Settings { workers: 9 }))
        }
        event => panic!("{event:?}"),
    }
    // A key that nobody can name can still be told to have gone, by its bytes.
    client.delete(key("/config/", b"app/\xfe"), None).await.unwrap();
    let gone = within(SOON, "the deletion", watch.next()).await.unwrap().unwrap();
    assert!(
        matches!(&gone, ConfigEvent::InvalidDeleted { key, last: true, .. } if key.as_ref() == b"app/\xfe"),
        "{gone:?}"
    );
    provider.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_registry_is_told_entry_by_entry() {
    let (_cluster, mut client, provider) = start().await;
    let registry = provider.registry();
    let instance = |id: &str| ServiceInstance::new("shop", id, "127.0.0.1", 80);
    let _first = registry.register(instance("a")).await.unwrap();
    let foreign = serde_json::to_vec(&ServiceInstance::new("other", "name", "127.0.0.1", 80)).unwrap();
    let garbage: [(&[u8], &[u8]); 5] = [
        (NO_UTF8, b"{}"),
        (b"bytes", NO_UTF8),
        (b"json", br#"{"id":"#),
        (b"name", &foreign),
        (b"deeper/\xff", b""),
    ];
    for (rest, value) in garbage {
        client.put(key("/services/shop/", rest), value, None).await.unwrap();
    }
    let _second = registry.register(instance("z")).await.unwrap();

    let ids =
        |items: &[ServiceInstance]| items.iter().map(|instance| instance.id.clone()).collect::<Vec<_>>();
    let discovered = registry.discover("shop").await.unwrap();
    assert_eq!(ids(&discovered.items), ["a", "z"]);
    assert_eq!(told(&discovered.invalid), pairs(&garbage));

    let mut watch = registry.watch("shop").await.unwrap();
    match within(SOON, "the state", watch.next()).await.unwrap().unwrap() {
        ServiceEvent::Resync(snapshot) => {
            assert_eq!(ids(&snapshot.items), ["a", "z"]);
            assert_eq!(told(&snapshot.invalid), pairs(&garbage));
        }
        event => panic!("{event:?}"),
    }
    let mut change = async || match within(SOON, "a change", watch.next()).await.unwrap().unwrap() {
        ServiceEvent::Change { change, .. } => change,
        event => panic!("{event:?}"),
    };
    client.put(key("/services/shop/", b"\xfe"), NO_UTF8, None).await.unwrap();
    match change().await {
        ServiceChange::Invalid(record) => assert_eq!(told(&[record]), pairs(&[(b"\xfe", NO_UTF8)])),
        change => panic!("{change:?}"),
    }
    // Whoever registers where garbage lies writes over it.
    let _third = registry.register(instance("bytes")).await.unwrap();
    assert_eq!(change().await, ServiceChange::Added(instance("bytes")));
    assert_eq!(ids(&registry.discover("shop").await.unwrap().items), ["a", "bytes", "z"]);
    provider.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_among_the_ids_takes_none_but_where_it_lies_on_one() {
    let (_cluster, mut client, provider) = start().await;
    const IDS: &str = "/im-infra/allocators/shop/ids/";
    for rest in [NO_UTF8, b"", b"abc", b"007", b"+1", b"-1", b"99999999999", b"1/deeper", b"3\xff"] {
        client.put(key(IDS, rest), NO_UTF8, None).await.unwrap();
    }
    // An id that someone else holds, whatever that one wrote.
    client.put(key(IDS, b"2"), NO_UTF8, None).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(provider.allocator().acquire_id("shop", 4).await.unwrap());
    }
    assert_eq!(ids.iter().map(|id| id.id()).collect::<Vec<_>>(), [1, 3, 4]);
    let error = provider.allocator().acquire_id("shop", 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    client.delete(key(IDS, b"2"), None).await.unwrap();
    assert_eq!(provider.allocator().acquire_id("shop", 4).await.unwrap().id(), 2);
    provider.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_a_queue_is_a_stranger_who_queues_for_that_lock_alone() {
    let (_cluster, mut client, provider) = start().await;
    let lock = provider.lock();
    // What is no entry of the queue, and what lies where the sessions are.
    for stray in [
        key("/locks/", b"a/\xff/\xfe"),
        key("/locks/", b"a/"),
        key("/locks/", NO_UTF8),
        key("/sessions/", NO_UTF8),
    ] {
        client.put(stray, NO_UTF8, None).await.unwrap();
    }
    for attempt in ["the first", "the second"] {
        lock.try_acquire("a", TTL)
            .await
            .unwrap_or_else(|error| panic!("{attempt} try: {error}"))
            .unlock()
            .await
            .unwrap();
        lock.acquire_timeout("a", TTL, SOON)
            .await
            .unwrap_or_else(|error| panic!("{attempt} wait: {error}"))
            .unlock()
            .await
            .unwrap();
    }

    // Behind the holder, it harms nobody.
    let held = lock.acquire("a", TTL).await.unwrap();
    client.put(key("/locks/a/", NO_UTF8), NO_UTF8, None).await.unwrap();
    let waiting = tokio::spawn({
        let provider = Arc::clone(&provider);
        async move { provider.lock().acquire("a", TTL).await }
    });
    held.unlock().await.unwrap();
    // Then it is the oldest: whoever wrote it may hold the lock, so that nobody else gets it, and
    // is told so.
    let error = lock.try_acquire("a", TTL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let error = lock.acquire_timeout("a", TTL, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(!waiting.is_finished());
    lock.try_acquire("b", TTL).await.unwrap().unlock().await.unwrap();
    // It is removed, and the next one is served.
    client.delete(key("/locks/a/", NO_UTF8), None).await.unwrap();
    let guard = within(SOON, "the lock", waiting).await.unwrap().unwrap();
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
    provider.close().await.unwrap();
}
