//! The config manager over the embedded store, and over a config centre that fails as told (R23,
//! R24).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::watch::WatchStatusSender;
use coord_api::{
    ConfigEntry, ConfigEvent, Error, ErrorKind, Revision, Snapshot, Value, Version, Versioned, Watch,
    WatchStart, WatchState, WriteOptions,
};
use coord_memory::MemoryStore;
use coord_recipes::config_manager::{
    ConfigManager, ConfigManagerBuilder, ConfigReader, ConfigSource, ConfigStatus, DeletePolicy, FaultStage,
};
use coord_recipes::{ProviderOptions, StoreProvider};
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

const KEY: &str = "test/gateway/limits";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Limits {
    rate: u32,
}

fn limits(rate: u32) -> Limits {
    Limits { rate }
}

fn provider() -> Arc<StoreProvider> {
    StoreProvider::new(Arc::new(MemoryStore::new()), ProviderOptions::default())
}

fn builder(config: &Arc<dyn ConfigCenter>) -> ConfigManagerBuilder<Limits> {
    ConfigManager::builder(Arc::clone(config), "gateway", "limits").env("test")
}

/// Waits until `holds`, for at most ten seconds of the runtime's clock.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn stage(status: &ConfigStatus) -> Option<FaultStage> {
    status.last_error.as_ref().map(|fault| fault.stage)
}

// ---- loading and watching ----

