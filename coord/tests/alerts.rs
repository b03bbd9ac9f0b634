//! Each alert fires while its fault happens, and not before: the metrics are scraped as Prometheus
//! would, in virtual time, and promtool evaluates the rules on what was scraped.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod scrapes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coord::memory::MemoryProvider;
use coord::prelude::*;
use coord::store::{Op, Range, Store, Txn};
use coord::{ServiceInstance, WatchStart};

use scrapes::{Expected, INTERVAL, Scrapes, check_rules};

const TTL: Duration = Duration::from_secs(30);

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/coord.rules.yml")
}

/// Which alerts fire at which time, of all rules.
fn expect(scrapes: &Scrapes, firing: &[(Duration, &[&str])]) {
    let expected = firing.iter().map(|(at, alerts)| Expected {
        expression: "count by (alertname) (ALERTS{alertstate=\"firing\"}) > bool 0".to_owned(),
        at: *at,
        samples: alerts.iter().map(|alert| (format!("{{alertname=\"{alert}\"}}"), 1)).collect(),
    });
    if let Err(said) = scrapes.evaluate(Some(&rules()), &expected.collect::<Vec<_>>()) {
        panic!("{said}");
    }
}

#[test]
fn the_rules_are_well_formed() {
    assert_eq!(check_rules(&rules()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_outage_fires_step_by_step_and_ends() {
    let mut scrapes = Scrapes::begin();
    let coord = MemoryProvider::new();
    let _guard = coord.lock().acquire("job", TTL).await.unwrap();
    let _registration =
        coord.registry().register(ServiceInstance::new("api", "a1", "10.0.0.1", 80)).await.unwrap();
    let _watch = coord.config().watch_raw("app/", WatchStart::Now).await.unwrap();
    scrapes.pass(INTERVAL * 20).await;
    let calm = scrapes.now();
    coord.disconnect();
    scrapes.pass(INTERVAL * 4).await;
    let early = scrapes.now();
    scrapes.pass(INTERVAL * 8).await;
    let late = scrapes.now();
    coord.reconnect();
    scrapes.pass(INTERVAL * 44).await;
    let over = scrapes.now();
    expect(
        &scrapes,
        &[
            (calm, &[]),
            (early, &["CoordStoreOutOfReach", "CoordLeaseMarginLow", "CoordLoss"]),
            (
                late,
                &[
                    "CoordStoreOutOfReach",
                    "CoordLeaseMarginLow",
                    "CoordLoss",
                    "CoordRegistrationHealing",
                    "CoordWatchSuspended",
                ],
            ),
            (over, &[]),
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn a_loss_in_good_times_fires_alone() {
    let mut scrapes = Scrapes::begin();
    let coord = MemoryProvider::new();
    let guard = coord.lock().acquire("job", TTL).await.unwrap();
    scrapes.pass(INTERVAL * 4).await;
    let calm = scrapes.now();
    let entry = coord.store().range(Range::prefix("/locks/job/")).await.unwrap().entries.remove(0);
    coord.store().txn(Txn::new().then(Op::delete(entry.key))).await.unwrap();
    let _ = guard.lost().await;
    scrapes.pass(INTERVAL * 2).await;
    expect(&scrapes, &[(calm, &[]), (scrapes.now(), &["CoordLoss"])]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_history_fires() {
    let mut scrapes = Scrapes::begin();
    let coord = MemoryProvider::new();
    let other = coord.client();
    let mut watch = coord.config().watch_raw("app/", WatchStart::Now).await.unwrap();
    scrapes.pass(INTERVAL * 4).await;
    let calm = scrapes.now();
    coord.disconnect();
    other.config().set("app/a", &1).await.unwrap();
    other.config().set("app/a", &2).await.unwrap();
    let head = other.config().list_raw("app").await.unwrap().revision;
    other.compact(head).await.unwrap();
    coord.reconnect();
    assert!(matches!(watch.next().await, Some(Ok(coord::ConfigEvent::Resync(_)))));
    scrapes.pass(INTERVAL * 2).await;
    expect(&scrapes, &[(calm, &[]), (scrapes.now(), &["CoordResync"])]);
}

#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
struct Limits {
    rate: u32,
}

#[tokio::test(start_paused = true)]
async fn a_refused_configuration_fires_also_where_it_was_there_from_the_start() {
    let mut scrapes = Scrapes::begin();
    let coord = MemoryProvider::new();
    let manager = coord::ConfigManager::<Limits>::builder(Arc::clone(coord.config()), "api", "limits")
        .env("test")
        .build()
        .unwrap();
    coord.config().set("test/api/limits", &Limits { rate: 5 }).await.unwrap();
    manager.start().await;
    scrapes.pass(INTERVAL * 4).await;
    let calm = scrapes.now();
    coord.config().set("test/api/limits", "no limits").await.unwrap();
    scrapes.pass(INTERVAL * 2).await;
    expect(&scrapes, &[(calm, &[]), (scrapes.now(), &["CoordConfigRefused"])]);
    assert_eq!(manager.current().rate, 5);

    drop((scrapes, manager));
    let mut scrapes = Scrapes::begin();
    let manager = coord::ConfigManager::<Limits>::builder(Arc::clone(coord.config()), "api", "limits")
        .env("test")
        .build()
        .unwrap();
    manager.start().await;
    scrapes.pass(INTERVAL * 4).await;
    expect(&scrapes, &[(scrapes.now(), &["CoordConfigRefused"])]);
}

#[cfg(feature = "grpc")]
#[tokio::test(start_paused = true)]
async fn a_channel_without_endpoints_or_with_an_old_list_of_them_fires() {
    use coord::grpc::{ChannelOptions, RegistryChannelExt as _};
    use coord::recipes::Home;

    let mut scrapes = Scrapes::begin();
    let coord = MemoryProvider::new();
    // In virtual time, as the rest.
    let options = ChannelOptions::default().with_home(Home::callers());
    let channel = coord.registry().channel_with("nobody", options).unwrap();
    scrapes.pass(INTERVAL * 4).await;
    let without = scrapes.now();
    coord.disconnect();
    scrapes.pass(INTERVAL * 8).await;
    let old = scrapes.now();
    drop(channel);
    expect(
        &scrapes,
        &[
            (without, &["CoordNoEndpoint"]),
            (old, &["CoordNoEndpoint", "CoordEndpointsStale", "CoordStoreOutOfReach", "CoordWatchSuspended"]),
        ],
    );
}
