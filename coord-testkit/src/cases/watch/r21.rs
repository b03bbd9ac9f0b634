//! R21 Content.

use coord_api::prelude::*;
use coord_api::store::{Op, Txn};
use coord_api::{ConfigEntry, ConfigEvent, ErrorKind, Revision, Value, Watch, WatchStart};

use super::Writer;
use crate::fixture::Fixture;
use crate::view::ConfigView;
use crate::wait::within;
use crate::{bad, layout};

/// The next `count` events; `None` when a resync came among them, which is always legal and tells
/// the outcome alone.
async fn changes<V>(
    cx: &Fixture,
    watch: &mut Watch<ConfigEvent<V>>,
    count: usize,
) -> Option<Vec<ConfigEvent<V>>> {
    let mut changes = Vec::new();
    while changes.len() < count {
        match within(cx.soon(), "the next change", watch.next()).await {
            Some(Ok(ConfigEvent::Resync(_))) => return None,
            Some(Ok(event)) => changes.push(event),
            Some(Err(error)) => panic!("wanted a change, got {error:?}"),
            None => panic!("wanted a change, and the watch ended"),
        }
    }
    Some(changes)
}

/// Tries again where a resync came in between, until a try tells.
async fn without_resync(attempt: impl AsyncFn() -> Option<()>) {
    for _ in 0..20 {
        if attempt().await.is_some() {
            return;
        }
    }
    panic!("a resync came every time");
}

pub(super) async fn a_put_tells_key_value_version_and_whether_it_created(cx: Fixture) {
    without_resync(async || {
        let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
        let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
        let mut expected = Vec::new();
        for (text, created) in [("1", true), ("2", false), ("", false), ("4", true)] {
            if text == "4" {
                writer.delete("d/k").await;
            }
            expected.push((writer.put("d/k", text).await, Value::from(text), created));
        }
        let mut told = Vec::new();
        for event in changes(&cx, &mut watch, 5).await? {
            if let ConfigEvent::Put { entry, created, last } = event {
                assert!(last, "the only change of its revision is the last");
                assert_eq!(entry.key, "d/k");
                told.push((entry.version, entry.value, created));
            }
        }
        assert_eq!(told, expected);
        writer.delete("d/k").await;
        Some(())
    })
    .await;
}

pub(super) async fn a_deletion_tells_key_and_version(cx: Fixture) {
    without_resync(async || {
        let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
        let written = writer.put("d/k", "1").await;
        let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
        assert!(writer.provider.config().delete("d/k").await.unwrap());
        let listed = watcher.config().list_raw("d").await.unwrap();
        let told = changes(&cx, &mut watch, 1).await?;
        let [ConfigEvent::Delete { key, version, last: true }] = told.as_slice() else {
            panic!("not a deletion: {told:?}")
        };
        assert_eq!(key, "d/k");
        assert!(*version > written && *version <= listed.revision, "the revision of the deletion");
        assert!(writer.put("d/k", "2").await > *version);
        Some(())
    })
    .await;
}

pub(super) async fn an_expired_key_shows_as_a_deletion(cx: Fixture) {
    let client = cx.client().await;
    let watcher = cx.provider().await;
    let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    let lease = client.store.grant_lease(cx.ttl()).await.unwrap();
    let txn = Txn::new()
        .then(Op::put_leased(layout::config("d/leased"), "1", lease.id))
        .then(Op::put(layout::config("d/free"), "1"));
    let written = client.store.txn(txn).await.unwrap().revision;
    let mut view = ConfigView::after(Revision::ZERO);
    view.follow(&mut watch, written, cx.soon()).await;
    view.follow(&mut watch, written.next(), cx.gone_by(lease.ttl) + cx.soon()).await;
    assert_eq!(view.state().keys().collect::<Vec<_>>(), ["d/free"]);
    assert!(view.told().iter().any(|told| told.0 == "d/leased" && told.2.is_none()) || view.resyncs() > 0);
}

