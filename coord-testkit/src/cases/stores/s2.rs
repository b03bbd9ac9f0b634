//! S2 Range.

use std::collections::BTreeSet;

use bytes::Bytes;
use coord_api::store::{Compare, Op, Order, Range, Span, Store, Txn};
use coord_api::{ErrorKind, Revision};

use super::{delete, get, head, keys, put};
use crate::fixture::Fixture;

/// Keys in byte order, each with its reason.
const SORTED: [&[u8]; 9] = [
    b"/a",       // sorts before letters
    b"a",        //
    b"a\0",      // the smallest after `a`
    b"a/",       //
    b"a/b",      //
    b"a0",       // the end of the directory `a/`
    b"b",        //
    b"\xff",     // not UTF-8
    b"\xff\xff", // no prefix follows it
];

/// Writes [`SORTED`] in another order, each key by a transaction of its own, and returns the keys
/// in the order of their creation.
async fn scrambled(store: &dyn Store) -> Vec<Bytes> {
    let mut created = Vec::new();
    for index in [4, 8, 0, 6, 2, 7, 1, 5, 3] {
        let key = Bytes::from_static(SORTED[index]);
        store.txn(Txn::new().then(Op::put(key.clone(), "v"))).await.unwrap();
        created.push(key);
    }
    created
}

pub(super) async fn a_range_is_a_key_a_directory_or_an_interval(cx: Fixture) {
    let store = cx.store().await;
    scrambled(&*store).await;
    let expected: [(Span, &[&[u8]]); 10] = [
        (Span::key("a"), &[b"a"]),
        (Span::key("nothing"), &[]),
        (Span::key(&b"\xff"[..]), &[b"\xff"]),
        (Span::prefix("a/"), &[b"a/", b"a/b"]),
        (Span::prefix("a"), &[b"a", b"a\0", b"a/", b"a/b", b"a0"]),
        (Span::prefix(&b"\xff"[..]), &[b"\xff", b"\xff\xff"]),
        (Span::prefix("nothing"), &[]),
        (Span::prefix(""), &SORTED),
        (Span::Interval("a".into(), "a0".into()), &[b"a", b"a\0", b"a/", b"a/b"]),
        (Span::Interval("".into(), "a".into()), &[b"/a"]),
    ];
    for (span, found) in expected {
        assert_eq!(keys(&*store, Range::new(span.clone())).await, found, "{span:?}");
    }
}

pub(super) async fn a_range_comes_in_byte_order(cx: Fixture) {
    let store = cx.store().await;
    scrambled(&*store).await;
    let reply = store.range(Range::prefix("")).await.unwrap();
    let found: Vec<Bytes> = reply.entries.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(found, SORTED);
    assert!(!reply.more);
    assert_eq!(reply.revision, head(&*store).await);
}

pub(super) async fn a_range_comes_by_create_revision_on_demand(cx: Fixture) {
    let store = cx.store().await;
    let mut created = scrambled(&*store).await;
    // An update does not change the order.
    store.txn(Txn::new().then(Op::put(created[0].clone(), "updated"))).await.unwrap();
    assert_eq!(keys(&*store, Range::prefix("").with_order(Order::OldestFirst)).await, created);
    assert_eq!(
        keys(&*store, Range::prefix("").with_order(Order::OldestFirst).with_limit(3)).await,
        created[..3]
    );
    // A transaction creates several keys at one revision, which come next to each other.
    store.txn(Txn::new().then(Op::put("z2", "v")).then(Op::put("z1", "v"))).await.unwrap();
    created.reverse();
    let newest = keys(&*store, Range::prefix("").with_order(Order::NewestFirst)).await;
    assert_eq!(newest[2..], created);
    assert_eq!(BTreeSet::from_iter(&newest[..2]), BTreeSet::from([&Bytes::from("z1"), &Bytes::from("z2")]));
    let reply = store.range(Range::prefix("").with_order(Order::NewestFirst).with_limit(1)).await.unwrap();
    assert!(reply.entries[0].key.starts_with(b"z") && reply.more);
}

pub(super) async fn a_limit_says_whether_there_is_more(cx: Fixture) {
    let store = cx.store().await;
    for key in ["a", "b", "c"] {
        put(&*store, key, "v").await;
    }
    for (limit, found, more) in [(1, 1, true), (2, 2, true), (3, 3, false), (4, 3, false)] {
        let reply = store.range(Range::prefix("").with_limit(limit)).await.unwrap();
        assert_eq!((reply.entries.len(), reply.more), (found, more), "limit {limit}");
    }
    let rest = store.range(Range::prefix("").with_after_key("b").with_limit(1)).await.unwrap();
    assert_eq!((rest.entries.len(), rest.more), (1, false));
}

