//! Answers beyond what a message usually holds are complete.

use std::sync::Arc;

use coord_api::Revision;
use coord_api::store::{Range, Span, Store};
use coord_etcd_fixture::{Binary, Cluster, Series};
use coord_testkit::view::StoreView;

use super::{SOON, put, store};

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
    assert!(listed.entries.iter().enumerate().all(|(n, entry)| entry.value.len() == BYTES && entry.value[0] == n as u8));
    let newest = store.range(Range::prefix("large/").with_order(coord_api::store::Order::NewestFirst)).await.unwrap();
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
    // Each of them delivers what it holds and then says that it cannot go on, or has held everything.
    for watch in &mut stalled {
        let mut next = written.iter();
        while next.len() > 0 {
            match coord_testkit::wait::within(SOON, "an item", watch.next()).await {
                Some(Ok(coord_api::store::StoreEvent::Batch(batch))) => assert_eq!(Some(&batch.revision), next.next()),
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
