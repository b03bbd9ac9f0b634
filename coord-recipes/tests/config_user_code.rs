//! What the application's code does to a config manager, the manager outlives: it goes on, and what
//! happened can be seen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::error::Error as StdError;
use std::fmt;
use std::panic::panic_any;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::store::{Range, RangeReply, Span, Store, StoreWatch};
use coord_api::{
    ConfigEntry, ConfigEvent, ErrorKind, Result, Revision, Snapshot, Value, Version, Versioned, Watch,
    WatchStart, WatchState, WriteOptions,
};
use coord_memory::{MemoryProvider, MemoryStore};
use coord_recipes::config_manager::{
    ConfigManager, ConfigManagerBuilder, ConfigStatus, DeletePolicy, FaultStage,
};
use coord_recipes::{ProviderOptions, StoreProvider};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;

const KEY: &str = "test/gateway/rate";

/// Panics when it is dropped, where it is more than a hundred.
#[derive(Debug, Default)]
struct Rate(u32);

impl Drop for Rate {
    fn drop(&mut self) {
        assert!(self.0 < 100, "dropped: {}", self.0);
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let rate = u32::deserialize(deserializer)?;
        assert!(rate != 66, "decoded: {rate}");
        Ok(Rate(rate))
    }
}

fn builder(config: &Arc<dyn ConfigCenter>) -> ConfigManagerBuilder<Rate> {
    ConfigManager::builder(Arc::clone(config), "gateway", "rate").env("test")
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn stage(status: &ConfigStatus) -> Option<FaultStage> {
    status.last_error.as_ref().map(|fault| fault.stage)
}

/// Writes a document, and waits until the manager shows that something went wrong with it.
async fn goes_wrong(
    config: &Arc<dyn ConfigCenter>,
    manager: &ConfigManager<Rate>,
    document: &'static str,
    at: FaultStage,
) -> ConfigStatus {
    let version = config.set_raw(KEY, document.into()).await.unwrap();
    let shown = || manager.status().last_error.is_some_and(|fault| fault.version == Some(version));
    until(document, shown).await;
    let status = manager.status();
    assert_eq!(stage(&status), Some(at), "{document}: {status:?}");
    status
}

/// Writes a document, and waits until it is in use and nothing is wrong.
async fn goes_well(config: &Arc<dyn ConfigCenter>, manager: &ConfigManager<Rate>, rate: u32) {
    let version = config.set(KEY, &rate).await.unwrap();
    until("the next good one", || manager.status().version() == Some(version)).await;
    assert_eq!((manager.current().0, stage(&manager.status())), (rate, None));
}

#[tokio::test(start_paused = true)]
async fn a_value_whose_drop_panics_is_replaced_all_the_same() {
    let provider = MemoryProvider::new();
    let config = provider.config();
    let manager = builder(config).build().unwrap();
    manager.start().await;
    goes_well(config, &manager, 1).await;
    goes_well(config, &manager, 100).await;
    let status = goes_wrong(config, &manager, "2", FaultStage::Drop).await;
    assert_eq!(status.last_error.unwrap().error.kind(), ErrorKind::Internal);
    assert_eq!((manager.current().0, status.watch), (2, Some(WatchState::Live)), "the new one is in use");
    goes_well(config, &manager, 3).await;

    // Who holds a value longest drops it: here the panic is not the manager's.
    goes_well(config, &manager, 101).await;
    let held = manager.current().into_arc();
    goes_well(config, &manager, 4).await;
    assert!(std::panic::catch_unwind(move || drop(held)).is_err());
    manager.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_value_whose_drop_panics_is_refused_all_the_same() {
    let provider = MemoryProvider::new();
    let config = provider.config();
    let manager = builder(config)
        .validate(|rate: &Rate| if rate.0 == 100 { Err("a hundred") } else { Ok(()) })
        .on_update(|_, rate: &Arc<Rate>| if rate.0 == 101 { Err("more than a hundred") } else { Ok(()) })
        .build()
        .unwrap();
    manager.start().await;
    goes_well(config, &manager, 1).await;
    goes_wrong(config, &manager, "100", FaultStage::Validate).await;
    goes_wrong(config, &manager, "101", FaultStage::Callback).await;
    assert_eq!(manager.current().0, 1);
    goes_well(config, &manager, 2).await;
    // A value that says the same is not needed, and dropped.
    goes_well(config, &manager, 102).await;
    goes_wrong(config, &manager, " 102 ", FaultStage::Drop).await;
    goes_wrong(config, &manager, "3", FaultStage::Drop).await;
    goes_well(config, &manager, 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_value_whose_drop_panics_is_gone_all_the_same() {
    let provider = MemoryProvider::new();
    let config = provider.config();
    let manager = builder(config).on_delete(DeletePolicy::Default).build().unwrap();
    manager.start().await;
    goes_well(config, &manager, 100).await;
    config.delete(KEY).await.unwrap();
    until("the default is back", || {
        manager.status().missing && stage(&manager.status()) == Some(FaultStage::Drop)
    })
    .await;
    assert_eq!(manager.current().0, 0);
    goes_well(config, &manager, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_anywhere_in_an_update_is_seen_and_the_next_one_is_used() {
    let provider = MemoryProvider::new();
    let config = provider.config();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listening = Arc::clone(&told);
    let manager = builder(config)
        .validate(|rate: &Rate| {
            assert!(rate.0 != 10, "validated: 10");
            if rate.0 == 11 { Err(Rude) } else { Ok(()) }
        })
        .on_update(|_, rate: &Arc<Rate>| match rate.0 {
            20 => panic!("updated: 20"),
            // What is thrown panics as well when it is dropped, and what that throws again.
            21 => panic_any(Bomb(3)),
            22 => Err(Rude),
            _ => Ok(()),
        })
        .on_change(move |old: &Arc<Rate>, new: &Arc<Rate>| {
            listening.lock().unwrap().push((old.0, new.0));
            assert!(new.0 != 30, "changed: 30");
            if new.0 == 31 {
                panic_any(Bomb(1));
            }
        })
        .build()
        .unwrap();
    manager.start().await;
    goes_well(config, &manager, 1).await;
    let refused = [
        ("66", FaultStage::Decode),
        ("10", FaultStage::Validate),
        ("11", FaultStage::Validate),
        ("20", FaultStage::Callback),
        ("21", FaultStage::Callback),
        ("22", FaultStage::Callback),
    ];
    for (document, at) in refused {
        let fault = goes_wrong(config, &manager, document, at).await.last_error.unwrap();
        assert_eq!((fault.error.kind(), manager.current().0), (ErrorKind::Internal, 1), "{document}");
    }
    goes_well(config, &manager, 2).await;
    for document in ["30", "31"] {
        let status = goes_wrong(config, &manager, document, FaultStage::Change).await;
        assert_eq!(
            (manager.current().0.to_string().as_str(), status.watch),
            (document, Some(WatchState::Live)),
            "in use all the same"
        );
    }
    goes_well(config, &manager, 3).await;
    assert_eq!(*told.lock().unwrap(), [(0, 1), (1, 2), (2, 30), (30, 31), (31, 3)]);
}

/// Panics whenever it is dropped, so often.
struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 > 0 {
            panic_any(Bomb(self.0 - 1));
        }
    }
}

/// An error that panics when it is shown, and when it is dropped.
#[derive(Debug)]
struct Rude;

impl fmt::Display for Rude {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("shown")
    }
}

impl StdError for Rude {}

#[tokio::test(start_paused = true)]
async fn a_config_centre_that_panics_is_tried_again() {
    let provider = MemoryProvider::new();
    let shaky = Arc::new(Shaky {
        good: Arc::clone(provider.config()),
        opening: AtomicUsize::new(3),
        following: Arc::default(),
    });
    let config: Arc<dyn ConfigCenter> = Arc::clone(&shaky) as _;
    provider.config().set(KEY, &1).await.unwrap();
    let manager = builder(&config).load_timeout(Duration::from_millis(1)).build().unwrap();
    let status = manager.start().await;
    let fault = status.last_error.unwrap();
    assert_eq!(
        (fault.stage, fault.error.kind(), status.watch),
        (FaultStage::Load, ErrorKind::Internal, Some(WatchState::Suspended))
    );
    until("loaded", || manager.current().0 == 1).await;
    assert_eq!(shaky.opening.load(Ordering::SeqCst), 0);

    // While it is followed.
    for rate in 2..5 {
        shaky.following.store(2, Ordering::SeqCst);
        provider.config().set(KEY, &rate).await.unwrap();
        until("followed", || manager.current().0 == rate).await;
        assert_eq!(shaky.following.load(Ordering::SeqCst), 0);
        until("nothing is wrong", || manager.status().last_error.is_none()).await;
    }
    manager.stop().await;
}

/// A config centre that panics so many more times.
#[derive(Debug)]
struct Shaky {
    good: Arc<dyn ConfigCenter>,
    opening: AtomicUsize,
    following: Arc<AtomicUsize>,
}

fn panics(left: &AtomicUsize) {
    let armed = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    assert!(armed.is_err(), "as told");
}

struct ShakyWatch(Watch<ConfigEvent>, Arc<AtomicUsize>);

impl Stream for ShakyWatch {
    type Item = Result<ConfigEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        panics(&self.1);
        Pin::new(&mut self.0).poll_next(cx)
    }
}

impl Drop for ShakyWatch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panics(&self.1);
        }
    }
}

