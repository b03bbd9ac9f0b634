//! R73 Targets.

use std::collections::BTreeSet;

use coord_api::config::{MAX_NOTE_BYTES, MAX_PUBLISHED_BYTES};
use coord_api::prelude::*;
use coord_api::{ErrorKind, Note, Outcome, Value, Version, WatchStart, WriteOptions};
use coord_recipes::{GrayIdentity, GrayTargets, MAX_TARGETS};
use coord_testkit::wait::never_within;
use coord_testkit::wrap::Fault;
use coord_testkit::{Fixture, bad};
use futures_util::future::join_all;

use super::primitives::{entries, put};
use super::{Centre, KEY, Seen, listed, me, to_me, value};

/// Where the release of the key lies.
const RELEASE: &str = "/config-gray/app/limits";

fn options() -> WriteOptions {
    WriteOptions::default()
}

pub(super) async fn an_instance_is_named_by_its_id_or_by_a_label(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    centre.set(1).await;
    let (mine, others) = (instances.mine(), instances.others());
    let none = GrayTargets::default();
    for (targets, seen_by_me, seen_by_others) in [
        (none.clone().with_id("me"), 2, 1),
        (none.clone().with_label("zone", "north"), 2, 1),
        (none.clone().with_label("zone", "south"), 1, 2),
        (none.clone().with_id("me").with_label("zone", "south"), 2, 2),
        (none.clone().with_id("m").with_id("mee").with_label("north", "zone"), 1, 1),
        (none.clone().with_percent(100), 2, 2),
    ] {
        centre.gray.release(KEY, &targets, &2, options()).await.unwrap();
        assert_eq!((value(&mine).await, value(&others).await), (Some(seen_by_me), Some(seen_by_others)));
        assert_eq!((listed(&mine).await, listed(&others).await), (Some(seen_by_me), Some(seen_by_others)));
        let release = centre.gray.of(KEY).await.unwrap().unwrap();
        assert_eq!((release.targets, release.value), (targets, Value::from("2")));
    }
}

pub(super) async fn others_never_see_it(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    centre.set(1).await;
    let others = instances.others();
    let mut watches = vec![Seen::of(&others).await, Seen::from(&others, "", WatchStart::Snapshot).await];
    for watch in &mut watches {
        watch.until(&cx, Some(1)).await;
    }
    for n in 1..6 {
        centre.release(100 + n).await;
        assert_eq!((value(&others).await, listed(&others).await), (Some(n), Some(n)));
        assert_eq!(instances.provider.config().get(KEY).await.unwrap(), Some(n), "who is no instance");
        if n % 2 == 0 {
            assert!(centre.gray.withdraw(KEY).await.unwrap());
        }
        let version = centre.set(n + 1).await;
        for watch in &mut watches {
            watch.up_to(&cx, version).await;
        }
    }
    for watch in &mut watches {
        assert_eq!((watch.values.len(), watch.resyncs), (6, 1), "{:?}", watch.values);
        assert!(watch.values.iter().flatten().all(|value| *value < 100), "{:?}", watch.values);
    }
    // A release alone is nothing to be told.
    centre.release(200).await;
    centre.gray.withdraw(KEY).await.unwrap();
    never_within(cx.slack(), "an event", &mut Box::pin(watches[0].watch.next())).await;
}

/// Who of the instances `0` to `49` sees the gray value, which is 2.
async fn who_sees(centre: &Centre) -> BTreeSet<u32> {
    let asked = (0..50).map(async |n: u32| {
        let seen = value(&centre.seen_by(&GrayIdentity::new(n.to_string()))).await;
        assert!(matches!(seen, Some(1 | 2)), "{seen:?}");
        (seen == Some(2)).then_some(n)
    });
    join_all(asked).await.into_iter().flatten().collect()
}

pub(super) async fn a_percentage_is_of_those_whom_the_contract_says(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    centre.set(1).await;
    for percent in [1, 20, 70] {
        let targets = GrayTargets::default().with_percent(percent);
        centre.gray.release(KEY, &targets, &2, options()).await.unwrap();
        // As any program can compute it.
        let bucket = |n: u32| {
            let bytes = format!("{KEY}\0{n}");
            let mut hash = bytes.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
            (hash ^ (hash >> 33)) % 10_000
        };
        let expected: BTreeSet<u32> = (0..50).filter(|n| bucket(*n) < u64::from(percent) * 100).collect();
        assert_eq!(who_sees(&instances).await, expected, "{percent} %");
    }
}

pub(super) async fn raising_a_percentage_only_adds_instances(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    centre.set(1).await;
    let mut before = BTreeSet::new();
    for percent in [5, 20, 50, 80, 100] {
        let targets = GrayTargets::default().with_percent(percent);
        centre.gray.release(KEY, &targets, &2, options()).await.unwrap();
        let now = who_sees(&instances).await;
        assert!(now.is_superset(&before), "{percent} %: {before:?}, then {now:?}");
        assert!(percent < 50 || now.len() > 5, "{percent} %: {now:?}");
        before = now;
    }
    assert_eq!(before.len(), 50);
}

