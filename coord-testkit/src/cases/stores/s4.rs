//! S4 Watch.

use std::sync::Arc;

use coord_api::store::{Batch, Change, Compare, Op, Range, Span, Store, StoreEvent, Txn};
use coord_api::{Error, ErrorKind, Result, Revision};
use tokio::time::sleep;

use super::{delete, get, head, put, told, watch};
use crate::fixture::Fixture;
use crate::view::StoreView;
use crate::wait::within;

/// Reads `count` batches of a watch from the past, or as far as its history goes.
async fn batches(
    cx: &Fixture,
    store: &Arc<dyn Store>,
    span: Span,
    after: Revision,
    count: usize,
) -> Result<Vec<Batch>> {
    let mut watch = StoreView::after(store, span, after).await?;
    let mut batches = Vec::new();
    while batches.len() < count {
        batches.push(within(cx.soon(), "the next batch of a watch", watch.next()).await?);
    }
    Ok(batches)
}

fn assert_compacted(error: &Error, lost: Revision) {
    assert_eq!(error.kind(), ErrorKind::Compacted, "{error}");
    assert!(
        error.oldest_revision().is_none_or(|oldest| oldest > lost),
        "the oldest revision left is not {lost}: {error:?}"
    );
}

pub(super) async fn a_watch_delivers_every_change_after_where_it_is_armed(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    put(&*writer, "w/a", "before").await;
    let mut watch = watch(&store, Span::prefix("w/")).await;
    let mut expected = Vec::new();
    for n in 0..200 {
        expected.push(
            writer
                .txn(Txn::new().then(Op::put(format!("w/{}", n % 3), n.to_string())))
                .await
                .unwrap()
                .revision,
        );
    }
    for (n, revision) in expected.into_iter().enumerate() {
        let batch = watch.expect(cx.soon()).await;
        assert_eq!(batch.revision, revision);
        assert_eq!(told(&batch), [(format!("w/{}", n % 3).into(), Some(n.to_string().into()))]);
    }
}

pub(super) async fn a_watch_from_now_is_armed_at_its_call(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    for round in 0..20 {
        let before = put(&*writer, "k", "before").await;
        let mut watch = store.watch(Span::key("k"), None).await.unwrap();
        let after = put(&*writer, "k", "after").await;
        assert!(watch.armed() < after, "round {round}");
        loop {
            match within(cx.soon(), "the change after the call", watch.next()).await {
                // A replica that lags may tell again what its caller knows already.
                Some(Ok(StoreEvent::Batch(batch))) if batch.revision <= before => {
                    assert!(batch.revision > watch.armed())
                }
                Some(Ok(StoreEvent::Batch(batch))) => {
                    assert_eq!(batch.revision, after, "round {round}");
                    break;
                }
                Some(Ok(StoreEvent::Progress(revision))) => assert!(revision < after),
                Some(Err(error)) if error.is_transient() => break,
                other => panic!("wanted a batch, got {other:?}"),
            }
        }
    }
}

pub(super) async fn a_watch_from_the_past_delivers_exactly_what_came_after(cx: Fixture) {
    let store = cx.store().await;
    let mut revisions = Vec::new();
    for value in ["1", "2", "3"] {
        revisions.push(put(&*store, "k", value).await);
        put(&*store, "elsewhere", value).await;
    }
    revisions.push(delete(&*store, "k").await);
    for skipped in 0..4 {
        let after = revisions[skipped];
        assert_eq!(store.watch(Span::key("k"), Some(after)).await.unwrap().armed(), after);
        let mut watch = StoreView::after(&store, Span::key("k"), after).await.unwrap();
        for revision in &revisions[skipped + 1..] {
            assert_eq!(watch.expect(cx.soon()).await.revision, *revision);
        }
        let live = put(&*store, "k", "live").await;
        assert_eq!(watch.expect(cx.soon()).await.revision, live, "past and present join without a gap");
        revisions.push(live);
    }
}

pub(super) async fn the_changes_of_one_revision_are_one_batch_in_order(cx: Fixture) {
    let store = cx.store().await;
    put(&*store, "b/old", "1").await;
    let mut watch = watch(&store, Span::prefix("b/")).await;
    let txn = Txn::new()
        .then(Op::put("b/z", "1"))
        .then(Op::put("outside", "1"))
        .then(Op::delete("b/old"))
        .then(Op::put("b/a", "2"));
    let revision = store.txn(txn).await.unwrap().revision;
    let next = put(&*store, "b/a", "3").await;
    let batch = watch.expect(cx.soon()).await;
    assert_eq!(batch.revision, revision);
    assert_eq!(
        told(&batch),
        [("b/z".into(), Some("1".into())), ("b/old".into(), None), ("b/a".into(), Some("2".into()))]
    );
    assert_eq!(watch.expect(cx.soon()).await.revision, next);
}

