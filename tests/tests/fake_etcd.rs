//! The fake etcd by itself: how it starts and ends, and its faults, as clients see them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use coord_api::store::{Op, Range, Span, Store, StoreEvent, Txn};
use coord_api::{ErrorKind, Revision};
use coord_etcd::{EtcdOptions, EtcdStore};
use coord_fake_etcd::{Failure, FakeEtcd, FakeEtcdOptions, Faults};
use coord_testkit::wait::{eventually, never_within, within};
use etcd_client::{Client, LeaseGrantOptions, PutOptions};

/// By when anything that needs no waiting is done, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// How long something that must not happen is waited for.
const A_WHILE: Duration = Duration::from_millis(300);

fn start() -> (FakeEtcd, Faults) {
    let server = FakeEtcd::start(FakeEtcdOptions::default()).unwrap();
    let faults = server.faults();
    (server, faults)
}

async fn client(server: &FakeEtcd) -> Client {
    Client::connect([server.endpoint()], None).await.unwrap()
}

fn store(server: &FakeEtcd) -> EtcdStore {
    EtcdStore::connect_lazy(&EtcdOptions::new([server.endpoint()])).unwrap()
}

async fn write(client: &Client) -> Result<(), etcd_client::Error> {
    client.clone().put("k", "v", None).await.map(drop)
}

async fn put(store: &EtcdStore, key: &str) -> coord_api::Result<Revision> {
    Ok(store.txn(Txn::new().then(Op::put(key.to_owned(), "v"))).await?.revision)
}

/// Fifty milliseconds are promised. The quickest of several starts counts, since the machine may be
/// busy with other tests.
#[test]
fn it_answers_as_soon_as_it_started() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let took = (0..10).map(|_| {
        let began = Instant::now();
        let (server, _) = start();
        runtime.block_on(async {
            let mut client = client(&server).await;
            client.put("k", "v", None).await.unwrap();
            began.elapsed()
        })
    });
    let quickest = took.min().unwrap();
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_one_that_was_given_back_is_free() {
    let (server, _) = start();
    let at = FakeEtcdOptions::default().with_listen(server.address());
    let error = FakeEtcd::start(at.clone()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&server.endpoint()), "{error}");
    within(SOON, "the server is gone", server.shutdown()).await;
    FakeEtcd::start(at).unwrap();
}

#[tokio::test]
async fn it_ends_with_its_owner_and_its_clients_hear_of_it() {
    let (server, faults) = start();
    let mut client = client(&server).await;
    let mut watch = client.watch("k", None).await.unwrap();
    drop(server);
    let ended = async { while let Ok(Some(_)) = watch.message().await {} };
    within(SOON, "the watch ends", ended).await;
    // What is done to it has no effect any more.
    faults.compact();
    faults.drop_connections();
}

#[tokio::test]
async fn several_are_different_clusters() {
    let ((one, _), (other, _)) = (start(), start());
    let ids = async |server: &FakeEtcd| {
        client(server).await.status().await.unwrap().header().map(|header| header.cluster_id()).unwrap()
    };
    assert_ne!(ids(&one).await, ids(&other).await);
}

#[tokio::test]
async fn compacted_history_is_gone_and_live_watches_go_on() {
    let (server, faults) = start();
    let store = store(&server);
    let first = put(&store, "k").await.unwrap();
    let mut watch = store.watch(Span::key("k"), None).await.unwrap();
    let second = put(&store, "k").await.unwrap();
    assert_eq!(faults.compact(), i64::try_from(second.get()).unwrap());
    assert_eq!(faults.compact(), faults.revision());
    let error = store.range(Range::key("k").with_at(first)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Compacted);
    let third = put(&store, "k").await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&third) {
        if let StoreEvent::Batch(batch) = within(SOON, "an event", watch.next()).await.unwrap().unwrap() {
            seen.push(batch.revision);
        }
    }
    assert_eq!(seen, [second, third]);
}

#[tokio::test]
async fn a_pause_answers_nobody_until_it_is_over() {
    let (server, faults) = start();
    let mut client = client(&server).await;
    client.put("k", "1", None).await.unwrap();

    faults.pause(Duration::from_secs(600));
    let mut other = client.clone();
    let mut writing = tokio::spawn(async move { other.put("k", "2", None).await });
    let connecting = tokio::spawn(Client::connect([server.endpoint()], None));
    never_within(A_WHILE, "an answer", &mut writing).await;
    assert_eq!(faults.revision(), 2);
    assert_eq!(faults.connections(), 1);
    faults.resume();
    within(SOON, "the answer", writing).await.unwrap().unwrap();
    within(SOON, "the connection", connecting).await.unwrap().unwrap();

    // It ends by itself, however many began.
    faults.pause(Duration::from_secs(600));
    faults.pause(Duration::from_millis(50));
    within(SOON, "an answer", client.put("k", "3", None)).await.unwrap();
}