pub(super) async fn a_key_without_a_base_is_there_for_its_targets_alone(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    let (mine, others) = (instances.mine(), instances.others());
    let mut seen = Seen::from(&mine, "app/", WatchStart::Snapshot).await;
    let version = centre.release(2).await;
    assert_eq!((value(&mine).await, listed(&mine).await), (Some(2), Some(2)));
    assert_eq!((value(&others).await, listed(&others).await), (None, None));
    assert_eq!(mine.get_raw(KEY).await.unwrap().unwrap().version, version);
    seen.until(&cx, Some(2)).await;
    centre.promote().await.unwrap();
    assert_eq!((value(&mine).await, value(&others).await), (Some(2), Some(2)));
}

pub(super) async fn what_others_left_there_is_no_release(cx: Fixture) {
    let (centre, store) = (Centre::new(&cx).await, cx.store().await);
    centre.set(1).await;
    let (mine, mut seen) = (centre.mine(), Seen::from(&centre.mine(), "", WatchStart::Snapshot).await);
    for garbage in ["", "2", "\n2", "{\"targets\":{\"percent\":101}}\n2", "{\"percent\":100}\n2"] {
        put(&*store, RELEASE, garbage).await;
        put(&*store, "/config-gray//bad//key", "{\"targets\":{\"percent\":100}}\n2").await;
        assert_eq!((value(&mine).await, listed(&mine).await), (Some(1), Some(1)), "{garbage:?}");
        assert_eq!(centre.gray.of(KEY).await.unwrap_err().kind(), ErrorKind::Codec, "{garbage:?}");
        assert_eq!(centre.promote().await.unwrap_err().kind(), ErrorKind::Codec, "{garbage:?}");
        let version = centre.set(1).await;
        seen.up_to(&cx, version).await;
    }
    assert!(seen.values.iter().all(|value| *value == Some(1)), "{:?}", seen.values);
    // What another program wrote rightly is one.
    put(&*store, RELEASE, "{\"targets\":{\"labels\":[[\"zone\",\"north\"]]}}\n3").await;
    seen.until(&cx, Some(3)).await;
    assert_eq!((value(&mine).await, value(&centre.others()).await), (Some(3), Some(1)));
}

pub(super) async fn a_bad_release_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let centre = Centre::of(&client);
    let (gray, config) = (&centre.gray, centre.mine());
    let large = |bytes: usize| Value::from(vec![b'v'; bytes]);
    let numbered = |count: usize| (0..count).fold(to_me(), |all, n| all.with_id(format!("{n:x}")));
    let wrong = async {
        let mut errors = Vec::new();
        for key in bad::keys() {
            errors.push(gray.release(&key, &to_me(), &1, options()).await.unwrap_err());
            errors.push(gray.of(&key).await.unwrap_err());
            errors.push(gray.promote(&key, options()).await.unwrap_err());
            errors.push(gray.withdraw(&key).await.unwrap_err());
            errors.push(config.get_raw(&key).await.unwrap_err());
        }
        let none = GrayTargets::default();
        let long = (0..129).fold(none.clone(), |all, n| all.with_id(format!("{n:0512}")));
        for targets in [
            none.clone(),
            none.clone().with_percent(101),
            none.clone().with_id(""),
            none.clone().with_label("a/b", ""),
            none.with_label("a", "v".repeat(513)),
            numbered(MAX_TARGETS),
            long,
        ] {
            errors.push(gray.release(KEY, &targets, &1, options()).await.unwrap_err());
        }
        let (me, large) = (to_me(), large(MAX_PUBLISHED_BYTES + 1));
        errors.push(gray.release_raw(KEY, &me, large, options()).await.unwrap_err());
        let long = options().with_note(Note::new("ann", "n".repeat(MAX_NOTE_BYTES)));
        errors.push(gray.release(KEY, &to_me(), &1, long.clone()).await.unwrap_err());
        errors.push(gray.promote(KEY, long).await.unwrap_err());
        errors
    };
    let (errors, counts) = counter.during(wrong).await;
    assert_eq!(counts.requests(), 0, "{counts:?}");
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    // The most that is taken; control characters take more room than they count for.
    let most = Note::new("\u{1}".repeat(MAX_NOTE_BYTES), "");
    let targets = (0..100)
        .fold(numbered(MAX_TARGETS - 101), |all, n| all.with_label(n.to_string(), "\u{1}".repeat(400)));
    let released = gray.release_raw(KEY, &targets, large(MAX_PUBLISHED_BYTES), options().with_note(most));
    released.await.unwrap();
    let version = centre.gray.promote(KEY, options().with_note(Note::default())).await.unwrap();
    let found = centre.provider.config().get_raw(KEY).await.unwrap().unwrap();
    assert_eq!((found.version, found.value), (version, large(MAX_PUBLISHED_BYTES)));
}

