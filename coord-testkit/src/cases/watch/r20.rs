//! R20 End.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{
    ConfigEvent, ErrorKind, Revision, ServiceEvent, ServiceInstance, Watch, WatchStart, WatchState,
};
use tokio::time::sleep;

use super::super::elsewhere::{elsewhere, runtime};
use super::Writer;
use crate::fixture::Fixture;
use crate::view::{self, ConfigView, ServiceView};
use crate::wait::{eventually, never_within, within};
use crate::wrap::{Fault, Request};

/// How long after closing everything that was pending has ended (R8).
const FIVE_SECONDS: Duration = Duration::from_secs(5);

pub(super) async fn closing_ends_it_with_closed(cx: Fixture) {
    let client = cx.client().await;
    let config = client.provider.config();
    let mut idle = config.watch_raw("k", WatchStart::Now).await.unwrap();
    let mut waiting = config.watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap();
    let waiter = tokio::spawn(async move { (view::end(&mut waiting).await, waiting) });
    sleep(Duration::from_millis(10)).await;
    client.provider.close().await.unwrap();
    let (ended, waiting) = within(FIVE_SECONDS, "a pending watch ends", waiter).await.unwrap();
    assert_eq!(ended.unwrap().kind(), ErrorKind::Closed);
    let ended = within(FIVE_SECONDS, "a watch that nobody polled ends", view::end(&mut idle)).await;
    assert_eq!(ended.unwrap().kind(), ErrorKind::Closed);
    assert_eq!([waiting.state(), idle.state()], [WatchState::Ended; 2]);
}

pub(super) async fn it_outlives_a_long_outage(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let mut writer = Writer::new(&cx).await;
    let mut watch = client.provider.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    let mut view = ConfigView::after(Revision::ZERO);
    let long = if cx.virtual_time() { Duration::from_secs(3_600) } else { Duration::from_secs(5) };
    for hang in [false, true] {
        if hang {
            faults.hang();
        } else {
            faults.cut();
        }
        let meanwhile = writer.put("d/k", "meanwhile").await;
        let read = tokio::time::timeout(long, view.follow(&mut watch, meanwhile, long * 2)).await;
        assert!(read.is_err(), "nothing can be told while cut off, and the watch does not end");
        faults.heal();
        // It is tried again after a capped pause, however long the outage was.
        view.follow(&mut watch, meanwhile, cx.soon() * 3).await;
        view.check(&writer.log);
    }
}

/// For how long nothing happens: hours, or as much of them as a case may take.
fn idle(cx: &Fixture) -> Duration {
    if cx.virtual_time() { Duration::from_secs(3 * 3_600) } else { Duration::from_secs(5) }
}

/// Watchers of each kind, of which none has been told anything but where it begins.
struct Watchers {
    key: (ConfigView, Watch<ConfigEvent>),
    directory: (ConfigView, Watch<ConfigEvent>),
    /// Since some revision.
    after: (ConfigView, Watch<ConfigEvent>),
    service: (ServiceView, Watch<ServiceEvent>),
}

impl Watchers {
    async fn open(cx: &Fixture, before: Revision) -> Self {
        let provider = cx.provider().await;
        let config = provider.config();
        let (key, directory) = (ConfigView::after(before), ConfigView::after(Revision::ZERO));
        let (mut service, mut services) = (ServiceView::new(), provider.registry().watch("s").await.unwrap());
        service.follow(&mut services, "the empty set", cx.soon(), |view| view.resyncs() > 0).await;
        Watchers {
            key: (key, config.watch_raw("d/k", WatchStart::Now).await.unwrap()),
            directory: (directory, config.watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap()),
            after: (
                ConfigView::after(before),
                config.watch_prefix_raw("d", WatchStart::After(before)).await.unwrap(),
            ),
            service: (service, services),
        }
    }