#[tokio::test]
async fn connections_are_reset_and_new_ones_are_refused_while_they_are() {
    let (server, faults) = start();
    let mut client = client(&server).await;
    let mut watch = client.watch("k", None).await.unwrap();
    assert_eq!(faults.drop_connections(), 1);
    let failed = async {
        loop {
            if let Err(error) = watch.message().await {
                return error;
            }
        }
    };
    within(SOON, "the watch fails", failed).await;
    // A client makes another connection.
    eventually(SOON, "a write", async || write(&client).await.ok()).await;
    assert!(within(SOON, "a new watch", client.watch("k", None)).await.is_ok());

    faults.refuse_connections(true);
    client.put("k", "v", None).await.unwrap();
    faults.drop_connections();
    eventually(SOON, "no connection is left", async || (faults.connections() == 0).then_some(())).await;
    client.put("k", "v", None).await.unwrap_err();
    faults.refuse_connections(false);
    eventually(SOON, "a write", async || write(&client).await.ok()).await;
}

#[tokio::test]
async fn a_lease_ends_on_time_or_when_it_is_told_to() {
    let server =
        FakeEtcd::start(FakeEtcdOptions::default().with_min_lease_ttl(Duration::from_millis(300))).unwrap();
    let faults = server.faults();
    let mut client = client(&server).await;
    let mut watch = client.watch("k", None).await.unwrap();
    for (id, ttl, told) in [(1, 600, true), (2, 0, false)] {
        let options = LeaseGrantOptions::new().with_id(id);
        let granted = client.lease_grant(ttl, Some(options)).await.unwrap().ttl();
        assert_eq!(granted, ttl.max(1), "a fraction of a second counts as one");
        client.put("k", "v", Some(PutOptions::new().with_lease(id))).await.unwrap();
        assert_eq!(faults.leases(), [id]);
        if told {
            assert!(faults.expire_lease(id));
            assert!(!faults.expire_lease(id), "it is gone");
        }
        let mut kinds = Vec::new();
        while kinds.len() < 2 {
            let response = within(SOON, "the key goes", watch.message()).await.unwrap().unwrap();
            kinds.extend(response.events().iter().map(|event| event.event_type()));
        }
        assert_eq!(kinds, [etcd_client::EventType::Put, etcd_client::EventType::Delete]);
        let error = client.lease_keep_alive(id).await.unwrap_err();
        assert!(error.to_string().contains("lease not found"), "{error}");
    }
}

#[tokio::test]
async fn requests_fail_as_often_as_they_are_told_to() {
    let (server, faults) = start();
    let mut client = client(&server).await;
    for failure in [Failure::LeaderChanged, Failure::NoLeader, Failure::TimedOut, Failure::TooManyRequests] {
        faults.fail_requests(failure, 2);
        let before = faults.revision();
        for _ in 0..2 {
            client.put("k", "v", None).await.unwrap_err();
        }
        assert_eq!(faults.revision(), before, "nothing was done");
        client.put("k", "v", None).await.unwrap();
    }
    faults.fail_requests(Failure::NoLeader, 9);
    faults.fail_requests(Failure::NoLeader, 0);
    client.put("k", "v", None).await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_refused_until_the_alarm_is_disarmed() {
    let server = FakeEtcd::start(FakeEtcdOptions::default().with_quota_bytes(10_000)).unwrap();
    let faults = server.faults();
    let store = store(&server);
    let full = async {
        loop {
            if let Err(error) = put(&store, "k").await {
                return error;
            }
        }
    };
    let error = within(SOON, "the store is full", full).await;
    assert!(error.to_string().contains("database space exceeded"), "{error}");
    faults.compact();
    put(&store, "k").await.unwrap_err();
    faults.set_no_space(false);
    put(&store, "k").await.unwrap();
}

/// A client that reads nothing for a while misses nothing, and stands in nobody's way.
#[tokio::test]
async fn a_slow_watch_falls_behind_and_is_caught_up() {
    let (server, faults) = start();
    let mut client = client(&server).await;
    let mut watch = client.watch("k", None).await.unwrap();
    let large = vec![b'x'; 10_000];
    for _ in 0..1_000 {
        client.put("k", large.clone(), None).await.unwrap();
    }
    let mut next = 2;
    while next <= faults.revision() {
        let response = within(SOON, "events", watch.message()).await.unwrap().unwrap();
        for event in response.events() {
            assert_eq!(event.kv().unwrap().mod_revision(), next);
            next += 1;
        }
    }
}

/// The clock of the caller is not that of the server.
#[tokio::test(start_paused = true)]
async fn it_lives_on_while_its_callers_clock_stands() {
    let (server, faults) = start();
    let revision = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            client(&server).await.put("k", "v", None).await.unwrap();
        });
        faults.revision()
    });
    assert_eq!(revision.await.unwrap(), 2);
}
