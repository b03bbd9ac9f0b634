//! R74 One snapshot.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use coord_api::prelude::*;
use coord_api::{ConfigEvent, ErrorKind, Note, Value, Version, WatchStart, WriteOptions};
use coord_recipes::History;
use coord_recipes::config_manager::{ConfigDirectory, ConfigManager};
use coord_testkit::wait::{eventually, within};
use coord_testkit::wrap::{Fault, Faults, Request};
use coord_testkit::{Client, Fixture};
use futures_util::future::{join, join_all};

use super::{Centre, KEY, Seen, listed, to_me, value};

/// Clients for instances: some hear at once, and some late.
async fn clients(cx: &Fixture) -> Vec<Client> {
    let mut clients = join_all((0..3).map(|seed| cx.delayed(seed))).await;
    clients.extend([cx.client().await, cx.client().await]);
    clients
}

pub(super) async fn a_promotion_never_flashes_the_old_base(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    centre.set(1).await;
    let clients = clients(&cx).await;
    let instances: Vec<Centre> = clients.iter().map(Centre::of).collect();
    let mut watchers = Vec::new();
    for instance in &instances {
        for key in [KEY, "app/", ""] {
            watchers.push(Seen::from(&instance.mine(), key, WatchStart::Snapshot).await);
        }
    }
    for n in 1..12 {
        let (gray, end) = (2 * n, 2 * n + 1);
        centre.release(gray).await;
        join_all(watchers.iter_mut().map(|watcher| watcher.until(&cx, Some(gray)))).await;
        let promote = async {
            centre.promote().await.unwrap();
            centre.set(end).await;
        };
        join(promote, join_all(watchers.iter_mut().map(|watcher| watcher.until(&cx, Some(end))))).await;
    }
    for watcher in &watchers {
        let values: Vec<u32> =
            watcher.values.iter().map(|value| value.expect("it is always there")).collect();
        assert!(values.is_sorted(), "the old base was told: {values:?}");
    }
}

pub(super) async fn a_promotion_is_read_as_one_change(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    centre.set(1).await;
    let clients = clients(&cx).await;
    let mine: Vec<_> = clients.iter().map(|client| Centre::of(client).mine()).collect();
    let read: Vec<AtomicU32> = mine.iter().map(|_| AtomicU32::new(0)).collect();
    let readers = mine.iter().zip(&read).map(async |(config, last)| {
        while last.load(Ordering::SeqCst) < 12 {
            for seen in [value(config).await, listed(config).await] {
                let seen = seen.expect("it is always there");
                let before = last.swap(seen, Ordering::SeqCst);
                assert!(seen >= before, "{seen} was read after {before}");
            }
            // Where no time passes while it is read, others have their turn.
            tokio::time::sleep(cx.slack() / 100).await;
        }
    });
    let writer = async {
        for n in 2..13 {
            centre.release(n).await;
            eventually(cx.soon() * 3, "all have read it", async || {
                read.iter().all(|last| last.load(Ordering::SeqCst) >= n).then_some(())
            })
            .await;
            centre.promote().await.unwrap();
        }
    };
    join(writer, join_all(readers)).await;
}

pub(super) async fn a_promotion_is_one_transaction(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let centre = Centre::of(&client);
    for noted in [false, true] {
        let before = centre.set(1).await;
        let released = centre.release(2).await;
        assert_eq!(centre.gray.of(KEY).await.unwrap().unwrap().base, before);
        let mut base = client.provider.config().watch_raw(KEY, WatchStart::Now).await.unwrap();
        let options = WriteOptions::default().with_expected(released);
        let options = if noted { options.with_note(Note::new("ann", "why")) } else { options };
        let (promoted, counts) = counter.during(centre.gray.promote(KEY, options)).await;
        let promoted = promoted.unwrap();
        assert_eq!((counts.requests(), counts.txn), (2, 2), "one reads, one writes: {counts:?}");
        assert!(promoted > released);
        match within(cx.soon(), "the promotion is told", base.next()).await.unwrap().unwrap() {
            ConfigEvent::Put { entry, last, .. } => assert_eq!((entry.version, last), (promoted, true)),
            other => panic!("{other:?}"),
        }
        assert!(centre.gray.of(KEY).await.unwrap().is_none());
        let found = centre.mine().get_raw(KEY).await.unwrap().unwrap();
        assert_eq!((found.version, found.value), (promoted, Value::from("2")));
    }
}

