//! R35 Discover.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Txn};
use coord_api::{ErrorKind, ServiceInstance};
use tokio::time::sleep;

use super::super::leased::put;
use super::super::slow::slow_provider;
use super::{found, instance, register, version};
use crate::bad;
use crate::fixture::Fixture;
use crate::layout;

pub(super) async fn an_unknown_service_has_no_instances(cx: Fixture) {
    let provider = cx.provider().await;
    let other = provider.registry().register(instance("a")).await.unwrap();
    let snapshot = provider.registry().discover("nobody").await.unwrap();
    assert!(snapshot.items.is_empty() && snapshot.invalid.is_empty());
    other.unregister().await.unwrap();
    assert_eq!(found(&*provider).await, [], "nor has one that nobody is registered in any more");
}

pub(super) async fn instances_are_sorted_by_id(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let ids = ["b", "a", "10", "9", "B", "a-b", "a.b", "ab", "é", "z", "~", "a b"];
    let mut held = Vec::new();
    for (n, id) in ids.into_iter().enumerate() {
        held.push(register(&cx, if n % 2 == 0 { &*one } else { &*other }, instance(id)).await.unwrap());
    }
    let mut sorted = ids.map(instance);
    sorted.sort_by(|one, other| one.id.as_bytes().cmp(other.id.as_bytes()));
    assert_eq!(found(&*one).await, sorted);
    assert_eq!(held.len(), ids.len());
}

pub(super) async fn a_service_is_found_by_its_exact_name(cx: Fixture) {
    let provider = cx.provider().await;
    let names = ["a", "ab", "A", "a-b", "a.", "b"];
    let mut held = Vec::new();
    for name in names {
        held.push(
            provider
                .registry()
                .register(ServiceInstance::new(name, format!("of {name}"), "localhost", 80))
                .await
                .unwrap(),
        );
    }
    for name in names {
        let snapshot = provider.registry().discover(name).await.unwrap();
        assert_eq!(snapshot.items, [ServiceInstance::new(name, format!("of {name}"), "localhost", 80)]);
        assert!(snapshot.invalid.is_empty());
    }
    assert_eq!(held.len(), names.len());
}