pub(super) async fn a_release_takes_the_place_of_the_expected_one(cx: Fixture) {
    let (centre, instances) = (Centre::new(&cx).await, Centre::new(&cx).await);
    let mine = instances.mine();
    let expect = |version| options().with_expected(version);
    let release = async |value: u32, options| centre.gray.release(KEY, &to_me(), &value, options).await;
    let first = release(1, expect(Version::ZERO)).await.unwrap();
    let second = release(2, expect(first)).await.unwrap();
    assert!(second > first);
    for wrong in [Version::ZERO, first, Version::new(second.get() + 1)] {
        let error = release(3, expect(wrong)).await.unwrap_err();
        assert_eq!((error.kind(), error.current_version()), (ErrorKind::Conflict, Some(second)), "{error}");
    }
    assert_eq!(value(&mine).await, Some(2));
    // Of many who have seen the same one, one takes its place.
    let tried = join_all((10..16).map(|n| release(n, expect(second)))).await;
    let won: Vec<u32> = (10..16).zip(&tried).filter(|(_, tried)| tried.is_ok()).map(|(n, _)| n).collect();
    assert_eq!(won.len(), 1, "{tried:?}");
    assert_eq!(value(&mine).await, Some(won[0]));
}

pub(super) async fn a_release_is_fenced_like_any_write(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let base = centre.set(0).await;
    let guard = centre.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let fenced = || options().with_fence(guard.fence());
    let release = async |value: u32| centre.gray.release(KEY, &to_me(), &value, fenced()).await;
    let version = release(1).await.unwrap();
    for entry in entries(&*cx.store().await, "/locks/").await {
        super::primitives::delete(&*cx.store().await, entry.key).await;
    }
    for error in [release(2).await, centre.gray.promote(KEY, fenced()).await] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
    let found = centre.gray.of(KEY).await.unwrap().unwrap();
    assert_eq!((found.version, found.base, found.value), (version, base, Value::from("1")));
}

pub(super) async fn one_in_doubt_is_not_sent_again(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (centre, other) = (Centre::of(&client), Centre::new(&cx).await);
    let mine = other.mine();
    centre.set(0).await;
    for (n, fault, applied) in [(1, Fault::LoseAnswer, true), (2, Fault::LoseRequest, false)] {
        faults.next_put(fault, "/config-gray/");
        let error = centre.gray.release(KEY, &to_me(), &n, options()).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        assert_eq!(value(&mine).await == Some(n), applied, "{fault:?}");
    }
    faults.next_put(Fault::LoseAnswer, "/config/");
    assert_eq!(centre.promote().await.unwrap_err().outcome(), Outcome::Unknown);
    assert_eq!((value(&other.others()).await, other.gray.of(KEY).await.unwrap()), (Some(1), None));
    centre.release(5).await;
    faults.next_delete(Fault::LoseAnswer, "/config-gray/");
    assert_eq!(centre.gray.withdraw(KEY).await.unwrap_err().outcome(), Outcome::Unknown);
    assert_eq!(value(&mine).await, Some(1));
}

pub(super) async fn names_that_nest_are_unrelated(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let (config, mine) = (centre.provider.config(), centre.mine());
    let names = ["a", "a/b", "a%2Fb", "ab", "a/b/c"];
    for name in names {
        config.set(name, "base").await.unwrap();
    }
    for name in names {
        centre.gray.release(name, &to_me(), name, options()).await.unwrap();
        for other in names {
            let expected = if other == name { name } else { "base" };
            assert_eq!(mine.get::<String>(other).await.unwrap().as_deref(), Some(expected), "{name} {other}");
        }
        let found: Vec<_> = mine.list::<String>("a").await.unwrap().items;
        assert_eq!(found.iter().map(|entry| &entry.key).collect::<Vec<_>>(), ["a/b", "a/b/c"]);
        assert_eq!(
            found.iter().filter(|entry| entry.value != "base").count(),
            usize::from(name.starts_with("a/"))
        );
        assert!(centre.gray.withdraw(&format!("/{name}")).await.unwrap());
    }
}

pub(super) async fn it_is_there_after_reopening(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    centre.set(1).await;
    let version = centre.release(2).await;
    cx.reopen().await;
    let centre = Centre::new(&cx).await;
    assert_eq!((value(&centre.mine()).await, value(&centre.others()).await), (Some(2), Some(1)));
    assert_eq!(centre.gray.of(KEY).await.unwrap().unwrap().version, version);
}

pub(super) async fn nothing_of_it_shows_a_value(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let secret = "hunter2";
    let noted = options().with_note(Note::new("ann", "why"));
    centre.gray.release(KEY, &to_me(), secret, noted).await.unwrap();
    let release = centre.gray.of(KEY).await.unwrap().unwrap();
    assert_eq!((release.author.as_str(), release.note.as_str()), ("ann", "why"));
    assert!(release.at > 0);
    let watch = centre.mine().watch_raw(KEY, WatchStart::Snapshot).await.unwrap();
    let error = centre.mine().get::<u32>(KEY).await.unwrap_err();
    let shown = format!("{release:?} {:?} {:?} {watch:?} {error:?} {error}", centre.gray, centre.mine());
    assert!(!shown.contains(secret), "{shown}");
    assert_eq!(centre.mine().instance(), &me());
}
