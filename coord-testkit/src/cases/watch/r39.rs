//! R39 Watching a service.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Store, Txn};
use coord_api::{ErrorKind, RegisterOptions, Registration, ServiceInstance, WatchState};
use tokio::time::sleep;

use crate::fixture::Fixture;
use crate::view::{self, ServiceView, Told};
use crate::wait::{eventually, within};
use crate::wrap::Faults;
use crate::{bad, layout};

fn instance(id: &str, port: u16) -> ServiceInstance {
    ServiceInstance::new("s", id, "10.0.0.1", port).with_metadata("zone", format!("z{port}"))
}

async fn register(cx: &Fixture, provider: &Arc<dyn Provider>, instance: ServiceInstance) -> Registration {
    provider.registry().register_with(instance, RegisterOptions::default().with_ttl(cx.ttl())).await.unwrap()
}

async fn put(store: &dyn Store, id: &str, value: impl Into<coord_api::Value>) {
    store.txn(Txn::new().then(Op::put(layout::service("s", id), value))).await.unwrap();
}

fn ids(view: &ServiceView) -> Vec<String> {
    view.instances().into_iter().map(|instance| instance.id).collect()
}

pub(super) async fn it_starts_with_the_full_set(cx: Fixture) {
    let (owner, watcher) = (cx.provider().await, cx.provider().await);
    let _held =
        [register(&cx, &owner, instance("b", 2)).await, register(&cx, &owner, instance("a", 1)).await];
    for _ in 0..3 {
        let mut watch = watcher.registry().watch("s").await.unwrap();
        let mut view = ServiceView::new();
        view.follow(&mut watch, "the full set", cx.soon(), |view| view.resyncs() > 0).await;
        assert_eq!(view.instances(), [instance("a", 1), instance("b", 2)]);
        assert_eq!(view.told(), []);
    }
}

pub(super) async fn it_starts_with_an_empty_set_too(cx: Fixture) {
    let (owner, watcher) = (cx.provider().await, cx.provider().await);
    let mut watch = watcher.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "the empty set", cx.soon(), |view| view.resyncs() > 0).await;
    assert_eq!(view.instances(), []);
    let _held = register(&cx, &owner, instance("a", 1)).await;
    view.follow(&mut watch, "the first instance", cx.soon(), |view| ids(view) == ["a"]).await;
}

pub(super) async fn instances_are_added_updated_and_removed(cx: Fixture) {
    let (owner, other, watcher) = (cx.provider().await, cx.provider().await, cx.provider().await);
    let mut watch = watcher.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "the empty set", cx.soon(), |view| view.resyncs() > 0).await;
    let a = register(&cx, &owner, instance("a", 1)).await;
    let b = register(&cx, &other, instance("b", 2)).await;
    a.update(instance("a", 3)).await.unwrap();
    let again = register(&cx, &other, instance("b", 4)).await;
    a.unregister().await.unwrap();
    drop(b);
    again.unregister().await.unwrap();
    view.follow(&mut watch, "all of it", cx.soon(), |view| view.told().len() >= 6 || view.resyncs() > 1)
        .await;
    let expected = [
        Told::Added(instance("a", 1)),
        Told::Added(instance("b", 2)),
        Told::Updated(instance("a", 3)),
        Told::Updated(instance("b", 4)),
        Told::Removed(instance("a", 3)),
        Told::Removed(instance("b", 4)),
    ];
    assert!(view.told() == expected || view.resyncs() > 1, "{:?}", view.told());
}

pub(super) async fn a_crashed_instance_is_removed_with_its_content(cx: Fixture) {
    let (crashing, staying, watcher) = (cx.client().await, cx.provider().await, cx.provider().await);
    let _held = register(&cx, &staying, instance("stays", 1)).await;
    let gone = register(&cx, &crashing.provider, instance("goes", 2)).await;
    gone.update(instance("goes", 3)).await.unwrap();
    let mut watch = watcher.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "both", cx.soon(), |view| view.instances().len() == 2).await;
    crashing.crash().await;
    view.follow(&mut watch, "the removal", cx.gone_by(cx.ttl()) + cx.soon(), |view| ids(view) == ["stays"])
        .await;
    assert!(view.told() == [Told::Removed(instance("goes", 3))] || view.resyncs() > 1, "{:?}", view.told());
}

pub(super) async fn a_removal_does_not_need_history(cx: Fixture) {
    let (client, watcher) = (cx.client().await, cx.provider().await);
    let held = register(&cx, &client.provider, instance("a", 1)).await;
    let mut watch = watcher.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "the instance", cx.soon(), |view| ids(view) == ["a"]).await;
    // What the entry was is not in the store's history any more.
    let now = client.store.txn(Txn::new().then(Op::put("/elsewhere", "v"))).await.unwrap().revision;
    cx.compact(now).await;
    held.unregister().await.unwrap();
    view.follow(&mut watch, "the removal", cx.soon(), |view| ids(view).is_empty()).await;
    assert!(view.told() == [Told::Removed(instance("a", 1))] || view.resyncs() > 1, "{:?}", view.told());
}