pub(super) async fn a_promotion_leaves_a_record(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let history: History = centre.primitives.history();
    let first = centre.provider.config().publish(KEY, &1, Note::new("ann", "first")).await.unwrap();
    centre.release(2).await;
    let noted = WriteOptions::default().with_note(Note::new("ben", "it works"));
    let second = centre.gray.promote(KEY, noted).await.unwrap();
    let told = history.of(KEY).await.unwrap();
    let last = told.published.last().unwrap();
    assert_eq!((last.version, last.replaced, last.after_gap), (second, first, false));
    assert_eq!((last.author.as_str(), last.note.as_str()), ("ben", "it works"));
    assert_eq!((&last.value, told.ends_with_gap()), (&Value::from("2"), false));
    // Without a note it is a plain write, which shows.
    centre.release(3).await;
    let third = centre.promote().await.unwrap();
    let told = history.of(KEY).await.unwrap();
    assert_eq!((told.current, told.published.len(), told.ends_with_gap()), (third, 2, true));
}

pub(super) async fn of_many_promotions_exactly_one_wins(cx: Fixture) {
    let clients = join_all((0..6).map(|seed| cx.delayed(seed))).await;
    let centres: Vec<Centre> = clients.iter().map(Centre::of).collect();
    for n in 1..5 {
        centres[0].release(n).await;
        let tried = join_all(centres.iter().map(Centre::promote)).await;
        assert_eq!(tried.iter().filter(|tried| tried.is_ok()).count(), 1, "{tried:?}");
        for error in tried.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        }
        assert_eq!(value(&centres[0].others()).await, Some(n));
    }
    let error = centres[0].promote().await.unwrap_err();
    assert_eq!((error.kind(), error.current_version()), (ErrorKind::Conflict, Some(Version::ZERO)));
}

pub(super) async fn a_promotion_over_another_base_is_a_conflict(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (centre, other) = (Centre::of(&client), Centre::new(&cx).await);
    centre.set(1).await;
    let first = centre.release(2).await;
    // What is written between its read and its write, by whomever.
    for change in 0..3 {
        faults.next_put(Fault::Hold, "/config/");
        centre.promote().await.unwrap_err();
        if change == 0 {
            other.set(3).await;
        } else if change == 1 {
            other.release(4).await;
        } else {
            assert!(other.provider.config().delete(KEY).await.unwrap());
        }
        let held = faults.take_held().pop().expect("it was sent");
        assert!(!held.apply().await.unwrap(), "change {change} was written over");
    }
    let current = other.gray.of(KEY).await.unwrap().unwrap().version;
    let error = centre.gray.promote(KEY, WriteOptions::default().with_expected(first)).await.unwrap_err();
    assert_eq!((error.kind(), error.current_version()), (ErrorKind::Conflict, Some(current)));
    assert_eq!((value(&other.mine()).await, value(&other.others()).await), (Some(4), None));
    centre.gray.promote(KEY, WriteOptions::default().with_expected(current)).await.unwrap();
    assert_eq!(value(&other.others()).await, Some(4));
}

pub(super) async fn changes_of_the_base_are_told_as_they_are(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    centre.set(0).await;
    // A release of another key, and one for others, change nothing of it.
    centre.gray.release("app/other", &to_me(), &1, WriteOptions::default()).await.unwrap();
    let instances = Centre::of(&cx.delayed(7).await);
    for start in [WatchStart::Snapshot, WatchStart::Now] {
        let mut plain = instances.provider.config().watch_raw(KEY, start).await.unwrap();
        let mut gray = instances.others().watch_raw(KEY, start).await.unwrap();
        for n in 0..5 {
            centre.set(n).await;
            centre.release(1_000 + n).await;
            centre.set(n).await;
            assert!(centre.provider.config().delete(KEY).await.unwrap());
        }
        let end = centre.set(99).await;
        loop {
            let told = within(cx.soon() * 3, "it is told", gray.next()).await.unwrap().unwrap();
            let expected = within(cx.soon() * 3, "it is told", plain.next()).await.unwrap().unwrap();
            match (&told, &expected) {
                // A newer state, which has the release of others in no way.
                (ConfigEvent::Resync(told), ConfigEvent::Resync(expected)) => {
                    assert_eq!(told.items, expected.items);
                }
                _ => assert_eq!(told, expected),
            }
            if matches!(&told, ConfigEvent::Put { entry, .. } if entry.version == end) {
                break;
            }
        }
    }
}

pub(super) async fn a_change_under_a_release_tells_the_gray_value(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::of(&cx.delayed(3).await));
    centre.set(1).await;
    centre.release(100).await;
    let mut seen = Seen::of(&instances.mine()).await;
    for n in 2..10 {
        let version = centre.set(n).await;
        seen.up_to(&cx, version).await;
        assert_eq!(seen.last(), Some(100), "{:?}", seen.values);
    }
    assert!(centre.provider.config().delete(KEY).await.unwrap());
    assert_eq!(value(&instances.mine()).await, Some(100));
    assert!(centre.gray.withdraw(KEY).await.unwrap());
    seen.until(&cx, None).await;
    let told = |value: &Option<u32>| matches!(value, Some(100) | None);
    assert!(seen.values.iter().all(told), "{:?}", seen.values);
}

