//! What an operator hears without asking: outages, losses and resyncs, each once, and the metrics
//! above the store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Store, Txn};
use coord_api::{
    ConfigEvent, ErrorKind, IdOptions, LockOptions, RegisterOptions, ServiceInstance, Takeover, Wait,
    WatchStart,
};
use coord_memory::MemoryStore;
use coord_recipes::{
    CampaignOptions, Election, Home, Periodic, PermitLimit, PermitOptions, ProviderOptions, Semaphore,
    StoreProvider,
};
use coord_testkit::wrap::{Fault, Faults, Faulty, Replaceable};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::time::sleep;
use tracing::subscriber::DefaultGuard;

const TTL: Duration = Duration::from_secs(30);

/// The lines that were written, at WARN and above unless more is asked for.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn listen() -> (Log, DefaultGuard) {
        Log::listen_to(tracing::Level::WARN)
    }

    fn listen_to(level: tracing::Level) -> (Log, DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines that were written since the last call.
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

fn provider(store: &MemoryStore) -> Arc<StoreProvider> {
    StoreProvider::new(Arc::new(store.clone()), ProviderOptions::default().with_name("billing:1"))
}

/// The number that a line gives for a field.
fn number(line: &str, field: &str) -> f64 {
    let (_, rest) = line.split_once(&format!("{field}=")).unwrap_or_else(|| panic!("no {field} in: {line}"));
    rest.split_whitespace().next().unwrap().parse().unwrap_or_else(|_| panic!("{field} of: {line}"))
}

fn has(line: &str, parts: &[&str]) -> bool {
    parts.iter().all(|part| line.contains(part))
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_once_and_so_is_its_end() {
    let (log, _listening) = Log::listen();
    let store = MemoryStore::new();
    let coord = provider(&store);
    let guard = coord.lock().acquire("job", TTL).await.unwrap();
    let _watch = coord.config().watch_raw("app/limits", WatchStart::Now).await.unwrap();
    sleep(TTL * 3).await;
    assert_eq!(log.take(), [""; 0], "nothing was wrong");
    store.disconnect();
    sleep(Duration::from_secs(8)).await;
    let told = log.take();
    assert!(
        told.len() == 1
            && has(
                &told[0],
                &["WARN", "the store is out of reach", "provider=\"billing:1\"", "error=", "cut off"]
            ),
        "{told:?}"
    );
    sleep(Duration::from_secs(4)).await;
    store.reconnect();
    sleep(TTL).await;
    let told = log.take();
    assert!(
        told.len() == 1 && has(&told[0], &["WARN", "the store is back", "provider=\"billing:1\""]),
        "{told:?}"
    );
    assert!((10.0..16.0).contains(&number(&told[0], "after_s")), "{told:?}");
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_short_fault_is_no_outage() {
    let (log, _listening) = Log::listen();
    let store = MemoryStore::new();
    let coord = provider(&store);
    let _guard = coord.lock().acquire("job", TTL).await.unwrap();
    for _ in 0..20 {
        store.disconnect();
        coord.config().get_raw("a").await.unwrap_err();
        sleep(Duration::from_millis(900)).await;
        store.reconnect();
        coord.config().get_raw("a").await.unwrap();
        sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(log.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn each_loss_names_what_was_lost_why_and_how_old_the_last_renewal_is() {
    let (log, _listening) = Log::listen();
    let store = MemoryStore::new();
    let coord = provider(&store);
    let _guard = coord.lock().acquire("jobs/nightly", TTL).await.unwrap();
    let _id = coord.allocator().acquire_id("api", 10).await.unwrap();
    let registration =
        coord.registry().register(ServiceInstance::new("api", "a1", "10.0.0.1", 80)).await.unwrap();
    sleep(TTL).await;
    store.disconnect();
    sleep(TTL * 2).await;
    let told = log.take();
    assert_eq!(told.len(), 4, "{told:?}");
    for (contract, key) in [("lock", "jobs/nightly"), ("id", "api/1"), ("registration", "api/a1")] {
        let parts = [
            &format!("contract=\"{contract}\""),
            &format!("key=\"{key}\""),
            "reason=\"expired\"",
            "provider=\"billing:1\"",
            "last_error=",
            "cut off",
        ];
        let lost = told
            .iter()
            .find(|line| has(line, &parts.map(|part| part as &str)))
            .unwrap_or_else(|| panic!("no {key}: {told:?}"));
        assert!((20.0..=30.0).contains(&number(lost, "renewed_ago_s")), "{lost}");
    }
    store.reconnect();
    sleep(TTL).await;
    let told = log.take();
    assert!(told.iter().any(|line| has(line, &["registered again", "key=\"api/a1\""])), "{told:?}");
    assert!(registration.state().is_held());
    assert_eq!(told.len(), 2, "that, and that the store is back: {told:?}");
}

/// Who wonders where a lock went finds it in a trace. What was given back, was never held, or ended
/// with the client tells nothing.
#[tokio::test(start_paused = true)]
async fn what_is_dropped_while_it_is_held_is_told_at_debug() {
    let (log, _listening) = Log::listen_to(tracing::Level::DEBUG);
    let dropped = || -> Vec<String> {
        log.take().into_iter().filter(|line| line.contains("dropped while it was held")).collect()
    };
    let store = MemoryStore::new();
    let coord = provider(&store);
    let client = coord.core();
    let guard = coord.lock().acquire("jobs/nightly", TTL).await.unwrap();
    let of_two = PermitOptions::new(PermitLimit::First(2));
    let permit = Semaphore::new(client, "exports").acquire(1, of_two).await.unwrap();
    let leadership = Election::new(client, "jobs").campaign("me", CampaignOptions::default()).await.unwrap();
    let id = coord.allocator().acquire_id("api", 10).await.unwrap();

    let waits = tokio::time::timeout(TTL, coord.lock().acquire("jobs/nightly", TTL)).await;
    assert!(waits.is_err());
    assert_eq!(dropped(), [""; 0], "a place in the queue is nobody's loss");

    drop((guard, permit, leadership, id));
    let told = dropped();
    assert_eq!(told.len(), 4, "{told:?}");
    for (contract, key) in
        [("lock", "jobs/nightly"), ("semaphore", "exports"), ("election", "jobs"), ("id", "api/1")]
    {
        let parts = [&format!("contract=\"{contract}\""), &format!("key=\"{key}\"")];
        let parts = [&["DEBUG", "provider=\"billing:1\""], &parts.map(|part| part as &str)[..]].concat();
        assert!(told.iter().any(|line| has(line, &parts)), "no {key}: {told:?}");
    }

    let guard = coord.lock().acquire("jobs/nightly", TTL).await.unwrap();
    guard.unlock().await.unwrap();
    drop(guard);
    let guard = coord.lock().acquire("jobs/nightly", TTL).await.unwrap();
    coord.close().await.unwrap();
    drop(guard);
    assert_eq!(dropped(), [""; 0], "it was given back, and the client was closed");
}

#[tokio::test(start_paused = true)]
async fn what_others_remove_or_take_over_is_told_with_its_reason() {
    let (log, _listening) = Log::listen();
    let store = MemoryStore::new();
    let (coord, other) = (provider(&store), provider(&store.client()));
    let guard = coord.lock().acquire("job", TTL).await.unwrap();
    let entry = store.range(coord_api::store::Range::prefix("/locks/job/")).await.unwrap().entries.remove(0);
    store.txn(Txn::new().then(Op::delete(entry.key))).await.unwrap();
    let _ = guard.lost().await;
    let told = log.take();
    assert!(
        told.len() == 1 && has(&told[0], &["contract=\"lock\"", "key=\"job\"", "reason=\"removed\""]),
        "{told:?}"
    );

    let instance = ServiceInstance::new("api", "a1", "10.0.0.1", 80);
    let mine = coord.registry().register(instance.clone()).await.unwrap();
    store.txn(Txn::new().then(Op::delete("/services/api/a1"))).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let told = log.take();
    assert!(
        told.len() == 2 && has(&told[0], &["contract=\"registration\"", "reason=\"removed\""]),
        "{told:?}"
    );
    assert!(has(&told[1], &["registered again", "key=\"api/a1\""]), "{told:?}");
    let replace = RegisterOptions::default().with_takeover(Takeover::Replace);
    let _theirs = other.registry().register_with(instance, replace).await.unwrap();
    let _ = mine.lost().await;
    let told = log.take();
    assert!(
        told.len() == 1
            && has(&told[0], &["contract=\"registration\"", "key=\"api/a1\"", "reason=\"superseded\""]),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_its_owner_ends_is_no_loss_and_neither_is_a_place_in_a_queue() {
    let (log, _listening) = Log::listen();
    let store = MemoryStore::new();
    let coord = provider(&store);
    let held = coord.lock().acquire("job", TTL).await.unwrap();
    let other = provider(&store.client());
    let waiting = tokio::spawn(async move {
        other.lock().acquire_with("job", LockOptions::default().with_wait(Wait::For(TTL))).await
    });
    sleep(Duration::from_secs(1)).await;
    let places = store.range(coord_api::store::Range::prefix("/locks/job/")).await.unwrap().entries;
    let place = places.into_iter().max_by_key(|entry| entry.created).unwrap();
    store.txn(Txn::new().then(Op::delete(place.key))).await.unwrap();
    sleep(Duration::from_secs(12)).await;
    held.unlock().await.unwrap();
    let taken = waiting.await.unwrap().unwrap();
    drop(taken);
    let dropped = coord.lock().acquire("dropped", TTL).await.unwrap();
    drop(dropped);
    let _closed = coord.lock().acquire("closed", TTL).await.unwrap();
    coord.close().await.unwrap();
    sleep(TTL * 2).await;
    assert_eq!(log.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn of_many_losses_at_once_the_first_are_named_and_the_others_counted() {
    let (log, _listening) = Log::listen();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let store = MemoryStore::new();
    let coord = provider(&store);
    let mut guards = Vec::new();
    for number in 0..40 {
        guards.push(coord.lock().acquire(&format!("job-{number}"), TTL).await.unwrap());
    }
    store.disconnect();
    sleep(TTL * 2).await;
    let told = log.take();
    assert_eq!(told.iter().filter(|line| line.contains("contract=\"lock\"")).count(), 16, "{told:?}");
    assert!(told.iter().any(|line| has(line, &["more was lost", "more=24"])), "{told:?}");
    assert_eq!(measured(&snapshotter)["coord_losses_total{lock,expired}"], 40.0);
}

#[tokio::test(start_paused = true)]
async fn a_resync_is_told_with_its_cause() {
    let (log, _listening) = Log::listen();
    let first = MemoryStore::new();
    let replaceable = Replaceable::new(Arc::new(first.clone()));
    let coord = StoreProvider::new(Arc::new(replaceable.clone()), ProviderOptions::default());
    let mut watch = coord.config().watch_raw("app/", WatchStart::Now).await.unwrap();
    let other = provider(&first.client());
    first.disconnect();
    for number in 0..10 {
        other.config().set("app/a", &number).await.unwrap();
    }
    let head = other.config().list_raw("app").await.unwrap().revision;
    let admin = MemoryStoreAdmin(&first);
    admin.compact(head).await;
    first.reconnect();
    assert!(matches!(watch.next().await, Some(Ok(ConfigEvent::Resync(_)))));
    let told = log.take();
    assert!(
        told.iter()
            .any(|line| has(line, &["history was lost", "key=\"/config/app/\"", "cause=\"compacted\""])),
        "{told:?}"
    );

    replaceable.replace(Arc::new(MemoryStore::new()));
    first.disconnect();
    assert!(matches!(watch.next().await, Some(Ok(ConfigEvent::Resync(_)))));
    let told = log.take();
    assert!(told.iter().any(|line| has(line, &["history was lost", "cause=\"replaced\""])), "{told:?}");
}

/// Compacts a store from another client's side.
struct MemoryStoreAdmin<'a>(&'a MemoryStore);

impl MemoryStoreAdmin<'_> {
    async fn compact(&self, through: coord_api::Revision) {
        self.0.client().compact(through).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_is_too_slow_is_told_of() {
    let (log, _listening) = Log::listen();
    let store = MemoryStore::new();
    let coord = provider(&store);
    let mut watch = coord.config().watch_raw("app/", WatchStart::Now).await.unwrap();
    for number in 0..3_000 {
        coord.config().set("app/a", &number).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(matches!(watch.next().await, Some(Ok(ConfigEvent::Resync(_)))));
    let told = log.take();
    assert!(told.len() == 1 && has(&told[0], &["history was lost", "cause=\"lagged\""]), "{told:?}");
}

/// The metrics by name and label values. Each look at gauges and counters of this recorder starts
/// anew from zero.
#[tokio::test(start_paused = true)]
async fn a_periodic_job_that_cannot_begin_is_told_once_in_a_row() {
    const MARKER: &str = "/periodic/trim/marker";
    let (log, _listening) = Log::listen();
    let faults = Faults::default();
    let store = Arc::new(Faulty::new(MemoryStore::new(), faults.clone()));
    let client = coord_core::Client::new(store, "billing", Home::callers());
    let job = Periodic::new(&client, "trim", Duration::from_secs(60));
    let running = tokio::spawn(async move { job.run(async |_| {}).await });
    for _ in 0..2 {
        (0..5).for_each(|_| faults.next_put(Fault::Deny, MARKER));
        sleep(Duration::from_secs(65)).await;
        // It began once the store did not refuse it any more.
        assert_eq!(faults.unused(), 0);
        let told = log.take();
        assert_eq!(told.len(), 1, "{told:#?}");
        let parts =
            ["the next run cannot begin", "provider=\"billing\"", "key=\"trim\"", "kind=permission denied"];
        assert!(has(&told[0], &parts), "{told:#?}");
    }
    running.abort();
}

fn measured(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let mut seen = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> = key.key().labels().map(|label| label.value().to_owned()).collect();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(level) => level.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        let name = key.key().name();
        seen.insert(
            if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) },
            value,
        );
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn leases_locks_watches_and_registrations_are_measured() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let store = MemoryStore::new();
    let coord = provider(&store);
    let seen = measured(&snapshotter);
    assert_eq!(
        seen["coord_losses_total{registration,superseded}"], 0.0,
        "there from the start, so that the first one is an increase"
    );
    let guard = coord.lock().acquire("job", TTL).await.unwrap();
    let _watch = coord.config().watch_raw("app/", WatchStart::Now).await.unwrap();
    let _registration =
        coord.registry().register(ServiceInstance::new("api", "a1", "10.0.0.1", 80)).await.unwrap();
    sleep(Duration::from_secs(25)).await;
    let seen = measured(&snapshotter);
    assert_eq!(seen["coord_lease_renewals_total{ok}"], 2.0);
    assert_eq!(seen["coord_lease_margin_ratio"], 2.0);
    assert_eq!(seen["coord_lock_wait_duration_seconds"], 1.0);
    assert_eq!(seen["coord_watches{live}"], 1.0);
    assert_eq!(seen["coord_registrations{held}"], 1.0);
    assert_eq!(seen["coord_store_out_of_reach"], 0.0);
    guard.unlock().await.unwrap();
    assert_eq!(measured(&snapshotter)["coord_lock_held_duration_seconds"], 1.0);

    store.disconnect();
    sleep(Duration::from_secs(10)).await;
    let seen = measured(&snapshotter);
    assert!(seen["coord_lease_renewals_total{unavailable}"] >= 1.0, "{seen:?}");
    assert_eq!(seen["coord_store_out_of_reach"], 1.0);
    assert_eq!((seen["coord_watches{live}"], seen["coord_watches{suspended}"]), (-1.0, 1.0));
    sleep(TTL).await;
    let seen = measured(&snapshotter);
    assert_eq!((seen["coord_registrations{held}"], seen["coord_registrations{healing}"]), (-1.0, 1.0));
    assert_eq!(seen["coord_losses_total{registration,expired}"], 1.0);
    store.reconnect();
    sleep(TTL).await;
    let seen = measured(&snapshotter);
    assert_eq!((seen["coord_registrations{held}"], seen["coord_registrations{healing}"]), (1.0, -1.0));
    assert_eq!((seen["coord_watches{live}"], seen["coord_watches{suspended}"]), (1.0, -1.0));
    assert_eq!(seen["coord_store_out_of_reach"], -1.0);
}

#[tokio::test(start_paused = true)]
async fn errors_name_the_key_and_who_holds_it() {
    let store = MemoryStore::new();
    let (coord, other) = (
        provider(&store),
        StoreProvider::new(Arc::new(store.client()), ProviderOptions::default().with_name("mail:7")),
    );
    let _guard = coord.lock().acquire("jobs/nightly", TTL).await.unwrap();
    let error = other.lock().try_acquire("jobs/nightly", TTL).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.key(), error.holder()),
        (ErrorKind::Conflict, Some("jobs/nightly"), Some("billing:1"))
    );
    assert!(error.to_string().ends_with("(\"jobs/nightly\", held by \"billing:1\")"), "{error}");
    let wait = LockOptions::default().with_ttl(TTL).with_wait(Wait::For(Duration::from_secs(3)));
    let error = other.lock().acquire_with("jobs/nightly", wait).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.key(), error.holder()),
        (ErrorKind::Timeout, Some("jobs/nightly"), Some("billing:1"))
    );

    let instance = ServiceInstance::new("api", "a1", "10.0.0.1", 80);
    let mine = coord.registry().register(instance.clone()).await.unwrap();
    let exclusive = RegisterOptions::default().with_takeover(Takeover::Exclusive);
    let error = other.registry().register_with(instance.clone(), exclusive).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.key(), error.holder()),
        (ErrorKind::Conflict, Some("api/a1"), Some("10.0.0.1:80"))
    );
    let _six = coord.registry().register(ServiceInstance::new("api", "a6", "::1", 80)).await.unwrap();
    let error = other
        .registry()
        .register_with(ServiceInstance::new("api", "a6", "10.0.0.2", 80), exclusive)
        .await
        .unwrap_err();
    assert_eq!(error.holder(), Some("[::1]:80"));
    let bad = ServiceInstance::new("api", "a2", "nowhere:80", 80);
    let good = ServiceInstance::new("api", "a3", "10.0.0.3", 80);
    for error in [
        other.registry().register(bad.clone()).await.unwrap_err(),
        other.registry().register_all(vec![good.clone(), bad], exclusive).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.key()), (ErrorKind::InvalidArgument, Some("api/a2")));
    }
    let twice = other.registry().register_all(vec![good.clone(), good], exclusive).await.unwrap_err();
    assert_eq!((twice.kind(), twice.key()), (ErrorKind::InvalidArgument, Some("api/a3")));
    let other_id = mine.update(ServiceInstance::new("api", "a4", "10.0.0.4", 80)).await.unwrap_err();
    assert_eq!((other_id.kind(), other_id.key()), (ErrorKind::InvalidArgument, Some("api/a1")));

    let _only = coord.allocator().acquire_id("api", 1).await.unwrap();
    let options = IdOptions::default().with_range(1..=1).with_wait(Wait::Never);
    let error = other.allocator().acquire_id_with("api", options).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Exhausted, Some("api")));

    coord.config().set("app/limits", "ten").await.unwrap();
    let (config, key) = (coord.config(), Some("app/limits"));
    let error = config.get::<u32>("app/limits").await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Codec, key));
    assert_eq!(
        config.compare_and_set("app/limits", &1, coord_api::Version::ZERO).await.unwrap_err().key(),
        key
    );
    store.disconnect();
    assert_eq!(config.get_raw("app/limits").await.unwrap_err().key(), key);
    assert_eq!(config.set_raw("app/limits", "1".into()).await.unwrap_err().key(), key);
    assert_eq!(config.delete("app/limits").await.unwrap_err().key(), key);
    assert_eq!(
        config.compare_and_delete("app/limits", coord_api::Version::ZERO).await.unwrap_err().key(),
        key
    );
    assert_eq!(config.list_raw("app").await.unwrap_err().key(), Some("app"));
    assert_eq!(coord.registry().discover("api").await.unwrap_err().key(), Some("api"));
}
