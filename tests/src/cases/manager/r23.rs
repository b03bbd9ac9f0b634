//! R23: the value in use.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use coord_api::Value;
use coord_api::prelude::*;
use coord_recipes::config_manager::{ConfigManager, ConfigReader, ConfigSource, FaultStage};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use tokio::time::{Instant, sleep};

use super::{KEY, Limits, Notes, builder, limits, uses};

pub(super) async fn current_is_the_default_until_a_value_is_loaded(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let manager = builder(&provider).build().unwrap();
    assert_eq!(*manager.current(), limits(1));
    let status = manager.start().await;
    assert!(status.missing && status.source == ConfigSource::Default);
    assert_eq!(*manager.current(), limits(1), "while it is missing");
    let version = writer.config().set(KEY, &limits(2)).await.unwrap();
    uses(&cx, &manager, 2).await;
    assert_eq!(manager.status().version(), Some(version));
    let late = builder(&provider).build().unwrap();
    assert_eq!(late.start().await.version(), Some(version), "a start loads");
    assert_eq!(*late.current(), limits(2));
}

pub(super) async fn current_neither_blocks_nor_fails_out_of_reach(cx: Fixture) {
    for hang in [false, true] {
        let (client, faults) = cx.faulty().await;
        cx.provider().await.config().set(KEY, &limits(2)).await.unwrap();
        if hang {
            faults.hang();
        } else {
            faults.cut();
        }
        let patience = Duration::from_secs(2);
        let manager = builder(&client.provider).load_timeout(patience).build().unwrap();
        let asked = Instant::now();
        let status = within(patience + cx.soon(), "a start ends", manager.start()).await;
        assert!(asked.elapsed() <= patience + cx.slack(), "after {:?}", asked.elapsed());
        assert_eq!((status.source, manager.current().per_second), (ConfigSource::Default, 1), "hang: {hang}");
        faults.heal();
        uses(&cx, &manager, 2).await;
        faults.hang();
        // Longer than any lease, and than many a pause between two attempts.
        sleep(3 * cx.ttl()).await;
        assert_eq!(*manager.current(), limits(2), "an outage keeps what was loaded");
    }
}

pub(super) async fn an_invalid_value_keeps_the_old_one_and_is_visible(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let manager = builder(&provider)
        .validate(|limits: &Limits| if limits.per_second == 13 { Err("unlucky") } else { Ok(()) })
        .on_update(|_, new: &Arc<Limits>| if new.per_second == 14 { Err("refused") } else { Ok(()) })
        .build()
        .unwrap();
    writer.config().set_raw(KEY, Value::from("{")).await.unwrap();
    let status = manager.start().await;
    assert_eq!(status.last_error.map(|fault| fault.stage), Some(FaultStage::Decode));
    assert_eq!(*manager.current(), limits(1), "the first value is bad: the default");
    let mut good = 1;
    let bad = [
        ("\"text\"", FaultStage::Decode),
        ("{\"per_second\":13}", FaultStage::Validate),
        ("{\"per_second\":14}", FaultStage::Callback),
    ];
    for (document, stage) in bad {
        let version = writer.config().set_raw(KEY, Value::from(document)).await.unwrap();
        eventually(cx.soon(), "the failure is visible", async || {
            manager.status().last_error.filter(|fault| fault.stage == stage && fault.version == Some(version))
        })
        .await;
        assert_eq!(*manager.current(), limits(good), "{stage:?} keeps the old value");
        good += 1;
        writer.config().set(KEY, &limits(good)).await.unwrap();
        uses(&cx, &manager, good).await;
        assert!(manager.status().last_error.is_none(), "a good value follows");
    }
}

pub(super) async fn it_decodes_validates_calls_back_and_then_swaps(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let notes = Notes::default();
    let reader: Arc<OnceLock<ConfigReader<Limits>>> = Arc::default();
    let in_use = |reader: &OnceLock<ConfigReader<Limits>>| {
        reader.get().map_or(0, |reader| reader.current().per_second)
    };
    let (validating, updating) = ((notes.clone(), Arc::clone(&reader)), (notes.clone(), Arc::clone(&reader)));
    let manager = builder(&provider)
        .validate(move |new: &Limits| {
            validating.0.note(format!("validate {}, in use {}", new.per_second, in_use(&validating.1)));
            Ok::<_, Infallible>(())
        })
        .on_update(move |old: &Arc<Limits>, new: &Arc<Limits>| {
            updating.0.note(format!(
                "update {} to {}, in use {}",
                old.per_second,
                new.per_second,
                in_use(&updating.1)
            ));
            Ok::<_, Infallible>(())
        })
        .build()
        .unwrap();
    reader.set(manager.reader()).unwrap();
    manager.start().await;
    writer.config().set(KEY, &limits(2)).await.unwrap();
    uses(&cx, &manager, 2).await;
    writer.config().set(KEY, &limits(3)).await.unwrap();
    uses(&cx, &manager, 3).await;
    let expected = [
        "validate 2, in use 1",
        "update 1 to 2, in use 1",
        "validate 3, in use 2",
        "update 2 to 3, in use 2",
    ];
    assert_eq!(notes.taken(), expected);
}

