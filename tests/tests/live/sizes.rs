//! Answers beyond what a message usually holds are complete.

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::store::{Range, Span, Store};
use coord_api::{ConfigEvent, Revision, Value, WatchStart, WatchState};
use coord_etcd::{EtcdOptions, EtcdProvider};
use coord_servers::etcd::{Binary, Cluster, Proxy, Series, Way};
use coord_testkit::view::{ConfigView, StoreView};
use coord_testkit::wait::{eventually, within};

use super::{SOON, options, put, store};

const VALUES: usize = 200;
const BYTES: usize = 100 << 10;

/// 200 values of 100 KiB, 20 MB in all.
async fn fill(store: &impl Store) -> Vec<Revision> {
    let mut written = Vec::new();
    for n in 0..VALUES {
        written.push(put(store, &format!("large/{n:03}"), vec![n as u8; BYTES]).await.unwrap());
    }
    written
}

#[tokio::test]
async fn a_list_of_twenty_megabytes_is_complete() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let store = store(&cluster).await;
    let written = fill(&store).await;
    let listed = store.range(Range::prefix("large/")).await.unwrap();
    assert!(!listed.more);
    assert_eq!(listed.revision, *written.last().unwrap());
    assert_eq!(listed.entries.iter().map(|entry| entry.modified).collect::<Vec<_>>(), written);
    assert!(
        listed
            .entries
            .iter()
            .enumerate()
            .all(|(n, entry)| entry.value.len() == BYTES && entry.value[0] == n as u8)
    );
    let newest =
        store.range(Range::prefix("large/").with_order(coord_api::store::Order::NewestFirst)).await.unwrap();
    assert_eq!(newest.entries.len(), VALUES);
}

#[tokio::test]
async fn a_backlog_of_twenty_megabytes_is_delivered_whole() {
    for series in [Series::V3_4, Series::V3_5] {
        let cluster = Cluster::single(&Binary::find(series));
        let store = store(&cluster).await;
        let before = put(&store, "before", "").await.unwrap();
        let written = fill(&store).await;
        let store: Arc<dyn Store> = Arc::new(store);
        let mut view = StoreView::after(&store, Span::prefix("large/"), before).await.unwrap();
        for revision in written {
            let batch = view.expect(SOON).await;
            assert_eq!((batch.revision, batch.changes.len()), (revision, 1), "{series:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_of_twenty_megabytes_is_listed_whole_and_told_whole_after_an_outage() {
    for series in [Series::V3_4, Series::V3_5] {
        let cluster = Cluster::single(&Binary::find(series));
        let proxy = Proxy::start(&cluster.endpoints()[0]).await.unwrap();
        let reader = EtcdProvider::connect(EtcdOptions::new([proxy.endpoint()])).await.unwrap();
        let writer = EtcdProvider::connect(options(&cluster)).await.unwrap();
        let mut watch = reader.config().watch_prefix_raw("large", WatchStart::Snapshot).await.unwrap();
        let mut view = ConfigView::after(Revision::ZERO);
        let small = writer.config().set_raw("large/first", Value::from("")).await.unwrap();
        view.follow(&mut watch, small, SOON).await;

        // All of it is written while the reader is cut off.
        proxy.set(Way::Closed);
        eventually(SOON, "the watch is cut off", async || {
            (watch.state() == WatchState::Suspended).then_some(())
        })
        .await;
        let mut log = vec![("large/first".to_owned(), small, Some(Value::from("")))];
        for n in 0..VALUES {
            let (key, value) = (format!("large/{n:03}"), Value::from(vec![n as u8; BYTES]));
            let version = writer.config().set_raw(&key, value.clone()).await.unwrap();
            log.push((key, version, Some(value)));
        }
        proxy.set(Way::Open);
        // As changes one by one, or, where they are more than a watch holds for one who does not
        // read, as the state that they led to.
        view.follow(&mut watch, log.last().unwrap().1, SOON).await;
        view.check(&log);
        assert_eq!(view.state().len(), VALUES + 1, "{series:?}");

        let listed = reader.config().list_raw("large").await.unwrap();
        assert_eq!(listed.items.len(), VALUES + 1, "{series:?}");
        assert!(
            listed.items.iter().all(|entry| view.state()[&entry.key] == (entry.value.clone(), entry.version)),
            "{series:?}"
        );
        // Another one who starts with the state has it in one piece.
        let mut fresh = reader.config().watch_prefix_raw("large", WatchStart::Snapshot).await.unwrap();
        match within(SOON, "the state", fresh.next()).await.unwrap().unwrap() {
            ConfigEvent::Resync(state) => assert_eq!(state.items, listed.items, "{series:?}"),
            event => panic!("{series:?}: {event:?}"),
        }
        reader.close().await.unwrap();
        writer.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_watch_that_nobody_reads_holds_up_nothing() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let store = store(&cluster).await;
    let mut stalled = Vec::new();
    for _ in 0..50 {
        stalled.push(store.watch(Span::prefix("large/"), None).await.unwrap());
    }
    let written = fill(&store).await;
    assert_eq!(store.range(Range::prefix("large/")).await.unwrap().entries.len(), VALUES);
    // Each of them delivers what it holds and then says that it cannot go on, or has held
    // everything.
    for watch in &mut stalled {
        let mut next = written.iter();
        while next.len() > 0 {
            match within(SOON, "an item", watch.next()).await {
                Some(Ok(coord_api::store::StoreEvent::Batch(batch))) => {
                    assert_eq!(Some(&batch.revision), next.next())
                }
                Some(Ok(coord_api::store::StoreEvent::Progress(_))) => {}
                Some(Err(error)) => {
                    assert!(error.is_transient(), "{error}");
                    assert!(next.len() < VALUES, "it delivered something first");
                    break;
                }
                None => panic!("a watch ended without an error"),
            }
        }
    }
}
