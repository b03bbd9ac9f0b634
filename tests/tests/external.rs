//! The main contracts on a cluster of somebody else's, whose endpoints `COORD_TEST_ETCD_ENDPOINTS`
//! names: before a service moves there, or to try a version or a set-up that no test here starts.
//!
//! It kills, stops and compacts nothing. All that it writes lies under a namespace with a name by
//! chance, and is deleted at the end, or, where a test fails, lies there under a name that says
//! what it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::env;
use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Range, Store, Txn};
use coord_api::{
    ConfigEvent, ErrorKind, IdOptions, RegisterOptions, ServiceChange, ServiceEvent, ServiceInstance, Value,
    Version, WatchStart,
};
use coord_etcd::{Credentials, EtcdOptions, EtcdProvider, EtcdStore, EtcdTls};
use coord_testkit::wait::{eventually, within};

const ENDPOINTS: &str = "COORD_TEST_ETCD_ENDPOINTS";
const SOON: Duration = Duration::from_secs(30);
/// Beyond what a cluster with the defaults grants at least, which is 2 s.
const TTL: Duration = Duration::from_secs(5);

/// Somebody else's cluster, and a namespace on it.
struct Foreign {
    options: EtcdOptions,
    namespace: String,
}

impl Foreign {
    /// # Panics
    ///
    /// Where no endpoints are named: a test that has no cluster does not pass.
    fn new() -> Self {
        let named = env::var(ENDPOINTS).unwrap_or_default();
        let endpoints: Vec<&str> =
            named.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty()).collect();
        assert!(
            !endpoints.is_empty(),
            "NOT TESTED: {ENDPOINTS} names no cluster; for example {ENDPOINTS}=etcd-1:2379,etcd-2:2379"
        );
        let mut options = EtcdOptions::new(endpoints);
        if let Ok(user) = env::var("COORD_TEST_ETCD_USER") {
            options = options.with_credentials(Credentials::new(
                user,
                read("COORD_TEST_ETCD_PASSWORD_FILE").unwrap_or_default().trim_end(),
            ));
        }
        if let Some(authorities) = read("COORD_TEST_ETCD_CA_FILE") {
            let mut tls = EtcdTls::new().with_authorities(authorities);
            if let (Some(certificate), Some(key)) =
                (read("COORD_TEST_ETCD_CERT_FILE"), read("COORD_TEST_ETCD_KEY_FILE"))
            {
                tls = tls.with_identity(certificate, key);
            }
            options = options.with_tls(tls);
        }
        Foreign { options, namespace: format!("coord-test/{:016x}", fastrand::u64(..)) }
    }

    /// A process of its own.
    async fn client(&self) -> Arc<EtcdProvider> {
        EtcdProvider::connect(self.options.clone().with_namespace(&self.namespace)).await.unwrap()
    }

    /// Deletes what is left in the namespace, which must be no more than `leftovers`: what was held
    /// is gone by itself.
    async fn clean_up(self, leftovers: &[&str]) {
        let store = EtcdStore::connect(&self.options).await.unwrap();
        let all = || Range::prefix(format!("/{}/", self.namespace)).with_keys_only();
        let keys = |found: &[coord_api::store::Entry]| {
            found.iter().map(|entry| String::from_utf8_lossy(&entry.key).into_owned()).collect::<Vec<_>>()
        };
        let expected: Vec<String> = leftovers.iter().map(|key| format!("/{}{key}", self.namespace)).collect();
        let found = store.range(all()).await.unwrap().entries;
        assert_eq!(keys(&found), expected, "closing leaves nothing behind that was held");
        for entry in found {
            store.txn(Txn::new().then(Op::delete(entry.key))).await.unwrap();
        }
        assert_eq!(keys(&store.range(all()).await.unwrap().entries), [""; 0]);
    }
}