pub(super) async fn a_watch_sees_its_span_alone(cx: Fixture) {
    let store = cx.store().await;
    let spans =
        [Span::key("a"), Span::prefix("a/"), Span::Interval("a/b".into(), "b".into()), Span::prefix("")];
    let mut watches = Vec::new();
    for span in spans {
        watches.push((span.clone(), watch(&store, span).await));
    }
    let keys = ["a", "a/", "a/a", "a/b", "ab", "a0", "b", "0"];
    let mut revisions = Vec::new();
    for key in keys {
        revisions.push((key, put(&*store, key, "1").await));
    }
    for key in keys {
        revisions.push((key, delete(&*store, key).await));
    }
    for (span, mut watch) in watches {
        for (key, revision) in revisions.iter().filter(|(key, _)| span.contains(key.as_bytes())) {
            let batch = watch.expect(cx.soon()).await;
            assert_eq!((batch.revision, batch.changes.len()), (*revision, 1), "{span:?}");
            assert_eq!(batch.changes[0].key(), key, "{span:?}");
        }
    }
}

pub(super) async fn what_changes_nothing_is_not_delivered(cx: Fixture) {
    let store = cx.store().await;
    put(&*store, "k", "1").await;
    let mut watch = watch(&store, Span::prefix("")).await;
    store.txn(Txn::new().then(Op::delete("absent"))).await.unwrap();
    store.txn(Txn::new().when(Compare::Absent("k".into())).then(Op::put("k", "2"))).await.unwrap();
    store.txn(Txn::new().then(Op::Range(Range::prefix("")))).await.unwrap();
    store.grant_lease(cx.ttl()).await.unwrap();
    let revision = put(&*store, "real", "1").await;
    let batch = watch.expect(cx.soon()).await;
    assert_eq!((batch.revision, told(&batch)), (revision, vec![("real".into(), Some("1".into()))]));
}

pub(super) async fn a_put_says_whether_it_created(cx: Fixture) {
    let store = cx.store().await;
    let lease = store.grant_lease(cx.long_ttl()).await.unwrap().id;
    let mut watch = watch(&store, Span::key("k")).await;
    put(&*store, "k", "1").await;
    store.txn(Txn::new().then(Op::put_leased("k", "2", lease))).await.unwrap();
    delete(&*store, "k").await;
    put(&*store, "k", "3").await;
    let mut created = Vec::new();
    let mut leases = Vec::new();
    for _ in 0..4 {
        let batch = watch.expect(cx.soon()).await;
        if let Change::Put(entry) = &batch.changes[0] {
            created.push(entry.created == entry.modified);
            leases.push(entry.lease);
        }
    }
    assert_eq!(created, [true, false, true]);
    assert_eq!(leases, [None, Some(lease), None]);
    assert_eq!(get(&*store, "k").await.unwrap().value, "3".into());
}

pub(super) async fn progress_is_never_ahead_of_the_stream(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut watch = watch(&store, Span::prefix("p/")).await;
    let writing = tokio::spawn(async move {
        let mut inside = Vec::new();
        for n in 0..100 {
            let key = if n % 5 == 0 { "p/k" } else { "elsewhere" };
            let revision = put(&*writer, key, "v").await;
            if n % 5 == 0 {
                inside.push(revision);
            }
            tokio::task::yield_now().await;
        }
        inside
    });
    // The view itself fails where a batch comes at or below what progress told.
    let mut delivered = Vec::new();
    for _ in 0..20 {
        delivered.push(watch.expect(cx.soon()).await.revision);
    }
    assert_eq!(writing.await.unwrap(), delivered);
}

pub(super) async fn a_dropped_watch_disturbs_no_other(cx: Fixture) {
    let store = cx.store().await;
    let mut kept = watch(&store, Span::key("k")).await;
    for _ in 0..100 {
        let mut dropped = watch(&store, Span::key("k")).await;
        let revision = put(&*store, "k", "1").await;
        assert_eq!(dropped.expect(cx.soon()).await.revision, revision);
        drop(dropped);
        assert_eq!(kept.expect(cx.soon()).await.revision, revision);
    }
}

pub(super) async fn a_stalled_watch_delivers_all_or_says_so(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut watch = watch(&store, Span::prefix("s/")).await;
    let mut revisions = Vec::new();
    for _ in 0..250 {
        let txn = (0..100).fold(Txn::new(), |txn, key| txn.then(Op::put(format!("s/{key}"), "v")));
        revisions.push(writer.txn(txn).await.unwrap().revision);
    }
    // What is pushed to it, is pushed by now.
    sleep(cx.slack()).await;
    for revision in revisions {
        match within(cx.soon(), "the next batch of a watch", watch.next()).await {
            Ok(batch) => assert_eq!(
                (batch.revision, batch.changes.len()),
                (revision, 100),
                "no gap, no duplicate, whole"
            ),
            Err(error) => return assert_compacted(&error, revision),
        }
    }
}