pub(super) async fn the_callback_runs_for_a_changed_value_alone(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let notes = Notes::default();
    let updating = notes.clone();
    let manager = builder(&provider)
        .on_update(move |_, new: &Arc<Limits>| {
            updating.note(new.per_second.to_string());
            Ok::<_, Infallible>(())
        })
        .build()
        .unwrap();
    writer.config().set(KEY, &limits(2)).await.unwrap();
    manager.start().await;
    for _ in 0..5 {
        writer.config().set(KEY, &limits(2)).await.unwrap();
    }
    writer.config().set(KEY, &limits(3)).await.unwrap();
    uses(&cx, &manager, 3).await;
    let version = writer.config().set(KEY, &limits(3)).await.unwrap();
    eventually(cx.soon(), "the unchanged value is seen", async || {
        (manager.status().version() == Some(version)).then_some(())
    })
    .await;
    manager.stop().await;
    manager.start().await;
    assert_eq!(notes.taken(), ["2", "3"]);
}

pub(super) async fn another_spelling_of_a_value_is_no_change(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let notes = Notes::default();
    let (updating, changing) = (notes.clone(), notes.clone());
    let manager =
        ConfigManager::<serde_json::Value>::builder(Arc::clone(provider.config()), "gateway", "limits")
            .env("dev")
            .on_update(move |_, new: &Arc<serde_json::Value>| {
                updating.note(format!("update {new}"));
                Ok::<_, Infallible>(())
            })
            .on_change(move |_, new: &Arc<serde_json::Value>| changing.note(format!("change {new}")))
            .build()
            .unwrap();
    manager.start().await;
    let mut changes = manager.changes();
    let write = async |document: &'static str| {
        let version = writer.config().set_raw(KEY, Value::from(document)).await.unwrap();
        eventually(cx.soon(), "it is seen", async || {
            (manager.status().version() == Some(version)).then_some(())
        })
        .await;
    };
    let spellings = [
        "{\"rate\":1.5,\"name\":\"a/b\"}",
        "{\"rate\":1.5,\"name\":\"a/b\"}\n",
        "{\r\n  \"rate\": 1.5,\r\n  \"name\": \"a/b\"\r\n}\r\n",
        "\u{feff}{ \"name\": \"a/b\", \"rate\": 1.500 }",
        "{\"name\":\"a\\/b\",\"rate\":15e-1}",
    ];
    for document in spellings {
        write(document).await;
    }
    assert_eq!(notes.taken().len(), 2, "one value, whatever its spelling");
    assert!(changes.changed().await.is_some());
    write("{\"rate\":1.6,\"name\":\"a/b\"}").await;
    assert_eq!(notes.taken().len(), 2, "and another one");
    assert!(changes.changed().await.is_some());
    write("{\"rate\":1.6, \"name\":\"a/b\"}").await;
    assert_eq!(notes.taken(), Vec::<String>::new());
    manager.stop().await;
    assert_eq!(changes.changed().await, None, "no further change");
}

pub(super) async fn the_callback_may_call_current(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let reader: Arc<OnceLock<ConfigReader<Limits>>> = Arc::default();
    let seen = Arc::new(AtomicUsize::new(0));
    let (own, counted) = (Arc::clone(&reader), Arc::clone(&seen));
    let manager = builder(&provider)
        .on_update(move |old: &Arc<Limits>, _: &Arc<Limits>| {
            let agrees = own.get().is_some_and(|reader| *reader.current() == **old);
            counted.fetch_add(usize::from(agrees), Ordering::SeqCst);
            Ok::<_, Infallible>(())
        })
        .build()
        .unwrap();
    reader.set(manager.reader()).unwrap();
    manager.start().await;
    for n in 2..12 {
        writer.config().set(KEY, &limits(n)).await.unwrap();
        uses(&cx, &manager, n).await;
    }
    assert_eq!(seen.load(Ordering::SeqCst), 10);
}

pub(super) async fn the_callback_never_runs_twice_at_once(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let inside = Arc::new(Mutex::new(()));
    let notes = Notes::default();
    let (guard, updating) = (Arc::clone(&inside), notes.clone());
    let manager = builder(&provider)
        .on_update(move |_, new: &Arc<Limits>| {
            updating.note(if guard.try_lock().is_ok() { "alone" } else { "twice" });
            if new.per_second % 2 == 0 { Err("refused") } else { Ok(()) }
        })
        .build()
        .unwrap();
    let manager = Arc::new(manager);
    // Started from many sides at once, while the value changes.
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let manager = Arc::clone(&manager);
            tokio::spawn(async move { manager.start().await })
        })
        .collect();
    for n in 2..40 {
        writer.config().set(KEY, &limits(n)).await.unwrap();
        tokio::task::yield_now().await;
    }
    for start in starts {
        start.await.unwrap();
    }
    writer.config().set(KEY, &limits(41)).await.unwrap();
    uses(&cx, &manager, 41).await;
    let notes = notes.taken();
    assert!(!notes.is_empty() && notes.iter().all(|note| note == "alone"), "{notes:?}");
}

