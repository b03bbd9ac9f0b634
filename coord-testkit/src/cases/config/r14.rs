//! R14 List.

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::store::{Op, Range, Txn};
use coord_api::{ConfigEntry, Revision};

use super::super::leased::head;
use super::value;
use crate::fixture::Fixture;
use crate::{bad, layout};

async fn filled(cx: &Fixture, keys: &[&str]) -> Arc<dyn Provider> {
    let writer = cx.provider().await;
    for key in keys {
        writer.config().set_raw(key, value(*key)).await.unwrap();
    }
    cx.provider().await
}

async fn listed(provider: &Arc<dyn Provider>, prefix: &str) -> Vec<String> {
    let snapshot = provider.config().list_raw(prefix).await.unwrap();
    assert!(snapshot.invalid.is_empty());
    snapshot.into_iter().map(|entry| entry.key).collect()
}

pub(super) async fn a_prefix_is_a_directory(cx: Fixture) {
    let provider = filled(&cx, &["a", "a/b", "a/b/c", "a/bc", "a0", "ab", "ab/c", "b"]).await;
    let expected: [(&str, &[&str]); 6] = [
        ("a", &["a/b", "a/b/c", "a/bc"]),
        ("a/b", &["a/b/c"]),
        ("ab", &["ab/c"]),
        ("b", &[]),
        ("a0", &[]),
        ("a/b/c", &[]),
    ];
    for (prefix, keys) in expected {
        assert_eq!(listed(&provider, prefix).await, keys, "{prefix}");
    }
}

pub(super) async fn one_trailing_slash_is_legal(cx: Fixture) {
    let provider = filled(&cx, &["a", "a/b", "a/c", "ab"]).await;
    for prefix in ["a", "a/", "/a", "/a/"] {
        assert_eq!(listed(&provider, prefix).await, ["a/b", "a/c"], "{prefix}");
    }
}

pub(super) async fn the_empty_prefix_lists_all(cx: Fixture) {
    let keys = ["a", "a/b", "b/c/d", "z"];
    let provider = filled(&cx, &keys).await;
    for prefix in ["", "/"] {
        assert_eq!(listed(&provider, prefix).await, keys, "{prefix:?}");
    }
}

pub(super) async fn keys_come_sorted_and_relative(cx: Fixture) {
    // Byte order, which is neither alphabetical nor by path: `-`, `.` and ` ` sort before `/`,
    // upper case before lower, ASCII before the rest.
    let sorted = [
        "s/A",
        "s/Z",
        "s/a",
        "s/a b",
        "s/a-b",
        "s/a.b",
        "s/a/b",
        "s/a0",
        "s/aa",
        "s/b",
        "s/~",
        "s/é",
        "s/ключ",
        "s/日本",
    ];
    let mut scrambled = sorted;
    scrambled.reverse();
    scrambled.swap(1, 7);
    let provider = filled(&cx, &scrambled).await;
    let snapshot = provider.config().list_raw("/s/").await.unwrap();
    let keys: Vec<&str> = snapshot.items.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, sorted, "relative to the config centre, without a leading slash");
    for ConfigEntry { key, value: found, version } in &snapshot.items {
        assert_eq!(*found, value(key.as_str()), "each with its own value");
        assert_eq!(provider.config().get_raw(key).await.unwrap().unwrap().version, *version);
    }
}

pub(super) async fn nothing_found_is_empty(cx: Fixture) {
    let provider = cx.provider().await;
    for prefix in ["", "nothing", "nothing/below"] {
        assert_eq!(listed(&provider, prefix).await, Vec::<String>::new());
    }
    let client = cx.client().await;
    client.provider.config().set_raw("elsewhere", value("v")).await.unwrap();
    client.provider.config().delete("elsewhere").await.unwrap();
    client.store.txn(Txn::new().then(Op::put("/other/key", "not configuration"))).await.unwrap();
    assert_eq!(listed(&provider, "").await, Vec::<String>::new());
}

pub(super) async fn the_empty_value_is_listed(cx: Fixture) {
    let provider = cx.provider().await;
    provider.config().set_raw("e/empty", value("")).await.unwrap();
    let snapshot = provider.config().list_raw("e").await.unwrap();
    assert_eq!(snapshot.items.len(), 1);
    assert!(snapshot.items[0].value.is_empty());
}