pub(super) async fn every_lost_revision_is_compacted_and_every_other_is_not(cx: Fixture) {
    let store = cx.store().await;
    let mut revisions = Vec::new();
    for n in 0..6 {
        revisions.push(put(&*store, "k", "v").await);
        if n % 2 == 1 {
            revisions.push(delete(&*store, "k").await);
        }
    }
    // At a put, and at a deletion, which some servers then drop.
    for compacted in [3, 5] {
        cx.compact(revisions[compacted]).await;
        for (n, revision) in revisions.iter().enumerate() {
            let left = &revisions[n + 1..];
            let told = batches(&cx, &store, Span::key("k"), *revision, left.len()).await;
            let read = store.range(Range::key("k").with_at(*revision)).await;
            if n < compacted {
                assert_compacted(&told.unwrap_err(), revisions[n]);
                assert_compacted(&read.unwrap_err(), *revision);
            } else {
                assert_eq!(
                    told.unwrap().iter().map(|batch| batch.revision).collect::<Vec<_>>(),
                    left,
                    "after {revision}"
                );
                match read {
                    Ok(found) => assert_eq!(found.revision, *revision),
                    // The state at the cut itself may be gone.
                    Err(error) => {
                        assert_eq!((n, error.kind()), (compacted, ErrorKind::Compacted), "{error:?}");
                    }
                }
            }
        }
    }
}

pub(super) async fn history_that_is_gone_is_compacted(cx: Fixture) {
    let store = cx.store().await;
    let first = put(&*store, "k", "1").await;
    let second = put(&*store, "k", "2").await;
    let third = put(&*store, "k", "3").await;
    cx.compact(third).await;
    for lost in [first, second] {
        assert_compacted(&store.range(Range::key("k").with_at(lost)).await.unwrap_err(), lost);
    }
    assert_compacted(&batches(&cx, &store, Span::key("k"), first, 2).await.unwrap_err(), second);
    assert_compacted(
        &batches(&cx, &store, Span::prefix(""), Revision::new(1).min(first), 3).await.unwrap_err(),
        first,
    );
    assert_eq!(get(&*store, "k").await.unwrap().modified, third, "the present is untouched");
    assert!(put(&*store, "k", "4").await > third);
}

pub(super) async fn a_watch_that_falls_behind_a_compaction_is_told(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut behind = watch(&store, Span::key("k")).await;
    let revisions =
        [put(&*writer, "k", "1").await, delete(&*writer, "k").await, put(&*writer, "k", "2").await];
    cx.compact(revisions[2]).await;
    // A store may have pushed them already; what it may not do is leave any out.
    for revision in revisions {
        match within(cx.soon(), "the next batch of a watch", behind.next()).await {
            Ok(batch) => assert_eq!(batch.revision, revision),
            Err(error) => return assert_compacted(&error, behind.seen()),
        }
    }
}

pub(super) async fn a_continuation_into_lost_history_is_compacted(cx: Fixture) {
    let store = cx.store().await;
    for key in ["a", "b", "c"] {
        put(&*store, key, "1").await;
    }
    let page = store.range(Range::prefix("").with_limit(1)).await.unwrap();
    let later = put(&*store, "b", "2").await;
    cx.compact(later).await;
    let rest = Range::prefix("").with_after_key("a").with_at(page.revision);
    assert_compacted(&store.range(rest).await.unwrap_err(), page.revision);
}

pub(super) async fn what_was_not_compacted_is_still_there(cx: Fixture) {
    let store = cx.store().await;
    put(&*store, "k", "1").await;
    let kept_from = put(&*store, "k", "2").await;
    cx.compact(kept_from).await;
    let third = put(&*store, "k", "3").await;
    let fourth = put(&*store, "k", "4").await;
    let batches = batches(&cx, &store, Span::key("k"), kept_from, 2).await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.revision).collect::<Vec<_>>(), [third, fourth]);
    let past = store.range(Range::key("k").with_at(third)).await.unwrap();
    assert_eq!(past.entries[0].value, "3".into());
}

pub(super) async fn a_watch_that_is_read_late_tells_all_the_same(cx: Fixture) {
    let (store, other, writer) = (cx.store().await, cx.store().await, cx.store().await);
    put(&*writer, "k", "before").await;
    let before = head(&*writer).await;
    let mut watches = Vec::new();
    for store in [&store, &other, &writer] {
        for span in [Span::key("k"), Span::prefix(""), Span::Interval("j".into(), "l".into())] {
            watches.push(store.watch(span, None).await.unwrap());
        }
    }
    // Nobody has read any of them yet.
    let mut written = Vec::new();
    for value in ["1", "2", "3"] {
        written.push(put(&*writer, "k", value).await);
    }
    for mut watch in watches {
        let mut told = Vec::new();
        while told.last() != written.last() {
            match within(cx.soon(), "every change after the call", watch.next()).await {
                Some(Ok(StoreEvent::Batch(batch))) if batch.revision > before => told.push(batch.revision),
                Some(Ok(_)) => {}
                // It may break; what it may not do is go on without some of them.
                Some(Err(error)) if error.is_transient() => break,
                other => panic!("wanted a batch, got {other:?}"),
            }
        }
        assert_eq!(told, written[..told.len()]);
    }
}
