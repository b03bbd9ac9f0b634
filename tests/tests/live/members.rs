//! Members that die or stand still (R3, and the first rows of the fault matrix).

use std::time::Duration;

use coord_api::ErrorKind;
use coord_api::store::{Compare, Op, Range, Store, Txn};
use coord_etcd::{EtcdOptions, EtcdStore};
use coord_servers::etcd::{Binary, Cluster, Series, Signal};
use coord_testkit::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{SOON, get, options, put, store, store_on, timed};

const ATTEMPT: Duration = Duration::from_millis(500);

fn impatient(cluster: &Cluster) -> EtcdOptions {
    let mut options = options(cluster);
    options.retry.attempt_timeout = Some(ATTEMPT);
    options
}

/// 100 reads, of which none fails, and then as many writes.
async fn all_succeed(store: &EtcdStore, what: &str) {
    for n in 0..100 {
        get(store, "k").await.unwrap_or_else(|error| panic!("{what}, read {n}: {error}"));
    }
    for n in 0..100 {
        put(store, "k", n.to_string()).await.unwrap_or_else(|error| panic!("{what}, write {n}: {error}"));
    }
}

#[tokio::test]
async fn a_dead_endpoint_among_live_ones_is_no_error() {
    let mut cluster = Cluster::three(&Binary::find(Series::V3_5));
    cluster.servers_mut()[1].kill();
    for _ in 0..6 {
        let store = EtcdStore::connect(&options(&cluster)).await.unwrap();
        eventually(SOON, "there is a leader", async || put(&store, "k", "v").await.ok()).await;
        all_succeed(&store, "one member is dead").await;
    }
}

#[tokio::test]
async fn a_lazy_client_keeps_trying() {
    let mut cluster = Cluster::single(&Binary::find(Series::V3_5));
    cluster.servers_mut()[0].kill();
    let store = EtcdStore::connect_lazy(&options(&cluster)).unwrap();
    assert_eq!(get(&store, "k").await.unwrap_err().kind(), ErrorKind::Unavailable);
    cluster.restart();
    put(&store, "k", "v").await.unwrap();
}

#[tokio::test]
async fn connecting_waits_for_a_server_that_is_starting() {
    let mut cluster = Cluster::single(&Binary::find(Series::V3_5));
    cluster.servers_mut()[0].kill();
    let options = options(&cluster).with_connect_timeout(SOON);
    let connecting = tokio::spawn(async move { EtcdStore::connect(&options).await });
    let restarted = tokio::task::spawn_blocking(move || {
        cluster.restart();
        cluster
    });
    let _cluster = restarted.await.unwrap();
    connecting.await.unwrap().unwrap();
}

#[tokio::test]
async fn one_member_that_stands_still_costs_one_attempt() {
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    for index in 0..3 {
        let mut tries = 0;
        // The first read pays for all. Where the leader stands still, the others choose a new one
        // first.
        let store = loop {
            let store = store_on(&cluster, index, &impatient(&cluster)).await;
            cluster.servers()[index].signal(Signal::Stop);
            let read = eventually(SOON, "a read", async || get(&store, "k").await.ok());
            let ((), took) = timed(async { drop(read.await) }).await;
            if took >= ATTEMPT - Duration::from_millis(50) {
                break store;
            }
            // It had left its own member before, and went back to it just now.
            cluster.servers()[index].signal(Signal::Continue);
            tries += 1;
            assert!(tries < 10, "member {index} was not asked: {took:?}");
        };
        eventually(SOON, "a leader", async || put(&store, "k", "v").await.ok()).await;
        all_succeed(&store, &format!("member {index} stands still")).await;
        let lease = store.grant_lease(Duration::from_secs(5)).await.unwrap().id;
        store.keep_alive(lease).await.unwrap();
        cluster.servers()[index].signal(Signal::Continue);
    }
}

