//! Behind etcd's own proxy, which passes changes on and answers no request for progress.

use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{ConfigEvent, Value, WatchStart, WatchState};
use coord_etcd::{EtcdOptions, EtcdProvider};
use coord_servers::etcd::{Binary, Cluster, GrpcProxy, Series};
use coord_testkit::wait::{eventually, within};

use super::{SOON, options};

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_watch_stays_and_what_happens_is_told() {
    let binary = Binary::find(Series::V3_5);
    let cluster = Cluster::single(&binary);
    let proxy = GrpcProxy::start(&binary, &cluster.endpoints());
    let writer = EtcdProvider::connect(options(&cluster)).await.unwrap();
    let behind = EtcdProvider::connect(EtcdOptions::new([proxy.endpoint()])).await.unwrap();
    let mut watch = behind.config().watch_raw("quiet", WatchStart::Now).await.unwrap();
    let guard = behind.lock().acquire("l", Duration::from_secs(5)).await.unwrap();
    for round in 0..2 {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(8) {
            // Others write what is not watched.
            writer.config().set("other", &0).await.unwrap();
            assert_eq!(watch.state(), WatchState::Live, "round {round}, after {:?}", begun.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let version = writer.config().set_raw("quiet", Value::from("loud")).await.unwrap();
        match within(SOON, "the change", watch.next()).await {
            Some(Ok(ConfigEvent::Put { entry, .. })) => assert_eq!(entry.version, version),
            other => panic!("{other:?}"),
        }
    }
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
    behind.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_stands_still_is_left_and_no_change_is_missed() {
    let binary = Binary::find(Series::V3_5);
    let cluster = Cluster::single(&binary);
    let (one, two) =
        (GrpcProxy::start(&binary, &cluster.endpoints()), GrpcProxy::start(&binary, &cluster.endpoints()));
    let writer = EtcdProvider::connect(options(&cluster)).await.unwrap();
    let behind = EtcdProvider::connect(EtcdOptions::new([one.endpoint(), two.endpoint()])).await.unwrap();
    let mut watch = behind.config().watch_raw("k", WatchStart::Now).await.unwrap();
    for proxy in [&one, &two] {
        signal(proxy, "-STOP");
        let version = writer.config().set_raw("k", Value::from("v")).await.unwrap();
        let told = within(SOON, "the change", watch.next()).await;
        assert!(
            matches!(&told, Some(Ok(ConfigEvent::Put { entry, .. })) if entry.version == version),
            "{told:?}"
        );
        signal(proxy, "-CONT");
        eventually(SOON, "the proxy serves", async || {
            EtcdProvider::connect(EtcdOptions::new([proxy.endpoint()]))
                .await
                .ok()?
                .config()
                .get_raw("k")
                .await
                .ok()
        })
        .await;
    }
}

fn signal(proxy: &GrpcProxy, signal: &str) {
    assert!(
        std::process::Command::new("kill")
            .args([signal, &proxy.pid().to_string()])
            .status()
            .unwrap()
            .success()
    );
}