pub(super) async fn a_bad_record_takes_the_place_of_an_instance(cx: Fixture) {
    let (client, watcher) = (cx.client().await, cx.provider().await);
    let other = register(&cx, &client.provider, instance("z", 26)).await;
    put(&*client.store, "a", layout::service_record("s", "a", "10.0.0.9", 9)).await;
    let mut watch = watcher.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "what another program wrote", cx.soon(), |view| ids(view) == ["a", "z"]).await;
    let foreign = ServiceInstance::new("s", "a", "10.0.0.9", 9);
    assert_eq!(view.instances()[0], foreign);
    put(&*client.store, "a", bad::GARBAGE).await;
    put(&*client.store, "b", "{}").await;
    put(&*client.store, "a", layout::service_record("s", "a", "10.0.0.9", 9)).await;
    other.update(instance("z", 27)).await.unwrap();
    view.follow(&mut watch, "the stream goes on", cx.soon(), |view| {
        view.instances().contains(&instance("z", 27))
    })
    .await;
    assert_eq!(ids(&view), ["a", "z"]);
    let expected = [
        Told::Removed(foreign.clone()),
        Told::Invalid("a".to_owned()),
        Told::Invalid("b".to_owned()),
        Told::Added(foreign),
        Told::Updated(instance("z", 27)),
    ];
    assert!(view.told() == expected || view.resyncs() > 1, "{:?}", view.told());
}

pub(super) async fn a_service_is_watched_without_its_neighbours(cx: Fixture) {
    let (client, watcher) = (cx.client().await, cx.provider().await);
    let mut watch = watcher.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    for name in ["ss", "s-", "s0", "S", "t"] {
        let neighbour = ServiceInstance::new(name, "x", "localhost", 1);
        drop(client.provider.registry().register(neighbour).await.unwrap());
    }
    client.store.txn(Txn::new().then(Op::put("/services/s", "v"))).await.unwrap();
    let _held = register(&cx, &client.provider, instance("a", 1)).await;
    view.follow(&mut watch, "the instance", cx.soon(), |view| ids(view) == ["a"]).await;
    assert!(view.told() == [Told::Added(instance("a", 1))] || view.resyncs() > 1, "{:?}", view.told());
}

pub(super) async fn broken_watches_lose_and_double_nothing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let owner = cx.provider().await;
    let mut watch = client.provider.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    let stays = register(&cx, &owner, instance("a", 1)).await;
    let mut expected = vec![Told::Added(instance("a", 1))];
    view.follow(&mut watch, "the instance", cx.soon(), |view| ids(view) == ["a"]).await;
    for n in 2..40 {
        faults.break_watches();
        stays.update(instance("a", n)).await.unwrap();
        expected.push(Told::Updated(instance("a", n)));
        let passing = register(&cx, &owner, instance("b", n)).await;
        expected.push(Told::Added(instance("b", n)));
        if n % 3 == 0 {
            sleep(Duration::from_millis(30)).await;
        }
        passing.unregister().await.unwrap();
        expected.push(Told::Removed(instance("b", n)));
    }
    stays.update(instance("a", 99)).await.unwrap();
    expected.push(Told::Updated(instance("a", 99)));
    view.follow(&mut watch, "the last update", cx.soon() * 3, |view| view.instances() == [instance("a", 99)])
        .await;
    assert!(view.told() == expected || view.resyncs() > 1, "{:?}", view.told());
}

pub(super) async fn history_lost_while_cut_off_is_a_resync(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let owner = cx.client().await;
    let mut held = Vec::new();
    for (id, port) in [("gone", 1), ("stays", 2), ("updated", 3)] {
        held.push(register(&cx, &owner.provider, instance(id, port)).await);
    }
    let mut watch = client.provider.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "all three", cx.soon(), |view| view.instances().len() == 3).await;
    faults.cut();
    held[0].unregister().await.unwrap();
    held[2].update(instance("updated", 4)).await.unwrap();
    let _new = register(&cx, &owner.provider, instance("new", 5)).await;
    let now = owner.store.txn(Txn::new().then(Op::put("/elsewhere", "v"))).await.unwrap().revision;
    cx.compact(now).await;
    faults.heal();
    let present = owner.provider.registry().discover("s").await.unwrap().items;
    view.follow(&mut watch, "what is there now", cx.soon() * 3, |view| view.instances() == present).await;
    held[1].unregister().await.unwrap();
    view.follow(&mut watch, "the removal", cx.soon(), |view| ids(view) == ["new", "updated"]).await;
}

pub(super) async fn closing_ends_it_with_closed(cx: Fixture) {
    let provider = cx.provider().await;
    let mut watch = provider.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "the empty set", cx.soon(), |view| view.resyncs() > 0).await;
    provider.close().await.unwrap();
    let last = within(Duration::from_secs(5), "the watch ends", view::end(&mut watch)).await.unwrap();
    assert_eq!(last.kind(), ErrorKind::Closed);
    assert_eq!(watch.state(), WatchState::Ended);
}