pub(super) async fn the_callback_never_runs_after_stop_returned(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    for round in 0..20 {
        let notes = Notes::default();
        let updating = notes.clone();
        let manager = builder(&provider)
            .on_update(move |_, new: &Arc<Limits>| {
                updating.note(new.per_second.to_string());
                Ok::<_, Infallible>(())
            })
            .build()
            .unwrap();
        writer.config().set(KEY, &limits(100)).await.unwrap();
        manager.start().await;
        writer.config().set(KEY, &limits(200 + round)).await.unwrap();
        for _ in 0..round % 5 {
            tokio::task::yield_now().await;
        }
        manager.stop().await;
        let (in_use, _) = (manager.current().per_second, notes.taken());
        writer.config().set(KEY, &limits(300)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!((manager.current().per_second, notes.taken()), (in_use, Vec::new()), "round {round}");
    }
}

pub(super) async fn a_panic_of_the_users_is_a_failure_like_any(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let manager = builder(&provider)
        .validate(|new: &Limits| {
            assert!(new.per_second != 13, "the validator panics");
            Ok::<_, Infallible>(())
        })
        .on_update(|_, new: &Arc<Limits>| {
            assert!(new.per_second != 14, "the callback panics");
            Ok::<_, Infallible>(())
        })
        .build()
        .unwrap();
    manager.start().await;
    for (bad, stage) in [(13, FaultStage::Validate), (14, FaultStage::Callback)] {
        writer.config().set(KEY, &limits(bad)).await.unwrap();
        eventually(cx.soon(), "the failure is visible", async || {
            manager.status().last_error.filter(|fault| fault.stage == stage)
        })
        .await;
        writer.config().set(KEY, &limits(bad * 10)).await.unwrap();
        uses(&cx, &manager, bad * 10).await;
    }
}

/// Panics when it is dropped, where it is 13.
#[derive(Debug, Default, serde::Deserialize)]
struct Touchy(u32);

impl Drop for Touchy {
    fn drop(&mut self) {
        assert!(self.0 != 13, "unlucky");
    }
}

pub(super) async fn a_value_whose_drop_panics_is_replaced_and_that_is_visible(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let manager = ConfigManager::<Touchy>::builder(Arc::clone(provider.config()), "gateway", "limits")
        .env("dev")
        .build()
        .unwrap();
    manager.start().await;
    for (value, fault) in [(12, None), (13, None), (14, Some(FaultStage::Drop)), (15, None)] {
        let version = writer.config().set(KEY, &value).await.unwrap();
        eventually(cx.soon(), "it is in use, with what happened", async || {
            let status = manager.status();
            (status.version() == Some(version) && status.last_error.map(|fault| fault.stage) == fault)
                .then_some(())
        })
        .await;
        assert_eq!(manager.current().0, value);
    }
}

pub(super) async fn the_change_callback_sees_the_new_value_and_refuses_none(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let reader: Arc<OnceLock<ConfigReader<Limits>>> = Arc::default();
    let notes = Notes::default();
    let (own, changing) = (Arc::clone(&reader), notes.clone());
    let manager = builder(&provider)
        .on_update(|_, new: &Arc<Limits>| if new.per_second == 13 { Err("unlucky") } else { Ok(()) })
        .on_change(move |old: &Arc<Limits>, new: &Arc<Limits>| {
            let in_use = own.get().map_or(0, |reader| reader.current().per_second);
            changing.note(format!("{} to {}, in use {in_use}", old.per_second, new.per_second));
            assert!(new.per_second != 14, "a panic refuses nothing");
        })
        .build()
        .unwrap();
    reader.set(manager.reader()).unwrap();
    manager.start().await;
    for n in [2, 13, 14, 3] {
        let version = writer.config().set(KEY, &limits(n)).await.unwrap();
        eventually(cx.soon(), "it was looked at", async || {
            let status = manager.status();
            let fault = status
                .last_error
                .as_ref()
                .filter(|fault| fault.version == Some(version))
                .map(|fault| fault.stage);
            let expected = match n {
                13 => Some(FaultStage::Callback),
                14 => Some(FaultStage::Change),
                _ => None,
            };
            (fault == expected && (n == 13 || status.version() == Some(version))).then_some(())
        })
        .await;
    }
    assert_eq!(notes.taken(), ["1 to 2, in use 2", "2 to 14, in use 14", "14 to 3, in use 3"]);
}

pub(super) async fn it_shows_no_value(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let manager = builder(&provider).build().unwrap();
    writer.config().set_raw(KEY, Value::from("{\"per_second\":\"hunter2\"}")).await.unwrap();
    let status = manager.start().await;
    let fault = status.last_error.clone().expect("it is no u32");
    let shown = format!("{status:?} {manager:?} {fault:?} {}", fault.error);
    assert!(!shown.contains("hunter2"), "{shown}");
}
