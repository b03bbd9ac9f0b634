//! S6 Durability. The store's process is killed and its data opened again.

use std::sync::Arc;

use coord_api::store::{Compare, Op, Range, Span, Store, Txn};
use coord_api::{ErrorKind, Result, Revision};
use tokio::time::sleep;

use super::{delete, get, head, keys, put, put_leased};
use crate::fixture::Fixture;
use crate::view::StoreView;
use crate::wait::{eventually, within};

pub(super) async fn what_was_acknowledged_survives(cx: Fixture) {
    let store = cx.store().await;
    let lease = store.grant_lease(cx.ttl()).await.unwrap().id;
    put(&*store, "deleted", "1").await;
    put(&*store, "updated", "1").await;
    put(&*store, "empty", "").await;
    put_leased(&*store, "leased", "1", lease).await;
    delete(&*store, "deleted").await;
    put(&*store, "updated", "2").await;
    let revoked = store.grant_lease(cx.ttl()).await.unwrap().id;
    put_leased(&*store, "revoked", "1", revoked).await;
    store.revoke_lease(revoked).await.unwrap();
    for n in 0..100 {
        store
            .txn(Txn::new().then(Op::put(format!("n/{n}"), n.to_string())).then(Op::put("n", n.to_string())))
            .await
            .unwrap();
    }
    let before = store.range(Range::prefix("")).await.unwrap();
    cx.reopen().await;
    let after = cx.store().await.range(Range::prefix("")).await.unwrap();
    assert_eq!(after.entries, before.entries, "values, revisions and leases");
    assert!(after.revision >= before.revision);
}

pub(super) async fn revisions_never_go_back(cx: Fixture) {
    let mut last = Revision::ZERO;
    for round in 0..3 {
        let store = cx.store().await;
        assert!(head(&*store).await >= last, "after opening it {round} times");
        let put = put(&*store, "k", "1").await;
        assert!(put > last);
        // The last write deletes: nothing that is left carries its revision.
        last = delete(&*store, "k").await;
        assert!(last > put);
        cx.reopen().await;
    }
}

pub(super) async fn the_store_keeps_its_identity(cx: Fixture) {
    let id = cx.store().await.status().await.unwrap().store_id;
    cx.reopen().await;
    assert_eq!(cx.store().await.status().await.unwrap().store_id, id);
}

pub(super) async fn history_is_right_or_compacted(cx: Fixture) {
    let store = cx.store().await;
    let first = put(&*store, "k", "1").await;
    let second = put(&*store, "k", "2").await;
    cx.reopen().await;
    let store = cx.store().await;
    match store.range(Range::key("k").with_at(first)).await {
        Ok(then) => assert_eq!(then.entries[0].value, "1".into()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Compacted),
    }
    let third = put(&*store, "k", "3").await;
    for (after, expected) in [(first, vec![second, third]), (second, vec![third])] {
        match revisions_after(&cx, &store, after, third).await {
            Ok(seen) => assert_eq!(seen, expected),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Compacted, "{error}"),
        }
    }
}

/// The revisions that a watch delivers up to `last`.
async fn revisions_after(
    cx: &Fixture,
    store: &Arc<dyn Store>,
    after: Revision,
    last: Revision,
) -> Result<Vec<Revision>> {
    let mut seen = Vec::new();
    let mut watch = StoreView::after(store, Span::key("k"), after).await?;
    while seen.last() != Some(&last) {
        seen.push(within(cx.soon(), "the next batch of a watch", watch.next()).await?.revision);
    }
    Ok(seen)
}

pub(super) async fn a_lease_resumes_and_expires(cx: Fixture) {
    let store = cx.store().await;
    let lease = store.grant_lease(cx.ttl()).await.unwrap();
    put_leased(&*store, "k", "1", lease.id).await;
    sleep(lease.ttl / 2).await;
    cx.reopen().await;
    let store = cx.store().await;
    if let Some(info) = store.lease(lease.id).await.unwrap() {
        assert!(info.remaining <= lease.ttl);
        assert_eq!(info.keys, ["k"]);
        assert!(get(&*store, "k").await.is_some());
    }
    sleep(cx.gone_by(lease.ttl)).await;
    assert_eq!(keys(&*store, Range::prefix("")).await.len(), 0, "it does not live for ever");
    assert_eq!(store.lease(lease.id).await.unwrap(), None);
}

pub(super) async fn a_lease_resumes_and_can_be_renewed(cx: Fixture) {
    let store = cx.store().await;
    let lease = store.grant_lease(cx.ttl()).await.unwrap();
    put_leased(&*store, "k", "1", lease.id).await;
    cx.reopen().await;
    let store = cx.store().await;
    for _ in 0..4 {
        match store.keep_alive(lease.id).await {
            Ok(ttl) => assert_eq!(ttl, lease.ttl),
            // It may expire while the store is down, but then with its keys.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::LeaseLost);
                assert_eq!(get(&*store, "k").await, None);
                return;
            }
        }
        let held = Txn::new().when(Compare::Lease("k".into(), lease.id));
        assert!(store.txn(held).await.unwrap().succeeded);
        sleep(lease.ttl / 2).await;
    }
}