pub(super) async fn every_change_of_a_revision_tells_its_content(cx: Fixture) {
    without_resync(async || {
        let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
        writer.all(&[("d/old", Some("1")), ("d/gone", Some("1")), ("d/new", None)]).await;
        let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
        let version = writer.all(&[("d/new", Some("2")), ("d/old", Some("")), ("d/gone", None)]).await;
        let put = |key: &str, text: &'static str, created| ConfigEvent::Put {
            entry: ConfigEntry { key: key.to_owned(), value: Value::from(text), version },
            created,
            last: false,
        };
        let gone = ConfigEvent::Delete { key: "d/gone".to_owned(), version, last: true };
        assert_eq!(
            changes(&cx, &mut watch, 3).await?,
            [put("d/new", "2", true), put("d/old", "", false), gone]
        );
        Some(())
    })
    .await;
}

pub(super) async fn what_is_not_utf_8_is_apart_in_a_snapshot_and_a_stream(cx: Fixture) {
    without_resync(async || {
        let mut writer = Writer::new(&cx).await;
        writer.put("d/a", "1").await;
        let foreign = [layout::config("d/").as_bytes(), bad::GARBAGE].concat();
        let put = |text: &'static str| Txn::new().then(Op::put(foreign.clone(), text));
        let first = writer.store.txn(put("first")).await.unwrap().revision;
        let watcher = cx.provider().await;
        let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap();
        let Some(Ok(ConfigEvent::Resync(snapshot))) =
            within(cx.soon(), "the snapshot comes", watch.next()).await
        else {
            panic!("not a snapshot")
        };
        assert!(snapshot.items.iter().map(|entry| entry.key.as_str()).eq(["d/a"]));
        assert!(
            snapshot
                .invalid
                .iter()
                .map(|record| (record.value.as_bytes(), record.version))
                .eq([(&b"first"[..], first)])
        );
        let second = writer.store.txn(put("second")).await.unwrap().revision;
        let last = writer.put("d/a", "2").await;
        let told = changes(&cx, &mut watch, 2).await?;
        let [ConfigEvent::Invalid { record, last: true }, ConfigEvent::Put { entry, created: false, .. }] =
            told.as_slice()
        else {
            panic!("wanted invalid, put: {told:?}")
        };
        assert_eq!(
            (record.value.as_bytes(), record.version, record.error.kind()),
            (&b"second"[..], second, ErrorKind::Codec)
        );
        assert_eq!(entry.version, last);
        Some(())
    })
    .await;
}