    /// Each is told what is done now.
    async fn are_told(mut self, cx: &Fixture, writer: &mut Writer) {
        // One that reconnects may be about to do so; each is live again soon.
        eventually(cx.soon(), "all of them are live", async || {
            let states = [self.key.1.state(), self.directory.1.state(), self.after.1.state()];
            (states == [WatchState::Live; 3] && self.service.1.state() == WatchState::Live).then_some(())
        })
        .await;
        let last = writer.put("d/k", "at last").await;
        for (view, watch) in [&mut self.key, &mut self.directory, &mut self.after] {
            view.follow(watch, last, cx.soon()).await;
            view.check(&writer.log);
        }
        let instance = ServiceInstance::new("s", "i", "localhost", 80);
        let _held = writer.provider.registry().register(instance.clone()).await.unwrap();
        let (mut view, mut watch) = self.service;
        view.follow(&mut watch, "the instance", cx.soon(), |view| {
            view.instances() == std::slice::from_ref(&instance)
        })
        .await;
    }
}

pub(super) async fn it_outlives_hours_in_which_nothing_happens(cx: Fixture) {
    let mut writer = Writer::new(&cx).await;
    let before = writer.put("d/k", "before").await;
    let watchers = Watchers::open(&cx, before).await;
    sleep(idle(&cx)).await;
    watchers.are_told(&cx, &mut writer).await;
}

pub(super) async fn it_outlives_hours_of_what_is_not_its_business(cx: Fixture) {
    let mut writer = Writer::new(&cx).await;
    let before = writer.put("d/k", "before").await;
    let watchers = Watchers::open(&cx, before).await;
    let elsewhere = Writer::new(&cx).await;
    for n in 0..20 {
        elsewhere.provider.config().set_raw(&format!("e/{n}"), "v".into()).await.unwrap();
        sleep(idle(&cx) / 20).await;
    }
    watchers.are_told(&cx, &mut writer).await;
}

pub(super) async fn it_outlives_hours_in_which_nobody_reads_it(cx: Fixture) {
    // A reader that comes back once in a while, and finds nothing each time.
    let mut writer = Writer::new(&cx).await;
    let before = writer.put("d/k", "before").await;
    let mut watchers = Watchers::open(&cx, before).await;
    watchers.directory.0.follow(&mut watchers.directory.1, before, cx.soon()).await;
    for _ in 0..10 {
        for watch in [&mut watchers.key.1, &mut watchers.directory.1, &mut watchers.after.1] {
            never_within(Duration::from_millis(10), "an event", &mut Box::pin(watch.next())).await;
        }
        never_within(Duration::from_millis(10), "an event", &mut Box::pin(watchers.service.1.next())).await;
        sleep(idle(&cx) / 10).await;
    }
    watchers.are_told(&cx, &mut writer).await;
}

pub(super) async fn its_state_says_how_it_is_doing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let mut writer = Writer::new(&cx).await;
    let mut watch = client.provider.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    let mut view = ConfigView::after(Revision::ZERO);
    let last = writer.put("d/k", "1").await;
    view.follow(&mut watch, last, cx.soon()).await;
    assert_eq!(watch.state(), WatchState::Live);
    faults.cut();
    eventually(cx.soon(), "the watch says that it is cut off", async || {
        (watch.state() == WatchState::Suspended).then_some(())
    })
    .await;
    faults.heal();
    eventually(cx.soon() * 3, "the watch says that it is back", async || {
        (watch.state() == WatchState::Live).then_some(())
    })
    .await;
    let last = writer.put("d/k", "2").await;
    view.follow(&mut watch, last, cx.soon()).await;
    view.check(&writer.log);
    client.provider.close().await.unwrap();
    eventually(cx.soon(), "the watch says that it is over", async || {
        (watch.state() == WatchState::Ended).then_some(())
    })
    .await;
}

pub(super) async fn a_permanent_error_is_the_last_item(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let mut watch = client.provider.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    faults.next(Fault::Deny, |request| matches!(request, Request::Watch(_)));
    faults.break_watches();
    let last = within(cx.soon() * 3, "the watch ends", view::end(&mut watch)).await.unwrap();
    assert_eq!(last.kind(), ErrorKind::PermissionDenied);
    assert_eq!(watch.state(), WatchState::Ended);
    // Others are not harmed: a new watch works.
    let mut writer = Writer::new(&cx).await;
    let mut watch = client.provider.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    let last = writer.put("d/k", "1").await;
    ConfigView::after(Revision::ZERO).follow(&mut watch, last, cx.soon()).await;
}

