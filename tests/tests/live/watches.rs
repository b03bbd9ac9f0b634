//! Watches whose member fails them, and what watches leave behind (S4, R22).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use coord_api::store::{Span, Store, StoreEvent, StoreWatch};
use coord_api::{Error, Revision};
use coord_etcd::EtcdStore;
use coord_servers::etcd::{Binary, Cluster, Series, Signal};
use coord_testkit::wait::{eventually, within};

use super::{SOON, all_answer, next, options, put, store, timed};

/// How long a watch may be deaf before it is noticed, and what a busy machine adds.
const NOTICED: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(2);

/// Reads until the watch ends. What it delivers meanwhile must be news.
async fn end(watch: &mut StoreWatch) -> Error {
    let mut last = watch.armed();
    loop {
        match watch.next().await.expect("a watch ends with an error") {
            Ok(StoreEvent::Batch(batch)) => {
                assert!(batch.revision > last);
                last = batch.revision;
            }
            Ok(StoreEvent::Progress(_)) => {}
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn a_watch_on_a_member_that_stands_still_is_noticed_and_moves() {
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    let mut leaders = 0;
    // Both a leader and a follower, whichever members they are.
    for round in 0.. {
        all_answer(&cluster).await;
        let victim = store(&cluster).await;
        let mut watch = victim.watch(Span::key("k"), None).await.unwrap();
        // Each client leaves to chance which member it asks: the members know where the watch is.
        let watchers = |index: &usize| gauge_of(&cluster, *index, "etcd_debugging_mvcc_watcher_total");
        let index = (0..3).find(|index| watchers(index) > 0.0).expect("one member has the watch");
        let leads = gauge_of(&cluster, index, "etcd_server_is_leader") > 0.0;
        leaders += usize::from(leads);
        cluster.servers()[index].signal(Signal::Stop);
        // Where the leader stands still, the others choose a new one first.
        let writer = EtcdStore::connect_lazy(&options(&cluster)).unwrap();
        let written = eventually(SOON, "a write", async || put(&writer, "k", "v").await.ok()).await;
        let (error, took) = timed(within(SOON, "the deaf watch ends", end(&mut watch))).await;
        assert!(error.is_transient(), "{error}");
        assert!(took <= NOTICED + SLACK, "member {index}: noticed after {took:?}");
        let victim: Arc<dyn Store> = Arc::new(victim);
        assert_eq!(
            next(&victim, Span::key("k"), Revision::new(written.get() - 1)).await,
            written,
            "and it moves"
        );
        cluster.servers()[index].signal(Signal::Continue);
        if round >= 2 && (1..=round).contains(&leaders) {
            break;
        }
        assert!(round < 40, "no chance that fair: {leaders} leaders in {round} rounds");
    }
}

#[tokio::test]
async fn a_quiet_watch_on_a_healthy_member_stays() {
    for series in [Series::V3_4, Series::V3_5] {
        let cluster = Cluster::single(&Binary::find(series));
        let store = store(&cluster).await;
        let mut watch = store.watch(Span::key("quiet"), None).await.unwrap();
        // Longer than any doubt lasts, while the store goes on elsewhere.
        let busy = async {
            for n in 0..100 {
                put(&store, "elsewhere", n.to_string()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(80)).await;
            }
        };
        tokio::select! {
            item = watch.next() => panic!("{series:?}: it delivered {item:?}"),
            () = busy => {}
        }
        let written = put(&store, "quiet", "v").await.unwrap();
        match within(SOON, "its own change", watch.next()).await {
            Some(Ok(StoreEvent::Batch(batch))) => assert_eq!(batch.revision, written),
            other => panic!("{series:?}: wanted a batch, got {other:?}"),
        }
    }
}

/// All that the server measures, in the format of Prometheus.
pub(super) fn metrics(cluster: &Cluster) -> String {
    metrics_of(cluster, 0)
}

fn metrics_of(cluster: &Cluster, index: usize) -> String {
    let mut connection = TcpStream::connect(&cluster.endpoints()[index]).unwrap();
    connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    text
}

/// A gauge of the server's.
pub(super) fn gauge(cluster: &Cluster, name: &str) -> f64 {
    gauge_of(cluster, 0, name)
}

/// A gauge of one member's.
fn gauge_of(cluster: &Cluster, index: usize, name: &str) -> f64 {
    let text = metrics_of(cluster, index);
    let line =
        text.lines().find(|line| line.starts_with(&format!("{name} "))).expect("the server has the gauge");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_thousand_dropped_watches_leave_nothing_behind() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let store = store(&cluster).await;
    put(&store, "k", "v").await.unwrap();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut watches = Vec::new();
    for n in 0..1_000 {
        watches.push(store.watch(Span::key(format!("k{n}")), None).await.unwrap());
    }
    assert_eq!(gauge(&cluster, "etcd_debugging_mvcc_watcher_total"), 1_000.0);
    drop(watches);
    let gone = async || (gauge(&cluster, "etcd_debugging_mvcc_watcher_total") == 0.0).then_some(());
    eventually(Duration::from_secs(1) + SLACK, "the server has no watch left", gone).await;
    let idle =
        async || (tokio::runtime::Handle::current().metrics().num_alive_tasks() <= tasks).then_some(());
    eventually(Duration::from_secs(1) + SLACK, "and the client no task", idle).await;
}
