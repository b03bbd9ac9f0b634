//! R18 Once, in order.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{Revision, Value, WatchStart};
use futures_util::future::join_all;
use tokio::time::sleep;

use super::Writer;
use crate::fixture::Fixture;
use crate::view::{Change, ConfigView};
use crate::wrap::Faults;

pub(super) async fn changes_come_once_and_in_order(cx: Fixture) {
    let watcher = cx.provider().await;
    let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    let clients = join_all((0..4).map(|seed| cx.delayed(seed))).await;
    let writers = clients.into_iter().enumerate().map(|(client, writer)| {
        tokio::spawn(async move {
            let mut log: Vec<Change> = Vec::new();
            for n in 0..100 {
                let (key, value) = (format!("d/{}", n % 9), Value::from(format!("{client}/{n}")));
                let version = writer.provider.config().set_raw(&key, value.clone()).await.unwrap();
                log.push((key, version, Some(value)));
            }
            log
        })
    });
    let mut log: Vec<Change> = join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    log.sort_by_key(|change| change.1);
    let mut view = ConfigView::after(Revision::ZERO);
    view.follow(&mut watch, log.last().unwrap().1, cx.soon()).await;
    view.check(&log);
}

pub(super) async fn two_quick_puts_are_two_changes(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    let mut watch = watcher.config().watch_raw("k", WatchStart::Now).await.unwrap();
    let mut last = Revision::ZERO;
    for _ in 0..20 {
        writer.put("k", "same").await;
        writer.put("k", "same").await;
        writer.delete("k").await;
        last = writer.put("k", "other").await;
    }
    let mut view = ConfigView::after(Revision::ZERO);
    view.follow(&mut watch, last, cx.soon()).await;
    view.check(&writer.log);
}

pub(super) async fn the_changes_of_one_revision_come_together(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    let mut all = watcher.config().watch_prefix_raw("", WatchStart::Now).await.unwrap();
    let mut some = watcher.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    writer.all(&[("d/b", Some("1")), ("d/a", Some("1")), ("e", Some("1")), ("d/c", Some("1"))]).await;
    writer.all(&[("e", Some("2")), ("d/a", None), ("d/b", Some("2"))]).await;
    let last = writer.all(&[("d/c", None), ("d/b", None), ("e", Some("3"))]).await;
    for (watch, directory) in [(&mut all, ""), (&mut some, "d/")] {
        let mut view = ConfigView::after(Revision::ZERO);
        // The view fails where a revision is left before its last change is marked.
        view.follow(watch, last, cx.soon()).await;
        view.check(&writer.log_of(directory));
    }
}

pub(super) async fn all_watchers_see_the_same(cx: Fixture) {
    let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
    let mut watches = Vec::new();
    for n in 0..60 {
        let client = if n % 3 == 0 { cx.provider().await } else { Arc::clone(&watcher) };
        let watch = client.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
        watches.push(tokio::spawn(async move {
            let _kept = client;
            let (mut watch, mut view) = (watch, ConfigView::after(Revision::ZERO));
            while view.state().get("d/last").is_none() {
                view.take(watch.next().await.unwrap().unwrap());
            }
            view
        }));
    }
    for n in 0..100 {
        writer.put(&format!("d/{}", n % 5), n.to_string()).await;
    }
    writer.put("d/last", "v").await;
    for watch in watches {
        watch.await.unwrap().check(&writer.log);
    }
}

/// Watches through a link that `disturb` disturbs between changes, each client with watches that
/// started in each of the three ways.
async fn undisturbed(cx: &Fixture, disturb: impl AsyncFn(&Faults, usize)) {
    let (client, faults) = cx.faulty().await;
    let config = client.provider.config();
    let mut writer = Writer::new(cx).await;
    let start = writer.put("d/0", "before").await;
    let mut watches = Vec::new();
    for begin in [WatchStart::Now, WatchStart::Snapshot, WatchStart::After(start)] {
        let after = if begin == WatchStart::Snapshot { Revision::ZERO } else { start };
        watches.push((ConfigView::after(after), config.watch_prefix_raw("d", begin).await.unwrap()));
        watches.push((ConfigView::after(after), config.watch_raw("d/0", begin).await.unwrap()));
    }
    let mut last = start;
    for n in 0..60 {
        disturb(&faults, n).await;
        writer.put(&format!("d/{}", n % 3), n.to_string()).await;
        writer.all(&[("d/1", Some("together")), ("d/0", Some("together"))]).await;
        writer.delete("d/0").await;
        last = writer.put("d/0", n.to_string()).await;
        if n % 10 == 0 {
            faults.heal();
            for (view, watch) in &mut watches {
                view.follow(watch, last, cx.soon() * 3).await;
            }
        }
    }
    faults.heal();
    for ((view, watch), directory) in watches.iter_mut().zip(["d/", "d/0"].into_iter().cycle()) {
        view.follow(watch, last, cx.soon() * 3).await;
        view.check(&writer.log_of(directory));
    }
}

pub(super) async fn broken_watches_lose_and_double_nothing(cx: Fixture) {
    undisturbed(&cx, async |faults, n| {
        faults.break_watches();
        if n % 2 == 0 {
            sleep(Duration::from_millis(30)).await;
        }
    })
    .await;
}

pub(super) async fn a_cut_link_loses_and_doubles_nothing(cx: Fixture) {
    undisturbed(&cx, async |faults, n| {
        if n % 3 == 0 {
            faults.cut();
        } else if n % 3 == 2 {
            faults.heal();
        }
        sleep(Duration::from_millis(40)).await;
    })
    .await;
}

pub(super) async fn a_hanging_link_loses_and_doubles_nothing(cx: Fixture) {
    undisturbed(&cx, async |faults, n| {
        if n % 4 == 0 {
            faults.hang();
        } else if n % 4 == 2 {
            faults.heal();
        }
        sleep(Duration::from_millis(40)).await;
    })
    .await;
}