/// What is written meanwhile is told to a client by its watch of the base at once, and by that of
/// the releases late.
async fn told_late(cx: &Fixture, faults: &Faults, write: impl Future<Output = Version>) -> Version {
    faults.silence_watches();
    let written = write.await;
    let is_of_releases = |request: &Request<'_>| match request {
        Request::Watch(span) => span.start().starts_with(b"/config-gray/"),
        _ => false,
    };
    faults.next(Fault::Delay(cx.slack()), is_of_releases);
    faults.break_watches();
    faults.heal();
    written
}

pub(super) async fn a_write_after_a_release_is_not_told_as_the_base(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let centre = Centre::new(&cx).await;
    centre.set(1).await;
    let instances = Centre::of(&client);
    for key in [KEY, "app/"] {
        let mut seen = Seen::from(&instances.mine(), key, WatchStart::Snapshot).await;
        for n in 1..4 {
            seen.until(&cx, Some(1)).await;
            let write = async {
                centre.release(100 * n).await;
                centre.set(100 * n + 1).await
            };
            let written = told_late(&cx, &faults, write).await;
            seen.up_to(&cx, written).await;
            assert_eq!(seen.last(), Some(100 * n), "{:?}", seen.values);
            centre.set(1).await;
            assert!(centre.gray.withdraw(KEY).await.unwrap());
        }
        let never = |value: &Option<u32>| value.is_some_and(|value| value > 100 && value % 100 == 1);
        assert!(!seen.values.iter().any(never), "{:?}", seen.values);
    }
}

pub(super) async fn a_directory_does_not_use_the_base_under_a_release(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (centre, instances) = (Centre::new(&cx).await, Centre::of(&client));
    let used = Arc::new(Mutex::new(Vec::new()));
    let uses = Arc::clone(&used);
    let directory = ConfigDirectory::<u32>::builder(Arc::new(instances.mine()), "app", "limits")
        .env("dev")
        .on_change(move |_, _, new: &Arc<u32>| uses.lock().unwrap().push(**new))
        .build()
        .unwrap();
    directory.start().await;
    for name in ["dev/app/limits/a", "dev/app/limits/b"] {
        let write = async {
            centre.gray.release(name, &to_me(), &100, WriteOptions::default()).await.unwrap();
            centre.provider.config().set(name, &1).await.unwrap()
        };
        let written = told_late(&cx, &faults, write).await;
        within(cx.soon() * 3, "the write is seen", directory.wait_until(written)).await.unwrap();
        let name = name.trim_start_matches("dev/app/limits/");
        assert_eq!(directory.get(name).as_deref(), Some(&100), "{name}");
    }
    assert!(used.lock().unwrap().iter().all(|value| *value == 100), "{used:?}");
}

pub(super) async fn a_write_after_a_withdrawal_is_told(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let centre = Centre::new(&cx).await;
    let instances = Centre::of(&client);
    for key in [KEY, "app/"] {
        centre.set(1).await;
        let mut seen = Seen::from(&instances.mine(), key, WatchStart::Snapshot).await;
        for n in 1..4 {
            centre.release(100 * n).await;
            seen.until(&cx, Some(100 * n)).await;
            let write = async {
                assert!(centre.gray.withdraw(KEY).await.unwrap());
                centre.set(n).await
            };
            let written = told_late(&cx, &faults, write).await;
            seen.up_to(&cx, written).await;
            assert_eq!(seen.last(), Some(n), "{:?}", seen.values);
        }
    }
}

