//! R24: following the value.

use std::time::Duration;

use coord_api::ErrorKind;
use coord_api::prelude::*;
use coord_api::store::Range;
use coord_recipes::config_manager::{ConfigManager, ConfigSource, DeletePolicy};
use coord_testkit::wait::{eventually, within};
use coord_testkit::{Fixture, bad, layout};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::{KEY, Limits, builder, limits, uses};

pub(super) async fn no_change_is_missed_between_load_and_watch(cx: Fixture) {
    let writer = cx.provider().await;
    for seed in 0..20 {
        let client = cx.delayed(seed).await;
        let manager = builder(&client.provider).build().unwrap();
        let writing = {
            let config = std::sync::Arc::clone(writer.config());
            tokio::spawn(async move {
                // All through loading and the opening of the watch, and then silence.
                for n in 0..30 {
                    config.set(KEY, &limits(100 + n)).await.unwrap();
                    sleep(Duration::from_millis(3 + seed % 4)).await;
                }
                config.set(KEY, &limits(7)).await.unwrap();
            })
        };
        manager.start().await;
        writing.await.unwrap();
        uses(&cx, &manager, 7).await;
    }
}

pub(super) async fn changes_are_followed(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let manager = builder(&provider).build().unwrap();
    manager.start().await;
    for n in 2..30 {
        let version = writer.config().set(KEY, &limits(n)).await.unwrap();
        uses(&cx, &manager, n).await;
        assert_eq!(manager.status().version(), Some(version));
        // Its neighbours are none of its business.
        for neighbour in
            ["dev/gateway/limits2", "dev/gateway", "dev/gateway/limits/below", "prod/gateway/limits"]
        {
            writer.config().set(neighbour, &limits(0)).await.unwrap();
        }
    }
    assert_eq!(*manager.current(), limits(29));
}

pub(super) async fn changes_can_be_waited_for(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let manager = builder(&provider).on_delete(DeletePolicy::Default).build().unwrap();
    let mut changes = manager.changes();
    manager.start().await;
    for n in 2..20 {
        let version = writer.config().set(KEY, &limits(n)).await.unwrap();
        assert_eq!(
            within(cx.soon(), "the change is told", changes.changed()).await,
            Some(ConfigSource::Loaded(version))
        );
        assert_eq!(*manager.current(), limits(n));
    }
    writer.config().delete(KEY).await.unwrap();
    assert_eq!(
        within(cx.soon(), "the deletion is told", changes.changed()).await,
        Some(ConfigSource::Default)
    );
    let (_, ended) = tokio::join!(manager.stop(), within(cx.soon(), "the end is told", changes.changed()));
    assert_eq!(ended, None);
}

pub(super) async fn a_resync_reloads(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let writer = cx.provider().await;
    writer.config().set(KEY, &limits(2)).await.unwrap();
    let manager = builder(&client.provider).build().unwrap();
    manager.start().await;
    assert_eq!(*manager.current(), limits(2));
    faults.cut();
    writer.config().set(KEY, &limits(3)).await.unwrap();
    let last = writer.config().set("elsewhere", &0).await.unwrap();
    cx.compact(last).await;
    faults.heal();
    uses(&cx, &manager, 3).await;
}

pub(super) async fn a_deleted_key_keeps_the_last_value(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    writer.config().set(KEY, &limits(2)).await.unwrap();
    let manager = builder(&provider).build().unwrap();
    manager.start().await;
    writer.config().delete(KEY).await.unwrap();
    eventually(cx.soon(), "the deletion is noticed", async || manager.status().missing.then_some(())).await;
    assert_eq!(*manager.current(), limits(2));
    writer.config().set(KEY, &limits(3)).await.unwrap();
    uses(&cx, &manager, 3).await;
    assert!(!manager.status().missing);
}

pub(super) async fn a_deleted_key_returns_to_the_default_by_policy(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let manager = builder(&provider).on_delete(DeletePolicy::Default).build().unwrap();
    manager.start().await;
    for n in 2..5 {
        writer.config().set(KEY, &limits(n)).await.unwrap();
        uses(&cx, &manager, n).await;
        writer.config().delete(KEY).await.unwrap();
        uses(&cx, &manager, 1).await;
        assert_eq!(manager.status().source, ConfigSource::Default);
    }
}