/// What lies in the file that a variable names.
fn read(variable: &str) -> Option<String> {
    let path = env::var_os(variable)?;
    Some(
        std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("the file that {variable} names: {error}")),
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs COORD_TEST_ETCD_ENDPOINTS"]
async fn configuration_is_compared_set_and_watched() {
    let foreign = Foreign::new();
    let (one, two) = (foreign.client().await, foreign.client().await);
    let mut watch = two.config().watch_prefix_raw("app", WatchStart::Snapshot).await.unwrap();
    let first = within(SOON, "the state", watch.next()).await.unwrap().unwrap();
    assert!(matches!(first, ConfigEvent::Resync(ref state) if state.items.is_empty()), "{first:?}");
    let created = one.config().compare_and_set_raw("app/k", Value::from("1"), Version::ZERO).await.unwrap();
    let late = two.config().compare_and_set_raw("app/k", Value::from("2"), Version::ZERO).await.unwrap_err();
    assert_eq!((late.kind(), late.current_version()), (ErrorKind::Conflict, Some(created)));

    // Five clients count to ten each, by their expectations alone.
    let counting: Vec<_> = (0..5).map(|_| foreign.client()).collect();
    let mut tasks = Vec::new();
    for client in counting {
        let client = client.await;
        tasks.push(tokio::spawn(async move {
            for _ in 0..10 {
                eventually(SOON, "a turn", async || {
                    let read = client.config().get_with_version::<u32>("count").await.unwrap();
                    let (count, version) = read.map_or((0, Version::ZERO), |read| (read.value, read.version));
                    match client.config().compare_and_set("count", &(count + 1), version).await {
                        Ok(_) => Some(()),
                        Err(error) if error.kind() == ErrorKind::Conflict => None,
                        Err(error) => panic!("{error}"),
                    }
                })
                .await;
            }
            client.close().await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(two.config().get::<u32>("count").await.unwrap(), Some(50));

    let set = one.config().set_raw("app/k", Value::from("3")).await.unwrap();
    assert!(one.config().delete("app/k").await.unwrap());
    let mut versions = Vec::new();
    while versions.len() < 3 {
        match within(SOON, "the next change", watch.next()).await.unwrap().unwrap() {
            ConfigEvent::Put { entry, .. } => versions.push(entry.version),
            ConfigEvent::Delete { version, .. } => versions.push(version),
            // History may be compacted at any time on a cluster that others use.
            ConfigEvent::Resync(state) if state.items.is_empty() && state.revision > set => break,
            event => assert!(matches!(event, ConfigEvent::Resync(_)), "{event:?}"),
        }
    }
    assert!(
        versions.is_sorted_by(|before, after| before < after)
            && versions.first().is_none_or(|first| *first >= created),
        "{versions:?}"
    );
    one.close().await.unwrap();
    two.close().await.unwrap();
    foreign.clean_up(&["/config/count"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs COORD_TEST_ETCD_ENDPOINTS"]
async fn a_lock_has_one_holder_and_its_tokens_rise() {
    let foreign = Foreign::new();
    let clients = [foreign.client().await, foreign.client().await, foreign.client().await];
    // The token that the guarded thing has seen last; who holds the lock has a larger one, and is
    // alone.
    let (seen, inside) =
        (Arc::new(std::sync::Mutex::new(None)), Arc::new(std::sync::atomic::AtomicU32::new(0)));
    let mut tasks = Vec::new();
    for client in &clients {
        let (client, seen, inside) = (Arc::clone(client), Arc::clone(&seen), Arc::clone(&inside));
        tasks.push(tokio::spawn(async move {
            for _ in 0..5 {
                let guard = client.lock().acquire_timeout("jobs/nightly", TTL, SOON).await.unwrap();
                assert_eq!(
                    inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst),
                    0,
                    "one holder at a time"
                );
                let before = seen.lock().unwrap().replace(guard.fencing_token());
                assert!(before.is_none_or(|before| before < guard.fencing_token()));
                assert!(guard.is_held());
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                guard.unlock().await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let [one, two, three] = clients;
    let held = one.lock().acquire("jobs/nightly", TTL).await.unwrap();
    assert_eq!(two.lock().try_acquire("jobs/nightly", TTL).await.unwrap_err().kind(), ErrorKind::Conflict);
    // Beyond its TTL it is held because it is renewed.
    tokio::time::sleep(TTL + Duration::from_secs(2)).await;
    assert!(held.is_held());
    one.close().await.unwrap();
    assert!(!held.is_held(), "closing ends what is held");
    let next = two.lock().acquire_timeout("jobs/nightly", TTL, SOON).await.unwrap();
    assert!(next.fencing_token() > held.fencing_token());
    two.close().await.unwrap();
    three.close().await.unwrap();
    foreign.clean_up(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs COORD_TEST_ETCD_ENDPOINTS"]
async fn instances_come_and_go() {
    let foreign = Foreign::new();
    let (one, two) = (foreign.client().await, foreign.client().await);
    let options = RegisterOptions::default().with_ttl(TTL);
    let instance = |id: &str| ServiceInstance::new("shop", id, "127.0.0.1", 80);
    let mut watch = two.registry().watch("shop").await.unwrap();
    let first = within(SOON, "the set", watch.next()).await.unwrap().unwrap();
    assert!(matches!(first, ServiceEvent::Resync(ref set) if set.items.is_empty()), "{first:?}");
    let a = one.registry().register_with(instance("a"), options).await.unwrap();
    let _b = one.registry().register_with(instance("b"), options).await.unwrap();
    assert_eq!(two.registry().discover("shop").await.unwrap().items, [instance("a"), instance("b")]);
    tokio::time::sleep(TTL + Duration::from_secs(2)).await;
    assert_eq!(two.registry().discover("shop").await.unwrap().items.len(), 2, "they are renewed");
    a.unregister().await.unwrap();
    assert_eq!(two.registry().discover("shop").await.unwrap().items, [instance("b")]);
    one.close().await.unwrap();
    assert_eq!(two.registry().discover("shop").await.unwrap().items, []);
    // What the watch tells comes to the same.
    let mut set = std::collections::BTreeSet::new();
    let mut came = 0;
    while came < 2 || !set.is_empty() {
        match within(SOON, "the next change", watch.next()).await.unwrap().unwrap() {
            ServiceEvent::Resync(state) => {
                set = state.items.into_iter().map(|instance| instance.id).collect();
                came = 2;
            }
            ServiceEvent::Change { change: ServiceChange::Added(instance), .. } => {
                came += 1;
                set.insert(instance.id);
            }
            ServiceEvent::Change { change: ServiceChange::Removed(instance), .. } => {
                assert!(set.remove(&instance.id))
            }
            ServiceEvent::Change { change, .. } => panic!("{change:?}"),
        }
    }
    two.close().await.unwrap();
    foreign.clean_up(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs COORD_TEST_ETCD_ENDPOINTS"]
async fn instance_ids_are_the_smallest_and_nobody_shares_one() {
    let foreign = Foreign::new();
    let (one, two) = (foreign.client().await, foreign.client().await);
    let options = IdOptions::default().with_ttl(TTL).with_range(1..=6);
    let mut tasks = Vec::new();
    for client in [&one, &two, &one, &two, &one, &two] {
        let (client, options) = (Arc::clone(client), options.clone());
        tasks.push(tokio::spawn(async move { client.allocator().acquire_id_with("shop", options).await }));
    }
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(task.await.unwrap().unwrap());
    }
    ids.sort_by_key(|id| id.id());
    assert_eq!(ids.iter().map(|id| id.id()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        one.allocator().acquire_id_with("shop", options.clone()).await.unwrap_err().kind(),
        ErrorKind::Exhausted
    );
    let third = ids.remove(2);
    third.release().await.unwrap();
    let again = two.allocator().acquire_id_with("shop", options).await.unwrap();
    assert_eq!(again.id(), 3);
    assert!(again.generation() > third.generation());
    one.close().await.unwrap();
    two.close().await.unwrap();
    foreign.clean_up(&[]).await;
}
