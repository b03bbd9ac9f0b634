//! Each alert fires while its fault happens, and not before: the metrics are scraped as Prometheus
//! would, in virtual time, and promtool evaluates the rules on what was scraped.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use coord::memory::MemoryProvider;
use coord::operations::{DURATION_BUCKETS, RATIO_BUCKETS};
use coord::prelude::*;
use coord::store::{Op, Range, Store, Txn};
use coord::{ServiceInstance, WatchStart};
use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(30);
/// Between two scrapes.
const INTERVAL: Duration = Duration::from_secs(15);

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/coord.rules.yml")
}

fn promtool() -> Command {
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/prometheus");
    let found =
        on_path.chain([cached]).map(|directory| directory.join("promtool")).find(|path| path.is_file());
    Command::new(
        found.expect(
            "NOT TESTED: there is no promtool to evaluate the alerts with; run scripts/prometheus.sh",
        ),
    )
}

/// A recorder as OPERATIONS.md sets one up, for the present thread.
fn recorder() -> &'static PrometheusRecorder {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &DURATION_BUCKETS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_ratio".to_owned()), &RATIO_BUCKETS)
        });
    Box::leak(Box::new(builder.unwrap().build_recorder()))
}

/// What a Prometheus would have stored.
struct Scrapes {
    handle: PrometheusHandle,
    series: BTreeMap<String, Vec<Option<f64>>>,
    count: usize,
    _recording: LocalRecorderGuard<'static>,
}

impl Scrapes {
    fn begin() -> Self {
        let recorder = recorder();
        let _recording = metrics::set_default_local_recorder(recorder);
        Scrapes { handle: recorder.handle(), series: BTreeMap::new(), count: 0, _recording }
    }

    fn scrape(&mut self) {
        for line in self.handle.render().lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let samples = self.series.entry(name.to_owned()).or_default();
            samples.resize(self.count, None);
            samples.push(Some(value.parse().unwrap()));
        }
        self.count += 1;
        self.series.values_mut().for_each(|samples| samples.resize(self.count, None));
    }

    /// Lets virtual time pass, and scrapes.
    async fn pass(&mut self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < until {
            sleep(INTERVAL).await;
            self.scrape();
        }
    }

    /// The time of the last scrape.
    fn now(&self) -> Duration {
        INTERVAL * u32::try_from(self.count - 1).unwrap()
    }

    /// Has promtool evaluate all rules on what was scraped: which alerts fire at which time.
    fn expect(&self, firing: &[(Duration, &[&str])]) {
        let mut test = format!(
            "rule_files: ['{}']\nevaluation_interval: 15s\ntests:\n- interval: 15s\n  input_series:\n",
            rules().display()
        );
        for (name, samples) in &self.series {
            let values: Vec<_> = samples
                .iter()
                .map(|sample| sample.map_or_else(|| "_".to_owned(), |value| value.to_string()))
                .collect();
            let labelled = match name.split_once('{') {
                Some((name, labels)) => format!("{name}{{instance=\"api-1\",job=\"api\",{labels}"),
                None => format!("{name}{{instance=\"api-1\",job=\"api\"}}"),
            };
            writeln!(test, "  - series: '{labelled}'\n    values: '{}'", values.join(" ")).unwrap();
        }
        test.push_str("  promql_expr_test:\n");
        for (at, alerts) in firing {
            writeln!(
                test,
                "  - expr: count by (alertname) (ALERTS{{alertstate=\"firing\"}}) > bool 0\n    eval_time: {}s\n    exp_samples:",
                at.as_secs()
            )
            .unwrap();
            for alert in *alerts {
                writeln!(test, "    - labels: '{{alertname=\"{alert}\"}}'\n      value: 1").unwrap();
            }
            if alerts.is_empty() {
                test.truncate(test.len() - "    exp_samples:\n".len());
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.yml");
        std::fs::write(&path, &test).unwrap();
        let output = promtool().args(["test", "rules"]).arg(&path).output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{test}");
    }
}

#[test]
fn the_rules_are_well_formed() {
    let output = promtool().args(["check", "rules"]).arg(rules()).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
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
    scrapes.expect(&[
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
    ]);
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
    scrapes.expect(&[(calm, &[]), (scrapes.now(), &["CoordLoss"])]);
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
    scrapes.expect(&[(calm, &[]), (scrapes.now(), &["CoordResync"])]);
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
    scrapes.expect(&[(calm, &[]), (scrapes.now(), &["CoordConfigRefused"])]);
    assert_eq!(manager.current().rate, 5);

    drop((scrapes, manager));
    let mut scrapes = Scrapes::begin();
    let manager = coord::ConfigManager::<Limits>::builder(Arc::clone(coord.config()), "api", "limits")
        .env("test")
        .build()
        .unwrap();
    manager.start().await;
    scrapes.pass(INTERVAL * 4).await;
    scrapes.expect(&[(scrapes.now(), &["CoordConfigRefused"])]);
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
    scrapes.expect(&[
        (without, &["CoordNoEndpoint"]),
        (old, &["CoordNoEndpoint", "CoordEndpointsStale", "CoordStoreOutOfReach", "CoordWatchSuspended"]),
    ]);
}
