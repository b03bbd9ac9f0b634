//! What a scrape and the log show of channels.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use coord_api::ServiceInstance;
use coord_api::prelude::*;
use coord_api::store::{Op, Store, Txn};
use coord_grpc::{Channel, RegistryChannelExt};
use coord_memory::MemoryProvider;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

/// Keeps gauges.
#[derive(Clone, Debug, Default)]
struct Gauges(Arc<Mutex<HashMap<Key, Arc<AtomicU64>>>>);

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Arc::clone(self.0.lock().entry(key.clone()).or_default()).into()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The value of a gauge of the channel `channel`.
fn gauge(gauges: &Gauges, name: &str, channel: &str, phase: Option<&str>) -> Option<f64> {
    gauges.0.lock().iter().find_map(|(key, value)| {
        let label = |name: &str| key.labels().find(|label| label.key() == name).map(|label| label.value());
        let this = key.name() == name && label("channel") == Some(channel) && label("phase") == phase;
        this.then(|| f64::from_bits(value.load(Ordering::SeqCst)))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_counted_by_phase_over_all_channels_of_a_name() {
    let metrics = Gauges::default();
    let server = Server::start("a").await;
    let dead = nobody();
    let make = |max| {
        let options = options().with_name("one").with_max_connections(max);
        metrics::with_local_recorder(&metrics, || {
            Channel::fixed([server.endpoint(), dead.endpoint.clone()], options)
        })
        .unwrap()
    };
    let shown = || {
        ["connecting", "ready", "ejected", "idle"]
            .map(|phase| gauge(&metrics, "coord_grpc_endpoints", "one", Some(phase)))
    };
    let counts = |counts: [u32; 4]| counts.map(|count| Some(f64::from(count)));
    let first = make(128);
    eventually("one is ready, one is not", || shown() == counts([0, 1, 1, 0])).await;
    let second = make(128);
    eventually("both channels count", || shown() == counts([0, 2, 2, 0])).await;
    drop(first);
    eventually("one is gone", || shown() == counts([0, 1, 1, 0])).await;
    let third = make(1);
    eventually("one is not connected", || shown().get(3) == Some(&Some(1.0))).await;
    drop((second, third));
    eventually("all are gone", || shown() == counts([0, 0, 0, 0])).await;
}

/// A log that can be read.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_is_skipped_is_logged_once_with_its_reason() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _recorded = tracing::subscriber::set_default(subscriber);
    let server = Server::start("a").await;
    let coord = MemoryProvider::new();
    let record =
        |id: &str, address: &str| format!(r#"{{"id":"{id}","name":"s","address":"{address}","port":80}}"#);
    for (id, address) in [("listens", "0.0.0.0"), ("keeps-a-secret", "http://me:hunter2@a")] {
        let put = Op::put(format!("/services/s/{id}"), record(id, address));
        coord.store().txn(Txn::new().then(put)).await.unwrap();
    }
    let channel = coord.registry().channel_with("s", options()).unwrap();
    let instance =
        |id: &str| ServiceInstance::new("s", id, server.address.ip().to_string(), server.address.port());
    let mut held = Vec::new();
    // Each change of the set is another look at what is skipped.
    for id in ["a", "b", "c"] {
        held.push(coord.registry().register(instance(id)).await.unwrap());
        eventually("the change is seen", || {
            channel.state().endpoints.len() + channel.state().skipped.len() == held.len() + 2
        })
        .await;
    }
    eventually("it is logged", || log.text().contains("keeps-a-secret")).await;
    all_ready(&channel).await;
    let text = log.text();
    for (id, why) in [("listens", "address to listen on"), ("keeps-a-secret", "with a scheme")] {
        let lines: Vec<_> = text.lines().filter(|line| line.contains(id)).collect();
        assert!(
            lines.len() == 1 && lines.iter().all(|line| line.contains("WARN") && line.contains(why)),
            "{text}"
        );
        assert!(
            channel
                .state()
                .skipped
                .iter()
                .any(|skipped| skipped.id == id && skipped.error.message().contains(why))
        );
    }
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_the_set_grows_while_the_registry_is_not_read() {
    let metrics = Gauges::default();
    let server = Server::start("a").await;
    let coord = MemoryProvider::new();
    let instance = ServiceInstance::new("users", "1", server.address.ip().to_string(), server.address.port());
    let _held = coord.registry().register(instance).await.unwrap();
    let channel =
        metrics::with_local_recorder(&metrics, || coord.registry().channel_with("users", options())).unwrap();
    let age = || gauge(&metrics, "coord_grpc_registry_age_seconds", "users", None);
    all_ready(&channel).await;
    eventually("its age is shown", || age().is_some()).await;
    assert!(age().unwrap() < 5.0);
    coord.close().await.unwrap();
    eventually("it grows", || age().is_some_and(|age| age > 2.0)).await;
    assert!(age().unwrap() <= channel.state().age.unwrap().as_secs_f64() + 1.0);
    drop(channel);
    eventually("nothing is left of it", || age() == Some(0.0)).await;
}