#[async_trait]
impl ConfigCenter for Shaky {
    async fn watch_raw(&self, key: &str, start: WatchStart) -> Result<Watch<ConfigEvent>> {
        panics(&self.opening);
        let good = self.good.watch_raw(key, start).await?;
        Ok(Watch::new(good.status(), ShakyWatch(good, Arc::clone(&self.following))))
    }

    async fn get_raw(&self, key: &str) -> Result<Option<Versioned>> {
        self.good.get_raw(key).await
    }

    async fn write_with(&self, key: &str, value: Value, options: WriteOptions) -> Result<Version> {
        self.good.write_with(key, value, options).await
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        self.good.delete(key).await
    }

    async fn compare_and_delete(&self, key: &str, expected: Version) -> Result<bool> {
        self.good.compare_and_delete(key, expected).await
    }

    async fn list_raw(&self, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        self.good.list_raw(prefix).await
    }

    async fn watch_prefix_raw(&self, prefix: &str, start: WatchStart) -> Result<Watch<ConfigEvent>> {
        self.good.watch_prefix_raw(prefix, start).await
    }
}

/// A layer over a store that panics so many more times: when it is asked to read or to watch, and
/// while its watch is followed.
#[derive(Debug)]
struct ShakyLayer {
    store: MemoryStore,
    left: Arc<AtomicUsize>,
}

