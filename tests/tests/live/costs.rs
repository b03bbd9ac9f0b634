//! What things cost, counted by the server: requests with one answer, and not the renewals, nor the
//! read a second that watches need.

use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::store::{Op, Store, Txn};
use coord_api::{RegisterOptions, Registration, ServiceInstance};
use coord_etcd::{EtcdOptions, EtcdProvider, EtcdStore};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::eventually;
use futures_util::future::join_all;

use super::watches::{gauge, metrics};

const TTL: Duration = Duration::from_secs(30);

/// Requests of each kind that count.
const COUNTED: &[&str] = &["Txn", "Range", "Put", "DeleteRange", "LeaseGrant", "LeaseRevoke"];

/// How many of them the server was sent so far.
fn requests(cluster: &Cluster) -> u64 {
    let mut sum = 0.0;
    for line in metrics(cluster).lines().filter(|line| line.starts_with("grpc_server_started_total{")) {
        if COUNTED.iter().any(|method| line.contains(&format!("grpc_method=\"{method}\""))) {
            sum += line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        }
    }
    sum as u64
}

/// What `work` costs, and what it comes to. Each second that it lasts may cost one read besides.
async fn cost<T>(cluster: &Cluster, work: impl Future<Output = T>) -> (T, u64) {
    let (before, start) = (requests(cluster), Instant::now());
    let output = work.await;
    let cost = requests(cluster) - before;
    (output, cost.saturating_sub(start.elapsed().as_secs() + 1))
}

async fn provider(cluster: &Cluster) -> std::sync::Arc<EtcdProvider> {
    EtcdProvider::connect(EtcdOptions::new(cluster.endpoints())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_costs_a_request_and_its_unlock_another() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let provider = provider(&cluster).await;
    let _first = provider.lock().acquire("first", TTL).await.unwrap();
    let (guards, acquires) = cost(&cluster, async {
        let mut guards = Vec::new();
        for n in 0..50 {
            guards.push(provider.lock().acquire(&format!("k{n}"), TTL).await.unwrap());
        }
        guards
    })
    .await;
    assert!((49..=50).contains(&acquires), "{acquires} requests for 50 locks");
    let ((), unlocks) = cost(&cluster, async {
        for guard in &guards {
            guard.unlock().await.unwrap();
        }
    })
    .await;
    assert!((49..=50).contains(&unlocks), "{unlocks} requests for 50 unlocks");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_asked_for_at_once_cost_four_requests_at_most() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let provider = provider(&cluster).await;
    let _first = provider.allocator().acquire_id("s", 100).await.unwrap();
    let (ids, cost) =
        cost(&cluster, join_all((0..16).map(|_| provider.allocator().acquire_id("s", 100)))).await;
    assert!(ids.iter().all(|id| id.as_ref().unwrap().is_held()));
    assert!(cost <= 4, "{cost} requests for 16 ids at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_registrations_together_cost_few_requests_and_closing_one() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let provider = provider(&cluster).await;
    let _first =
        provider.registry().register(ServiceInstance::new("s", "first", "localhost", 80)).await.unwrap();
    let all = (0..1_000).map(|n| ServiceInstance::new("s", format!("i{n}"), "localhost", 80)).collect();
    let (held, together) =
        cost(&cluster, provider.registry().register_all(all, RegisterOptions::default())).await;
    let held = held.unwrap();
    assert_eq!(held.len(), 1_000);
    // Ten full batches. On a busy machine some go before they are full, or again when their answer
    // came too late; each registration by itself would be a thousand.
    assert!(together <= 40, "{together} requests for 1,000 registrations");
    let (closed, closing) = cost(&cluster, provider.close()).await;
    closed.unwrap();
    assert!(closing <= 1, "{closing} requests to close one lease");
}

/// Removes the entry of a registration of `s` behind its owner's back, and waits until it was
/// written again: its watch has told of it.
async fn heal(store: &EtcdStore, registration: &Registration) {
    let token = registration.fencing_token();
    store.txn(Txn::new().then(Op::delete(format!("/services/s/{}", registration.id())))).await.unwrap();
    let healed =
        async || (registration.state().is_held() && registration.fencing_token() > token).then_some(());
    eventually(Duration::from_secs(60), "it is registered again", healed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registrations_of_a_service_cost_one_watch() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let (provider, store) =
        (provider(&cluster).await, EtcdStore::connect(&EtcdOptions::new(cluster.endpoints())).await.unwrap());
    let all = (0..1_000).map(|n| ServiceInstance::new("s", format!("i{n}"), "localhost", 80)).collect();
    let held = provider.registry().register_all(all, RegisterOptions::default()).await.unwrap();
    for registration in held.iter().step_by(300) {
        heal(&store, registration).await;
    }
    // One for the session's own key, and one for all of them.
    let two = async || (gauge(&cluster, "etcd_debugging_mvcc_watcher_total") == 2.0).then_some(());
    eventually(Duration::from_secs(60), "the watches that were replaced are gone", two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_registers_one_instance_is_not_sent_the_changes_of_others() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let (provider, store) =
        (provider(&cluster).await, EtcdStore::connect(&EtcdOptions::new(cluster.endpoints())).await.unwrap());
    let sent = || gauge(&cluster, "etcd_debugging_mvcc_events_total");
    let foreign = async || {
        for batch in 0..10 {
            let put = |txn: Txn, n: i32| {
                txn.then(Op::put(format!("/services/s/foreign-{}", batch * 100 + n), "{}"))
            };
            store.txn((0..100).fold(Txn::new(), put)).await.unwrap();
        }
    };
    let one = provider.registry().register(ServiceInstance::new("s", "i", "localhost", 80)).await.unwrap();
    heal(&store, &one).await;
    let before = sent();
    foreign().await;
    heal(&store, &one).await;
    assert!(sent() - before < 10.0, "{} events for one registration", sent() - before);

    // And who registers many is, by one watch, so that the counter counts what it is taken for.
    let all = (0..10).map(|n| ServiceInstance::new("s", format!("i{n}"), "localhost", 80)).collect();
    let many = provider.registry().register_all(all, RegisterOptions::default()).await.unwrap();
    heal(&store, &many[9]).await;
    let before = sent();
    foreign().await;
    heal(&store, &many[9]).await;
    assert!(
        (1_000.0..1_050.0).contains(&(sent() - before)),
        "{} events for ten registrations",
        sent() - before
    );
}