pub(super) async fn a_continuation_reads_on_at_the_same_revision(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    for key in ["a", "b", "c", "d", "e"] {
        put(&*store, key, "before").await;
    }
    let mut page = store.range(Range::prefix("").with_limit(2)).await.unwrap();
    let revision = page.revision;
    let mut all = page.entries.clone();
    for (round, key) in ["c", "bb", "e"].into_iter().enumerate() {
        // What happens between the pages is not in them.
        put(&*other, key, "after").await;
        if round == 0 {
            delete(&*other, "d").await;
        }
        if !page.more {
            break;
        }
        let after = page.entries.last().unwrap().key.clone();
        page = store
            .range(Range::prefix("").with_limit(2).with_after_key(after).with_at(revision))
            .await
            .unwrap();
        assert_eq!(page.revision, revision);
        all.extend(page.entries.iter().cloned());
    }
    assert!(!page.more);
    let seen: Vec<_> = all.iter().map(|entry| (entry.key.as_ref(), entry.value.as_bytes())).collect();
    let before: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
    assert_eq!(seen, before.map(|key| (key, &b"before"[..])));
}

pub(super) async fn a_past_revision_reads_as_it_was(cx: Fixture) {
    let store = cx.store().await;
    let mut states = vec![(put(&*store, "a", "1").await, vec![("a", "1")])];
    states.push((put(&*store, "b", "1").await, vec![("a", "1"), ("b", "1")]));
    states.push((put(&*store, "a", "2").await, vec![("a", "2"), ("b", "1")]));
    states.push((delete(&*store, "b").await, vec![("a", "2")]));
    states.push((put(&*store, "b", "3").await, vec![("a", "2"), ("b", "3")]));
    let lease = store.grant_lease(cx.long_ttl()).await.unwrap().id;
    let both = Txn::new().then(Op::put_leased("c", "4", lease)).then(Op::delete("a"));
    states.push((store.txn(both).await.unwrap().revision, vec![("b", "3"), ("c", "4")]));
    store.revoke_lease(lease).await.unwrap();
    for (revision, state) in &states {
        let reply = store.range(Range::prefix("").with_at(*revision)).await.unwrap();
        assert_eq!(reply.revision, *revision);
        let seen: Vec<_> =
            reply.entries.iter().map(|entry| (entry.key.as_ref(), entry.value.as_bytes())).collect();
        let state: Vec<_> = state.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
        assert_eq!(seen, state, "at {revision}");
        for entry in &reply.entries {
            assert!(
                entry.created <= entry.modified && entry.modified <= *revision,
                "{entry:?} at {revision}"
            );
            let one = store.range(Range::key(entry.key.clone()).with_at(*revision)).await.unwrap();
            assert_eq!(one.entries.as_slice(), std::slice::from_ref(entry), "one key at {revision}");
        }
    }
    let b_again = store.range(Range::key("b").with_at(states[4].0)).await.unwrap();
    assert_eq!(b_again.entries[0].created, states[4].0, "re-created then");
    let c_then = store.range(Range::key("c").with_at(states[5].0)).await.unwrap();
    assert_eq!(c_then.entries[0].lease, Some(lease), "it hung on the lease then");
}

pub(super) async fn a_revision_that_is_yet_to_come_is_not_in_history(cx: Fixture) {
    let store = cx.store().await;
    let last = put(&*store, "a", "1").await;
    for future in [Revision::new(last.get() + 1_000_000), Revision::new(u64::MAX)] {
        let error = store.range(Range::key("a").with_at(future)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Compacted, "{error}");
    }
    assert_eq!(get(&*store, "a").await.unwrap().modified, last);
}

pub(super) async fn later_keys_are_left_out_on_demand(cx: Fixture) {
    let store = cx.store().await;
    put(&*store, "a", "1").await;
    let second = put(&*store, "b", "1").await;
    put(&*store, "c", "1").await;
    put(&*store, "a", "updated later, created before").await;
    let range = Range::prefix("").with_max_created(second);
    assert_eq!(keys(&*store, range.clone()).await, ["a", "b"]);
    let newest = store.range(range.clone().with_order(Order::NewestFirst).with_limit(1)).await.unwrap();
    assert_eq!((newest.entries[0].key.as_ref(), newest.more), (&b"b"[..], true));
    put(&*store, "d", "1").await;
    delete(&*store, "b").await;
    put(&*store, "b", "created anew").await;
    assert_eq!(keys(&*store, Range::prefix("").with_max_created(second)).await, ["a"]);
}

