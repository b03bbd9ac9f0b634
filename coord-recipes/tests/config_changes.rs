//! Waiting for changes of a managed value.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_api::prelude::*;
use coord_memory::MemoryProvider;
use coord_recipes::config_manager::{
    ConfigChanges, ConfigManager, ConfigManagerBuilder, ConfigSource, DeletePolicy,
};
use futures_util::{FutureExt, StreamExt};

const KEY: &str = "test/gateway/rate";

fn builder(provider: &MemoryProvider) -> ConfigManagerBuilder<u32> {
    ConfigManager::builder(Arc::clone(provider.config()), "gateway", "rate").env("test")
}

/// What must come.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("it comes soon")
}

/// The next change, or the end.
async fn next(changes: &mut ConfigChanges) -> Option<ConfigSource> {
    soon(changes.changed()).await
}

#[tokio::test(start_paused = true)]
async fn each_change_is_told_and_nothing_else() {
    let provider = MemoryProvider::new();
    let config = provider.config();
    let manager = builder(&provider).on_delete(DeletePolicy::Default).build().unwrap();
    let mut changes = manager.changes();
    assert_eq!(
        changes.changed().now_or_never(),
        None,
        "not started: nothing has changed, and nothing is over"
    );
    manager.start().await;
    assert_eq!(changes.changed().now_or_never(), None, "the default is still in use");
    for rate in 1..5 {
        let version = config.set(KEY, &rate).await.unwrap();
        assert_eq!(next(&mut changes).await, Some(ConfigSource::Loaded(version)));
        assert_eq!(*manager.current(), rate, "it is in use when it is told");
    }
    // What says the same, what is refused, and a neighbour.
    config.set_raw(KEY, " 4\r\n".into()).await.unwrap();
    config.set_raw(KEY, "four".into()).await.unwrap();
    config.set("test/gateway/rates", &9).await.unwrap();
    let version = config.set(KEY, &5).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(ConfigSource::Loaded(version)));
    config.delete(KEY).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(ConfigSource::Default));
    assert_eq!(changes.changed().now_or_never(), None);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_misses_nothing() {
    let provider = MemoryProvider::new();
    let manager = builder(&provider).build().unwrap();
    manager.start().await;
    let mut changes = manager.changes();
    let mut late = changes.clone();
    for rate in 1..50 {
        assert_eq!(changes.changed().now_or_never(), None);
        let version = provider.config().set(KEY, &rate).await.unwrap();
        while manager.status().version() != Some(version) {
            tokio::task::yield_now().await;
        }
        assert_eq!(changes.changed().now_or_never(), Some(Some(ConfigSource::Loaded(version))));
    }
    assert!(
        matches!(late.changed().now_or_never(), Some(Some(ConfigSource::Loaded(_)))),
        "of several the last one"
    );
    assert_eq!(late.changed().now_or_never(), None);
}

