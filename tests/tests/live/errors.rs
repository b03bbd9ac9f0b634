//! The table of failures, row by row where a server can be brought to it (R1, R2).

use std::time::Duration;

use coord_api::store::{Op, Range, Span, Store, Txn};
use coord_api::{Error, ErrorKind, LeaseId, Outcome, Revision};
use coord_etcd::{EtcdOptions, EtcdStore};
use coord_servers::etcd::{Binary, Cluster, Series};

use super::{SOON, get, options, put, raw, store, timed};

const ALL: [Series; 2] = [Series::V3_4, Series::V3_5];

fn assert_failed<T: std::fmt::Debug>(
    result: Result<T, Error>,
    kind: ErrorKind,
    outcome: Outcome,
    what: impl std::fmt::Debug,
) {
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (kind, outcome), "{what:?}: {error}");
}

#[tokio::test]
async fn history_that_is_gone_or_yet_to_come_is_compacted() {
    for series in ALL {
        let cluster = Cluster::single(&Binary::find(series));
        let store = store(&cluster).await;
        let first = put(&store, "k", "1").await.unwrap();
        let second = put(&store, "k", "2").await.unwrap();
        raw(&cluster, None).await.compact(second.get() as i64, None).await.unwrap();
        for at in [first, Revision::new(second.get() + 1_000)] {
            let read = store.range(Range::key("k").with_at(at)).await;
            assert_failed(read, ErrorKind::Compacted, Outcome::NotApplied, (series, at));
        }
        let mut watch = store.watch(Span::key("k"), Some(first)).await.unwrap();
        let error = watch.next().await.unwrap().unwrap_err();
        assert_eq!(
            (error.kind(), error.oldest_revision()),
            (ErrorKind::Compacted, Some(second)),
            "{series:?}"
        );
        assert!(watch.next().await.is_none());
    }
}

#[tokio::test]
async fn a_lease_that_is_gone_is_lease_lost() {
    for series in ALL {
        let cluster = Cluster::single(&Binary::find(series));
        let store = store(&cluster).await;
        let gone = LeaseId::new(0x1234);
        assert_failed(store.keep_alive(gone).await, ErrorKind::LeaseLost, Outcome::NotApplied, series);
        let put = Txn::new().then(Op::put_leased("k", "v", gone));
        assert_failed(store.txn(put).await, ErrorKind::LeaseLost, Outcome::NotApplied, series);
        assert_eq!(store.lease(gone).await.unwrap(), None);
        store.revoke_lease(gone).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_server_is_told_to_refuse_is_an_invalid_argument() {
    for series in ALL {
        let cluster = Cluster::single_with(
            &Binary::find(series),
            &["--max-request-bytes", "10000", "--max-txn-ops", "4"],
        );
        let store = store(&cluster).await;
        // The first is refused by etcd, the second by its transport.
        for size in [20_000, 1_000_000] {
            let large = put(&store, "k", vec![0; size]).await;
            assert_failed(large, ErrorKind::InvalidArgument, Outcome::NotApplied, (series, size));
        }
        let many = (0..5).fold(Txn::new(), |txn, n| txn.then(Op::put(n.to_string(), "v")));
        assert_failed(store.txn(many).await, ErrorKind::InvalidArgument, Outcome::NotApplied, series);
        assert_eq!(store.range(Range::prefix("")).await.unwrap().entries, []);
    }
}

#[tokio::test]
async fn a_full_store_is_exhausted_and_goes_on_reading_and_deleting() {
    for series in ALL {
        let cluster = Cluster::single_with(&Binary::find(series), &["--quota-backend-bytes", "4000000"]);
        let store = store(&cluster).await;
        let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap().id;
        let mut written = 0;
        let full = loop {
            match put(&store, &format!("k{written}"), vec![0; 500_000]).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 100, "it never fills up");
        };
        assert_eq!(full.kind(), ErrorKind::Exhausted, "{series:?}: {full}");
        // The one that fills the store is applied, and answered so as well.
        let is_there = get(&store, &format!("k{written}")).await.unwrap().is_some();
        assert_eq!(full.outcome() == Outcome::Unknown, is_there, "{series:?}: {full}");
        assert!(written > 0 && get(&store, "k0").await.unwrap().is_some());
        assert_eq!(
            store.keep_alive(lease).await.unwrap(),
            Duration::from_secs(60),
            "holders keep what they can renew"
        );
        assert!(store.txn(Txn::new().then(Op::delete("k0"))).await.unwrap().existed(0).unwrap());
    }
}

#[tokio::test]
async fn without_a_server_nothing_was_applied() {
    let mut cluster = Cluster::single(&Binary::find(Series::V3_5));
    let store = store(&cluster).await;
    put(&store, "k", "1").await.unwrap();
    cluster.servers_mut()[0].kill();
    // The first request may find out that its connection is gone; the second finds no server.
    let first = put(&store, "k", "2").await.unwrap_err();
    assert!(first.is_transient(), "{first}");
    assert_failed(put(&store, "k", "2").await, ErrorKind::Unavailable, Outcome::NotApplied, "a put");
    assert_failed(get(&store, "k").await, ErrorKind::Unavailable, Outcome::NotApplied, "a read");
    assert_failed(
        store.keep_alive(LeaseId::new(1)).await,
        ErrorKind::Unavailable,
        Outcome::NotApplied,
        "a renewal",
    );
    assert_failed(
        store.watch(Span::key("k"), None).await,
        ErrorKind::Unavailable,
        Outcome::NotApplied,
        "a watch",
    );
    cluster.restart();
    assert_eq!(get(&store, "k").await.unwrap().unwrap().value, "1".into());
}

#[tokio::test]
async fn without_a_majority_calls_end_in_time_and_reads_are_never_stale() {
    let mut cluster = Cluster::three(&Binary::find(Series::V3_5));
    let mut options = options(&cluster);
    options.retry.attempt_timeout = Some(Duration::from_millis(500));
    let store = EtcdStore::connect(&options).await.unwrap();
    put(&store, "k", "1").await.unwrap();
    cluster.servers_mut()[0].kill();
    cluster.servers_mut()[1].kill();
    let (read, took) = timed(get(&store, "k")).await;
    let error = read.unwrap_err();
    assert!(error.is_transient() && error.outcome() == Outcome::NotApplied, "{error}");
    assert!(took < Duration::from_millis(500) * 3 + Duration::from_secs(2), "{took:?}");
    let error = put(&store, "k", "2").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    cluster.restart();
    coord_testkit::wait::eventually(SOON, "it works again", async || put(&store, "l", "1").await.ok()).await;
}

#[tokio::test]
async fn nobody_listening_is_unavailable_within_the_connect_timeout() {
    // A port that was just free, and most likely still is; whoever took it meanwhile is no etcd.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = EtcdOptions::new([free.to_string()]).with_connect_timeout(Duration::from_millis(500));
    let (connected, took) = timed(EtcdStore::connect(&options)).await;
    assert_eq!(connected.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(took < Duration::from_secs(3), "{took:?}");
}
