//! R22 Isolation.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Span, Store, StoreEvent, StoreWatch, Txn};
use coord_api::{ConfigEvent, ErrorKind, Revision, Value, WatchStart};
use futures_util::future::poll_immediate;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::Writer;
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::layout;
use crate::view::{ConfigView, ServiceView, StoreView};
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

/// How often a watch, or a call, is polled before it is left alone.
const POLLS: std::ops::Range<usize> = 0..6;

pub(super) async fn a_watch_left_alone_after_a_poll_holds_up_no_other(cx: Fixture) {
    let (client, mut writer) = (cx.client().await, Writer::new(&cx).await);
    // In the watcher's own provider and in the writer's; of one range and of another.
    for provider in [&client.provider, &Arc::clone(&writer.provider)] {
        let config = provider.config();
        let before = writer.put("d/k", "before").await;
        let mut first =
            (ConfigView::after(before), config.watch_prefix_raw("d", WatchStart::Now).await.unwrap());
        let mut left_alone = Vec::new();
        for polls in POLLS {
            for start in [WatchStart::Now, WatchStart::Snapshot, WatchStart::After(before)] {
                let mut watch = Box::pin(config.watch_prefix_raw("d", start).await.unwrap());
                // With news on the way, and without.
                if polls % 2 == 0 {
                    writer.put("d/k", "news").await;
                }
                for _ in 0..polls {
                    let _ = poll_immediate(watch.next()).await;
                }
                left_alone.push(watch);
            }
        }
        let mut services = Vec::new();
        for polls in POLLS {
            let mut watch = Box::pin(provider.registry().watch("s").await.unwrap());
            for _ in 0..polls {
                let _ = poll_immediate(watch.next()).await;
            }
            services.push(watch);
        }
        let mut last = (
            ConfigView::after(Revision::ZERO),
            config.watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap(),
        );
        for n in 0..20 {
            let written = writer.put("d/k", n.to_string());
            let at = within(cx.soon(), "no writer waits for a watch that is left alone", written).await;
            for (view, watch) in [&mut first, &mut last] {
                view.follow(watch, at, cx.soon()).await;
                view.check(&writer.log);
            }
        }
        let mut service = provider.registry().watch("s").await.unwrap();
        let mut view = ServiceView::new();
        view.follow(&mut service, "nor does a watch of a service", cx.soon(), |view| view.resyncs() > 0)
            .await;
        // Nor does one that comes back after all miss anything.
        for mut watch in left_alone {
            within(cx.soon(), "the next event", watch.next()).await.unwrap().unwrap();
        }
    }
}

pub(super) async fn a_watch_whose_opening_is_left_alone_holds_up_no_other(cx: Fixture) {
    let mut writer = Writer::new(&cx).await;
    let before = writer.put("d/k", "before").await;
    for polls in POLLS {
        for start in [WatchStart::Now, WatchStart::Snapshot, WatchStart::After(before)] {
            let client = cx.delayed(u64::try_from(polls).unwrap()).await;
            let config = client.provider.config();
            // Polled so often, and then neither polled nor dropped.
            let mut opening = Box::pin(config.watch_prefix_raw("d", start));
            let _ = poll_times(polls, cx.slack(), opening.as_mut()).await;
            let mut service = Box::pin(client.provider.registry().watch("s"));
            let _ = poll_times(polls, cx.slack(), service.as_mut()).await;
            let what = format!("a watch is opened beside one that was left alone after {polls} polls");
            let opened = config.watch_prefix_raw("d", WatchStart::Now);
            let mut watch = within(cx.soon(), &what, opened).await.unwrap();
            let mut view = ConfigView::after(writer.log.last().unwrap().1);
            let at = writer.put("d/k", polls.to_string()).await;
            view.follow(&mut watch, at, cx.soon()).await;
            view.check(&writer.log);
            within(cx.soon(), &what, client.provider.registry().watch("s")).await.unwrap();
            drop((opening, service));
        }
    }
}

pub(super) async fn watches_left_alone_among_their_events_hold_up_no_other(cx: Fixture) {
    let mut writer = Writer::new(&cx).await;
    let config = Arc::clone(writer.provider.config());
    let before = writer.put("d/k", "before").await;
    let (mut left_alone, mut live) = (Vec::new(), ConfigView::after(before));
    let mut watch = config.watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    for n in 0..12 {
        // Each reads a few events, and its next poll is its last.
        let mut reads = config.watch_prefix_raw("d", WatchStart::After(before)).await.unwrap();
        for _ in 0..n % 4 {
            let at = writer.put("d/k", n.to_string()).await;
            within(cx.soon(), "an event", reads.next()).await.unwrap().unwrap();
            live.follow(&mut watch, at, cx.soon()).await;
        }
        let _ = poll_times(1 + n % 3, Duration::from_millis(1), reads.next()).await;
        left_alone.push(reads);
    }
    let at = writer.put("d/k", "after").await;
    live.follow(&mut watch, at, cx.soon()).await;
    live.check(&writer.log);
    let mut late = config.watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap();
    ConfigView::after(Revision::ZERO).follow(&mut late, at, cx.soon()).await;
}

