//! R75 Off.

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::{ErrorKind, Value, Version, WatchStart, WriteOptions};
use coord_recipes::GrayTargets;
use coord_recipes::config_manager::{ConfigManager, DeletePolicy};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};

use super::{Centre, KEY, Seen, listed, me, to_me, value};

pub(super) async fn what_is_withdrawn_is_off_everywhere(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    centre.set(1).await;
    let mine = instances.mine();
    let everyone = GrayTargets::default().with_percent(100);
    let mut watchers = Vec::new();
    for (config, key) in
        [(&mine, KEY), (&mine, "app/"), (&instances.others(), KEY), (&instances.others(), "")]
    {
        watchers.push(Seen::from(config, key, WatchStart::Snapshot).await);
    }
    for n in 2..5 {
        centre.gray.release(KEY, &everyone, &n, WriteOptions::default()).await.unwrap();
        for watcher in &mut watchers {
            watcher.until(&cx, Some(n)).await;
        }
        assert!(centre.gray.withdraw(KEY).await.unwrap());
        for config in [&mine, &instances.others()] {
            assert_eq!((value(config).await, listed(config).await), (Some(1), Some(1)));
        }
        for watcher in &mut watchers {
            watcher.until(&cx, Some(1)).await;
        }
    }
}

pub(super) async fn a_manager_is_back_at_the_default_where_there_is_no_base(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    let manager = ConfigManager::<u32>::builder(Arc::new(instances.mine()), "app", "limits").env("dev");
    let manager = manager.default_value(7).on_delete(DeletePolicy::Default).build().unwrap();
    manager.start().await;
    for n in 1..4 {
        let key = "dev/app/limits";
        centre.gray.release(key, &to_me(), &n, WriteOptions::default()).await.unwrap();
        for (expected, withdraws) in [(n, true), (7, false)] {
            eventually(cx.soon() * 3, "the manager uses what there is for it", async || {
                (*manager.current() == expected).then_some(())
            })
            .await;
            assert_eq!(centre.gray.withdraw(key).await.unwrap(), withdraws);
        }
    }
}

pub(super) async fn withdrawing_says_whether_there_was_one(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    assert!(!centre.gray.withdraw(KEY).await.unwrap());
    let base = centre.set(1).await;
    assert!(!centre.gray.withdraw(KEY).await.unwrap());
    centre.release(2).await;
    assert!(centre.gray.withdraw(KEY).await.unwrap());
    assert!(!centre.gray.withdraw(KEY).await.unwrap());
    centre.release(3).await;
    centre.promote().await.unwrap();
    assert!(!centre.gray.withdraw(KEY).await.unwrap());
    let found = centre.mine().get_raw(KEY).await.unwrap().unwrap();
    assert!(found.version > base && found.value == Value::from("3"));
}

/// What a watcher and a manager hold that were cut off while `change` was done, and the history of
/// it forgotten: what is there.
async fn away(cx: &Fixture, released_before: bool, expected: u32, change: impl AsyncFn(&Centre)) {
    let (client, faults) = cx.faulty().await;
    let centre = Centre::new(cx).await;
    let key = "dev/app/limits";
    centre.set(1).await;
    centre.provider.config().set(key, &1).await.unwrap();
    let release = async |value: u32| {
        let targets = GrayTargets::default().with_label("zone", "north");
        centre.gray.release(key, &targets, &value, WriteOptions::default()).await.unwrap();
        centre.release(value).await;
    };
    if released_before {
        release(2).await;
    }
    let mine = Arc::new(Centre::of(&client).mine());
    let manager = ConfigManager::<u32>::builder(Arc::clone(&mine) as _, "app", "limits").env("dev");
    let manager = manager.build().unwrap();
    manager.start().await;
    let (mut of_key, mut of_all) = (Seen::of(&mine).await, Seen::from(&mine, "", WatchStart::Snapshot).await);
    let before = if released_before { 2 } else { 1 };
    for watcher in [&mut of_key, &mut of_all] {
        watcher.until(cx, Some(before)).await;
    }
    assert_eq!(*manager.current(), before);
    faults.cut();
    change(&centre).await;
    if !released_before {
        release(expected).await;
    }
    let last = centre.provider.config().set("elsewhere", &0).await.unwrap();
    cx.compact(last).await;
    faults.heal();
    for watcher in [&mut of_key, &mut of_all] {
        watcher.until(cx, Some(expected)).await;
        let known = |value: &Option<u32>| *value == Some(before) || *value == Some(expected);
        assert!(watcher.values.iter().all(known), "{:?}", watcher.values);
    }
    eventually(cx.soon() * 3, "the manager uses what is there", async || {
        (*manager.current() == expected).then_some(())
    })
    .await;
    // It goes on from there.
    centre.release(7).await;
    of_key.until(cx, Some(7)).await;
}

pub(super) async fn a_withdrawal_while_cut_off_is_noticed(cx: Fixture) {
    away(&cx, true, 1, async |centre| {
        assert!(centre.gray.withdraw(KEY).await.unwrap());
        assert!(centre.gray.withdraw("dev/app/limits").await.unwrap());
    })
    .await;
}

