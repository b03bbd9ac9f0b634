//! R16 Armed.

use coord_api::prelude::*;
use coord_api::{Revision, WatchStart};

use super::Writer;
use crate::fixture::Fixture;
use crate::view::ConfigView;

pub(super) async fn no_change_is_missed_right_after_watch_returned(cx: Fixture) {
    let mut writer = Writer::new(&cx).await;
    let mut last = Revision::ZERO;
    for round in 0..30 {
        // A new client each time: the first watch of a provider, and of a range, is the one that
        // races.
        let watcher = cx.provider().await;
        let mut watch = match round % 2 {
            0 => watcher.config().watch_raw("d/k", WatchStart::Now).await.unwrap(),
            _ => watcher.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap(),
        };
        let mut view = ConfigView::after(last);
        last = writer.put("d/k", round.to_string()).await;
        view.follow(&mut watch, last, cx.soon()).await;
        view.check(&writer.log);
    }
}

pub(super) async fn a_missing_key_can_be_watched(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    let mut key = watcher.config().watch_raw("missing", WatchStart::Now).await.unwrap();
    let mut directory = watcher.config().watch_prefix_raw("missing", WatchStart::Now).await.unwrap();
    writer.put("missing", "1").await;
    writer.put("missing/below", "1").await;
    writer.delete("missing").await;
    writer.delete("missing/below").await;
    let last = writer.put("missing", "2").await;
    let mut view = ConfigView::after(Revision::ZERO);
    view.follow(&mut key, last, cx.soon()).await;
    view.check(&writer.log.iter().filter(|change| change.0 == "missing").cloned().collect::<Vec<_>>());
    let mut view = ConfigView::after(Revision::ZERO);
    let below = writer.log_of("missing/");
    view.follow(&mut directory, below[1].1, cx.soon()).await;
    view.check(&below);
}

pub(super) async fn a_key_with_a_trailing_slash_is_its_directory(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    let mut watch = watcher.config().watch_raw("a/", WatchStart::Now).await.unwrap();
    for key in ["a", "a/b", "ab", "a/b/c", "a"] {
        writer.put(key, "v").await;
    }
    let below = writer.log_of("a/");
    let mut view = ConfigView::after(Revision::ZERO);
    view.follow(&mut watch, below[1].1, cx.soon()).await;
    view.check(&below);
}

pub(super) async fn a_key_is_watched_alone(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    let mut watch = watcher.config().watch_raw("/a", WatchStart::Now).await.unwrap();
    for key in ["a/b", "aa", "a", "A", "b", "a"] {
        writer.put(key, "v").await;
    }
    let last = writer.delete("a").await;
    let mut view = ConfigView::after(Revision::ZERO);
    view.follow(&mut watch, last, cx.soon()).await;
    let own: Vec<_> = writer.log.iter().filter(|change| change.0 == "a").cloned().collect();
    assert_eq!(own.len(), 3);
    view.check(&own);
}

pub(super) async fn a_directory_is_watched_without_its_neighbours(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    for prefix in ["a", "a/", "/a/"] {
        let mut watch = watcher.config().watch_prefix_raw(prefix, WatchStart::Now).await.unwrap();
        let start = writer.put("a", "not below itself").await;
        for key in ["ab", "a0", "a/x", "a-b/x", "b/a/x", "a/x/y"] {
            writer.put(key, prefix).await;
        }
        let below = writer.log_of("a/");
        let mut view = ConfigView::after(start);
        view.follow(&mut watch, below.last().unwrap().1, cx.soon()).await;
        view.check(&below);
    }
}

pub(super) async fn the_empty_prefix_watches_all(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    let mut watch = watcher.config().watch_prefix_raw("", WatchStart::Now).await.unwrap();
    for key in ["z", "a", "a/b", "long/way/down"] {
        writer.put(key, "v").await;
    }
    let last = writer.delete("z").await;
    let mut view = ConfigView::after(Revision::ZERO);
    view.follow(&mut watch, last, cx.soon()).await;
    view.check(&writer.log);
}

pub(super) async fn later_watchers_are_as_good_as_the_first(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    let mut watches = Vec::new();
    let mut last = Revision::ZERO;
    for n in 0..20 {
        let watch = watcher.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
        watches.push((ConfigView::after(last), watch));
        last = writer.put("d/k", n.to_string()).await;
    }
    for (view, watch) in &mut watches {
        view.follow(watch, last, cx.soon()).await;
        view.check(&writer.log);
    }
}
