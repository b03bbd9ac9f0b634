//! TTLs below what etcd grants.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{RegisterOptions, ServiceInstance};
use coord_etcd::EtcdProvider;
use coord_servers::etcd::{Binary, Cluster, Series};

use super::options;

/// etcd grants more than was asked for; to its owner it is the registration of that TTL all the
/// same, which an update leaves in its place.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_granted_for_longer_than_asked_keeps_its_number_when_it_is_updated() {
    // It grants 3 s at least.
    let cluster = Cluster::single_with(
        &Binary::find(Series::V3_5),
        &["--election-timeout", "2000", "--heartbeat-interval", "200"],
    );
    let provider = EtcdProvider::connect(options(&cluster)).await.unwrap();
    let guard = provider.lock().acquire("l", Duration::from_secs(1)).await.unwrap();
    for ttl in [1, 2, 3, 4].map(Duration::from_secs) {
        let instance = |port| ServiceInstance::new("s", format!("i{}", ttl.as_secs()), "localhost", port);
        let registered =
            provider.registry().register_with(instance(1), RegisterOptions::default().with_ttl(ttl)).await;
        let registration = registered.unwrap();
        let before = (registration.fencing_token(), leases(&cluster).await);
        for port in 2..6 {
            registration.update(instance(port)).await.unwrap();
        }
        assert_eq!((registration.fencing_token(), leases(&cluster).await), before, "asked for {ttl:?}");
        let found = provider.registry().discover("s").await.unwrap().items;
        assert_eq!(found.iter().map(|instance| instance.port).collect::<Vec<_>>(), [5]);
        registration.unregister().await.unwrap();
    }
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
    provider.close().await.unwrap();
}

async fn leases(cluster: &Cluster) -> Vec<i64> {
    let mut leases: Vec<i64> = super::raw(cluster, None)
        .await
        .leases()
        .await
        .unwrap()
        .leases()
        .iter()
        .map(|lease| lease.id())
        .collect();
    leases.sort_unstable();
    leases
}
