//! S1 Revision.

use std::collections::BTreeSet;

use coord_api::Revision;
use coord_api::store::{Compare, Op, Range, Txn};
use futures_util::future::join_all;

use super::{delete, get, head, put, put_leased};
use crate::fixture::Fixture;

pub(super) async fn a_write_gets_a_new_greater_revision(cx: Fixture) {
    let store = cx.store().await;
    let mut last = head(&*store).await;
    for key in ["a", "a", "b", "a"] {
        let revision = put(&*store, key, "1").await;
        assert!(revision > last, "{revision} after {last}");
        assert_eq!(get(&*store, key).await.unwrap().modified, revision);
        assert_eq!(head(&*store).await, revision, "the write was the last");
        last = revision;
    }
    let deleted = delete(&*store, "a").await;
    assert!(deleted > last, "a deletion is a change");
    assert!(put(&*store, "a", "2").await > deleted, "also after delete and re-create");
}

pub(super) async fn revisions_are_below_two_to_the_63(cx: Fixture) {
    let store = cx.store().await;
    assert!(head(&*store).await < Revision::MAX, "the revision before every write");
    let txn = Txn::new().then(Op::put("k", "1")).then(Op::Range(Range::key("k")));
    let reply = store.txn(txn).await.unwrap();
    let found = store.range(Range::key("k")).await.unwrap();
    let inside = reply.range(1).expect("an answer for each operation");
    let entries = found.entries.iter().chain(&inside.entries);
    let revisions = entries.flat_map(|entry| [entry.created, entry.modified]);
    for revision in revisions.chain([reply.revision, found.revision, inside.revision]) {
        // The type holds none that is larger: those all come as this one.
        assert!(revision < Revision::MAX, "a store keeps to revisions below 2^63 - 1");
    }
}

pub(super) async fn one_counter_serves_all_keys_and_clients(cx: Fixture) {
    let stores = join_all((0..5).map(|_| cx.store())).await;
    let mut last = Revision::ZERO;
    for (n, store) in (0..50).zip(stores.iter().cycle()) {
        let revision =
            store.txn(Txn::new().then(Op::put(format!("k{}", n % 7), "1"))).await.unwrap().revision;
        assert!(revision > last, "{revision} after {last}");
        last = revision;
    }
    // All at once, or one of each client at a time, where those of one may share a revision.
    let at_once = if cx.batches() { stores.len() } else { 50 };
    let mut revisions = BTreeSet::new();
    for from in (0..50).step_by(at_once) {
        let writes = (from..from + at_once)
            .zip(stores.iter().cycle())
            .map(|(n, store)| store.txn(Txn::new().then(Op::put(format!("k{n}"), "2"))));
        revisions.extend(join_all(writes).await.into_iter().map(|reply| reply.unwrap().revision));
    }
    assert_eq!(revisions.len(), 50, "each write has a revision of its own");
    assert!(revisions.first() > Some(&last));
}

pub(super) async fn a_transaction_stamps_all_its_changes_with_one_revision(cx: Fixture) {
    let store = cx.store().await;
    let first = put(&*store, "old", "1").await;
    put(&*store, "gone", "1").await;
    let reply = store
        .txn(Txn::new().then(Op::put("new", "2")).then(Op::put("old", "2")).then(Op::delete("gone")))
        .await
        .unwrap();
    let (new, old) = (get(&*store, "new").await.unwrap(), get(&*store, "old").await.unwrap());
    assert_eq!((new.created, new.modified), (reply.revision, reply.revision));
    assert_eq!((old.created, old.modified), (first, reply.revision));
    assert_eq!(get(&*store, "gone").await, None);
    assert_eq!(head(&*store).await, reply.revision);
}

pub(super) async fn what_changes_nothing_leaves_the_revision(cx: Fixture) {
    let store = cx.store().await;
    let last = put(&*store, "a", "1").await;
    let nothing = [
        Txn::new(),
        Txn::new().then(Op::delete("absent")),
        Txn::new().then(Op::Range(Range::prefix(""))),
        Txn::new().when(Compare::Absent("a".into())).then(Op::put("a", "2")),
        Txn::new().when(Compare::Present("a".into())).otherwise(Op::put("a", "2")),
    ];
    for txn in nothing {
        let reply = store.txn(txn.clone()).await.unwrap();
        assert_eq!(reply.revision, last, "{txn:?}");
        assert_eq!(head(&*store).await, last, "{txn:?}");
    }
    assert_eq!(get(&*store, "a").await.unwrap().value, "1".into());
}

pub(super) async fn an_equal_value_is_a_change(cx: Fixture) {
    let store = cx.store().await;
    let first = put(&*store, "a", "same").await;
    let second = put(&*store, "a", "same").await;
    let entry = get(&*store, "a").await.unwrap();
    assert!(second > first);
    assert_eq!((entry.created, entry.modified), (first, second));
}

pub(super) async fn a_key_knows_its_create_and_its_mod_revision(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let created = put(&*store, "a", "1").await;
    let modified = put(&*other, "a", "2").await;
    put(&*store, "b", "1").await;
    let entry = get(&*store, "a").await.unwrap();
    assert_eq!((entry.created, entry.modified), (created, modified));
    delete(&*store, "a").await;
    let again = put(&*other, "a", "3").await;
    let entry = get(&*store, "a").await.unwrap();
    assert_eq!((entry.created, entry.modified), (again, again), "a re-created key is a new one");
}

pub(super) async fn a_key_knows_its_lease(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let (one, two) = (
        store.grant_lease(cx.long_ttl()).await.unwrap().id,
        store.grant_lease(cx.long_ttl()).await.unwrap().id,
    );
    put(&*store, "a", "1").await;
    assert_eq!(get(&*other, "a").await.unwrap().lease, None);
    for lease in [one, two] {
        put_leased(&*store, "a", "1", lease).await;
        assert_eq!(get(&*other, "a").await.unwrap().lease, Some(lease));
    }
    put(&*store, "a", "1").await;
    assert_eq!(get(&*other, "a").await.unwrap().lease, None);
}

pub(super) async fn all_clients_see_one_identity(cx: Fixture) {
    let (one, two) = (cx.store().await, cx.store().await);
    let id = one.status().await.unwrap().store_id;
    assert!(!id.is_empty());
    assert_eq!(two.status().await.unwrap().store_id, id);
    put(&*one, "a", "1").await;
    assert_eq!(one.status().await.unwrap().store_id, id, "a write does not change who the store is");
}