pub(super) async fn what_does_not_decode_comes_with_its_bytes_and_the_stream_goes_on(cx: Fixture) {
    without_resync(async || {
        let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
        let mut watch = watcher.config().watch_prefix::<u32>("d", WatchStart::Now).await.unwrap();
        writer.put("d/a", "1").await;
        let bad = writer.put("d/b", "\"secret\"").await;
        writer.put("d/c", "3").await;
        writer.put("d/b", "4").await;
        let told = changes(&cx, &mut watch, 4).await?;
        let [
            ConfigEvent::Put { entry: a, .. },
            ConfigEvent::Invalid { record, last: true },
            ConfigEvent::Put { entry: c, .. },
            ConfigEvent::Put { entry: b, .. },
        ] = told.as_slice()
        else {
            panic!("wanted put, invalid, put, put: {told:?}")
        };
        assert_eq!(
            [(a.key.as_str(), a.value), (c.key.as_str(), c.value), (b.key.as_str(), b.value)],
            [("d/a", 1), ("d/c", 3), ("d/b", 4)]
        );
        assert_eq!(
            (record.key.as_ref(), &record.value, record.version),
            (&b"d/b"[..], &Value::from("\"secret\""), bad)
        );
        assert_eq!(record.error.kind(), ErrorKind::Codec);
        assert!(!format!("{record:?} {}", record.error).contains("secret"), "an error shows no value");
        Some(())
    })
    .await;
    let mut writer = Writer::new(&cx).await;
    writer.put("d/b", "broken").await;
    let mut anew = writer.provider.config().watch_prefix::<u32>("d", WatchStart::Snapshot).await.unwrap();
    let first = within(cx.soon(), "the snapshot comes", anew.next()).await;
    let Some(Ok(ConfigEvent::Resync(snapshot))) = first else { panic!("not a snapshot") };
    assert_eq!(snapshot.items.iter().map(|entry| entry.value).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(
        snapshot.invalid.iter().map(|record| record.value.as_bytes()).collect::<Vec<_>>(),
        [b"broken"]
    );
}

pub(super) async fn a_key_that_is_not_utf_8_harms_no_other(cx: Fixture) {
    without_resync(async || {
        let (watcher, mut writer) = (cx.provider().await, Writer::new(&cx).await);
        let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
        writer.put("d/a", "1").await;
        let foreign = [layout::config("d/").as_bytes(), bad::GARBAGE].concat();
        let version =
            writer.store.txn(Txn::new().then(Op::put(foreign.clone(), bad::GARBAGE))).await.unwrap().revision;
        writer.put("d/b", "2").await;
        writer.store.txn(Txn::new().then(Op::delete(foreign.clone()))).await.unwrap();
        let last = writer.put("d/a", "3").await;
        let told = changes(&cx, &mut watch, 3).await?;
        let [
            ConfigEvent::Put { entry: a, .. },
            ConfigEvent::Invalid { record, .. },
            ConfigEvent::Put { entry: b, .. },
        ] = told.as_slice()
        else {
            panic!("wanted put, invalid, put: {told:?}")
        };
        assert_eq!((a.key.as_str(), b.key.as_str()), ("d/a", "d/b"));
        assert!(foreign.ends_with(&record.key) && record.key.ends_with(bad::GARBAGE));
        assert_eq!(
            (record.value.as_bytes(), record.version, record.error.kind()),
            (bad::GARBAGE, version, ErrorKind::Codec)
        );
        let told = changes(&cx, &mut watch, 2).await?;
        let [ConfigEvent::InvalidDeleted { key, version: gone, last: true }, ConfigEvent::Put { entry, .. }] =
            told.as_slice()
        else {
            panic!("wanted the deletion, put: {told:?}")
        };
        assert_eq!((key, entry.version), (&record.key, last));
        assert!(*gone > version && *gone < last, "the revision of the deletion");
        Some(())
    })
    .await;
}

pub(super) async fn a_deletion_names_no_key_but_the_one_that_was_deleted(cx: Fixture) {
    let client = cx.client().await;
    let config = client.provider.config();
    // Beside each foreign key lie those that it might be taken for.
    for key in bad::foreign_keys() {
        let text = String::from_utf8_lossy(&key);
        let tidy = text.split('/').filter(|segment| !segment.is_empty()).collect::<Vec<_>>().join("/");
        for like in [text.into_owned(), tidy] {
            let like: String = like.trim_matches('/').chars().filter(|c| !c.is_control()).take(100).collect();
            // Some of them are no keys either.
            let _ = config.set_raw(&like, Value::from("mine")).await;
        }
    }
    let mine = config.list_raw("").await.unwrap();
    assert!(
        ["a", "\u{fffd}\u{fffd}{"].iter().all(|key| mine.items.iter().any(|entry| entry.key == *key)),
        "{mine:?}"
    );
    for key in bad::foreign_keys() {
        let stored = [layout::CONFIG.as_bytes(), &key].concat();
        without_resync(async || {
            let mut watch = cx.provider().await.config().watch_prefix_raw("", WatchStart::Now).await.unwrap();
            client.store.txn(Txn::new().then(Op::put(stored.clone(), "foreign"))).await.unwrap();
            let version = client.store.txn(Txn::new().then(Op::delete(stored.clone()))).await.unwrap().revision;
            let told = changes(&cx, &mut watch, 2).await?;
            let gone = ConfigEvent::InvalidDeleted { key: key.clone().into(), version, last: true };
            assert!(
                matches!(told.as_slice(), [ConfigEvent::Invalid { record, .. }, last] if *record.key == key && *last == gone),
                "{told:?}"
            );
            Some(())
        })
        .await;
    }
    assert_eq!(config.list_raw("").await.unwrap().items, mine.items, "and nothing else was touched");
}

pub(super) async fn what_no_call_takes_is_apart_in_a_snapshot_and_a_stream(cx: Fixture) {
    without_resync(async || {
        let mut writer = Writer::new(&cx).await;
        writer.put("d/a", "1").await;
        let left = [&b"d/"[..], b"d//a", b"d/a/", b"d/./a", b"d/a\n"];
        let stored = |key: &[u8]| [layout::CONFIG.as_bytes(), key].concat();
        for key in left {
            writer.store.txn(Txn::new().then(Op::put(stored(key), "first"))).await.unwrap();
        }
        let watcher = cx.provider().await;
        let mut watch = watcher.config().watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap();
        let Some(Ok(ConfigEvent::Resync(snapshot))) =
            within(cx.soon(), "the snapshot comes", watch.next()).await
        else {
            panic!("not a snapshot")
        };
        assert!(snapshot.items.iter().map(|entry| entry.key.as_str()).eq(["d/a"]));
        let mut apart: Vec<&[u8]> = snapshot.invalid.iter().map(|record| record.key.as_ref()).collect();
        let mut sorted = left.to_vec();
        apart.sort_unstable();
        sorted.sort_unstable();
        assert_eq!(apart, sorted);
        for key in left {
            let version =
                writer.store.txn(Txn::new().then(Op::put(stored(key), "second"))).await.unwrap().revision;
            let told = changes(&cx, &mut watch, 1).await?;
            let [ConfigEvent::Invalid { record, last: true }] = told.as_slice() else {
                panic!("wanted invalid: {told:?}")
            };
            assert_eq!(
                (record.key.as_ref(), record.version, record.error.kind()),
                (key, version, ErrorKind::Codec)
            );
            let version = writer.store.txn(Txn::new().then(Op::delete(stored(key)))).await.unwrap().revision;
            let gone = ConfigEvent::InvalidDeleted { key: key.to_vec().into(), version, last: true };
            assert_eq!(changes(&cx, &mut watch, 1).await?, [gone]);
        }
        writer.delete("d/a").await;
        Some(())
    })
    .await;
}

/// Asserts that a watch of `d/k` tells values as they were written.
async fn tells_bytes(cx: &Fixture, mut watch: Watch<ConfigEvent>) {
    let writer = cx.provider().await;
    for bytes in [b"\xff\xfe\0".as_slice(), b"", b" a\n", b"\0", b"{ }", "e\u{301}".as_bytes()] {
        let written = writer.config().set_raw("d/k", bytes.to_vec().into()).await.unwrap();
        let told = within(cx.soon(), "the value is told", async {
            loop {
                match watch.next().await.unwrap().unwrap() {
                    ConfigEvent::Put { entry, .. } if entry.version == written => return entry.value,
                    ConfigEvent::Resync(snapshot) if snapshot.revision >= written => {
                        return snapshot.items[0].value.clone();
                    }
                    _ => {}
                }
            }
        })
        .await;
        assert_eq!(told.as_bytes(), bytes);
    }
}

pub(super) async fn a_value_of_a_key_is_told_byte_by_byte(cx: Fixture) {
    let watch = cx.provider().await.config().watch_raw("d/k", WatchStart::Now).await.unwrap();
    tells_bytes(&cx, watch).await;
}

pub(super) async fn a_value_in_a_directory_is_told_byte_by_byte(cx: Fixture) {
    let watch = cx.provider().await.config().watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap();
    tells_bytes(&cx, watch).await;
}
