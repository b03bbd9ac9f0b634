//! Runtimes of the program that end or stand still, and what is held all the same (R31).

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ConfigEvent, ErrorKind, ServiceInstance, Value, WatchStart};
use coord_etcd::EtcdProvider;
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::within;
use tokio::runtime::{Builder, Runtime};

use super::{SOON, options};

const TTL: Duration = Duration::from_secs(2);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_provider_that_was_opened_in_a_runtime_that_has_ended_works() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let opened = runtime().block_on(EtcdProvider::connect(options(&cluster))).unwrap();
    let lazy = EtcdProvider::connect_lazy(options(&cluster)).unwrap();
    for provider in [opened, lazy] {
        for turn in 0..2 {
            runtime().block_on(async {
                provider.config().set("greeting", &turn).await.unwrap();
                assert_eq!(provider.config().get::<i32>("greeting").await.unwrap().unwrap(), turn);
                let guard = provider.lock().acquire("l", TTL).await.unwrap();
                guard.unlock().await.unwrap();
            });
        }
        futures_executor::block_on(provider.close()).unwrap();
    }
}

#[test]
fn a_runtime_that_stands_still_for_two_ttls_loses_nothing() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let blocked = runtime();
    let provider = blocked.block_on(EtcdProvider::connect(options(&cluster))).unwrap();
    let (guard, registration, mut watch) = blocked.block_on(async {
        let guard = provider.lock().acquire("l", TTL).await.unwrap();
        let options = coord_api::RegisterOptions::default().with_ttl(TTL);
        let registration = provider
            .registry()
            .register_with(ServiceInstance::new("s", "i", "localhost", 80), options)
            .await
            .unwrap();
        (guard, registration, provider.config().watch_raw("k", WatchStart::Now).await.unwrap())
    });
    let others = runtime();
    let other = others.block_on(EtcdProvider::connect(options(&cluster))).unwrap();
    let standing_still = std::thread::scope(|scope| {
        scope.spawn(|| blocked.block_on(async { std::thread::sleep(TTL * 3) }));
        others.block_on(async {
            tokio::time::sleep(TTL * 5 / 2).await;
            let refused = other.lock().try_acquire("l", TTL).await.unwrap_err();
            (refused.kind(), other.registry().discover("s").await.unwrap().items.len())
        })
    });
    assert_eq!(standing_still, (ErrorKind::Conflict, 1), "nobody else gets it, and others see it");
    assert!(guard.is_held());
    others.block_on(other.config().set_raw("k", Value::from("v"))).unwrap();
    blocked.block_on(async {
        let told = within(SOON, "the watch goes on", watch.next()).await;
        assert!(matches!(told, Some(Ok(ConfigEvent::Put { .. }))), "{told:?}");
        registration.unregister().await.unwrap();
        guard.unlock().await.unwrap();
        provider.close().await.unwrap();
    });
}
