//! A store that is full, as those see it who hold something in it: nothing new fits, and nothing
//! that is there is lost.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{
    ConfigEvent, Error, ErrorKind, Outcome, RegisterOptions, ServiceInstance, Value, WatchStart,
};
use coord_etcd::EtcdProvider;
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::within;
use etcd_client::{AlarmAction, AlarmOptions, AlarmType};

use super::held::Held;
use super::{SOON, options, raw};

const TTL: Duration = Duration::from_secs(3);
const LARGE: usize = 500_000;

fn assert_full<T: std::fmt::Debug>(result: Result<T, Error>, what: &str) {
    let error = result.expect_err(what);
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Exhausted, Outcome::NotApplied),
        "{what}: {error}"
    );
}

/// etcd applies the write that fills the store, and says that there is no space: whoever is told
/// that nothing was applied can rely on it (R2).
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_not_applied_is_not_there() {
    const WRITERS: usize = 16;
    for series in [Series::V3_4, Series::V3_5] {
        let cluster = Cluster::single_with(&Binary::find(series), &["--quota-backend-bytes", "4000000"]);
        let provider = EtcdProvider::connect(options(&cluster)).await.unwrap();
        // All of them fit when they are looked at, and not all when they are applied.
        let writers = (0..WRITERS).map(|writer| {
            let config = Arc::clone(provider.config());
            tokio::spawn(async move {
                let mut ended = Vec::new();
                for n in 0..100 {
                    let key = format!("{writer}/{n}");
                    let written = config.set_raw(&key, Value::from(vec![0; LARGE / 2])).await;
                    let is_over = written.is_err();
                    ended.push((key, written.map(drop)));
                    if is_over {
                        return ended;
                    }
                }
                panic!("it never fills up");
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            for (key, ended) in writer.await.unwrap() {
                let is_there = provider.config().get_raw(&key).await.unwrap().is_some();
                match ended {
                    Ok(()) => assert!(is_there, "{series:?}: {key}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
                        assert_eq!(
                            error.outcome() == Outcome::Unknown,
                            is_there,
                            "{series:?}: {key}: {error}"
                        );
                    }
                }
            }
        }
        provider.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_something_keeps_it_while_the_store_is_full_and_nobody_gets_more() {
    for series in [Series::V3_4, Series::V3_5] {
        let cluster = Cluster::single_with(&Binary::find(series), &["--quota-backend-bytes", "4000000"]);
        let (provider, other) = (
            EtcdProvider::connect(options(&cluster)).await.unwrap(),
            EtcdProvider::connect(options(&cluster)).await.unwrap(),
        );
        let held = Held::new(&provider, TTL).await;
        let mut watch = provider.config().watch_raw("fill/0", WatchStart::Now).await.unwrap();
        let mut written = 0;
        let full = loop {
            match provider.config().set_raw(&format!("fill/{written}"), Value::from(vec![0; LARGE])).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 100, "it never fills up");
        };
        assert!(written > 1);
        assert_eq!(full.kind(), ErrorKind::Exhausted, "{full}");
        if full.outcome() == Outcome::Unknown {
            // It was the one that filled the store.
            written += 1;
        }

        // Nothing new, of any kind, for anyone; and at once.
        for asking in [&provider, &other] {
            assert_full(asking.config().set_raw("small", Value::from("v")).await, "a small write");
            assert_full(asking.lock().acquire_timeout("new", TTL, SOON).await, "a lock");
            assert_full(asking.lock().try_acquire("new", TTL).await, "a lock, without waiting");
            let instance = ServiceInstance::new("new", "one", "127.0.0.1", 1);
            assert_full(
                asking.registry().register_with(instance, RegisterOptions::default().with_ttl(TTL)).await,
                "a registration",
            );
            assert_full(asking.allocator().acquire_id("new", 10).await, "an id");
        }

        // Whoever holds something renews it: this is longer than two TTLs.
        let renewed = tokio::time::Instant::now() + TTL * 2 + Duration::from_secs(1);
        while tokio::time::Instant::now() < renewed {
            held.assert_held("the store is full");
            assert_eq!(
                other.registry().discover("held").await.unwrap().items.len(),
                1,
                "{series:?}: everybody sees it"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        // Reads, deletions and watches go on.
        assert_eq!(other.config().list_raw("fill").await.unwrap().items.len(), written);
        assert!(other.config().delete("fill/0").await.unwrap());
        assert_eq!(other.config().get_raw("fill/0").await.unwrap(), None);
        let event = within(SOON, "its write", watch.next()).await.unwrap().unwrap();
        assert!(matches!(event, ConfigEvent::Put { .. }), "{series:?}: {event:?}");
        let event = within(SOON, "its deletion", watch.next()).await.unwrap().unwrap();
        assert!(matches!(event, ConfigEvent::Delete { .. }), "{series:?}: {event:?}");
        // What is held can be given back, and is gone for all.
        held.release().await;
        assert_eq!(other.registry().discover("held").await.unwrap().items, []);

        // The operator makes room.
        let mut operator = raw(&cluster, None).await;
        for n in 1..written {
            assert!(other.config().delete(&format!("fill/{n}")).await.unwrap());
        }
        let revision = operator.get("none", None).await.unwrap().header().unwrap().revision();
        operator
            .compact(revision, Some(etcd_client::CompactionOptions::new().with_physical()))
            .await
            .unwrap();
        operator.defragment().await.unwrap();
        let alarms = operator.alarm(AlarmAction::Get, AlarmType::Nospace, None).await.unwrap();
        let mut full = AlarmOptions::new();
        full.with_member(alarms.alarms()[0].member_id());
        operator.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(full)).await.unwrap();
        other.config().set_raw("small", Value::from("v")).await.unwrap();
        Held::new(&other, TTL).await.release().await;
        assert_eq!(Held::new(&provider, TTL).await.id.id(), 1);
        provider.close().await.unwrap();
        other.close().await.unwrap();
    }
}
