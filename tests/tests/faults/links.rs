//! Connections that swallow everything, or are reset all the time.

use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{HandleState, Value};
use coord_servers::etcd::{Binary, Cluster, Proxy, Series, Way};
use coord_testkit::wait::{eventually, within};
use futures_util::future::join_all;

use crate::{Follower, Held, SLACK, SOON, TOTAL, Writer, provider};

/// A cluster, and the ways to it.
pub(crate) async fn cluster_behind_proxies() -> (Cluster, Vec<Proxy>) {
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    let endpoints = cluster.endpoints();
    let proxies = join_all(endpoints.iter().map(|endpoint| Proxy::start(endpoint)))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    (cluster, proxies)
}

pub(crate) fn endpoints(proxies: &[Proxy]) -> Vec<String> {
    proxies.iter().map(|proxy| proxy.endpoint().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_cut_off_loses_in_time_and_comes_back() {
    let ttl = Duration::from_secs(3);
    let (cluster, proxies) = cluster_behind_proxies().await;
    let (cut, rival) = (provider(endpoints(&proxies)).await, provider(cluster.endpoints()).await);
    let held = Held::new(&cut, ttl).await;
    let follower = Follower::start(&cut).await;

    proxies.iter().for_each(|proxy| proxy.set(Way::Stands));
    let since = Instant::now();
    let waiting = tokio::spawn({
        let rival = std::sync::Arc::clone(&rival);
        async move {
            let guard = rival.lock().acquire("held", ttl).await.unwrap();
            (guard, Instant::now())
        }
    });
    // The holder knows first, by its own clock, while it is still cut off (R32).
    within(ttl + SLACK, "the lock is lost", held.guard.lost()).await;
    let lost = Instant::now();
    assert!(!held.guard.is_held());
    let (granted, at) = within(ttl * 2 + SOON, "the rival is granted it", waiting).await.unwrap();
    assert!(at >= lost, "granted {:?} before the holder knew", lost - at);
    assert!(granted.fencing_token() > held.guard.fencing_token());
    // No call outlives its total timeout, and the watch says how it is.
    let start = Instant::now();
    assert!(cut.config().get_raw("k").await.unwrap_err().is_transient());
    assert!(start.elapsed() <= TOTAL + SLACK, "{:?}", start.elapsed());
    let suspended = async || follower.is_suspended().then_some(());
    eventually(Duration::from_secs(3) + SLACK, "the watch is suspended", suspended).await;
    assert!(since.elapsed() < SOON);

    // What happens meanwhile is told when the way is open again.
    let mut written = Vec::new();
    for n in 0..20 {
        written.push(rival.config().set_raw("w/k", Value::from(n.to_string())).await.unwrap());
    }
    proxies.iter().for_each(|proxy| proxy.set(Way::Open));
    assert_eq!(follower.has_told(&written).await, 0);
    eventually(SOON, "the registration is back", async || held.registration.state().is_held().then_some(()))
        .await;
    assert!(matches!(held.guard.state(), HandleState::Ended(_)), "a lock does not come back");
    assert!(granted.is_held());
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_is_compacted_meanwhile_is_told_as_a_whole() {
    let (cluster, proxies) = cluster_behind_proxies().await;
    let (cut, other) = (provider(endpoints(&proxies)).await, provider(cluster.endpoints()).await);
    let follower = Follower::start(&cut).await;
    other.config().set_raw("w/gone", Value::from("1")).await.unwrap();
    proxies.iter().for_each(|proxy| proxy.set(Way::Stands));
    let mut written = Vec::new();
    for n in 0..20 {
        written.push(other.config().set_raw("w/k", Value::from(n.to_string())).await.unwrap());
    }
    other.config().delete("w/gone").await.unwrap();
    let last = other.config().set_raw("w/last", Value::from("1")).await.unwrap();
    written.push(last);
    let mut client = etcd_client::Client::connect(cluster.endpoints(), None).await.unwrap();
    client.compact(last.get() as i64, None).await.unwrap();
    // Not before the watch is known to be broken: else it might go on where it was.
    let suspended = async || follower.is_suspended().then_some(());
    eventually(SOON, "the watch is suspended", suspended).await;
    proxies.iter().for_each(|proxy| proxy.set(Way::Open));
    assert_eq!(follower.has_told(&written).await, 1, "history was lost, and said so");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_reset_ten_times_a_second_lose_nothing() {
    let (cluster, proxies) = cluster_behind_proxies().await;
    let (victim, reader) = (provider(endpoints(&proxies)).await, provider(endpoints(&proxies)).await);
    let held = Held::new(&victim, Duration::from_secs(10)).await;
    let follower = Follower::start(&victim).await;
    let writer = Writer::start(provider(cluster.endpoints()).await);
    for _ in 0..100 {
        proxies.iter().for_each(Proxy::reset);
        let pause = tokio::time::sleep(Duration::from_millis(100));
        // What may be repeated succeeds.
        let (read, ()) = tokio::join!(reader.config().get_raw("w/0"), pause);
        read.unwrap();
    }
    held.assert_held("after 100 resets");
    let (written, _) = writer.stop().await;
    assert!(written.len() > 100);
    assert_eq!(follower.has_told(&written).await, 0);
    within(SOON, "it is given back", held.guard.unlock()).await.unwrap();
}