pub(super) async fn a_refused_watch_says_so_at_once(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    for start in [WatchStart::Now, WatchStart::Snapshot, WatchStart::After(Revision::new(1))] {
        faults.next(Fault::Deny, |request| matches!(request, Request::Watch(_)));
        // By the call, or by the stream's last item.
        let refused = match client.provider.config().watch_prefix_raw("d", start).await {
            Ok(mut watch) => within(cx.soon(), "the watch ends", view::end(&mut watch)).await.unwrap(),
            Err(error) => error,
        };
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{start:?}");
        assert_eq!(faults.unused(), 0, "{start:?}");
    }
}

pub(super) async fn closing_ends_every_kind_of_watch(cx: Fixture) {
    let client = cx.client().await;
    let config = client.provider.config();
    let mut writer = Writer::new(&cx).await;
    let before = writer.put("d/k", "1").await;
    let mut ends = Vec::new();
    for start in [WatchStart::Now, WatchStart::Snapshot, WatchStart::After(before)] {
        let mut key = config.watch_raw("d/k", start).await.unwrap();
        let mut directory = config.watch_prefix_raw("d", start).await.unwrap();
        ends.push(tokio::spawn(async move { view::end(&mut key).await }));
        ends.push(tokio::spawn(async move { view::end(&mut directory).await }));
    }
    let mut typed = config.watch_prefix::<u32>("d", WatchStart::Snapshot).await.unwrap();
    ends.push(tokio::spawn(async move { view::end(&mut typed).await }));
    let mut service = client.provider.registry().watch("s").await.unwrap();
    ends.push(tokio::spawn(async move { view::end(&mut service).await }));
    writer.put("d/k", "2").await;
    sleep(Duration::from_millis(10)).await;
    assert!(ends.iter().all(|end| !end.is_finished()), "no watch ends by itself");
    client.provider.close().await.unwrap();
    for end in ends {
        let error = within(FIVE_SECONDS, "a watch ends", end).await.unwrap().unwrap();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
}

pub(super) async fn it_outlives_the_provider_value_that_opened_it(cx: Fixture) {
    let mut writer = Writer::new(&cx).await;
    let provider = cx.provider().await;
    let mut watch = provider.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    // A watch ends for three reasons, and dropping the value that opened it is none of them.
    drop(provider);
    sleep(Duration::from_millis(10)).await;
    let last = writer.put("d/k", "1").await;
    let mut view = ConfigView::after(Revision::ZERO);
    view.follow(&mut watch, last, cx.soon()).await;
    view.check(&writer.log);
}

pub(super) async fn it_outlives_the_runtime_that_opened_it(cx: Fixture) {
    let provider = cx.provider().await;
    elsewhere(move || {
        let (first, second) = (runtime(), runtime());
        let config = provider.config();
        // One that only the first one knew, and one that another one watches as well, but after it.
        let moved = first.block_on(config.watch_raw("moved", WatchStart::Now)).unwrap();
        let _theirs = first.block_on(config.watch_raw("shared", WatchStart::Now)).unwrap();
        let ours = second.block_on(config.watch_raw("shared", WatchStart::Now)).unwrap();
        drop(first);
        second.block_on(async {
            for (key, mut watch) in [("moved", moved), ("shared", ours)] {
                let version = config.set_raw(key, "1".into()).await.unwrap();
                let event =
                    within(FIVE_SECONDS * 2, "a watch of a runtime that lives goes on", watch.next()).await;
                let ConfigEvent::Put { entry, .. } = event.expect("it does not end").unwrap() else {
                    panic!("{key} was put")
                };
                assert_eq!((entry.key.as_str(), entry.version), (key, version));
            }
        });
    })
    .await;
}