pub(super) async fn a_manager_and_a_directory_follow_it(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    let config = centre.provider.config();
    let key = "dev/app/limits";
    config.set(key, &1).await.unwrap();
    config.set("dev/app/limits/login", &1).await.unwrap();
    let mut followed = Vec::new();
    for seen_by in [instances.mine(), instances.others()] {
        let seen_by = Arc::new(seen_by);
        let manager = ConfigManager::<u32>::builder(Arc::clone(&seen_by) as _, "app", "limits").env("dev");
        let directory = ConfigDirectory::<u32>::builder(seen_by, "app", "limits").env("dev");
        followed.push((manager.build().unwrap(), directory.build().unwrap()));
    }
    for (manager, directory) in &followed {
        manager.start().await;
        directory.start().await;
        assert_eq!((*manager.current(), directory.get("login").as_deref().copied()), (1, Some(1)));
    }
    let uses = async |of: usize, expected: u32, what: &str| {
        let (manager, directory) = &followed[of];
        eventually(cx.soon() * 3, what, async || {
            let used = (*manager.current(), directory.get("login").as_deref().copied());
            (used == (expected, Some(expected))).then_some(())
        })
        .await;
    };
    let options = WriteOptions::default;
    for name in [key, "dev/app/limits/login"] {
        centre.gray.release(name, &to_me(), &2, options()).await.unwrap();
    }
    uses(0, 2, "the instance uses the gray value").await;
    uses(1, 1, "others use the base").await;
    for name in [key, "dev/app/limits/login"] {
        centre.gray.promote(name, options()).await.unwrap();
    }
    uses(1, 2, "others use what was promoted").await;
    uses(0, 2, "the instance still uses it").await;
    for name in [key, "dev/app/limits/login"] {
        centre.gray.release(name, &to_me(), &3, options()).await.unwrap();
    }
    uses(0, 3, "the instance uses the next one").await;
    for name in [key, "dev/app/limits/login"] {
        assert!(centre.gray.withdraw(name).await.unwrap());
    }
    uses(0, 2, "the instance is back at the base").await;
}

pub(super) async fn ones_own_write_is_seen_after_waiting_for_it(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::of(&cx.delayed(5).await));
    let mine = Arc::new(instances.mine());
    let directory = ConfigDirectory::<u32>::builder(Arc::clone(&mine) as _, "app", "limits").env("dev");
    let directory = directory.build().unwrap();
    directory.start().await;
    let release = async |value: u32| {
        centre.gray.release("dev/app/limits/a", &to_me(), &value, WriteOptions::default()).await
    };
    let seen = async |version| {
        within(cx.soon() * 3, "the version is seen", directory.wait_until(version)).await.unwrap();
        directory.get("a").as_deref().copied()
    };
    for n in 1..8 {
        let written = mine.set("dev/app/limits/a", &n).await.unwrap();
        assert_eq!(seen(written).await, Some(n));
        let released = release(n + 100).await.unwrap();
        assert_eq!(seen(released).await, Some(n + 100));
        // A write under it is seen too, though the gray value stays.
        let written = mine.set("dev/app/limits/a", &(n + 200)).await.unwrap();
        assert_eq!(seen(written).await, Some(n + 100));
        if n % 2 == 0 {
            let promoted = centre.gray.promote("dev/app/limits/a", WriteOptions::default()).await.unwrap();
            assert_eq!(seen(promoted).await, Some(n + 100));
        } else {
            assert!(centre.gray.withdraw("dev/app/limits/a").await.unwrap());
            let written = mine.set("dev/app/limits/b", &0).await.unwrap();
            assert_eq!(seen(written).await, Some(n + 200));
        }
    }
}

pub(super) async fn a_change_costs_one_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let (centre, instances) = (Centre::new(&cx).await, Centre::of(&client));
    centre.set(0).await;
    let mine = instances.mine();
    let mut seen = Seen::of(&mine).await;
    seen.until(&cx, Some(0)).await;
    let (read, counts) = counter.during(value(&mine)).await;
    assert_eq!((read, counts.requests(), counts.txn), (Some(0), 1, 1), "{counts:?}");
    for n in 1..10 {
        let version = centre.set(n).await;
        let ((), counts) = counter.during(seen.up_to(&cx, version)).await;
        assert_eq!(counts.requests(), 1, "{counts:?}");
    }
    let released = centre.release(100).await;
    let ((), counts) = counter.during(seen.up_to(&cx, released)).await;
    assert_eq!(counts.requests(), 1, "{counts:?}");
    // Of what is told late, one look is for all that has been delivered by then.
    assert!(centre.gray.withdraw(KEY).await.unwrap());
    seen.until(&cx, Some(9)).await;
    let mut last = Version::ZERO;
    for n in 10..30 {
        last = centre.set(n).await;
    }
    let ((), counts) = counter.during(seen.up_to(&cx, last)).await;
    assert!(counts.requests() <= 20, "{counts:?}");
    assert_eq!(seen.last(), Some(29));
}

pub(super) async fn all_watchers_of_a_client_share_two_watches(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let (centre, instances) = (Centre::new(&cx).await, Centre::of(&client));
    centre.set(0).await;
    let mut watchers = Vec::new();
    for n in 0..30 {
        let config = if n % 2 == 0 { instances.mine() } else { instances.others() };
        watchers.push(Seen::of(&config).await);
    }
    assert_eq!(counter.open_watches(), 2);
    let version = centre.set(1).await;
    for watcher in &mut watchers {
        watcher.up_to(&cx, version).await;
        assert_eq!(watcher.last(), Some(1));
    }
    drop(watchers);
    eventually(cx.soon() * 3, "no watch is left", async || (counter.open_watches() == 0).then_some(())).await;
}
