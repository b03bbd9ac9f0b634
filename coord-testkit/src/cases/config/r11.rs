//! R11 Versions.

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::store::Range;
use coord_api::{ConfigEvent, Version, WatchStart};
use futures_util::future::join_all;

use super::{conflict, value};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::within;

pub(super) async fn versions_rise_with_every_write(cx: Fixture) {
    let clients = join_all((0..3).map(|_| cx.provider())).await;
    let mut last = Version::ZERO;
    // Quickly: a clock would give two writes one version.
    for n in 0..300 {
        let config = clients[n % 3].config();
        let version = match n % 2 {
            0 => config.set_raw("k", value(n.to_string())).await.unwrap(),
            _ => config.compare_and_set_raw("k", value(n.to_string()), last).await.unwrap(),
        };
        assert!(version > last, "{version} after {last}");
        last = version;
    }
}

pub(super) async fn versions_rise_across_delete_and_recreate(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let mut last = Version::ZERO;
    for round in 0..5 {
        for _ in 0..=round {
            let version = one.config().set_raw("k", value("v")).await.unwrap();
            assert!(version > last, "{version} after {last}");
            last = version;
        }
        assert!(two.config().delete("k").await.unwrap());
        let created = two.config().compare_and_set_raw("k", value("v"), Version::ZERO).await.unwrap();
        assert!(created > last, "{created} after {last}");
        last = created;
        assert!(one.config().compare_and_delete("k", created).await.unwrap());
    }
}

pub(super) async fn versions_rise_across_reopening(cx: Fixture) {
    let mut last = Version::ZERO;
    for round in 0..3 {
        let provider = cx.provider().await;
        if round > 0 {
            let kept = provider.config().get_raw("kept").await.unwrap().expect("it was acknowledged");
            assert_eq!(kept.version, last);
        }
        let version = provider.config().set_raw("k", value("v")).await.unwrap();
        assert!(version > last, "{version} after {last}, reopened {round} times");
        assert!(provider.config().delete("k").await.unwrap());
        last = provider.config().set_raw("kept", value("v")).await.unwrap();
        assert!(last > version);
        cx.reopen().await;
    }
}

pub(super) async fn an_equal_value_is_a_new_version(cx: Fixture) {
    let provider = cx.provider().await;
    let config = provider.config();
    let mut watch = config.watch_raw("k", WatchStart::Now).await.unwrap();
    let first = config.set_raw("k", value("same")).await.unwrap();
    let second = config.set_raw("k", value("same")).await.unwrap();
    let third = config.compare_and_set_raw("k", value("same"), second).await.unwrap();
    assert!(first < second && second < third);
    assert_eq!(config.get_raw("k").await.unwrap().unwrap().version, third);
    let mut view = crate::view::ConfigView::after(Version::new(first.get() - 1));
    view.follow(&mut watch, third, cx.soon()).await;
    view.check(&[first, second, third].map(|version| ("k".to_owned(), version, Some(value("same")))));
}

pub(super) async fn a_version_is_the_revision_of_the_last_write(cx: Fixture) {
    let client = cx.client().await;
    for n in 0..3 {
        let version = client.provider.config().set_raw("a/b", value(n.to_string())).await.unwrap();
        let entries = client.store.range(Range::key(layout::config("a/b"))).await.unwrap().entries;
        assert_eq!((entries[0].modified, &entries[0].value), (version, &value(n.to_string())));
    }
}

pub(super) async fn what_a_write_returns_is_what_a_read_finds(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    for n in 0..10 {
        let set = one.config().set_raw("k", value(n.to_string())).await.unwrap();
        let found = two.config().get_raw("k").await.unwrap().unwrap();
        assert_eq!((found.version, found.value), (set, value(n.to_string())));
        let swapped = two.config().compare_and_set_raw("k", value("swapped"), set).await.unwrap();
        let listed = one.config().list_raw("").await.unwrap();
        assert_eq!((listed.items[0].version, &listed.items[0].value), (swapped, &value("swapped")));
    }
}