pub(super) async fn its_state_says_how_it_is_doing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let owner = cx.provider().await;
    let mut watch = client.provider.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "the empty set", cx.soon(), |view| view.resyncs() > 0).await;
    assert_eq!(watch.state(), WatchState::Live);
    for hang in [false, true] {
        if hang {
            faults.hang();
        } else {
            faults.cut();
        }
        // Of a link that hangs a watch cannot know.
        if !hang {
            eventually(cx.soon(), "the watch says that it is cut off", async || {
                (watch.state() == WatchState::Suspended).then_some(())
            })
            .await;
        }
        faults.heal();
        eventually(cx.soon() * 3, "the watch says that it is back", async || {
            (watch.state() == WatchState::Live).then_some(())
        })
        .await;
    }
    let _held = register(&cx, &owner, instance("a", 1)).await;
    view.follow(&mut watch, "the instance", cx.soon(), |view| ids(view) == ["a"]).await;
    client.provider.close().await.unwrap();
    eventually(cx.soon(), "the watch says that it is over", async || {
        (watch.state() == WatchState::Ended).then_some(())
    })
    .await;
    let last = within(Duration::from_secs(5), "the watch ends", view::end(&mut watch)).await.unwrap();
    assert_eq!(last.kind(), ErrorKind::Closed);
}

pub(super) async fn an_update_tells_every_field(cx: Fixture) {
    let (owner, watcher) = (cx.provider().await, cx.provider().await);
    let held = register(&cx, &owner, instance("a", 1)).await;
    let mut watch = watcher.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "the instance", cx.soon(), |view| ids(view) == ["a"]).await;
    let mut expected = Vec::new();
    for (address, port, zone) in [("10.0.0.1", 1, "2"), ("10.0.0.2", 1, "2"), ("10.0.0.2", 3, "2")] {
        let updated = ServiceInstance::new("s", "a", address, port).with_metadata("Zone", zone);
        held.update(updated.clone()).await.unwrap();
        expected.push(Told::Updated(updated));
    }
    let Some(Told::Updated(last)) = expected.last().cloned() else { panic!("there were updates") };
    view.follow(&mut watch, "the last update", cx.soon(), |view| {
        view.instances() == std::slice::from_ref(&last)
    })
    .await;
    assert!(view.told() == expected || view.resyncs() > 1, "{:?}", view.told());
}

/// A watch that is told of an instance after `meanwhile`, as if nothing had been.
async fn outlives(cx: Fixture, meanwhile: impl AsyncFnOnce(&Fixture, &Faults)) {
    let (client, faults) = cx.faulty().await;
    let owner = cx.provider().await;
    let mut watch = client.provider.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "the empty set", cx.soon(), |view| view.resyncs() > 0).await;
    meanwhile(&cx, &faults).await;
    let held = register(&cx, &owner, instance("a", 1)).await;
    view.follow(&mut watch, "the instance", cx.soon() * 3, |view| ids(view) == ["a"]).await;
    held.update(instance("a", 2)).await.unwrap();
    view.follow(&mut watch, "its update", cx.soon(), |view| view.instances() == [instance("a", 2)]).await;
    assert_eq!(watch.state(), WatchState::Live);
}

fn hours(cx: &Fixture) -> Duration {
    if cx.virtual_time() { Duration::from_secs(3 * 3_600) } else { Duration::from_secs(5) }
}

pub(super) async fn it_outlives_a_long_outage(cx: Fixture) {
    outlives(cx, async |cx, faults| {
        faults.cut();
        sleep(hours(cx)).await;
        faults.heal();
    })
    .await;
}

pub(super) async fn it_outlives_hours_in_which_nothing_happens(cx: Fixture) {
    outlives(cx, async |cx, _| sleep(hours(cx)).await).await;
}

pub(super) async fn it_outlives_hours_of_what_is_not_its_business(cx: Fixture) {
    outlives(cx, async |cx, _| {
        let other = cx.provider().await;
        for n in 0..10 {
            let neighbour = ServiceInstance::new("t", format!("i{n}"), "localhost", 1);
            drop(other.registry().register(neighbour).await.unwrap());
            sleep(hours(cx) / 10).await;
        }
    })
    .await;
}

pub(super) async fn a_good_record_one_level_down_is_not_told(cx: Fixture) {
    let (owner, watcher) = (cx.client().await, cx.provider().await);
    put(&*owner.store, "before/x", layout::service_record("s", "x", "10.0.0.1", 9)).await;
    let mut watch = watcher.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "the empty set", cx.soon(), |view| view.resyncs() > 0).await;
    for (path, name, id) in [("x/i", "s/x", "i"), ("x/j", "s", "x/j"), ("y/k", "s", "k"), ("y/z/l", "s", "l")]
    {
        put(&*owner.store, path, layout::service_record(name, id, "10.0.0.1", 9)).await;
    }
    let _held = register(&cx, &owner.provider, instance("a", 1)).await;
    view.follow(&mut watch, "the instance", cx.soon(), |view| ids(view).contains(&"a".to_owned())).await;
    assert_eq!(ids(&view), ["a"]);
}
