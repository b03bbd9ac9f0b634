//! R22 Isolation.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Span, Txn};
use coord_api::{Revision, WatchStart};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::Writer;
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::view::{ConfigView, StoreView};
use crate::wait::{eventually, within};

pub(super) async fn a_stalled_watcher_delays_neither_writers_nor_watchers(cx: Fixture) {
    let (client, mut writer) = (cx.client().await, Writer::new(&cx).await);
    let config = client.provider.config();
    let before = writer.put("before", "v").await;
    let mut stalled = Vec::new();
    for n in 0..50 {
        // Of the writer's own range, of others, from the past, and in the writer's own provider.
        let provider = if n % 2 == 0 { &client.provider } else { &writer.provider };
        let start = if n % 3 == 0 { WatchStart::Snapshot } else { WatchStart::Now };
        let after = if start == WatchStart::Snapshot { Revision::ZERO } else { before };
        let watch = match n % 3 {
            1 => provider.config().watch_raw("d/0", start).await.unwrap(),
            2 => provider.config().watch_prefix_raw("d", start).await.unwrap(),
            _ => provider.config().watch_prefix_raw("", start).await.unwrap(),
        };
        stalled.push((ConfigView::after(after), watch, ["", "d/0", "d/"][n % 3]));
    }
    let mut live = config.watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    let mut view = ConfigView::after(before);
    for n in 0..3_000 {
        let key = format!("d/{}", n % 10);
        let last = within(cx.soon(), "a write is not delayed", writer.put(&key, "v".repeat(1_000))).await;
        if n % 100 == 0 {
            view.follow(&mut live, last, cx.soon()).await;
        }
    }
    let guard = writer.provider.lock().acquire("l", cx.ttl()).await.unwrap();
    sleep(cx.ttl() * 2).await;
    assert!(guard.is_held(), "renewals go on");
    view.follow(&mut live, writer.log.last().unwrap().1, cx.soon()).await;
    view.check(&writer.log);
    // Late readers get all of it, or are told that they came too late.
    for (view, watch, directory) in &mut stalled {
        let log = writer.log_of(directory);
        view.follow(watch, log.last().unwrap().1, cx.soon() * 3).await;
        view.check(&log);
    }
}

pub(super) async fn what_a_stalled_watcher_cannot_hold_becomes_a_resync(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    let mut live = watcher.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    let mut stalled = watcher.config().watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap();
    let (mut view, mut live_view) = (ConfigView::after(Revision::ZERO), ConfigView::after(Revision::ZERO));
    for n in 0..4_000 {
        if n % 50 == 49 {
            writer.all(&[("d/0", None), ("d/1", Some("v")), ("d/gone", Some("v"))]).await;
            writer.all(&[("d/gone", None)]).await;
        }
        let last = writer.put(&format!("d/{}", n % 20), format!("{n}{}", "v".repeat(10_000))).await;
        if n % 200 == 0 {
            live_view.follow(&mut live, last, cx.soon()).await;
        }
    }
    let last = writer.log.last().unwrap().1;
    view.follow(&mut stalled, last, cx.soon() * 3).await;
    view.check(&writer.log);
    view.check_state(&writer.provider.config().list_raw("d").await.unwrap().items);
    live_view.follow(&mut live, last, cx.soon()).await;
    live_view.check(&writer.log);
}

pub(super) async fn a_stalled_watch_of_the_store_delays_nobody(cx: Fixture) {
    let (store, other, writer) = (cx.store().await, cx.store().await, cx.client().await);
    let mut stalled = Vec::new();
    for n in 0..20 {
        let store = if n % 2 == 0 { &store } else { &writer.store };
        stalled.push(store.watch(Span::prefix("w/"), None).await.unwrap());
    }
    // One that reads a little and then no more, and one that reads on.
    let mut live = StoreView::now(&other, Span::prefix("w/")).await.unwrap();
    let guard = writer.provider.lock().acquire("l", cx.ttl()).await.unwrap();
    for n in 0..1_500 {
        let put = Txn::new().then(Op::put(format!("w/{}", n % 10), "v".repeat(1_000)));
        let revision =
            within(cx.soon(), "a write is not delayed", writer.store.txn(put)).await.unwrap().revision;
        assert_eq!(live.expect(cx.soon()).await.revision, revision, "nor is another watch");
        if n == 3 {
            within(cx.soon(), "the first change", stalled[0].next()).await.unwrap().unwrap();
        }
    }
    sleep(cx.ttl() * 2).await;
    assert!(guard.is_held(), "renewals go on");
}

pub(super) async fn a_thousand_dropped_watchers_leave_nothing(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let config = client.provider.config();
    let mut writer = Writer::new(&cx).await;
    // What the first watch and the first write start for good, a connection for example, is not
    // residue.
    drop(config.watch_raw("warm", WatchStart::Now).await.unwrap());
    writer.put("d/warm", "v").await;
    sleep(Duration::from_secs(1)).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let open = counter.open_watches();
    let mut watches = Vec::new();
    for n in 0..1_000 {
        let start = if n % 2 == 0 { WatchStart::Now } else { WatchStart::Snapshot };
        watches.push(match n % 4 {
            0 => config.watch_prefix_raw("d", start).await.unwrap(),
            _ => config.watch_raw(&format!("d/{n}"), start).await.unwrap(),
        });
    }
    writer.put("d/1", "v").await;
    drop(watches);
    eventually(Duration::from_secs(1) + cx.slack(), "what the watchers used is given back", async || {
        let now = (Handle::current().metrics().num_alive_tasks(), counter.open_watches());
        (now.0 <= tasks && now.1 <= open).then_some(())
    })
    .await;
    // And the provider goes on.
    let mut watch = config.watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    let before = writer.log.last().unwrap().1;
    let last = writer.put("d/2", "v").await;
    let mut view = ConfigView::after(before);
    view.follow(&mut watch, last, cx.soon()).await;
    view.check(&writer.log);
}

pub(super) async fn watchers_dropped_at_any_moment_leave_nothing(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let config = client.provider.config();
    let mut writer = Writer::new(&cx).await;
    drop(config.watch_raw("warm", WatchStart::Now).await.unwrap());
    writer.put("d/warm", "v").await;
    sleep(Duration::from_secs(1)).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let open = counter.open_watches();
    for start in [WatchStart::Now, WatchStart::Snapshot, WatchStart::After(Revision::new(1))] {
        for polls in 0..100 {
            let opened = poll_times(polls, cx.soon(), config.watch_prefix_raw("d", start)).await;
            // A watch that got that far is dropped in the middle of its stream.
            if let Polled::Done(watch) = opened {
                let mut watch = watch.unwrap();
                writer.put("d/k", "v").await;
                let _ = poll_times(polls % 3, Duration::from_millis(10), watch.next()).await;
                break;
            }
        }
    }
    eventually(Duration::from_secs(1) + cx.slack(), "what the watchers used is given back", async || {
        let now = (Handle::current().metrics().num_alive_tasks(), counter.open_watches());
        (now.0 <= tasks && now.1 <= open).then_some(())
    })
    .await;
}
