//! R4 Keys.

use coord_api::key::MAX_KEY_BYTES;
use coord_api::prelude::*;
use coord_api::{ConfigEvent, ErrorKind, Outcome, RegisterOptions, ServiceInstance, Value, WatchStart};

use super::{KeyedCall, WITH_KEYS, WITH_NAMES, WITH_PREFIXES, contents};
use crate::bad;
use crate::fixture::Fixture;

/// Every one of `calls` refuses every one of `keys`, without asking the store.
async fn all_refused(cx: &Fixture, calls: &[KeyedCall], keys: &[String]) {
    let (client, counter) = cx.counting().await;
    let store = cx.store().await;
    client.provider.config().set_raw("a/b", Value::from("untouched")).await.unwrap();
    let before = contents(&*store).await;
    for (name, call) in calls {
        for key in keys {
            let (answer, counts) = counter.during(call(&client.provider, key)).await;
            let error = answer.expect_err(&format!("{name} took {key:?}"));
            assert_eq!(
                (error.kind(), error.outcome()),
                (ErrorKind::InvalidArgument, Outcome::NotApplied),
                "{name} of {key:?}"
            );
            assert_eq!(counts.all(), 0, "{name} of {key:?} asked the store");
        }
    }
    assert_eq!(contents(&*store).await, before);
}

pub(super) async fn a_bad_key_is_an_invalid_argument_before_any_io(cx: Fixture) {
    all_refused(&cx, &WITH_KEYS, &bad::keys()).await;
}

pub(super) async fn a_bad_prefix_is_an_invalid_argument_before_any_io(cx: Fixture) {
    all_refused(&cx, &WITH_PREFIXES, &bad::prefixes()).await;
    // A key to watch is no prefix: nothing at all names none.
    let provider = cx.provider().await;
    let error = provider.config().watch_raw("", WatchStart::Now).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

pub(super) async fn a_bad_name_is_an_invalid_argument_before_any_io(cx: Fixture) {
    all_refused(&cx, &WITH_NAMES, &bad::segments()).await;
}

pub(super) async fn a_bad_instance_is_an_invalid_argument_before_any_io(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let registry = client.provider.registry();
    let bad = [
        ServiceInstance::new("s", "i", "localhost", 0),
        ServiceInstance::new("s", "i", "", 80),
        ServiceInstance::new("s", "i", "two words", 80),
        ServiceInstance::new("s", "i", "local\nhost", 80),
    ];
    for instance in &bad {
        let (answer, counts) =
            counter.during(registry.register_with(instance.clone(), RegisterOptions::default())).await;
        assert_eq!(
            (answer.unwrap_err().kind(), counts.all()),
            (ErrorKind::InvalidArgument, 0),
            "{instance:?}"
        );
    }
    let good = ServiceInstance::new("s", "i", "localhost", 80);
    let held = registry.register(good.clone()).await.unwrap();
    let others =
        [ServiceInstance::new("s", "j", "localhost", 80), ServiceInstance::new("t", "i", "localhost", 80)];
    for instance in bad.into_iter().chain(others) {
        let (answer, counts) = counter.during(held.update(instance.clone())).await;
        assert_eq!((answer.unwrap_err().kind(), counts.txn), (ErrorKind::InvalidArgument, 0), "{instance:?}");
    }
    assert_eq!(registry.discover("s").await.unwrap().items, [good]);
}

pub(super) async fn unusual_keys_are_good_keys(cx: Fixture) {
    let (provider, stranger) = (cx.provider().await, cx.provider().await);
    let long = "k".repeat(MAX_KEY_BYTES);
    let good = [
        "a b",
        "...",
        ".a",
        "a.",
        "a..b",
        "~",
        "%2F",
        "ключ/键/🔑",
        "a:b?c#d&e=f",
        "\"quoted\"",
        "a\\b",
        "*",
        "-",
        long.as_str(),
    ];
    for key in good {
        provider.config().set_raw(key, Value::from("v")).await.unwrap();
        assert!(stranger.config().get_raw(key).await.unwrap().is_some(), "{key:?}");
        let guard = provider.lock().acquire(key, cx.ttl()).await.unwrap();
        assert_eq!(guard.key(), key, "a guard has its caller's key");
        assert_eq!(
            stranger.lock().try_acquire(key, cx.ttl()).await.unwrap_err().kind(),
            ErrorKind::Conflict,
            "{key:?}"
        );
        guard.unlock().await.unwrap();
        if !key.contains('/') {
            let held =
                provider.registry().register(ServiceInstance::new(key, key, "::1", 65_535)).await.unwrap();
            assert_eq!(stranger.registry().discover(key).await.unwrap().items.len(), 1, "{key:?}");
            held.unregister().await.unwrap();
            assert_eq!(provider.allocator().acquire_id(key, 1).await.unwrap().id(), 1, "{key:?}");
        }
    }
    let listed: Vec<String> =
        stranger.config().list_raw("").await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(listed.len(), good.len());
    let slashed = format!("/{long}");
    assert!(stranger.config().get_raw(&slashed).await.unwrap().is_some(), "the leading slash does not count");
}

pub(super) async fn one_leading_slash_is_ignored(cx: Fixture) {
    let (provider, stranger) = (cx.provider().await, cx.provider().await);
    let version = provider.config().set_raw("/a/b", Value::from("v")).await.unwrap();
    assert_eq!(stranger.config().get_raw("a/b").await.unwrap().unwrap().version, version);
    assert_eq!(stranger.config().list_raw("a").await.unwrap().items[0].key, "a/b");
    let guard = provider.lock().acquire("/l/m", cx.ttl()).await.unwrap();
    assert_eq!(stranger.lock().try_acquire("l/m", cx.ttl()).await.unwrap_err().kind(), ErrorKind::Conflict);
    guard.unlock().await.unwrap();
    assert!(stranger.config().delete("a/b").await.unwrap());
    assert!(!provider.config().delete("/a/b").await.unwrap());
}

pub(super) async fn keys_are_not_normalized_or_folded(cx: Fixture) {
    let provider = cx.provider().await;
    // Upper and lower case, two spellings of one letter, escapes: all of them are different keys.
    let different = ["key", "Key", "KEY", "caf\u{e9}", "cafe\u{301}", "a b", "a%20b", "a+b"];
    for key in different {
        provider.config().set_raw(key, Value::from(key.to_owned())).await.unwrap();
    }
    for key in different {
        assert_eq!(provider.config().get_raw(key).await.unwrap().unwrap().value, Value::from(key.to_owned()));
    }
}

pub(super) async fn one_leading_slash_of_a_prefix_is_ignored(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    provider.config().set_raw("/d/k", Value::from("v")).await.unwrap();
    for prefix in ["d", "/d", "d/", "/d/", "", "/"] {
        let Ok(listed) = other.config().list_raw(prefix).await else {
            assert_eq!(prefix, "/", "a leading slash of a prefix is no fault");
            continue;
        };
        assert_eq!(listed.items.iter().map(|entry| &*entry.key).collect::<Vec<_>>(), ["d/k"], "{prefix:?}");
        let mut watch = other.config().watch_prefix_raw(prefix, WatchStart::Snapshot).await.unwrap();
        let ConfigEvent::Resync(snapshot) = watch.next().await.unwrap().unwrap() else {
            panic!("{prefix:?}")
        };
        assert_eq!(snapshot.items, listed.items, "{prefix:?}");
    }
}