/// Two keys that are only ever written together, first and last in the directory.
fn together(n: usize) -> Txn {
    let text = n.to_string();
    Txn::new()
        .then(Op::put(layout::config("d/!first"), text.clone()))
        .then(Op::put(layout::config("d/~last"), text))
}

/// Lists a directory again and again while its first and last key are written together, and checks
/// each list.
async fn list_while_it_changes(cx: &Fixture, lists: usize, others: usize) {
    let writer = cx.store().await;
    writer.txn(together(0)).await.unwrap();
    let writing = tokio::spawn(async move {
        for n in 1.. {
            writer.txn(together(n)).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(7)).await;
        }
    });
    let client = cx.delayed(1).await;
    let mut last = Revision::ZERO;
    for _ in 0..lists {
        let snapshot = client.provider.config().list_raw("d").await.unwrap();
        assert_eq!(snapshot.items.len(), others + 2);
        let (first, end) = (&snapshot.items[0], &snapshot.items[others + 1]);
        assert_eq!((first.version, &first.value), (end.version, &end.value), "one snapshot");
        assert!(snapshot.revision >= first.version && first.version >= last, "lists do not go back");
        assert!(snapshot.items.windows(2).all(|pair| pair[0].key < pair[1].key), "sorted, and no duplicates");
        last = first.version;
    }
    writing.abort();
}

pub(super) async fn a_list_is_one_snapshot(cx: Fixture) {
    list_while_it_changes(&cx, 20, 0).await;
}

pub(super) async fn ten_thousand_keys_are_one_snapshot(cx: Fixture) {
    let store = cx.store().await;
    for chunk in (0..10_000).collect::<Vec<_>>().chunks(100) {
        let txn = chunk
            .iter()
            .fold(Txn::new(), |txn, n| txn.then(Op::put(layout::config(&format!("d/{n:05}")), "v")));
        store.txn(txn).await.unwrap();
    }
    list_while_it_changes(&cx, 3, 10_000).await;
}

pub(super) async fn two_hundred_large_values_are_complete(cx: Fixture) {
    let (writer, reader) = (cx.provider().await, cx.provider().await);
    let large = |n: usize| vec![u8::try_from(n % 251).unwrap(); 100 * 1024];
    for n in 0..200 {
        writer.config().set_raw(&format!("large/{n:03}"), large(n).into()).await.unwrap();
    }
    let snapshot = reader.config().list_raw("large").await.unwrap();
    assert_eq!(snapshot.items.len(), 200);
    for (n, entry) in snapshot.items.iter().enumerate() {
        assert!(entry.value.as_bytes() == large(n), "{}", entry.key);
    }
}

pub(super) async fn a_key_that_is_not_utf_8_is_kept_apart(cx: Fixture) {
    let client = cx.client().await;
    let config = client.provider.config();
    for key in ["d/a", "d/z"] {
        config.set_raw(key, value("good")).await.unwrap();
    }
    let foreign = [layout::config("d/").as_bytes(), bad::GARBAGE].concat();
    let version =
        client.store.txn(Txn::new().then(Op::put(foreign.clone(), "foreign"))).await.unwrap().revision;
    for prefix in ["d", ""] {
        let snapshot = config.list_raw(prefix).await.unwrap();
        assert_eq!(
            snapshot.items.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(),
            ["d/a", "d/z"],
            "the others are unharmed"
        );
        assert_eq!(snapshot.invalid.len(), 1);
        let record = &snapshot.invalid[0];
        assert!(record.key.ends_with(bad::GARBAGE) && foreign.ends_with(&record.key));
        assert_eq!((&record.value, record.version), (&value("foreign"), version));
        assert_eq!(record.error.kind(), coord_api::ErrorKind::Codec);
    }
    // Bytes that are not UTF-8 are a value like any other.
    config.set_raw("d/bytes", bad::GARBAGE.to_vec().into()).await.unwrap();
    assert_eq!(config.get_raw("d/bytes").await.unwrap().unwrap().value.as_bytes(), bad::GARBAGE);
}