#[async_trait]
impl Store for ShakyLayer {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        panics(&self.left);
        self.store.range(range).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        panics(&self.left);
        let (watch, left) = (self.store.watch(span, after).await?, Arc::clone(&self.left));
        Ok(StoreWatch::new(watch.armed(), watch.inspect(move |_| panics(&left))))
    }

    coord_api::forward_store! {
        self => self.store;
        txn, grant_lease, keep_alive, lease, revoke_lease, status, close
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_panics_under_the_config_centre_ends_nothing() {
    for times in 1..6 {
        let (store, left) = (MemoryStore::new(), Arc::new(AtomicUsize::new(times)));
        let layer = ShakyLayer { store: store.client(), left: Arc::clone(&left) };
        let provider = StoreProvider::new(Arc::new(layer), ProviderOptions::default());
        let config = Arc::clone(MemoryProvider::over(store.client()).config());
        config.set(KEY, &1).await.unwrap();
        let manager = builder(provider.config()).build().unwrap();
        manager.start().await;
        until("loaded", || manager.current().0 == 1).await;
        for rate in 2..5 {
            left.store(times, Ordering::SeqCst);
            config.set(KEY, &rate).await.unwrap();
            until("followed", || manager.current().0 == rate && left.load(Ordering::SeqCst) == 0).await;
            until("live again", || manager.status().watch == Some(WatchState::Live)).await;
        }
        manager.stop().await;
    }
}

#[test]
fn a_log_sink_that_panics_ends_nothing() {
    struct Sink;
    impl std::io::Write for Sink {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            panic!("written")
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let provider = MemoryProvider::new();
    let config = Arc::clone(provider.config());
    let manager = builder(&config).build().unwrap();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(|| Sink).finish();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            manager.start().await;
            goes_well(&config, &manager, 1).await;
            goes_wrong(&config, &manager, "\"no rate\"", FaultStage::Decode).await;
            goes_well(&config, &manager, 2).await;
            manager.stop().await;
        });
    });
}

#[test]
fn a_runtime_without_timers_is_enough() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let provider = MemoryProvider::new();
    let config = Arc::clone(provider.config());
    let shaky: Arc<dyn ConfigCenter> = Arc::new(Shaky {
        good: Arc::clone(&config),
        opening: AtomicUsize::new(2),
        following: Arc::default(),
    });
    let manager = builder(&shaky).build().unwrap();
    runtime.block_on(async {
        config.set(KEY, &1).await.unwrap();
        // It has pauses between its tries, and waits for the first load, with timers of its own.
        let status = manager.start().await;
        assert_eq!((manager.current().0, stage(&status)), (1, None), "{status:?}");
        manager.stop().await;
    });
}
