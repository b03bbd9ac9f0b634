//! Endpoints of two clusters: one of them is chosen, and the other one is never believed, nor
//! written to.

use std::time::Duration;

use coord_api::store::{Op, Range, Store, Txn};
use coord_api::{ErrorKind, Outcome};
use coord_etcd::EtcdStore;
use coord_testkit::wait::eventually;

use crate::log::Log;
use crate::server::{CLUSTER, Fake};
use crate::{SOON, options};

const FOREIGN: u64 = 0xbad;

fn put() -> Txn {
    Txn::new().then(Op::put("k", "v"))
}

#[tokio::test]
async fn the_cluster_of_most_endpoints_is_used_and_the_member_of_another_one_is_reported_once() {
    // In every order, lazily or not: who is asked first does not decide.
    for place in 0..3 {
        for lazily in [true, false] {
            let (log, _listening) = Log::listen(tracing::Level::WARN);
            let mut fakes = vec![Fake::start(10).await, Fake::start(10).await];
            fakes.insert(place, Fake::start_in(FOREIGN, 10).await);
            let store = match lazily {
                true => EtcdStore::connect_lazy(&options(&fakes)).unwrap(),
                false => EtcdStore::connect(&options(&fakes)).await.unwrap(),
            };
            for _ in 0..5 {
                store.txn(put()).await.unwrap();
                store.range(Range::key("k")).await.unwrap();
            }
            assert_eq!(store.status().await.unwrap().store_id, format!("{CLUSTER:x}"));
            let right: Vec<_> =
                fakes.iter().enumerate().filter(|(n, _)| *n != place).map(|(_, fake)| fake).collect();
            // Even where nobody else is left, the stranger is asked for nothing but who he is.
            right.iter().for_each(|fake| {
                fake.script(|script| {
                    script.refuses = Some(tonic::Status::unavailable("etcdserver: no leader"))
                })
            });
            store.range(Range::key("k")).await.unwrap_err();
            let error = store.txn(put()).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.outcome()),
                (ErrorKind::Unavailable, Outcome::NotApplied),
                "{error}"
            );
            let stranger = fakes[place].requests();
            assert!(stranger.iter().all(|asked| *asked == "range"), "{stranger:?}");
            let both = format!("cluster {FOREIGN:x}, and not to {CLUSTER:x}");
            // Of two that agree, the third one's answer may come too late to be looked at before it
            // is needed.
            eventually(SOON, "it is reported", async || (log.count(&both) > 0).then_some(())).await;
            for _ in 0..3 {
                store.range(Range::key("k")).await.unwrap_err();
            }
            log.written().await;
            assert_eq!(log.count(&both), 1, "{}", log.text());
        }
    }
}

#[tokio::test]
async fn of_two_clusters_of_one_endpoint_each_all_clients_use_that_of_the_first_one() {
    let (one, two) = (Fake::start_in(1, 10).await, Fake::start_in(2, 10).await);
    for n in 0..10 {
        let lazy = EtcdStore::connect_lazy(&options([&one, &two])).unwrap();
        let (store, other) = (
            EtcdStore::connect(&options([&one, &two])).await.unwrap(),
            EtcdStore::connect(&options([&two, &one])).await.unwrap(),
        );
        for (store, expected) in [(lazy, "1"), (store, "1"), (other, "2")] {
            assert_eq!(store.status().await.unwrap().store_id, expected, "client {n}");
        }
    }
}

#[tokio::test]
async fn the_expected_cluster_is_used_or_none() {
    let (one, two) = (Fake::start_in(1, 10).await, Fake::start_in(2, 10).await);
    for _ in 0..5 {
        let store = EtcdStore::connect(&options([&one, &two]).with_cluster_id("2")).await.unwrap();
        store.txn(put()).await.unwrap();
        assert_eq!(store.status().await.unwrap().store_id, "2");
    }
    assert_eq!(one.requests().len(), 0);
    for fakes in [vec![&one], vec![&one, &two]] {
        let options = options(fakes).with_cluster_id("3").with_connect_timeout(Duration::from_secs(1));
        let refused = EtcdStore::connect(&options).await.unwrap_err();
        assert_eq!(
            (refused.kind(), refused.outcome()),
            (ErrorKind::Unavailable, Outcome::NotApplied),
            "{refused}"
        );
        assert!(refused.to_string().contains("and not to 3"), "{refused}");
        let error = EtcdStore::connect_lazy(&options).unwrap().txn(put()).await.unwrap_err();
        assert!(error.to_string().contains("and not to 3"), "{error}");
    }
    assert_eq!((one.asked("put"), two.asked("put")), (0, 5));
}

#[tokio::test]
async fn a_member_that_comes_back_with_another_cluster_is_not_believed() {
    let (one, two) = (Fake::start(10).await, Fake::start(10).await);
    let store = EtcdStore::connect(&options([&one, &two])).await.unwrap();
    store.range(Range::key("k")).await.unwrap();
    let (used, other) = if one.asked("range") == 1 { (&one, &two) } else { (&two, &one) };
    used.script(|script| script.cluster = FOREIGN);
    store.range(Range::key("k")).await.unwrap();
    assert_eq!(other.asked("range"), 1, "the other one answers");
    // Renewals, of which etcd-client does not say who answers, ask beforehand.
    other.script(|script| script.cluster = FOREIGN);
    let error = store.keep_alive(coord_api::LeaseId::new(7)).await.unwrap_err();
    assert!(error.to_string().contains(&format!("cluster {FOREIGN:x}, and not to {CLUSTER:x}")), "{error}");
    assert_eq!((one.asked("renewal"), two.asked("renewal")), (0, 0));
}
