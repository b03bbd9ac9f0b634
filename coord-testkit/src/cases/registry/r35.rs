//! R35 Discover.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Range, Txn};
use coord_api::{ErrorKind, Revision, ServiceInstance};
use tokio::time::{sleep, timeout};

use super::super::leased::{Lasting, delete, entry, head, lease_of, put};
use super::super::slow::slow_provider;
use super::{found, instance, register, version};
use crate::bad;
use crate::fixture::Fixture;
use crate::layout;
use crate::view::ServiceView;
use crate::wait::eventually;
use crate::wrap::{Fault, Request};

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
    let record = entry(&*store, layout::service("s", "ours")).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
    let expected = serde_json::json!({ "id": "ours", "name": "s", "address": "localhost", "port": version("ours", "1").port, "metadata": { "version": "1" } });
    assert_eq!(json, expected);
    assert!(held.state().is_held());
}

/// Asserts that the good records under these keys are of no instance of `s`: neither a discovery
/// nor a watch shows them.
async fn is_no_instance(cx: &Fixture, records: &[(&str, &str, &str)]) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let _held = register(cx, &*provider, instance("good")).await.unwrap();
    let mut early = provider.registry().watch("s").await.unwrap();
    let mut early_view = ServiceView::new();
    early_view.follow(&mut early, "the full set", cx.soon(), |view| view.resyncs() > 0).await;
    for (path, name, id) in records {
        put(&*store, format!("{}{path}", layout::SERVICES), layout::service_record(name, id, "10.0.0.1", 81))
            .await;
    }
    let snapshot = cx.provider().await.registry().discover("s").await.unwrap();
    assert_eq!(snapshot.items, [instance("good")]);
    let last = register(cx, &*provider, instance("last")).await.unwrap();
    let mut late = provider.registry().watch("s").await.unwrap();
    let mut late_view = ServiceView::new();
    for (view, watch) in [(&mut early_view, &mut early), (&mut late_view, &mut late)] {
        view.follow(watch, "the last instance", cx.soon(), |view| view.instances().len() > 1).await;
        assert_eq!(view.instances(), [instance("good"), instance("last")]);
    }
    last.unregister().await.unwrap();
}

pub(super) async fn a_good_record_one_level_down_is_of_no_instance(cx: Fixture) {
    is_no_instance(
        &cx,
        &[("s/x/i", "s/x", "i"), ("s/x/j", "s", "x/j"), ("s/y/k", "s", "k"), ("s/z/l", "z", "l")],
    )
    .await;
}

pub(super) async fn nor_is_one_deeper_or_of_a_service_whose_name_begins_so(cx: Fixture) {
    let deeper = [
        ("s/x/y/i", "s", "i"),
        ("s/x/y/j", "s/x/y", "j"),
        ("sx/k", "s", "k"),
        ("s-/l", "s", "l"),
        ("s", "s", "m"),
        ("t/n", "s", "n"),
    ];
    is_no_instance(&cx, &deeper).await;
}

/// Asserts that a discovery is an error, or shows this. It may also go on trying.
async fn shows_or_fails(cx: &Fixture, provider: &dyn Provider, expected: &[ServiceInstance], what: &str) {
    match timeout(cx.soon() * 2, provider.registry().discover("s")).await {
        Ok(Ok(snapshot)) => assert_eq!(snapshot.items, expected, "{what}"),
        Ok(Err(error)) => assert!(error.is_transient(), "{what}: {error}"),
        Err(_) => {}
    }
}

pub(super) async fn what_cannot_be_read_is_not_answered_from_before(cx: Fixture) {
    let other = cx.provider().await;
    for (n, hang) in [false, true].into_iter().enumerate() {
        let (client, faults) = cx.faulty().await;
        let held = register(&cx, &*other, version("a", n.to_string())).await.unwrap();
        assert_eq!(found(&*client.provider).await, [version("a", n.to_string())]);
        if hang {
            faults.hang();
        } else {
            faults.cut();
        }
        held.unregister().await.unwrap();
        shows_or_fails(&cx, &*client.provider, &[], "while the store is out of reach").await;
        faults.heal();
        shows_or_fails(&cx, &*client.provider, &[], "once it is back").await;
    }
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (client, faults) = cx.faulty().await;
        let held = register(&cx, &*other, version("a", format!("{fault:?}"))).await.unwrap();
        assert_eq!(found(&*client.provider).await.len(), 1);
        held.unregister().await.unwrap();
        let _failing = Lasting::begin(&faults, fault, |request| matches!(request, Request::Range(_)));
        shows_or_fails(&cx, &*client.provider, &[], &format!("{fault:?}")).await;
    }
}

pub(super) async fn after_a_failure_nothing_is_answered_from_before(cx: Fixture) {
    let other = cx.provider().await;
    for (n, hang) in [false, true, false].into_iter().enumerate() {
        let (client, faults) = cx.faulty().await;
        let registered = register(&cx, &*other, version("a", n.to_string())).await.unwrap();
        assert_eq!(found(&*client.provider).await.len(), 1);
        if hang {
            faults.hang();
        } else {
            faults.cut();
        }
        // It may take its time to give up.
        let failed = timeout(cx.soon() * 2, client.provider.registry().discover("s")).await;
        assert!(failed.is_err() || failed.is_ok_and(|answer| answer.is_err()));
        registered.unregister().await.unwrap();
        let again = register(&cx, &*other, version("b", n.to_string())).await.unwrap();
        faults.heal();
        for _ in 0..5 {
            shows_or_fails(&cx, &*client.provider, &[version("b", n.to_string())], "once it is back").await;
            sleep(Duration::from_millis(100)).await;
        }
        again.unregister().await.unwrap();
        eventually(cx.soon(), "it answers again", || async {
            client
                .provider
                .registry()
                .discover("s")
                .await
                .is_ok_and(|found| found.items.is_empty())
                .then_some(())
        })
        .await;
    }
}