#[tokio::test]
async fn a_renewal_that_is_given_up_goes_to_another_member_the_next_time() {
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    let store = store_on(&cluster, 0, &options(&cluster)).await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    cluster.servers()[0].signal(Signal::Stop);
    // As an owner does whose lease is short: long before an attempt's own timeout.
    let given_up = tokio::time::timeout(Duration::from_millis(400), store.keep_alive(lease.id)).await;
    assert!(given_up.is_err(), "{given_up:?}");
    let renewed = eventually(SOON, "a renewal elsewhere", async || {
        tokio::time::timeout(Duration::from_millis(1_000), store.keep_alive(lease.id)).await.ok()?.ok()
    });
    assert_eq!(renewed.await, lease.ttl);
    cluster.servers()[0].signal(Signal::Continue);
}

/// Of a transaction without any operation etcd finds that no read in it asks to be linearizable,
/// and answers it from what the member happens to know.
#[tokio::test]
async fn without_a_majority_no_transaction_is_answered_not_even_one_that_only_compares() {
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    let mut options = impatient(&cluster);
    options.endpoints.truncate(1);
    let store = EtcdStore::connect(&options).await.unwrap();
    eventually(SOON, "there is a leader", async || put(&store, "k", "v").await.ok()).await;
    cluster.servers()[1..].iter().for_each(|server| server.signal(Signal::Stop));
    let present = Compare::Present("k".into());
    for txn in [
        Txn::new(),
        Txn::new().when(present.clone()),
        Txn::new().when(present.clone()).then(Op::Range(Range::key("k"))),
        Txn::new().when(present).otherwise(Op::put("k", "w")),
    ] {
        let error = store.txn(txn.clone()).await.expect_err("one of three knows nothing for sure");
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{txn:?}: {error}");
    }
    cluster.servers()[1..].iter().for_each(|server| server.signal(Signal::Continue));
}

/// How many reads each member has been asked for, by its own count.
async fn reads(cluster: &Cluster) -> Vec<u64> {
    let mut counts = Vec::new();
    for endpoint in cluster.endpoints() {
        let mut connection = TcpStream::connect(endpoint.trim_start_matches("http://")).await.unwrap();
        connection.write_all(b"GET /metrics HTTP/1.0\r\nHost: etcd\r\n\r\n").await.unwrap();
        let mut metrics = String::new();
        connection.read_to_string(&mut metrics).await.unwrap();
        let own = |line: &&str| {
            line.starts_with("grpc_server_started_total{") && line.contains("grpc_method=\"Range\"")
        };
        let count = metrics.lines().find(own).expect("etcd counts its calls").rsplit(' ').next().unwrap();
        counts.push(count.parse::<f64>().unwrap() as u64);
    }
    counts
}

/// Which member answers a client's reads, if one of them answers all.
pub(super) async fn asked(cluster: &Cluster, store: &EtcdStore) -> Option<usize> {
    let before = reads(cluster).await;
    for _ in 0..100 {
        get(store, "k").await.ok()?;
    }
    reads(cluster).await.iter().zip(before).position(|(now, before)| now - before >= 100)
}

/// Else all clients of a cluster would be with the member that was restarted first.
#[tokio::test]
async fn after_a_rolling_restart_each_client_asks_the_member_that_it_asked_before() {
    let mut cluster = Cluster::three(&Binary::find(Series::V3_5));
    eventually(SOON, "there is a leader", async || put(&store(&cluster).await, "k", "v").await.ok()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let store = EtcdStore::connect_lazy(&impatient(&cluster)).unwrap();
        let home = asked(&cluster, &store).await.expect("nothing fails yet");
        clients.push((store, home));
    }
    for index in 0..3 {
        cluster.servers_mut()[index].kill();
        for (store, _) in &clients {
            eventually(SOON, "there is a leader, and the client has moved", async || {
                get(store, "k").await.ok()
            })
            .await;
        }
        cluster = tokio::task::spawn_blocking(move || {
            cluster.servers_mut()[index].restart();
            cluster
        })
        .await
        .unwrap();
        // The next one is restarted when the cluster is whole again, as operators do.
        eventually(SOON, "the member serves", async || {
            let mut options = impatient(&cluster);
            options.endpoints = vec![options.endpoints[index].clone()];
            let member = EtcdStore::connect(&options).await.ok()?;
            get(&member, "k").await.ok()
        })
        .await;
    }
    for (store, home) in &clients {
        let is_home = async || (asked(&cluster, store).await == Some(*home)).then_some(());
        eventually(SOON * 2, "the client is where it was", is_home).await;
    }
}