#[tokio::test(start_paused = true)]
async fn the_value_is_loaded_and_followed() {
    let provider = provider();
    let first = provider.config().set(KEY, &limits(5)).await.unwrap();
    let manager = builder(provider.config()).default_value(limits(1)).build().unwrap();
    assert_eq!((manager.key(), manager.current().rate), (KEY, 1));
    assert_eq!((manager.status().source, manager.status().watch), (ConfigSource::Default, None));

    let status = manager.start().await;
    assert_eq!(
        (status.source, status.version(), status.missing),
        (ConfigSource::Loaded(first), Some(first), false)
    );
    assert_eq!(*manager.current(), limits(5));
    assert_eq!(*manager.current().into_arc(), limits(5));
    until("live", || manager.status().watch == Some(WatchState::Live)).await;

    let reader = manager.reader();
    for rate in 6..30 {
        let version = provider.config().set(KEY, &limits(rate)).await.unwrap();
        until("the new version", || reader.status().version() == Some(version)).await;
        assert_eq!(reader.current().rate, rate);
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_leaves_the_default_until_it_is_written() {
    let provider = provider();
    let manager = builder(provider.config()).build().unwrap();
    let status = manager.start().await;
    assert!(status.missing && status.last_error.is_none());
    assert_eq!(*manager.current(), Limits::default());
    provider.config().set(KEY, &limits(3)).await.unwrap();
    until("loaded", || manager.current().rate == 3).await;
    assert!(!manager.status().missing);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_key_keeps_the_value_or_returns_to_the_default() {
    let provider = provider();
    let told = Arc::new(Mutex::new(Vec::new()));
    let keeping = builder(provider.config()).build().unwrap();
    let returning = {
        let told = Arc::clone(&told);
        builder(provider.config())
            .default_value(limits(1))
            .on_delete(DeletePolicy::Default)
            .on_update(move |old: &Arc<Limits>, new: &Arc<Limits>| {
                told.lock().unwrap().push((old.rate, new.rate));
                Ok::<_, String>(())
            })
            .build()
            .unwrap()
    };
    provider.config().set(KEY, &limits(5)).await.unwrap();
    keeping.start().await;
    returning.start().await;
    provider.config().delete(KEY).await.unwrap();
    until("missing", || keeping.status().missing && returning.status().missing).await;
    assert_eq!((keeping.current().rate, returning.current().rate), (5, 1));
    assert!(matches!(keeping.status().source, ConfigSource::Loaded(_)));
    assert_eq!(returning.status().source, ConfigSource::Default);

    let again = provider.config().set(KEY, &limits(5)).await.unwrap();
    until("loaded again", || {
        keeping.status().version() == Some(again) && returning.status().version() == Some(again)
    })
    .await;
    assert_eq!(*told.lock().unwrap(), [(1, 5), (5, 1), (1, 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_resync_reloads_and_what_it_lacks_is_gone() {
    let (centre, events) = Fake::open();
    let manager = builder(&centre).default_value(limits(1)).on_delete(DeletePolicy::Default).build().unwrap();
    events.send(Ok(resync(1, Some("{\"rate\":2}")))).unwrap();
    manager.start().await;
    assert_eq!(manager.current().rate, 2);
    events.send(Ok(resync(9, Some("{\"rate\":3}")))).unwrap();
    until("reloaded", || manager.current().rate == 3).await;
    events.send(Ok(resync(12, None))).unwrap();
    until("gone", || manager.current().rate == 1 && manager.status().missing).await;
}

#[tokio::test]
async fn no_change_is_missed_between_loading_and_watching() {
    let provider = provider();
    for _ in 0..20 {
        let manager = builder(provider.config()).build().unwrap();
        let writer = {
            let config = Arc::clone(provider.config());
            tokio::spawn(async move {
                for rate in 0..20 {
                    config.set(KEY, &limits(rate)).await.unwrap();
                    tokio::task::yield_now().await;
                }
                config.set(KEY, &limits(100)).await.unwrap()
            })
        };
        manager.start().await;
        let last = writer.await.unwrap();
        until("the last version", || manager.status().version() == Some(last)).await;
        assert_eq!(manager.current().rate, 100);
    }
}

// ---- what is refused ----

#[tokio::test(start_paused = true)]
async fn what_is_refused_leaves_the_old_value_and_shows() {
    let provider = provider();
    let config = provider.config();
    let manager = builder(config)
        .validate(|new: &Limits| match new.rate {
            0 => Err("a rate of zero"),
            13 => panic!("the validator panics"),
            _ => Ok(()),
        })
        .on_update(|_: &Arc<Limits>, new: &Arc<Limits>| match new.rate {
            7 => Err(std::io::Error::other("no sevens")),
            17 => panic!("the callback panics"),
            _ => Ok(()),
        })
        .build()
        .unwrap();
    let good = config.set(KEY, &limits(5)).await.unwrap();
    manager.start().await;
    let refused: [(&str, FaultStage, ErrorKind); 6] = [
        ("{\"rate\":", FaultStage::Decode, ErrorKind::Codec),
        ("\"text\"", FaultStage::Decode, ErrorKind::Codec),
        ("{\"rate\":0}", FaultStage::Validate, ErrorKind::InvalidArgument),
        ("{\"rate\":13}", FaultStage::Validate, ErrorKind::Internal),
        ("{\"rate\":7}", FaultStage::Callback, ErrorKind::InvalidArgument),
        ("{\"rate\":17}", FaultStage::Callback, ErrorKind::Internal),
    ];
    for (document, stage, kind) in refused {
        let version = config.set_raw(KEY, document.into()).await.unwrap();
        let shown = || manager.status().last_error.filter(|fault| fault.version == Some(version));
        until(document, || shown().is_some()).await;
        let fault = shown().unwrap();
        assert_eq!((fault.stage, fault.error.kind()), (stage, kind), "{document}");
        assert_eq!((manager.current().rate, manager.status().version()), (5, Some(good)), "{document}");
    }
    let version = config.set(KEY, &limits(6)).await.unwrap();
    until("a good one after the bad ones", || manager.status().version() == Some(version)).await;
    assert_eq!((manager.current().rate, stage(&manager.status())), (6, None));
}

#[tokio::test(start_paused = true)]
async fn an_invalid_document_at_the_start_leaves_the_default() {
    let provider = provider();
    provider.config().set_raw(KEY, Value::new()).await.unwrap();
    let manager = builder(provider.config()).default_value(limits(1)).build().unwrap();
    let status = manager.start().await;
    assert_eq!(
        (stage(&status), status.source, status.missing),
        (Some(FaultStage::Decode), ConfigSource::Default, false)
    );
    assert_eq!(manager.current().rate, 1);
    provider.config().set(KEY, &limits(2)).await.unwrap();
    until("repaired", || manager.current().rate == 2).await;
}

#[tokio::test(start_paused = true)]
async fn the_default_is_not_returned_to_when_the_callback_refuses() {
    let provider = provider();
    let manager = builder(provider.config())
        .on_delete(DeletePolicy::Default)
        .on_update(|_: &Arc<Limits>, new: &Arc<Limits>| if new.rate == 0 { Err("not zero") } else { Ok(()) })
        .build()
        .unwrap();
    provider.config().set(KEY, &limits(5)).await.unwrap();
    manager.start().await;
    provider.config().delete(KEY).await.unwrap();
    until("refused", || stage(&manager.status()) == Some(FaultStage::Callback)).await;
    assert_eq!(manager.current().rate, 5);
    assert!(manager.status().missing);
}

#[test]
fn bad_names_are_refused_by_the_builder() {
    let provider = provider();
    let build = |env: &str, service: &str, component: &str| {
        ConfigManager::<Limits>::builder(Arc::clone(provider.config()), service, component)
            .env(env)
            .build()
            .map(|manager| manager.key().to_owned())
    };
    assert_eq!(build("prod", "gateway", "limits").unwrap(), "prod/gateway/limits");
    let long = "x".repeat(400);
    for (env, service, component) in [
        ("", "s", "c"),
        ("e", "", "c"),
        ("e", "s", ""),
        ("a/b", "s", "c"),
        ("e", "..", "c"),
        ("e", "s", "c\n"),
        ("e", &long, &long),
    ] {
        assert_eq!(
            build(env, service, component).unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{env}/{service}/{component}"
        );
    }
}

// ---- the callback ----

#[tokio::test(start_paused = true)]
async fn the_callback_sees_changes_alone_and_the_old_value() {
    let provider = provider();
    let reader: Arc<OnceLock<ConfigReader<Limits>>> = Arc::default();
    let told = Arc::new(Mutex::new(Vec::new()));
    let manager = {
        let (reader, told) = (Arc::clone(&reader), Arc::clone(&told));
        builder(provider.config())
            .on_update(move |old: &Arc<Limits>, new: &Arc<Limits>| {
                let seen = reader.get().unwrap().current().rate;
                told.lock().unwrap().push((old.rate, seen, new.rate));
                if new.rate == 9 { Err("no nines") } else { Ok(()) }
            })
            .build()
            .unwrap()
    };
    reader.set(manager.reader()).unwrap();
    provider.config().set(KEY, &limits(1)).await.unwrap();
    manager.start().await;
    // The same bytes again; a refused one, twice written; back to the bytes in use.
    for (rate, good) in [(1, true), (9, false), (9, false), (1, true), (2, true)] {
        let version = provider.config().set(KEY, &limits(rate)).await.unwrap();
        let status = || manager.status();
        if good {
            until("used", || status().version() == Some(version) && status().last_error.is_none()).await;
        } else {
            until("refused", || status().last_error.is_some_and(|fault| fault.version == Some(version)))
                .await;
        }
    }
    assert_eq!(*told.lock().unwrap(), [(0, 0, 1), (1, 1, 9), (1, 1, 9), (1, 1, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_document_is_not_looked_at_again_by_a_resync() {
    let (centre, events) = Fake::open();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let manager = builder(&centre)
        .on_update(move |_: &Arc<Limits>, _: &Arc<Limits>| {
            counted.fetch_add(1, Ordering::SeqCst);
            Err::<(), _>("never")
        })
        .build()
        .unwrap();
    for _ in 0..3 {
        events.send(Ok(resync(4, Some("{\"rate\":2}")))).unwrap();
    }
    events.send(Ok(put(6, "{\"rate\":2}"))).unwrap();
    manager.start().await;
    until("the second writing", || {
        manager.status().last_error.is_some_and(|fault| fault.version == Some(Version::new(6)))
    })
    .await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_stop_no_callback_runs_and_none_is_cut_short() {
    let provider = provider();
    let inside = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicUsize::new(0));
    let release = Arc::new(std::sync::Barrier::new(2));
    let manager = {
        let (inside, calls, release) = (Arc::clone(&inside), Arc::clone(&calls), Arc::clone(&release));
        builder(provider.config())
            .on_update(move |_: &Arc<Limits>, _: &Arc<Limits>| {
                assert!(!inside.swap(true, Ordering::SeqCst), "twice at once");
                if calls.fetch_add(1, Ordering::SeqCst) == 1 {
                    release.wait();
                }
                inside.store(false, Ordering::SeqCst);
                Ok::<_, String>(())
            })
            .build()
            .unwrap()
    };
    let manager = Arc::new(manager);
    provider.config().set(KEY, &limits(1)).await.unwrap();
    manager.start().await;
    provider.config().set(KEY, &limits(2)).await.unwrap();
    until("inside the callback", || inside.load(Ordering::SeqCst)).await;
    let stopping = {
        let manager = Arc::clone(&manager);
        tokio::spawn(async move { manager.stop().await })
    };
    for rate in 3..10 {
        provider.config().set(KEY, &limits(rate)).await.unwrap();
    }
    assert!(!stopping.is_finished(), "a running callback is waited for");
    tokio::task::spawn_blocking(move || release.wait()).await.unwrap();
    stopping.await.unwrap();
    let after = calls.load(Ordering::SeqCst);
    assert!(!inside.load(Ordering::SeqCst));
    assert_eq!(manager.status().watch, None);
    let stopped_at = manager.current().rate;
    provider.config().set(KEY, &limits(50)).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((calls.load(Ordering::SeqCst), manager.current().rate), (after, stopped_at));
    manager.stop().await;
}

// ---- life ----

#[tokio::test(start_paused = true)]
async fn start_and_stop_are_idempotent_and_can_be_repeated() {
    let provider = provider();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let manager = builder(provider.config())
        .on_update(move |_: &Arc<Limits>, _: &Arc<Limits>| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok::<_, String>(())
        })
        .build()
        .unwrap();
    manager.stop().await;
    provider.config().set(KEY, &limits(1)).await.unwrap();
    for round in 0..5_u32 {
        let (one, other) = tokio::join!(manager.start(), manager.start());
        assert_eq!(one.version(), other.version());
        assert_eq!(manager.current().rate, round + 1);
        manager.start().await;
        manager.stop().await;
        tokio::join!(manager.stop(), manager.stop());
        assert_eq!(manager.status().watch, None);
        provider.config().set(KEY, &limits(round + 2)).await.unwrap();
        assert_eq!(manager.current().rate, round + 1, "stopped: the last value, whatever happens");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 5, "one run at a time, and the same bytes are no change");
    // A start that meets a stop under way waits for its end.
    manager.start().await;
    let ((), status) = tokio::join!(manager.stop(), manager.start());
    assert!(status.version().is_some());
}

#[tokio::test(start_paused = true)]
async fn out_of_reach_at_the_start_is_no_failure() {
    let (fake, centre) = Fake::unreachable(usize::MAX);
    let manager =
        builder(&centre).default_value(limits(1)).load_timeout(Duration::from_secs(2)).build().unwrap();
    let begun = Instant::now();
    let status = manager.start().await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took <= Duration::from_millis(2_010), "{took:?}");
    assert_eq!((stage(&status), status.watch), (Some(FaultStage::Load), Some(WatchState::Suspended)));
    assert_eq!(status.last_error.unwrap().error.kind(), ErrorKind::Unavailable);
    assert_eq!(manager.current().rate, 1);

    tokio::time::sleep(Duration::from_secs(600)).await;
    let tries = fake.tries.load(Ordering::SeqCst);
    assert!((300..1_500).contains(&tries), "capped pauses, and no storm: {tries} tries in 600 s");

    let (events, watch) = channel();
    fake.watches.lock().unwrap().push_back(Step::Watch(watch));
    fake.failures.store(0, Ordering::SeqCst);
    events.send(Ok(resync(3, Some("{\"rate\":8}")))).unwrap();
    until("reached", || manager.current().rate == 8).await;
    let status = manager.status();
    assert_eq!((stage(&status), status.watch), (None, Some(WatchState::Live)));

    // The watch breaks for good, and later there is another one.
    let (later, watch) = channel();
    events.send(Err(Error::new(ErrorKind::PermissionDenied, "config.watch", "not any more"))).unwrap();
    until("broken", || stage(&manager.status()) == Some(FaultStage::Load)).await;
    assert_eq!((manager.current().rate, manager.status().watch), (8, Some(WatchState::Suspended)));
    fake.watches.lock().unwrap().push_back(Step::Watch(watch));
    later.send(Ok(resync(5, Some("{\"rate\":9}")))).unwrap();
    until("reached again", || manager.current().rate == 9).await;
    manager.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_centre_that_never_answers_is_tried_anew_and_stops_nobody() {
    let (fake, centre) = Fake::unreachable(0);
    let (events, watch) = channel();
    fake.watches.lock().unwrap().extend([Step::Hang, Step::Watch(watch)]);
    events.send(Ok(resync(3, Some("{\"rate\":8}")))).unwrap();
    let manager = builder(&centre).build().unwrap();
    let status = manager.start().await;
    assert_eq!((status.source, status.watch), (ConfigSource::Default, Some(WatchState::Suspended)));
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(manager.current().rate, 8);
    manager.stop().await;

    fake.watches.lock().unwrap().push_back(Step::Hang);
    tokio::join!(manager.start(), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let begun = Instant::now();
        manager.stop().await;
        assert!(begun.elapsed() < Duration::from_millis(5), "a pending load does not delay the stop");
    });
}

#[tokio::test(start_paused = true)]
async fn a_closed_provider_ends_the_watch_and_leaves_the_value() {
    let provider = provider();
    provider.config().set(KEY, &limits(5)).await.unwrap();
    let manager = builder(provider.config()).build().unwrap();
    manager.start().await;
    provider.close().await.unwrap();
    until("ended", || manager.status().watch == Some(WatchState::Ended)).await;
    assert_eq!(manager.status().last_error.unwrap().error.kind(), ErrorKind::Closed);
    assert_eq!(manager.current().rate, 5);
    let begun = Instant::now();
    let status = manager.start().await;
    assert_eq!(
        (status.watch, begun.elapsed()),
        (Some(WatchState::Ended), Duration::ZERO),
        "nothing to wait for"
    );
    manager.stop().await;

    let (fake, centre) = Fake::unreachable(0);
    let (events, watch) = channel();
    fake.watches.lock().unwrap().push_back(Step::Watch(watch));
    events.send(Err(Error::closed("config.watch"))).unwrap();
    let manager = builder(&centre).build().unwrap();
    manager.start().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fake.tries.load(Ordering::SeqCst), 1, "what was closed stays closed");
}

/// Waits until `holds`, in a thread that has no runtime.
fn block_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn it_needs_no_runtime_and_outlives_any() {
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let provider = provider();
    let set = |rate| futures_executor::block_on(provider.config().set(KEY, &limits(rate))).unwrap();
    let manager = builder(provider.config()).default_value(limits(1)).build().unwrap();
    set(2);
    let status = futures_executor::block_on(manager.start());
    assert_eq!((stage(&status), manager.current().rate), (None, 2), "outside of a runtime");
    set(3);
    block_until("followed", || manager.current().rate == 3);
    futures_executor::block_on(manager.stop());

    // Started in a runtime that stands still, and then ends.
    let one = runtime();
    one.block_on(manager.start());
    for rate in 4..7 {
        set(rate);
        block_until("followed while the runtime stands still", || manager.current().rate == rate);
    }
    drop(one);
    for rate in 7..10 {
        set(rate);
        block_until("followed after the end of the runtime", || manager.current().rate == rate);
    }
    assert_eq!(manager.status().watch, Some(WatchState::Live));
    futures_executor::block_on(manager.stop());
    set(10);
    let reader = manager.reader();
    drop(manager);
    assert_eq!((reader.current().rate, reader.status().watch), (9, None));
}

#[test]
fn what_a_callback_spawns_runs_in_the_runtime_that_started_the_manager() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("the-application")
        .enable_all()
        .build()
        .unwrap();
    let provider = provider();
    let (told, ran) = std::sync::mpsc::channel();
    let manager = builder(provider.config())
        .on_change(move |_: &Arc<Limits>, _: &Arc<Limits>| {
            let (told, here) = (told.clone(), std::thread::current().name().map(str::to_owned));
            tokio::spawn(async move { told.send((here, std::thread::current().name().map(str::to_owned))) });
        })
        .build()
        .unwrap();
    runtime.block_on(async {
        manager.start().await;
        provider.config().set(KEY, &limits(2)).await.unwrap();
    });
    let (callback, task) = ran.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!((callback.as_deref(), task.as_deref()), (Some("coord-callbacks"), Some("the-application")));
    runtime.block_on(manager.stop());
}

#[test]
fn a_callback_that_blocks_holds_up_no_renewal() {
    let provider = provider();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let inside = Arc::new(AtomicBool::new(false));
    let entered = Arc::clone(&inside);
    let manager = builder(provider.config())
        .on_change(move |_: &Arc<Limits>, _: &Arc<Limits>| {
            entered.store(true, Ordering::SeqCst);
            let _ = blocked.lock().unwrap().recv();
        })
        .build()
        .unwrap();
    futures_executor::block_on(async {
        manager.start().await;
        let guard = provider.lock().acquire("job", Duration::from_secs(1)).await.unwrap();
        provider.config().set(KEY, &limits(2)).await.unwrap();
        block_until("inside the callback", || inside.load(Ordering::SeqCst));
        let ttls = std::time::Instant::now() + Duration::from_secs(3);
        while std::time::Instant::now() < ttls {
            assert!(guard.is_held());
            std::thread::sleep(Duration::from_millis(20));
        }
        release.send(()).unwrap();
        guard.unlock().await.unwrap();
        manager.stop().await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_dropped_manager_ends_its_task_and_readers_keep_the_value() {
    let (centre, events) = Fake::open();
    let owned = Arc::new(());
    let witness = Arc::downgrade(&owned);
    let manager = builder(&centre)
        .on_update(move |_: &Arc<Limits>, _: &Arc<Limits>| {
            let _ = &owned;
            Ok::<_, String>(())
        })
        .build()
        .unwrap();
    events.send(Ok(resync(1, Some("{\"rate\":2}")))).unwrap();
    manager.start().await;
    let reader = manager.reader();
    std::thread::spawn(move || drop(manager)).join().unwrap();
    until("the task is gone", || witness.strong_count() == 0 && events.is_closed()).await;
    assert_eq!(reader.current().rate, 2);
    assert_eq!(reader.status().watch, None);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_start_leaves_the_manager_running() {
    let (centre, events) = Fake::open();
    let manager = builder(&centre).build().unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(1), manager.start()).await.is_err());
    events.send(Ok(resync(1, Some("{\"rate\":2}")))).unwrap();
    until("loaded", || manager.current().rate == 2).await;
}

/// The environment of this process cannot be changed safely, so other processes run the half of
/// this test that reads it.
#[test]
fn the_environment_comes_from_app_env() {
    const WANTED: &str = "COORD_TEST_WANTED_KEY";
    if let Ok(wanted) = std::env::var(WANTED) {
        tracing_subscriber::fmt().init();
        let provider = provider();
        let build =
            || ConfigManager::<Limits>::builder(Arc::clone(provider.config()), "gateway", "limits").build();
        drop(build());
        let built = build();
        let key =
            built.map_or_else(|error| error.kind().as_str().to_owned(), |manager| manager.key().to_owned());
        assert_eq!(key, wanted);
        return;
    }
    for (env, wanted, said) in [
        (None, "dev/gateway/limits", 1),
        (Some(""), "dev/gateway/limits", 1),
        (Some("staging"), "staging/gateway/limits", 0),
        (Some("a/b"), "invalid_argument", 0),
    ] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "the_environment_comes_from_app_env"])
            .env(WANTED, wanted)
            .env_remove("APP_ENV");
        let child = env.into_iter().fold(&mut child, |child, env| child.env("APP_ENV", env));
        let output = child.output().unwrap();
        assert!(output.status.success(), "{env:?}: {}", String::from_utf8_lossy(&output.stdout));
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.contains("1 passed"), "the other half of the test ran");
        assert_eq!(output.matches("APP_ENV is not set").count(), said, "{env:?}: {output}");
    }
}

// ---- a config centre that does as told ----

fn entry(version: u64, document: &str) -> ConfigEntry {
    ConfigEntry { key: KEY.to_owned(), value: document.to_owned().into(), version: Version::new(version) }
}

fn put(version: u64, document: &str) -> ConfigEvent {
    ConfigEvent::Put { entry: entry(version, document), created: false, last: true }
}

fn resync(revision: u64, document: Option<&str>) -> ConfigEvent {
    let items = document.map(|document| entry(revision, document)).into_iter().collect();
    ConfigEvent::Resync(Snapshot::new(Revision::new(revision), items))
}

type Item = coord_api::Result<ConfigEvent>;

/// A watch that is live until it is dropped.
struct Told(mpsc::UnboundedReceiver<Item>, #[expect(dead_code, reason = "tells the end")] WatchStatusSender);

impl Stream for Told {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.0.poll_recv(cx)
    }
}

fn channel() -> (mpsc::UnboundedSender<Item>, Watch<ConfigEvent>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let live = WatchStatusSender::new(WatchState::Live);
    (sender, Watch::new(live.status(), Told(receiver, live)))
}

enum Step {
    Watch(Watch<ConfigEvent>),
    Hang,
}

/// Gives the watches that it was told to give, and is out of reach otherwise.
struct Fake {
    watches: Mutex<VecDeque<Step>>,
    /// How many calls still fail, whatever there is to give.
    failures: AtomicUsize,
    tries: AtomicUsize,
}

impl Fake {
    fn unreachable(failures: usize) -> (Arc<Fake>, Arc<dyn ConfigCenter>) {
        let fake = Arc::new(Fake {
            watches: Mutex::default(),
            failures: AtomicUsize::new(failures),
            tries: AtomicUsize::new(0),
        });
        let centre: Arc<dyn ConfigCenter> = Arc::clone(&fake) as _;
        (fake, centre)
    }

    /// A centre with one watch, and what to send through it.
    fn open() -> (Arc<dyn ConfigCenter>, mpsc::UnboundedSender<Item>) {
        let (fake, centre) = Fake::unreachable(0);
        let (sender, watch) = channel();
        fake.watches.lock().unwrap().push_back(Step::Watch(watch));
        (centre, sender)
    }
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

#[async_trait]
impl ConfigCenter for Fake {
    async fn watch_raw(&self, key: &str, start: WatchStart) -> coord_api::Result<Watch<ConfigEvent>> {
        assert_eq!((key, start), (KEY, WatchStart::Snapshot));
        self.tries.fetch_add(1, Ordering::SeqCst);
        let unavailable = || Error::new(ErrorKind::Unavailable, "config.watch", "as told");
        if self.failures.load(Ordering::SeqCst) > 0 {
            return Err(unavailable());
        }
        let step = self.watches.lock().unwrap().pop_front();
        match step {
            Some(Step::Watch(watch)) => Ok(watch),
            Some(Step::Hang) => std::future::pending().await,
            None => Err(unavailable()),
        }
    }

    async fn get_raw(&self, _: &str) -> coord_api::Result<Option<Versioned>> {
        unreachable!()
    }

    async fn write_with(&self, _: &str, _: Value, _: WriteOptions) -> coord_api::Result<Version> {
        unreachable!()
    }

    async fn delete(&self, _: &str) -> coord_api::Result<bool> {
        unreachable!()
    }

    async fn compare_and_delete(&self, _: &str, _: Version) -> coord_api::Result<bool> {
        unreachable!()
    }

    async fn list_raw(&self, _: &str) -> coord_api::Result<Snapshot<ConfigEntry>> {
        unreachable!()
    }

    async fn watch_prefix_raw(&self, _: &str, _: WatchStart) -> coord_api::Result<Watch<ConfigEvent>> {
        unreachable!()
    }
}
