//! R82 Batching.

use std::collections::BTreeMap;
use std::sync::Arc;

use coord_api::store::{Change, Span, Store as _, StoreEvent};
use coord_core::layers::Batched;
use coord_testkit::Fixture;
use coord_testkit::wait::within;
use futures_util::future::{join, join_all};

use super::{get, put};

pub(super) async fn what_comes_at_once_costs_few_requests(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let store = Batched::new(Arc::clone(&client.store));
    let writes = join_all((0..100).map(|n| put(&store, format!("k{n}"), n.to_string())));
    let (written, counts) = counter.during(writes).await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    assert!(counts.requests() <= 10, "{} requests for 100 writes", counts.requests());
    let (read, counts) = counter.during(join_all((0..100).map(|n| get(&store, format!("k{n}"))))).await;
    for (n, read) in read.into_iter().enumerate() {
        assert_eq!(read.unwrap().1, Some(n.to_string()), "each its own answer");
    }
    assert!(counts.requests() <= 10, "{} requests for 100 reads", counts.requests());
}

pub(super) async fn every_write_is_a_version_of_its_own(cx: Fixture) {
    let store = Batched::new(cx.store().await);
    let other = cx.store().await;
    let mut watch = other.watch(Span::key("k"), None).await.unwrap();
    let keys = ["k", "l", "k", "m", "k", "k"];
    let written =
        join_all(keys.into_iter().enumerate().map(|(n, key)| put(&store, key, n.to_string()))).await;
    let mut expected: Vec<_> = written
        .into_iter()
        .enumerate()
        .filter(|(n, _)| keys[*n] == "k")
        .map(|(n, revision)| (revision.unwrap(), n.to_string()))
        .collect();
    expected.sort();
    expected.dedup_by_key(|(revision, _)| *revision);
    assert_eq!(expected.len(), 4, "four revisions for four writes of a key");
    let mut told = Vec::new();
    while told.len() < expected.len() {
        if let StoreEvent::Batch(batch) = within(cx.soon(), "a batch", watch.next()).await.unwrap().unwrap() {
            for change in batch.changes {
                let Change::Put(entry) = change else { panic!("nothing was deleted") };
                told.push((batch.revision, String::from_utf8_lossy(entry.value.as_bytes()).into_owned()));
            }
        }
    }
    assert_eq!(told, expected, "and each is told");
}

pub(super) async fn a_read_shows_what_its_revision_has(cx: Fixture) {
    let store = Batched::new(cx.store().await);
    let mut written = BTreeMap::from([(put(&store, "k", "first").await.unwrap(), "first".to_owned())]);
    let mut reads = Vec::new();
    for round in 0..20 {
        let writes = join_all((0..3).map(|n| {
            let store = &store;
            async move {
                let value = format!("{round}.{n}");
                (put(store, "k", value.clone()).await.unwrap(), value)
            }
        }));
        let looks = join_all((0..5).map(|_| get(&store, "k")));
        let (some, looked) = join(writes, looks).await;
        written.extend(some);
        reads.extend(looked.into_iter().map(Result::unwrap));
    }
    for (revision, value) in reads {
        let then = written.range(..=revision).next_back().map(|(_, value)| value.clone());
        assert_eq!(value, then, "a read at revision {revision}");
    }
}

pub(super) async fn what_was_acknowledged_is_read(cx: Fixture) {
    let store = Batched::new(cx.store().await);
    join_all((0..8).map(|worker| {
        let store = &store;
        async move {
            let key = format!("k{worker}");
            for n in 0..20 {
                let written = put(store, key.clone(), n.to_string()).await.unwrap();
                let (at, value) = get(store, key.clone()).await.unwrap();
                assert_eq!(value, Some(n.to_string()));
                assert!(at >= written, "read at revision {at}, written at {written}");
            }
        }
    }))
    .await;
}

pub(super) async fn a_watch_from_a_reads_revision_misses_nothing(cx: Fixture) {
    let store = Batched::new(cx.store().await);
    for round in 0..10 {
        let value = round.to_string();
        let (written, read) = join(put(&store, "k", value.clone()), get(&store, "k")).await;
        let ((revision, seen), written) = (read.unwrap(), written.unwrap());
        if seen.as_ref() == Some(&value) {
            continue;
        }
        // It was read before: then a watch from there tells of the write.
        let mut watch = store.watch(Span::key("k"), Some(revision)).await.unwrap();
        loop {
            match within(cx.soon(), "the write is told", watch.next()).await.unwrap().unwrap() {
                StoreEvent::Batch(batch) => {
                    assert_eq!(batch.revision, written);
                    break;
                }
                StoreEvent::Progress(revision) => assert!(revision < written, "{written} was passed over"),
            }
        }
    }
}
