//! R17 Snapshot and stream.

use coord_api::prelude::*;
use coord_api::{ConfigEvent, Revision, WatchStart};

use super::Writer;
use crate::fixture::Fixture;
use crate::view::ConfigView;
use crate::wait::within;

pub(super) async fn a_snapshot_comes_first(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    for prefix in ["nothing", "d"] {
        let mut watch = watcher.config().watch_prefix_raw(prefix, WatchStart::Snapshot).await.unwrap();
        let first = within(cx.soon(), "the snapshot comes", watch.next()).await;
        let Some(Ok(ConfigEvent::Resync(snapshot))) = first else { panic!("not a snapshot: {first:?}") };
        let listed = writer.provider.config().list_raw(prefix).await.unwrap();
        assert_eq!(
            (&snapshot.items, snapshot.revision <= listed.revision),
            (&listed.items, true),
            "{prefix}"
        );
        writer.put("d/a", "1").await;
        writer.put("d/b", "").await;
    }
    let mut watch = watcher.config().watch_raw("d/b", WatchStart::Snapshot).await.unwrap();
    let first = within(cx.soon(), "the snapshot comes", watch.next()).await;
    let Some(Ok(ConfigEvent::Resync(snapshot))) = first else { panic!("not a snapshot: {first:?}") };
    assert_eq!(snapshot.items.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["d/b"]);
}

pub(super) async fn a_snapshot_and_what_comes_after_leave_no_gap(cx: Fixture) {
    let mut writer = Writer::new(&cx).await;
    let watcher = cx.delayed(7).await;
    let writing = tokio::spawn(async move {
        for n in 0..400 {
            if n % 5 == 4 {
                writer.delete(&format!("d/{}", n % 3)).await;
            } else {
                writer.put(&format!("d/{}", n % 7), n.to_string()).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
        writer
    });
    let mut opened = Vec::new();
    for _ in 0..15 {
        let watch = watcher.provider.config().watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap();
        opened.push((ConfigView::after(Revision::ZERO), watch));
    }
    let mut writer = writing.await.unwrap();
    let last = writer.put("d/last", "v").await;
    // Deleting what is absent is no change.
    let mut present = std::collections::BTreeSet::new();
    let log: Vec<_> = writer
        .log
        .into_iter()
        .filter(|(key, _, value)| match value {
            Some(_) => {
                present.insert(key.clone());
                true
            }
            None => present.remove(key),
        })
        .collect();
    let listed = writer.provider.config().list_raw("d").await.unwrap();
    for (view, watch) in &mut opened {
        view.follow(watch, last, cx.soon()).await;
        assert!(view.resyncs() >= 1);
        view.check(&log);
        view.check_state(&listed.items);
    }
}

pub(super) async fn a_snapshot_of_a_key_and_what_comes_after_leave_no_gap(cx: Fixture) {
    let mut writer = Writer::new(&cx).await;
    // Each time the first watch of its client, and written to from when it is asked for until it is
    // read.
    for round in 0..12 {
        let watcher = cx.delayed(round).await;
        let before = writer.put("d/k", "before").await;
        let opening = tokio::spawn(async move {
            let watch = watcher.provider.config().watch_raw("d/k", WatchStart::Snapshot).await.unwrap();
            (watch, watcher)
        });
        while !opening.is_finished() {
            writer.put("d/k", "while it is opened").await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let (mut watch, _watcher) = opening.await.unwrap();
        writer.put("d/k", "before it is read").await;
        writer.delete("d/k").await;
        let last = writer.put("d/k", "last").await;
        let mut view = ConfigView::after(Revision::ZERO);
        view.follow(&mut watch, last, cx.soon()).await;
        assert!(view.resyncs() >= 1 && view.seen() > before);
        view.check(&writer.log);
        view.check_state(&writer.provider.config().list_raw("d").await.unwrap().items);
    }
}

pub(super) async fn after_a_revision_comes_exactly_what_followed(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    for n in 0..6 {
        writer.put(&format!("d/{}", n % 2), n.to_string()).await;
        writer.put("elsewhere", "v").await;
    }
    writer.delete("d/0").await;
    let past: Vec<Revision> = writer.log.iter().map(|change| change.1).collect();
    for after in past {
        let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::After(after)).await.unwrap();
        let mut view = ConfigView::after(after);
        let live = writer.put("d/live", "v").await;
        view.follow(&mut watch, live, cx.soon()).await;
        view.check(&writer.log_of("d/"));
    }
}

pub(super) async fn a_list_and_a_watch_after_it_leave_no_gap(cx: Fixture) {
    let mut writer = Writer::new(&cx).await;
    let watcher = cx.delayed(3).await;
    let writing = tokio::spawn(async move {
        for n in 0..300 {
            writer.put(&format!("d/{}", n % 4), n.to_string()).await;
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
        writer
    });
    let mut opened = Vec::new();
    for _ in 0..8 {
        let listed = watcher.provider.config().list_raw("d").await.unwrap();
        let watch = watcher
            .provider
            .config()
            .watch_prefix_raw("d", WatchStart::After(listed.revision))
            .await
            .unwrap();
        opened.push((ConfigView::after(listed.revision), watch));
    }
    let mut writer = writing.await.unwrap();
    let last = writer.put("d/last", "v").await;
    for (view, watch) in &mut opened {
        view.follow(watch, last, cx.soon()).await;
        view.check(&writer.log);
    }
}