pub(super) async fn what_is_listed_every_call_takes(cx: Fixture) {
    let client = cx.client().await;
    let config = client.provider.config();
    let good = ["a", "d/a", "d/é", "a b"];
    for key in good {
        config.set_raw(key, value(key)).await.unwrap();
    }
    let mut foreign = Vec::new();
    for (index, key) in bad::foreign_keys().into_iter().enumerate() {
        let put = Op::put([layout::CONFIG.as_bytes(), &key].concat(), index.to_string());
        foreign.push((
            key,
            index.to_string(),
            client.store.txn(Txn::new().then(put)).await.unwrap().revision,
        ));
    }
    foreign.sort();
    let snapshot = config.list_raw("").await.unwrap();
    let told: Vec<_> =
        snapshot.invalid.iter().map(|record| (record.key.to_vec(), &record.value, record.version)).collect();
    let left: Vec<_> =
        foreign.iter().map(|(key, text, version)| (key.clone(), value(text.as_str()), *version)).collect();
    assert_eq!(
        told,
        left.iter().map(|(key, value, version)| (key.clone(), value, *version)).collect::<Vec<_>>()
    );
    assert!(snapshot.invalid.iter().all(|record| record.error.kind() == coord_api::ErrorKind::Codec));
    assert_eq!(snapshot.items.len(), good.len());
    // Also where the directory itself is such a key.
    let below = config.list_raw("d").await.unwrap();
    assert_eq!(below.items.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["d/a", "d/é"]);
    assert_eq!(
        below.invalid.iter().map(|record| record.key.as_ref()).collect::<Vec<_>>(),
        [&b"d/"[..], b"d//x", b"d/\xff\xfe{"]
    );
    for entry in snapshot.items {
        assert_eq!(config.get_raw(&entry.key).await.unwrap().unwrap().version, entry.version);
        assert!(config.delete(&entry.key).await.unwrap(), "{}", entry.key);
    }
    let after = config.list_raw("").await.unwrap();
    assert_eq!((after.items.len(), after.invalid.len()), (0, foreign.len()), "and nothing else was touched");
}

pub(super) async fn a_list_is_of_the_revision_that_it_says(cx: Fixture) {
    let client = filled(&cx, &["d/a", "d/b"]).await;
    let (writer, store) = (cx.provider().await, cx.store().await);
    let mut last = Revision::ZERO;
    for n in 0..6 {
        // What was written last is in the list, or beside it, or gone from it.
        match n % 3 {
            0 => drop(writer.config().set_raw("d/c", value("c")).await.unwrap()),
            1 => drop(writer.config().set_raw("elsewhere", value("e")).await.unwrap()),
            _ => drop(writer.config().delete("d/c").await.unwrap()),
        }
        let before = head(&*store).await;
        let listed = client.config().list_raw("d").await.unwrap();
        let after = head(&*store).await;
        assert!(
            before <= listed.revision && listed.revision <= after,
            "listed at a revision from {before} to {after}, and says {}",
            listed.revision
        );
        assert!(listed.revision > last);
        last = listed.revision;
    }
}

pub(super) async fn what_is_listed_is_what_is_read(cx: Fixture) {
    let keys: Vec<String> = (0..40).map(|n| format!("d/{n:02}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let client = filled(&cx, &keys).await;
    client.config().set_raw("d/07", value("again")).await.unwrap();
    for prefix in ["d", "d/", "/d", "/d/", ""] {
        let listed = client.config().list_raw(prefix).await.unwrap().items;
        assert_eq!(listed.len(), keys.len(), "{prefix:?}");
        for entry in listed {
            let read = client.config().get_raw(&entry.key).await.unwrap().expect("what is listed is there");
            assert_eq!((entry.value, entry.version), (read.value, read.version), "{}", entry.key);
        }
    }
}

pub(super) async fn the_list_is_that_of_its_revision(cx: Fixture) {
    let (provider, store) = (filled(&cx, &["d/a"]).await, cx.store().await);
    let mut lists = Vec::new();
    for n in 0..6 {
        if n % 3 == 2 {
            provider.config().delete(&format!("d/{}", n - 1)).await.unwrap();
        } else {
            provider.config().set_raw(&format!("d/{n}"), value("v")).await.unwrap();
        }
        lists.push(provider.config().list_raw("d").await.unwrap());
    }
    provider.config().set_raw("d/last", value("v")).await.unwrap();
    for list in lists {
        // The same as the store has in its history.
        let then = Range::prefix(layout::config("d/")).with_at(list.revision);
        let then = store.range(then).await.expect("a present revision of before").entries;
        let then: Vec<_> = then.iter().map(|entry| (entry.key.to_vec(), entry.modified)).collect();
        let listed = list.items.iter().map(|entry| (layout::config(&entry.key).into_bytes(), entry.version));
        assert_eq!(listed.collect::<Vec<_>>(), then);
    }
}