pub(super) async fn what_does_not_decode_is_skipped_and_counted(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let held = [
        register(&cx, &*provider, instance("a")).await.unwrap(),
        register(&cx, &*provider, instance("z")).await.unwrap(),
    ];
    let record = |id: &str, json: &str| (layout::service("s", id).into_bytes(), json.as_bytes().to_vec());
    let foreign = [
        (layout::service("s", "garbage").into_bytes(), bad::GARBAGE.to_vec()),
        ([layout::service("s", "").as_bytes(), bad::GARBAGE].concat(), b"{}".to_vec()),
        record("empty", ""),
        record("null", "null"),
        record("number", "17"),
        record("list", "[]"),
        record("half", r#"{"id":"half","name":"s""#),
        record("nameless", r#"{"id":"nameless"}"#),
        record("port-0", r#"{"id":"port-0","name":"s","address":"localhost","port":0}"#),
        record("port-70000", r#"{"id":"port-70000","name":"s","address":"localhost","port":70000}"#),
        record("addressless", r#"{"id":"addressless","name":"s","address":"","port":80}"#),
        record("other", r#"{"id":"another","name":"s","address":"localhost","port":80}"#),
        record("strange", r#"{"id":"strange","name":"t","address":"localhost","port":80}"#),
    ];
    for (key, value) in &foreign {
        put(&*store, key.clone(), value.clone()).await;
    }
    let snapshot = cx.provider().await.registry().discover("s").await.unwrap();
    assert_eq!(snapshot.items, [instance("a"), instance("z")]);
    assert_eq!(snapshot.invalid.len(), foreign.len());
    assert!(snapshot.invalid.iter().all(|record| record.error.kind() == ErrorKind::Codec));
    let garbage = snapshot
        .invalid
        .iter()
        .find(|record| record.key.as_ref() == b"garbage")
        .expect("it is named by its id");
    assert_eq!(garbage.value.as_bytes(), bad::GARBAGE);
    assert!(!format!("{:?}", garbage.error).contains("fffe"), "an error shows no data");
    // The good ones go on as ever.
    held[0].update(version("a", "2")).await.unwrap();
    held[1].unregister().await.unwrap();
    assert_eq!(found(&*provider).await, [version("a", "2")]);
}

pub(super) async fn an_address_of_nobody_is_skipped_and_counted_and_harms_no_other(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let _held = register(&cx, &*provider, instance("good")).await.unwrap();
    let addresses = || bad::ADDRESSES.iter().enumerate().filter(|(_, address)| !address.is_empty());
    for (n, address) in addresses() {
        let id = format!("bad-{n}");
        let record = serde_json::json!({ "id": id, "name": "s", "address": address, "port": 80 });
        put(&*store, layout::service("s", &id), record.to_string()).await;
    }
    let snapshot = cx.provider().await.registry().discover("s").await.unwrap();
    assert_eq!(snapshot.items, [instance("good")]);
    assert_eq!(snapshot.invalid.len(), addresses().count());
    for record in &snapshot.invalid {
        assert_eq!(record.error.kind(), ErrorKind::InvalidArgument, "{record:?}");
        assert!(!record.error.to_string().contains("secret"), "{}", record.error);
    }
}

pub(super) async fn records_of_other_programs_are_found(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    put(&*store, layout::service("s", "go"), layout::service_record("s", "go", "10.0.0.1", 8080)).await;
    let bare = r#"{ "port": 81, "address": "10.0.0.2", "name": "s", "id": "bare" }"#;
    put(&*store, layout::service("s", "bare"), bare).await;
    let found = found(&*provider).await;
    assert_eq!(
        found,
        [
            ServiceInstance::new("s", "bare", "10.0.0.2", 81),
            ServiceInstance::new("s", "go", "10.0.0.1", 8080)
        ]
    );
    // And they find ours: one JSON object with these five fields.
    let held = register(&cx, &*provider, version("ours", "1")).await.unwrap();
    let record = super::super::leased::entry(&*store, layout::service("s", "ours")).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
    let expected = serde_json::json!({ "id": "ours", "name": "s", "address": "localhost", "port": 80, "metadata": { "version": "1" } });
    assert_eq!(json, expected);
    assert!(held.state().is_held());
}

/// Puts the records of many instances, a hundred in a transaction.
async fn put_many(cx: &Fixture, ids: impl Iterator<Item = String>) {
    let store = cx.store().await;
    let ids: Vec<String> = ids.collect();
    for ids in ids.chunks(100) {
        let mut txn = Txn::new();
        for id in ids {
            txn =
                txn.then(Op::put(layout::service("s", id), layout::service_record("s", id, "localhost", 80)));
        }
        store.txn(txn).await.unwrap();
    }
}

pub(super) async fn thousands_of_instances_are_all_found(cx: Fixture) {
    put_many(&cx, (0..3_000).map(|n| format!("i{n:04}"))).await;
    let found = found(&*cx.provider().await).await;
    let expected: Vec<ServiceInstance> = (0..3_000).map(|n| instance(format!("i{n:04}"))).collect();
    assert_eq!(found.len(), expected.len());
    assert_eq!(found, expected);
}

pub(super) async fn it_is_one_snapshot(cx: Fixture) {
    // Enough for several pages, whatever their size, between two that are never there together.
    put_many(&cx, ["a".to_owned()].into_iter().chain((0..2_500).map(|n| format!("i{n:04}")))).await;
    // One that takes its time, so that the entries change between any two of its requests.
    let (provider, store) = (slow_provider(&cx, 0).await, cx.store().await);
    let stop = Arc::new(AtomicBool::new(false));
    let flips = {
        let (stop, store) = (Arc::clone(&stop), Arc::clone(&store));
        tokio::spawn(async move {
            let mut flips = 0;
            while !stop.load(Ordering::SeqCst) {
                let (gone, there) = if flips % 2 == 0 { ("a", "z") } else { ("z", "a") };
                let flip = Txn::new().then(Op::delete(layout::service("s", gone))).then(Op::put(
                    layout::service("s", there),
                    layout::service_record("s", there, "localhost", 80),
                ));
                store.txn(flip).await.unwrap();
                flips += 1;
                sleep(Duration::from_millis(1)).await;
            }
            flips
        })
    };
    for _ in 0..10 {
        let found = found(&*provider).await;
        assert_eq!(found.len(), 2_501);
        let (first, last) = (&found[0].id, &found[2_500].id);
        assert!((first == "a") != (last == "z"), "{first} and {last} are of different moments");
    }
    stop.store(true, Ordering::SeqCst);
    assert!(flips.await.unwrap() > 0);
}

pub(super) async fn a_bad_name_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    for name in bad::segments() {
        let error = client.provider.registry().discover(&name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name:?}");
        let error = client.provider.registry().watch(&name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name:?}");
    }
    assert_eq!(counter.counts().all(), 0, "nothing was sent");
}