pub(super) async fn no_lease_is_granted_twice_across_reopening(cx: Fixture) {
    let store = cx.store().await;
    let revoked = store.grant_lease(cx.ttl()).await.unwrap().id;
    let held = store.grant_lease(cx.ttl()).await.unwrap().id;
    store.revoke_lease(revoked).await.unwrap();
    cx.reopen().await;
    let store = cx.store().await;
    let new = store.grant_lease(cx.ttl()).await.unwrap().id;
    assert!(new != revoked && new != held);
}

/// Kills the store while clients write to it, each two keys at a time: what was acknowledged is
/// there, and of no transaction a part. Returns what the writers wrote, and what they were told.
async fn killed_while_writing(cx: &Fixture) -> Vec<(usize, Option<Revision>)> {
    let mut writers = Vec::new();
    for writer in 0..4 {
        let store = cx.store().await;
        writers.push(tokio::spawn(async move {
            let mut written = Vec::new();
            for n in (0..2_000_usize).map(|n| n * 4 + writer) {
                let txn = Txn::new()
                    .then(Op::put(format!("one/{n}"), n.to_string()))
                    .then(Op::put(format!("two/{n}"), n.to_string()))
                    .then(Op::delete(format!("one/{}", n.wrapping_sub(40))))
                    .then(Op::delete(format!("two/{}", n.wrapping_sub(40))));
                match store.txn(txn).await {
                    Ok(reply) => written.push((n, Some(reply.revision))),
                    Err(_) => {
                        written.push((n, None));
                        break;
                    }
                }
                tokio::task::yield_now().await;
            }
            written
        }));
    }
    let store = cx.store().await;
    eventually(cx.soon() * 3, "they write", async || {
        let found = store.range(Range::key("no such key")).await.unwrap();
        (found.revision.get() > 150).then_some(())
    })
    .await;
    cx.reopen().await;
    let mut all = Vec::new();
    for writer in writers {
        all.extend(within(cx.soon() * 3, "clients of a killed store end", writer).await.unwrap());
    }
    all.sort_unstable();
    all
}

pub(super) async fn a_transaction_is_whole_after_a_kill(cx: Fixture) {
    let written = killed_while_writing(&cx).await;
    let store = cx.store().await;
    let all = store.range(Range::prefix("")).await.unwrap();
    let half = |prefix: &str| {
        let entry = |entry: &coord_api::store::Entry| {
            let name =
                std::str::from_utf8(&entry.key).unwrap().strip_prefix(prefix)?.parse::<usize>().unwrap();
            Some((name, (entry.created, entry.modified, entry.value.clone())))
        };
        all.entries.iter().filter_map(entry).collect::<std::collections::BTreeMap<_, _>>()
    };
    let (one, two) = (half("one/"), half("two/"));
    assert_eq!(one, two, "both writes of a transaction, or none");
    let last = written.iter().filter_map(|(_, revision)| *revision).max().unwrap_or_default();
    assert!(all.revision >= last, "revision {last} was acknowledged, and the store is at {}", all.revision);
    for (n, revision) in written {
        let Some(revision) = revision else { continue };
        let found = one.get(&n).map(|(_, modified, _)| *modified);
        // Deleted by a later one of the same writer, which may not have been told of it.
        let later = one.keys().any(|later| *later > n && (later - n) % 40 == 0);
        assert!(
            found == Some(revision) || (found.is_none() && later),
            "{n} was acknowledged at {revision}, and it is {found:?}"
        );
    }
}

pub(super) async fn what_a_kill_cut_off_is_told_as_it_was(cx: Fixture) {
    let written = killed_while_writing(&cx).await;
    let store = cx.store().await;
    let all = store.range(Range::prefix("")).await.unwrap();
    let known: Vec<Revision> = written.iter().filter_map(|(_, revision)| *revision).collect();
    let first = known.iter().copied().min().unwrap_or_default();
    // A watch from before tells all of it, in whole transactions, or that it is gone.
    let next = put(&*store, "next", "1").await;
    assert!(next > all.revision, "a change after {} is at {next}", all.revision);
    let mut told = Vec::new();
    let mut watch = match StoreView::after(&store, Span::prefix(""), first).await {
        Ok(watch) => watch,
        Err(error) => return assert_eq!(error.kind(), ErrorKind::Compacted, "{error:?}"),
    };
    loop {
        match within(cx.soon(), "the next batch of a watch", watch.next()).await {
            Ok(batch) if batch.revision == next => break,
            Ok(batch) => {
                assert_eq!(batch.changes.len() % 2, 0, "both writes of a transaction, or none: {batch:?}");
                told.push(batch.revision);
            }
            Err(error) => return assert_eq!(error.kind(), ErrorKind::Compacted, "{error:?}"),
        }
    }
    let missing: Vec<Revision> =
        known.into_iter().filter(|revision| *revision > first && !told.contains(revision)).collect();
    assert!(missing.is_empty(), "acknowledged, and not told by a watch from before: {missing:?}");
}