pub(super) async fn a_watch_that_is_behind_makes_no_discovery_late(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let other = cx.provider().await;
    let held = register(&cx, &*other, version("a", "1")).await.unwrap();
    let mut watch = client.provider.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "the instance", cx.soon(), |view| view.instances().len() == 1).await;
    // Whoever watches hears of nothing for now; whoever asks does.
    faults.silence_watches();
    held.update(version("a", "2")).await.unwrap();
    assert_eq!(found(&*client.provider).await, [version("a", "2")]);
    let more = register(&cx, &*other, version("b", "1")).await.unwrap();
    assert_eq!(found(&*client.provider).await, [version("a", "2"), version("b", "1")]);
    held.unregister().await.unwrap();
    assert_eq!(found(&*client.provider).await, [version("b", "1")]);
    faults.heal();
    more.unregister().await.unwrap();
    assert_eq!(found(&*client.provider).await, []);
    view.follow(&mut watch, "it is told in the end", cx.soon(), |view| view.instances().is_empty()).await;
}

pub(super) async fn ones_own_instances_are_found_where_they_are_in_the_store(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let _held = [
        register(&cx, &*client.provider, instance("a")).await.unwrap(),
        register(&cx, &*client.provider, instance("b")).await.unwrap(),
    ];
    // Gone, and not healed for now.
    let refused = Lasting::begin(&faults, Fault::Refuse, |request| request.puts(layout::SERVICES));
    delete(&*store, layout::service("s", "a")).await;
    assert_eq!(found(&*client.provider).await, [instance("b")]);
    assert_eq!(found(&*cx.provider().await).await, [instance("b")]);
    // Overwritten by what is no record.
    put(&*store, layout::service("s", "b"), "{}").await;
    let snapshot = client.provider.registry().discover("s").await.unwrap();
    assert_eq!((snapshot.items, snapshot.invalid.len()), (vec![], 1));
    refused.end();
}

pub(super) async fn what_one_registered_is_not_found_once_it_is_gone(cx: Fixture) {
    let (provider, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let old = register(&cx, &*provider, version("a", "1")).await.unwrap();
    let theirs = register(&cx, &*other, version("a", "2")).await.unwrap();
    assert_eq!(found(&*provider).await, [version("a", "2")], "it was taken over");
    theirs.unregister().await.unwrap();
    assert_eq!(found(&*provider).await, [], "the one who has it now has left");
    drop(old);
    // By whatever it goes.
    let held = register(&cx, &*provider, instance("b")).await.unwrap();
    store.revoke_lease(lease_of(&*store, layout::service("s", "b")).await).await.unwrap();
    held.unregister().await.unwrap();
    assert_eq!(found(&*provider).await, []);
}

pub(super) async fn a_snapshot_is_of_the_revision_that_it_says(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    put(&*store, layout::service("s", "bad"), "{}").await;
    let mut last = Revision::ZERO;
    for n in 0..6 {
        let held = register(&cx, &*provider, instance(format!("i{n}"))).await.unwrap();
        let before = head(&*store).await;
        let snapshot = provider.registry().discover("s").await.unwrap();
        let after = head(&*store).await;
        assert!(
            before <= snapshot.revision && snapshot.revision <= after,
            "read at a revision from {before} to {after}, and says {}",
            snapshot.revision
        );
        assert!(snapshot.revision > last);
        last = snapshot.revision;
        let entry = entry(&*store, layout::service("s", "bad")).await.unwrap();
        assert_eq!(snapshot.invalid[0].version, entry.modified);
        held.unregister().await.unwrap();
    }
}

pub(super) async fn the_set_is_that_of_its_revision(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let mut snapshots = Vec::new();
    for n in 0..6 {
        let held = register(&cx, &*provider, version(format!("i{}", n % 3), n.to_string())).await.unwrap();
        snapshots.push(provider.registry().discover("s").await.unwrap());
        if n % 2 == 0 {
            held.unregister().await.unwrap();
        }
    }
    for snapshot in snapshots {
        // The same set as the store has in its history.
        let then = Range::prefix(layout::service("s", "")).with_at(snapshot.revision);
        let then = store.range(then).await.expect("a present revision of before").entries;
        let ids = snapshot.items.iter().map(|instance| layout::service("s", &instance.id).into_bytes());
        assert_eq!(then.iter().map(|entry| entry.key.to_vec()).collect::<Vec<_>>(), ids.collect::<Vec<_>>());
        let newest = then.iter().map(|entry| entry.modified).max().unwrap_or_default();
        assert!(newest <= snapshot.revision && newest > Revision::ZERO);
    }
}

pub(super) async fn what_one_registers_is_found_before_the_watch_tells_of_it(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let provider = &client.provider;
    let mut watch = provider.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    view.follow(&mut watch, "the empty set", cx.soon(), |view| view.resyncs() > 0).await;
    faults.silence_watches();
    for n in 0..3 {
        let held = register(&cx, &**provider, version("a", n.to_string())).await.unwrap();
        assert_eq!(found(&**provider).await, [version("a", n.to_string())]);
        held.unregister().await.unwrap();
        assert_eq!(found(&**provider).await, []);
    }
    faults.heal();
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
