//! R19 Resync.

use coord_api::prelude::*;
use coord_api::{Revision, WatchStart};

use super::Writer;
use crate::fixture::Fixture;
use crate::view::ConfigView;

/// Watches, is cut off, misses what `change` does, and the history of it too: what the watcher then
/// holds must be what is there.
async fn resynced(cx: &Fixture, change: impl AsyncFn(&mut Writer) -> Revision) {
    let (client, faults) = cx.faulty().await;
    let config = client.provider.config();
    let mut writer = Writer::new(cx).await;
    for key in ["d/kept", "d/deleted", "d/updated", "d/re-created"] {
        writer.put(key, "before").await;
    }
    let mut directory = config.watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap();
    let mut key = config.watch_raw("d/deleted", WatchStart::Snapshot).await.unwrap();
    let (mut view, mut key_view) = (ConfigView::after(Revision::ZERO), ConfigView::after(Revision::ZERO));
    let seen = writer.put("d/deleted", "seen by both").await;
    view.follow(&mut directory, seen, cx.soon()).await;
    key_view.follow(&mut key, seen, cx.soon()).await;
    faults.cut();
    let compacted = change(&mut writer).await;
    cx.compact(compacted).await;
    faults.heal();
    let last = writer.put("d/deleted", "after").await;
    view.follow(&mut directory, last, cx.soon() * 3).await;
    key_view.follow(&mut key, last, cx.soon() * 3).await;
    view.check(&writer.log);
    view.check_state(&writer.provider.config().list_raw("d").await.unwrap().items);
    key_view.check(&writer.log.iter().filter(|change| change.0 == "d/deleted").cloned().collect::<Vec<_>>());
}

pub(super) async fn history_lost_while_cut_off_is_a_resync(cx: Fixture) {
    resynced(&cx, async |writer| {
        writer.put("d/updated", "meanwhile").await;
        writer.delete("d/deleted").await;
        writer.delete("d/re-created").await;
        writer.put("d/re-created", "meanwhile").await;
        writer.put("d/new", "meanwhile").await;
        writer.put("elsewhere", "meanwhile").await
    })
    .await;
}

pub(super) async fn a_deletion_at_the_compacted_revision_is_not_missed(cx: Fixture) {
    // The history is forgotten at the very revision of the deletion, which some servers then drop.
    resynced(&cx, async |writer| writer.delete("d/deleted").await).await;
    let (client, faults) = cx.faulty().await;
    let mut writer = Writer::new(&cx).await;
    writer.put("e/k", "before").await;
    let mut watch = client.provider.config().watch_prefix_raw("e", WatchStart::Snapshot).await.unwrap();
    let mut view = ConfigView::after(Revision::ZERO);
    view.follow(&mut watch, writer.log[0].1, cx.soon()).await;
    faults.cut();
    let deleted = writer.delete("e/k").await;
    cx.compact(deleted).await;
    faults.heal();
    // Nothing follows: the deletion alone must arrive.
    view.follow(&mut watch, deleted, cx.soon() * 3).await;
    assert!(view.state().is_empty());
    view.check(&writer.log);
}

pub(super) async fn a_watch_from_lost_history_starts_with_a_resync(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    let first = writer.put("d/a", "1").await;
    writer.put("d/b", "1").await;
    writer.delete("d/a").await;
    let compacted = writer.put("d/c", "1").await;
    cx.compact(compacted).await;
    for after in [Revision::new(1), first] {
        let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::After(after)).await.unwrap();
        let mut view = ConfigView::after(after);
        let last = writer.put("d/b", "after").await;
        view.follow(&mut watch, last, cx.soon()).await;
        assert!(view.resyncs() >= 1);
        view.check(&writer.log);
        view.check_state(&writer.provider.config().list_raw("d").await.unwrap().items);
    }
}

pub(super) async fn a_watch_from_before_reopening_misses_nothing(cx: Fixture) {
    let mut writer = Writer::new(&cx).await;
    let first = writer.put("d/a", "1").await;
    writer.put("d/b", "1").await;
    let second = writer.delete("d/a").await;
    cx.reopen().await;
    let log = writer.log;
    let mut writer = Writer { log, ..Writer::new(&cx).await };
    let watcher = cx.provider().await;
    for after in [first, second] {
        let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::After(after)).await.unwrap();
        let mut view = ConfigView::after(after);
        let last = writer.put("d/b", "after").await;
        view.follow(&mut watch, last, cx.soon()).await;
        view.check(&writer.log);
    }
}

pub(super) async fn a_resync_of_nothing_says_that_all_is_gone(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let mut writer = Writer::new(&cx).await;
    let mut last = Revision::ZERO;
    for key in ["d/a", "d/b"] {
        last = writer.put(key, "1").await;
    }
    let mut watch = client.provider.config().watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap();
    let mut view = ConfigView::after(Revision::ZERO);
    view.follow(&mut watch, last, cx.soon()).await;
    assert_eq!(view.state().len(), 2);
    faults.cut();
    writer.delete("d/a").await;
    let deleted = writer.delete("d/b").await;
    let compacted = writer.put("elsewhere", "v").await;
    cx.compact(compacted).await;
    faults.heal();
    view.follow(&mut watch, deleted, cx.soon() * 3).await;
    assert!(view.state().is_empty(), "{:?}", view.state());
}