pub(super) async fn many_openings_left_alone_hold_up_no_other(cx: Fixture) {
    let client = cx.delayed(0).await;
    let config = client.provider.config();
    let keys: Vec<String> = (0..12).map(|n| format!("d/{}", n % 5)).collect();
    let mut left_alone = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        let mut opening = Box::pin(config.watch_raw(key, WatchStart::Snapshot));
        let _ = poll_times(1 + n % 4, cx.slack(), opening.as_mut()).await;
        left_alone.push(opening);
    }
    let mut writer = Writer::new(&cx).await;
    for key in ["d/0", "d/4", "e/0"] {
        let opened = config.watch_raw(key, WatchStart::Now);
        let mut watch = within(cx.soon(), "another watch is opened", opened).await.unwrap();
        let at = writer.put(key, "v").await;
        let mut view = ConfigView::after(Revision::ZERO);
        view.follow(&mut watch, at, cx.soon()).await;
    }
    drop(left_alone);
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

/// The most that may be held for one watch that nobody reads.
const BOUND: usize = 64 << 20;

/// Changes that are more than that together.
const MEBIBYTES: usize = 97;

/// Writes more than may be held for anyone, and then forgets it: whatever is told of it from now on
/// was held for a reader.
async fn write_and_forget(cx: &Fixture, store: &dyn Store, key: impl Fn(usize) -> String) -> Revision {
    let value = Value::from(vec![b'v'; 1 << 20]);
    let mut last = Revision::ZERO;
    for n in 0..MEBIBYTES {
        let put = Txn::new().then(Op::put(key(n), value.clone()));
        last = within(cx.soon(), "a write is not delayed", store.txn(put)).await.unwrap().revision;
        // Whoever moves changes into a buffer has its turn.
        sleep(Duration::from_millis(1)).await;
    }
    cx.compact(last).await;
    store.txn(Txn::new().then(Op::put(key(0), "the end"))).await.unwrap().revision
}

/// Reads what comes out of a watch whose history is gone.
async fn judge_held(cx: &Fixture, what: &str, mut watch: StoreWatch, last: Revision) {
    let mut held = 0;
    loop {
        match within(cx.soon(), "what was held for a watch, or its end", watch.next()).await {
            Some(Ok(StoreEvent::Batch(batch))) => {
                held += batch.bytes();
                assert!(held <= BOUND, "{what}: more than 64 MiB were held for it");
                assert!(batch.revision < last, "{what}: it has left out what was forgotten");
            }
            Some(Ok(StoreEvent::Progress(revision))) => {
                assert!(revision < last, "{what}: it has left out what was forgotten");
            }
            Some(Err(error)) => {
                let told = error.kind() == ErrorKind::Compacted || error.is_transient();
                assert!(told, "{what}: it ended with {error:?}");
                return;
            }
            None => panic!("{what}: it ended and did not say why"),
        }
    }
}

pub(super) async fn what_a_store_holds_for_a_stalled_watch_is_bounded(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let never = store.watch(Span::prefix("w/"), None).await.unwrap();
    let mut once = store.watch(Span::prefix(""), None).await.unwrap();
    writer.txn(Txn::new().then(Op::put("w/first", "1"))).await.unwrap();
    within(cx.soon(), "the first change", once.next()).await.unwrap().unwrap();
    let last = write_and_forget(&cx, &*writer, |n| format!("w/{}", n % 3)).await;
    judge_held(&cx, "a watch that nobody read", never, last).await;
    judge_held(&cx, "a watch that was read once", once, last).await;
}

pub(super) async fn what_a_store_holds_for_a_watch_of_the_past_is_bounded(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let first = writer.txn(Txn::new().then(Op::put("w/first", "1"))).await.unwrap().revision;
    writer.txn(Txn::new().then(Op::put("w/0", "2"))).await.unwrap();
    let directory = store.watch(Span::prefix("w/"), Some(first)).await.unwrap();
    let key = store.watch(Span::key("w/0"), Some(first)).await.unwrap();
    let last = write_and_forget(&cx, &*writer, |_| "w/0".to_owned()).await;
    judge_held(&cx, "a watch of a directory, from the past", directory, last).await;
    judge_held(&cx, "a watch of a key, from the past", key, last).await;
}

pub(super) async fn what_a_provider_holds_for_a_stalled_watcher_is_bounded(cx: Fixture) {
    let (watcher, writer) = (cx.provider().await, cx.client().await);
    let config = watcher.config();
    let watches = [
        ("a key", config.watch_raw("d/0", WatchStart::Now).await.unwrap()),
        ("a directory", config.watch_prefix_raw("d", WatchStart::Now).await.unwrap()),
    ];
    let last = write_and_forget(&cx, &*writer.store, |_| layout::config("d/0")).await;
    for (what, mut watch) in watches {
        let (mut held, mut resynced) = (0, false);
        loop {
            match within(cx.soon() * 3, "the last change", watch.next()).await.unwrap().unwrap() {
                ConfigEvent::Put { entry, .. } => {
                    if !resynced {
                        held += entry.value.len();
                        assert!(held <= BOUND, "a watch of {what}: more than 64 MiB were held for it");
                    }
                    if entry.version == last {
                        break;
                    }
                }
                ConfigEvent::Resync(snapshot) => {
                    resynced = true;
                    if snapshot.revision >= last {
                        break;
                    }
                }
                _ => {}
            }
        }
        assert!(resynced, "a watch of {what} was told of {MEBIBYTES} MiB that nobody kept");
    }
}