pub(super) async fn values_are_left_out_on_demand(cx: Fixture) {
    let store = cx.store().await;
    let lease = store.grant_lease(cx.long_ttl()).await.unwrap().id;
    store.txn(Txn::new().then(Op::put_leased("a", "value", lease)).then(Op::put("empty", ""))).await.unwrap();
    let full = store.range(Range::prefix("")).await.unwrap();
    let bare = store.range(Range::prefix("").with_keys_only()).await.unwrap();
    assert_eq!(full.entries[0].value, "value".into());
    assert_eq!(full.entries[1].value, "".into(), "the empty value is a value");
    assert_eq!(bare.entries.len(), 2);
    for (full, bare) in full.entries.iter().zip(&bare.entries) {
        assert!(bare.value.is_empty());
        assert_eq!(
            (&full.key, full.created, full.modified, full.lease),
            (&bare.key, bare.created, bare.modified, bare.lease)
        );
    }
}

pub(super) async fn a_range_is_one_snapshot(cx: Fixture) {
    let (writer, reader) = (cx.store().await, cx.store().await);
    let both = |n: usize| Txn::new().then(Op::put("p/a", n.to_string())).then(Op::put("p/z", n.to_string()));
    writer.txn(both(0)).await.unwrap();
    let writing = tokio::spawn(async move {
        for n in 1..=100 {
            writer.txn(both(n)).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut last = Revision::ZERO;
    while !writing.is_finished() {
        let reply = reader.range(Range::prefix("p/")).await.unwrap();
        assert_eq!(reply.entries[0].value, reply.entries[1].value);
        assert_eq!(reply.entries[0].modified, reply.entries[1].modified);
        assert!(
            reply.revision >= last && reply.revision >= reply.entries[0].modified,
            "reads do not go back"
        );
        last = reply.revision;
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
}

pub(super) async fn ten_thousand_keys_are_all_there(cx: Fixture) {
    let store = cx.store().await;
    let name = |n: usize| Bytes::from(format!("many/{n:05}"));
    for chunk in (0..10_007).collect::<Vec<_>>().chunks(101) {
        let txn = chunk.iter().fold(Txn::new(), |txn, n| txn.then(Op::put(name(*n), n.to_string())));
        store.txn(txn).await.unwrap();
    }
    let all: Vec<Bytes> = (0..10_007).map(name).collect();
    assert_eq!(keys(&*store, Range::prefix("many/")).await, all);
    let mut paged = Vec::new();
    let mut range = Range::prefix("many/").with_limit(999);
    loop {
        let page = store.range(range.clone()).await.unwrap();
        paged.extend(page.entries.iter().map(|entry| entry.key.clone()));
        if !page.more {
            break;
        }
        range = range.with_after_key(paged.last().unwrap().clone()).with_at(page.revision);
    }
    assert_eq!(paged, all);
}

pub(super) async fn a_bad_range_is_an_invalid_argument(cx: Fixture) {
    let store = cx.store().await;
    put(&*store, "a", "1").await;
    let bad = [
        Range::prefix("").with_limit(0),
        Range::prefix("").with_after_key("a").with_order(Order::OldestFirst),
        Range::prefix("").with_max_created(Revision::ZERO),
        Range::prefix("").with_at(Revision::ZERO),
    ];
    for range in bad {
        assert_eq!(
            store.range(range.clone()).await.unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{range:?}"
        );
        let inside =
            store.txn(Txn::new().then(Op::put("b", "1")).then(Op::Range(range.clone()))).await.unwrap_err();
        assert_eq!(inside.kind(), ErrorKind::InvalidArgument, "{range:?}");
    }
    let past = Range::prefix("").with_at(head(&*store).await);
    let inside = store.txn(Txn::new().then(Op::Range(past))).await.unwrap_err();
    assert_eq!(inside.kind(), ErrorKind::InvalidArgument);
    assert_eq!(get(&*store, "b").await, None, "nothing of a refused transaction is applied");
}

pub(super) async fn a_bad_span_is_an_invalid_argument(cx: Fixture) {
    let store = cx.store().await;
    let bad = [
        Span::key(""),
        Span::Interval("b".into(), "b".into()),
        Span::Interval("b".into(), "a".into()),
        // No key lies before the smallest one, which to some store means all keys.
        Span::Interval("".into(), "\0".into()),
    ];
    for span in bad {
        let kinds = [
            store.range(Range::new(span.clone())).await.unwrap_err().kind(),
            store.txn(Txn::new().when(Compare::RangeAbsent(span.clone()))).await.unwrap_err().kind(),
            store.txn(Txn::new().then(Op::Range(Range::new(span.clone())))).await.unwrap_err().kind(),
            store.watch(span.clone(), None).await.unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::InvalidArgument; 4], "{span:?}");
    }
}