pub(super) async fn a_release_while_cut_off_is_noticed(cx: Fixture) {
    away(&cx, false, 5, async |centre| {
        for n in 2..5 {
            centre.release(n).await;
            assert!(centre.gray.withdraw(KEY).await.unwrap());
        }
    })
    .await;
}

pub(super) async fn who_reads_too_late_gets_what_is_there(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    centre.set(0).await;
    let mut watchers = Vec::new();
    for config in [instances.mine(), instances.others()] {
        watchers.push(Seen::of(&config).await);
    }
    // More than is kept for who does not read.
    for n in 1..1_100 {
        if n % 100 == 0 {
            centre.release(5_000 + n).await;
            assert!(centre.gray.withdraw(KEY).await.unwrap());
        }
        centre.set(n).await;
    }
    centre.release(9_000).await;
    let last = centre.set(1_100).await;
    watchers[0].up_to(&cx, last).await;
    watchers[1].up_to(&cx, last).await;
    assert_eq!((watchers[0].last(), watchers[1].last()), (Some(9_000), Some(1_100)));
    assert!(watchers[1].values.iter().flatten().all(|value| *value <= 1_100), "others never see it");
}

pub(super) async fn a_watch_from_a_past_revision_tells_what_became_of_the_release(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    let mine = instances.mine();
    let first = centre.set(1).await;
    let released = centre.release(2).await;
    let written = centre.set(3).await;
    for after in [Version::ZERO, first, released] {
        let mut seen = Seen::from(&mine, KEY, WatchStart::After(after)).await;
        seen.up_to(&cx, written).await;
        assert_eq!(seen.last(), Some(2), "after {after}: {:?}", seen.values);
    }
    assert!(centre.gray.withdraw(KEY).await.unwrap());
    let last = centre.set(4).await;
    for after in [Version::ZERO, first, released, written] {
        let mut seen = Seen::from(&mine, KEY, WatchStart::After(after)).await;
        seen.up_to(&cx, last).await;
        assert_eq!(seen.last(), Some(4), "after {after}: {:?}", seen.values);
    }
    cx.compact(last).await;
    let later = Version::new(last.get() + 2);
    let mut late = Seen::from(&mine, KEY, WatchStart::After(later)).await;
    let mut early = Seen::from(&mine, KEY, WatchStart::After(released)).await;
    early.until(&cx, Some(4)).await;
    assert!(early.resyncs >= 1, "that history is gone");
    centre.release(5).await;
    centre.set(6).await;
    let end = centre.set(7).await;
    assert!(end > later);
    for watcher in [&mut late, &mut early] {
        watcher.up_to(&cx, end).await;
        assert_eq!(watcher.last(), Some(5), "{:?}", watcher.values);
    }
}

pub(super) async fn a_write_of_an_instance_is_one_of_the_base(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    let (mine, others) = (instances.mine(), instances.others());
    let version = mine.set(KEY, &1).await.unwrap();
    assert_eq!(others.get_raw(KEY).await.unwrap().unwrap().version, version);
    centre.release(2).await;
    mine.set(KEY, &3).await.unwrap();
    assert_eq!((value(&mine).await, value(&others).await), (Some(2), Some(3)));
    assert!(mine.delete(KEY).await.unwrap());
    assert!(!mine.delete(KEY).await.unwrap(), "the base is absent, though a gray value is seen");
    assert_eq!((value(&mine).await, value(&others).await), (Some(2), None));
    assert!(centre.gray.withdraw(KEY).await.unwrap());
    assert_eq!(value(&mine).await, None);
}

pub(super) async fn a_compare_and_set_of_a_gray_value_is_a_conflict(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    let mine = instances.mine();
    let base = centre.set(1).await;
    let read = mine.get_raw(KEY).await.unwrap().unwrap();
    let base = {
        assert_eq!(read.version, base);
        mine.compare_and_set(KEY, &2, read.version).await.unwrap()
    };
    let released = centre.release(3).await;
    let read = mine.get_raw(KEY).await.unwrap().unwrap();
    assert_eq!((read.version, &*read.value), (released, &b"3"[..]));
    for error in [
        mine.compare_and_set(KEY, &4, read.version).await.unwrap_err(),
        mine.compare_and_delete(KEY, read.version).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.current_version()), (ErrorKind::Conflict, Some(base)), "{error}");
    }
    assert_eq!((value(&mine).await, value(&instances.others()).await), (Some(3), Some(2)));
    let promoted = centre.promote().await.unwrap();
    mine.compare_and_set(KEY, &5, promoted).await.unwrap();
    assert_eq!(value(&instances.others()).await, Some(5));
}

pub(super) async fn a_watch_ends_with_the_provider(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    centre.set(1).await;
    let config = instances.seen_by(&me());
    let mut seen = Seen::of(&config).await;
    seen.until(&cx, Some(1)).await;
    instances.primitives.client.close().await.unwrap();
    let end = within(cx.soon(), "the watch ends", seen.watch.next()).await.unwrap().unwrap_err();
    assert_eq!(end.kind(), ErrorKind::Closed);
    assert!(within(cx.soon(), "nothing follows", seen.watch.next()).await.is_none());
    assert_eq!(config.get_raw(KEY).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(config.watch_raw(KEY, WatchStart::Now).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(instances.gray.of(KEY).await.unwrap_err().kind(), ErrorKind::Closed);
}