#[tokio::test(start_paused = true)]
async fn changed_tells_the_next_change_from_the_call_on() {
    let provider = MemoryProvider::new();
    let manager = builder(&provider).build().unwrap();
    provider.config().set(KEY, &1).await.unwrap();
    manager.start().await;
    let changed = manager.changed();
    let version = provider.config().set(KEY, &2).await.unwrap();
    assert_eq!(soon(changed).await, Some(ConfigSource::Loaded(version)));
    let (changed, ()) = tokio::join!(manager.changed(), async {
        tokio::task::yield_now().await;
        provider.config().set(KEY, &3).await.unwrap();
    });
    assert!(changed.is_some());
    assert_eq!(*manager.current(), 3);
    let waiting = manager.changed();
    drop(manager);
    assert_eq!(soon(waiting).await, None);
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_manager_however_that_ends() {
    let provider = MemoryProvider::new();
    provider.config().set(KEY, &1).await.unwrap();

    let manager = builder(&provider).build().unwrap();
    let (mut changes, reading) = (manager.changes(), manager.reader());
    manager.start().await;
    assert!(next(&mut changes).await.is_some());
    let waiting = tokio::spawn({
        let mut changes = changes.clone();
        async move { changes.changed().await }
    });
    tokio::task::yield_now().await;
    manager.stop().await;
    assert_eq!(soon(waiting).await.unwrap(), None, "stopped");
    assert_eq!(changes.changed().now_or_never(), Some(None), "and stays so");
    // What changed while it was stopped is told after the next start.
    provider.config().set(KEY, &2).await.unwrap();
    manager.start().await;
    assert!(next(&mut changes).await.is_some());
    drop(manager);
    assert_eq!(next(&mut changes).await, None, "dropped");
    assert_eq!(next(&mut reading.changes()).await, None);

    let unstarted = builder(&provider).build().unwrap();
    let mut changes = unstarted.changes();
    drop(unstarted);
    assert_eq!(next(&mut changes).await, None, "never started");

    let manager = builder(&provider).build().unwrap();
    manager.start().await;
    let stream = manager.changes().into_stream();
    let collected = tokio::spawn(stream.collect::<Vec<_>>());
    let version = provider.config().set(KEY, &3).await.unwrap();
    while *manager.current() != 3 {
        tokio::task::yield_now().await;
    }
    provider.close().await.unwrap();
    assert_eq!(soon(collected).await.unwrap(), [ConfigSource::Loaded(version)], "closed");
}

/// Under a paused clock the manager lives in the runtime that started it.
#[test]
fn it_ends_with_the_runtime_that_it_lives_in() {
    let paused =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let provider = MemoryProvider::new();
    let manager = builder(&provider).build().unwrap();
    paused.block_on(manager.start());
    let mut changes = manager.changes();
    let waiting = other.spawn(async move { next(&mut changes).await });
    drop(paused);
    assert_eq!(other.block_on(waiting).unwrap(), None);
    assert_eq!(manager.status().watch, None);
}

#[test]
fn the_change_callback_sees_what_is_in_use_from_then_on() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let provider = MemoryProvider::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listening = Arc::clone(&told);
    let reader = Arc::new(std::sync::OnceLock::new());
    let reading: Arc<std::sync::OnceLock<coord_recipes::config_manager::ConfigReader<u32>>> =
        Arc::clone(&reader);
    let manager = builder(&provider)
        .on_update(|_, new: &Arc<u32>| if **new == 9 { Err("no nines") } else { Ok(()) })
        .on_change(move |old: &Arc<u32>, new: &Arc<u32>| {
            let in_use = reading.get().map(|reader| *reader.current());
            listening.lock().unwrap().push((**old, in_use, **new));
        })
        .build()
        .unwrap();
    reader.set(manager.reader()).unwrap();
    runtime.block_on(async {
        manager.start().await;
        let mut changes = manager.changes();
        for rate in [1, 2] {
            provider.config().set(KEY, &rate).await.unwrap();
            next(&mut changes).await;
        }
        provider.config().set(KEY, &9).await.unwrap();
        provider.config().set(KEY, &3).await.unwrap();
        next(&mut changes).await;
        manager.stop().await;
    });
    assert_eq!(*told.lock().unwrap(), [(0, Some(1), 1), (1, Some(2), 2), (2, Some(3), 3)]);
}

/// Writers, readers and those who start and stop it, at once on several threads: whoever waits sees
/// the last value, and is told of the end.
#[test]
fn at_once_from_many_threads_no_change_and_no_end_is_missed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let provider = MemoryProvider::new();
        let manager = Arc::new(builder(&provider).build().unwrap());
        manager.start().await;
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let (mut changes, reader) = (manager.changes(), manager.reader());
                tokio::spawn(async move {
                    while *reader.current() != 100 {
                        assert!(next(&mut changes).await.is_some());
                    }
                    // The rest, if any, and the end.
                    while next(&mut changes).await.is_some() {}
                })
            })
            .collect();
        for rate in 1..=100_u32 {
            provider.config().set(KEY, &rate).await.unwrap();
        }
        let mut changes = manager.changes();
        while *manager.current() != 100 {
            next(&mut changes).await;
        }
        let stopping: Vec<_> = (0..4)
            .map(|_| {
                let manager = Arc::clone(&manager);
                tokio::spawn(async move { manager.stop().await })
            })
            .collect();
        for task in stopping.into_iter().chain(waiters) {
            soon(task).await.unwrap();
        }
    });
}