pub(super) async fn what_is_written_elsewhere_changes_no_version(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let version = one.config().set_raw("d/k", value("v")).await.unwrap();
    for key in ["d/l", "d", "d/k/below", "other", "d/l"] {
        let later = two.config().set_raw(key, value("v")).await.unwrap();
        assert!(later > version);
        for provider in [&one, &two] {
            assert_eq!(
                provider.config().get_raw("d/k").await.unwrap().unwrap().version,
                version,
                "after a write of {key}"
            );
            let listed = provider.config().list_raw("d").await.unwrap();
            assert!(listed.revision >= later);
            assert_eq!(listed.items.iter().find(|entry| entry.key == "d/k").unwrap().version, version);
        }
    }
    assert!(two.config().delete("d/l").await.unwrap());
    assert!(one.config().compare_and_set_raw("d/k", value("w"), version).await.unwrap() > version);
}

/// What `attempt` does to the key `k`, which it must not touch, shows neither in the version nor in
/// a watch.
async fn leaves_no_trace<F: Future<Output = ()>>(
    cx: &Fixture,
    present: bool,
    attempt: impl Fn(Arc<dyn Provider>, Version) -> F,
) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let config = provider.config();
    let before = if present { config.set_raw("k", value("before")).await.unwrap() } else { Version::ZERO };
    let mut watch = other.config().watch_prefix_raw("", WatchStart::Now).await.unwrap();
    for _ in 0..3 {
        attempt(Arc::clone(&provider), before).await;
        let found = other.config().get_raw("k").await.unwrap();
        assert_eq!(found.map_or(Version::ZERO, |found| found.version), before);
    }
    let next = config.set_raw("another", value("next")).await.unwrap();
    loop {
        match within(cx.soon(), "the next real change", watch.next()).await {
            Some(Ok(ConfigEvent::Put { entry, .. })) if entry.key == "another" => {
                assert_eq!(entry.version, next);
                break;
            }
            // A resync is always legal; it may tell of the real change too.
            Some(Ok(ConfigEvent::Resync(snapshot)))
                if snapshot.items.iter().any(|entry| entry.key == "another") =>
            {
                break;
            }
            Some(Ok(ConfigEvent::Resync(_))) => {}
            other => panic!("an event of what changed nothing: {other:?}"),
        }
    }
}

pub(super) async fn a_failed_compare_and_set_leaves_no_trace(cx: Fixture) {
    leaves_no_trace(&cx, true, async |provider: Arc<dyn Provider>, version: Version| {
        for wrong in [Version::ZERO, Version::new(version.get() + 1), Version::new(u64::MAX)] {
            let error = provider.config().compare_and_set_raw("k", value("after"), wrong).await.unwrap_err();
            assert_eq!(conflict(&error), version);
            let error = provider.config().compare_and_delete("k", wrong).await.unwrap_err();
            assert_eq!(conflict(&error), version);
        }
    })
    .await;
}

pub(super) async fn deleting_what_is_absent_leaves_no_trace(cx: Fixture) {
    leaves_no_trace(&cx, false, async |provider: Arc<dyn Provider>, _| {
        assert!(!provider.config().delete("k").await.unwrap());
        assert!(!provider.config().compare_and_delete("k", Version::ZERO).await.unwrap());
        let error = provider.config().compare_and_delete("k", Version::new(1)).await.unwrap_err();
        assert_eq!(conflict(&error), Version::ZERO);
    })
    .await;
}

pub(super) async fn what_failed_is_in_no_history(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let config = provider.config();
    let mut watches = Vec::new();
    for (watcher, start) in [(&provider, WatchStart::Now), (&other, WatchStart::Snapshot)] {
        watches.push(watcher.config().watch_raw("k", start).await.unwrap());
    }
    let (mut log, mut last) = (Vec::new(), Version::ZERO);
    for n in 0..10 {
        for wrong in [Version::new(last.get() + 1), Version::new(u64::MAX)] {
            assert_eq!(
                conflict(&other.config().compare_and_set_raw("k", value("wrong"), wrong).await.unwrap_err()),
                last
            );
            assert_eq!(conflict(&config.compare_and_delete("k", wrong).await.unwrap_err()), last);
        }
        assert_eq!(config.get_raw("k").await.unwrap().map_or(Version::ZERO, |found| found.version), last);
        last = config.compare_and_set_raw("k", value(n.to_string()), last).await.unwrap();
        log.push(("k".to_owned(), last, Some(value(n.to_string()))));
    }
    for mut watch in watches {
        let mut view = crate::view::ConfigView::after(Version::ZERO);
        view.follow(&mut watch, last, cx.soon()).await;
        view.check(&log);
    }
}