pub(super) async fn a_deletion_while_cut_off_is_noticed(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let writer = cx.provider().await;
    writer.config().set(KEY, &limits(2)).await.unwrap();
    let manager = builder(&client.provider).on_delete(DeletePolicy::Default).build().unwrap();
    manager.start().await;
    assert_eq!(*manager.current(), limits(2));
    faults.cut();
    writer.config().delete(KEY).await.unwrap();
    let last = writer.config().set("elsewhere", &0).await.unwrap();
    cx.compact(last).await;
    faults.heal();
    uses(&cx, &manager, 1).await;
    assert!(manager.status().missing);
}

pub(super) async fn start_and_stop_are_idempotent(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let manager = builder(&provider).build().unwrap();
    manager.stop().await;
    for _ in 0..3 {
        manager.start().await;
    }
    writer.config().set(KEY, &limits(2)).await.unwrap();
    uses(&cx, &manager, 2).await;
    for _ in 0..3 {
        manager.stop().await;
    }
    writer.config().set(KEY, &limits(3)).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*manager.current(), limits(2), "stopped, it keeps what it had");
}

pub(super) async fn it_can_be_started_again(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let manager = builder(&provider).build().unwrap();
    for n in (2..12).step_by(2) {
        writer.config().set(KEY, &limits(n)).await.unwrap();
        manager.start().await;
        assert_eq!(*manager.current(), limits(n), "what changed while it was stopped is loaded");
        writer.config().set(KEY, &limits(n + 1)).await.unwrap();
        uses(&cx, &manager, n + 1).await;
        manager.stop().await;
    }
}

pub(super) async fn it_outlives_a_long_outage(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let writer = cx.provider().await;
    let manager = builder(&client.provider).build().unwrap();
    let long = Duration::from_secs(if cx.virtual_time() { 3_600 } else { 5 });
    for (n, hang) in [(2, false), (3, true)] {
        if hang {
            faults.hang();
        } else {
            faults.cut();
        }
        manager.start().await;
        writer.config().set(KEY, &limits(n)).await.unwrap();
        sleep(long).await;
        assert_eq!(manager.current().per_second, n - 1);
        faults.heal();
        uses(&cx, &manager, n).await;
    }
}

pub(super) async fn a_dropped_manager_leaves_no_task(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    drop(provider.config().watch_raw("warm", coord_api::WatchStart::Now).await.unwrap());
    sleep(Duration::from_secs(1)).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    for n in 0..10 {
        let manager = builder(&provider).build().unwrap();
        let reader = manager.reader();
        writer.config().set(KEY, &limits(n)).await.unwrap();
        manager.start().await;
        drop(manager);
        assert_eq!(*reader.current(), limits(n), "readers keep the last value");
    }
    eventually(Duration::from_secs(2), "no task is left", async || {
        (Handle::current().metrics().num_alive_tasks() <= tasks).then_some(())
    })
    .await;
}

pub(super) async fn its_key_is_environment_service_and_component(cx: Fixture) {
    let client = cx.client().await;
    let config = client.provider.config();
    let manager = |env: &str| {
        ConfigManager::<Limits>::builder(std::sync::Arc::clone(config), "gateway", "limits").env(env).build()
    };
    let prod = manager("prod").unwrap();
    assert_eq!(prod.key(), "prod/gateway/limits");
    config.set("prod/gateway/limits", &limits(5)).await.unwrap();
    prod.start().await;
    assert_eq!(*prod.current(), limits(5));
    let stored = client.store.range(Range::key(layout::config("prod/gateway/limits"))).await.unwrap();
    assert_eq!(stored.entries.len(), 1);
    for name in bad::segments() {
        assert_eq!(manager(&name).unwrap_err().kind(), ErrorKind::InvalidArgument, "{name:?}");
        let service = ConfigManager::<Limits>::builder(std::sync::Arc::clone(config), name.clone(), "limits")
            .env("dev")
            .build();
        assert_eq!(service.unwrap_err().kind(), ErrorKind::InvalidArgument, "{name:?}");
        let component =
            ConfigManager::<Limits>::builder(std::sync::Arc::clone(config), "gateway", name.clone())
                .env("dev")
                .build();
        assert_eq!(component.unwrap_err().kind(), ErrorKind::InvalidArgument, "{name:?}");
    }
}

pub(super) async fn a_value_that_was_stored_is_loaded_after_reopening(cx: Fixture) {
    let version = cx.provider().await.config().set(KEY, &limits(2)).await.unwrap();
    cx.reopen().await;
    let provider = cx.provider().await;
    let manager = builder(&provider).build().unwrap();
    assert_eq!(manager.start().await.version(), Some(version));
    assert_eq!(*manager.current(), limits(2));
}
