//! R40: the channel follows the registry.

use std::sync::Arc;
use std::time::Duration;

use coord_api::store::{Op, Txn};
use coord_api::{ErrorKind, WatchState};
use coord_grpc::RegistryChannelExt;
use coord_testkit::wait::{eventually, within};
use coord_testkit::{Fixture, bad, layout};
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::{
    Counter, SERVICE, Server, ask, call, elsewhere, options, ready, real_time, register, spread, waiting,
};

pub(super) async fn it_calls_the_instances_of_the_service(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.provider().await, cx.provider().await);
    let (a, b, other) = (Server::start().await, Server::start().await, Server::start().await);
    let mut elsewhere = other.instance("x");
    elsewhere.name = "user-service-2".to_owned();
    let _held = [register(&cx, &owner, a.instance("a")).await, register(&cx, &owner, b.instance("b")).await];
    let _other = register(&cx, &owner, elsewhere).await;
    let channel = client.registry().channel_with(SERVICE, options()).unwrap();
    ask(&cx, &channel).await.expect("the first call waits for the first read");
    ready(&cx, &channel, 2).await;
    assert_eq!(spread(&cx, &channel, [&a, &b, &other]).await, [5, 5, 0]);
    let state = channel.state();
    let discovery = state.discovery.unwrap();
    assert_eq!((discovery.service.as_str(), discovery.watch), (SERVICE, WatchState::Live));
    assert!(discovery.failure.is_none() && state.skipped.is_empty());
}

pub(super) async fn a_change_reaches_the_channel_within_a_second(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.provider().await, cx.provider().await);
    let (a, b) = (Server::start().await, Server::start().await);
    let first = register(&cx, &owner, a.instance("a")).await;
    let channel = client.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &channel, 1).await;
    let limit = Duration::from_secs(1) + cx.slack();
    let now = async |what: &str, servers: [&Server; 2], expected: [u64; 2]| {
        let begun = Instant::now();
        eventually(limit, what, async || {
            (channel.state().ready() == expected.iter().filter(|calls| **calls > 0).count()).then_some(())
        })
        .await;
        assert_eq!(spread(&cx, &channel, servers).await, expected, "{what}");
        assert!(begun.elapsed() < cx.soon());
    };
    let second = register(&cx, &owner, b.instance("b")).await;
    now("one was added", [&a, &b], [5, 5]).await;
    first.unregister().await.unwrap();
    now("one was removed", [&a, &b], [0, 10]).await;
    second.update(a.instance("b")).await.unwrap();
    eventually(limit, "it moved", async || {
        channel.state().endpoints.iter().any(|state| state.endpoint.port() == a.address.port()).then_some(())
    })
    .await;
    now("it moved", [&a, &b], [10, 0]).await;
}

pub(super) async fn an_outage_keeps_the_last_set_and_shows_its_age(cx: Fixture) {
    real_time(&cx);
    for hang in [false, true] {
        let (client, faults) = cx.faulty().await;
        let owner = cx.provider().await;
        let (a, b) = (Server::start().await, Server::start().await);
        let _held =
            [register(&cx, &owner, a.instance("a")).await, register(&cx, &owner, b.instance("b")).await];
        let channel = client.provider.registry().channel_with(SERVICE, options()).unwrap();
        ready(&cx, &channel, 2).await;
        let age = || channel.state().age.unwrap();
        assert!(age() < Duration::from_secs(1) + cx.slack(), "{:?}", age());
        if hang {
            faults.hang();
        } else {
            faults.cut();
            let suspended =
                async || (channel.state().discovery.unwrap().watch == WatchState::Suspended).then_some(());
            eventually(cx.soon(), "the channel knows that it is cut off", suspended).await;
            let at_first = age();
            eventually(cx.soon(), "the age grows", async || {
                (age() > at_first + Duration::from_secs(2)).then_some(())
            })
            .await;
        }
        assert_eq!(spread(&cx, &channel, [&a, &b]).await, [5, 5], "hang: {hang}");
        faults.heal();
        let fresh = async || {
            let state = channel.state();
            (state.discovery.unwrap().watch == WatchState::Live
                && state.age.unwrap() < Duration::from_secs(1) + cx.slack())
            .then_some(())
        };
        eventually(cx.soon(), "the age is small again", fresh).await;
        let c = Server::start().await;
        let _third = register(&cx, &owner, c.instance("c")).await;
        ready(&cx, &channel, 3).await;
        assert!(
            channel.state().endpoints.iter().all(|endpoint| endpoint.connections == 1),
            "an outage costs no connection"
        );
    }
}

pub(super) async fn a_closed_provider_leaves_the_last_set(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.provider().await, cx.provider().await);
    let a = Server::start().await;
    let _held = register(&cx, &owner, a.instance("a")).await;
    let channel = client.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &channel, 1).await;
    client.close().await.unwrap();
    eventually(cx.soon(), "it knows", async || {
        (channel.state().discovery.unwrap().watch == WatchState::Ended).then_some(())
    })
    .await;
    assert_eq!(spread(&cx, &channel, [&a]).await, [10]);
    assert_eq!(channel.state().discovery.unwrap().failure.unwrap().kind(), ErrorKind::Closed);
}

pub(super) async fn a_failed_first_read_is_retried(cx: Fixture) {
    real_time(&cx);
    let (client, faults) = cx.faulty().await;
    let owner = cx.provider().await;
    let a = Server::start().await;
    let _held = register(&cx, &owner, a.instance("a")).await;
    faults.cut();
    let channel = client.provider.registry().channel_with(SERVICE, options()).unwrap();
    eventually(cx.soon(), "the read failed", async || channel.state().discovery.unwrap().failure).await;
    let failed = ask(&cx, &channel).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable, "{failed}");
    assert!(channel.state().age.is_none() && channel.state().endpoints.is_empty());
    let waits = {
        let (cx, channel) = (cx.clone(), channel.clone());
        tokio::spawn(async move { call(&cx, &channel, waiting(), cx.soon() * 2).await })
    };
    faults.heal();
    within(cx.soon() * 3, "a call that waits is made", waits).await.unwrap().unwrap();
    assert_eq!(spread(&cx, &channel, [&a]).await, [10]);
    assert!(channel.state().discovery.unwrap().failure.is_none());
}

pub(super) async fn only_a_set_read_as_empty_empties_it(cx: Fixture) {
    real_time(&cx);
    let (client, faults) = cx.faulty().await;
    let owner = cx.provider().await;
    let a = Server::start().await;
    let held = register(&cx, &owner, a.instance("a")).await;
    let channel = client.provider.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &channel, 1).await;
    faults.cut();
    eventually(cx.soon(), "it is cut off", async || {
        (channel.state().discovery.unwrap().watch == WatchState::Suspended).then_some(())
    })
    .await;
    held.unregister().await.unwrap();
    // It has no way to know, so it goes on: for longer than any first reaction takes.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        ask(&cx, &channel).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    faults.heal();
    ready(&cx, &channel, 0).await;
    let failed = ask(&cx, &channel).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable, "{failed}");
}

pub(super) async fn a_resync_keeps_what_is_still_there(cx: Fixture) {
    real_time(&cx);
    let (client, faults) = cx.faulty().await;
    let owner = cx.client().await;
    let (a, b, c) = (Server::start().await, Server::start().await, Server::start().await);
    let _stays = register(&cx, &owner.provider, a.instance("a")).await;
    let goes = register(&cx, &owner.provider, b.instance("b")).await;
    let channel = client.provider.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &channel, 2).await;
    faults.cut();
    goes.unregister().await.unwrap();
    let _comes = register(&cx, &owner.provider, c.instance("c")).await;
    let now = owner.store.txn(Txn::new().then(Op::put("/elsewhere", "v"))).await.unwrap().revision;
    cx.compact(now).await;
    faults.heal();
    let moved = async || {
        let ports: Vec<u16> = channel.state().endpoints.iter().map(|state| state.endpoint.port()).collect();
        (ports == [a.address.port(), c.address.port()]).then_some(())
    };
    eventually(cx.soon(), "the set of now", moved).await;
    ready(&cx, &channel, 2).await;
    assert_eq!(spread(&cx, &channel, [&a, &b, &c]).await, [5, 0, 5]);
    assert!(channel.state().endpoints.iter().all(|endpoint| endpoint.connections == 1));
}

pub(super) async fn unchanged_endpoints_keep_their_connections(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.provider().await, cx.provider().await);
    let (a, b) = (Server::start().await, Server::start().await);
    let stays = register(&cx, &owner, a.instance("a")).await;
    let channel = client.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &channel, 1).await;
    for round in 0..10 {
        let passing = register(&cx, &owner, b.instance("b")).await;
        ready(&cx, &channel, 2).await;
        stays.update(a.instance("a").with_metadata("round", round.to_string())).await.unwrap();
        passing.unregister().await.unwrap();
        ready(&cx, &channel, 1).await;
    }
    assert_eq!(
        channel.state().endpoints.iter().map(|endpoint| endpoint.connections).collect::<Vec<_>>(),
        [1]
    );
}

pub(super) async fn without_an_endpoint_calls_fail_at_once(cx: Fixture) {
    real_time(&cx);
    let provider = cx.provider().await;
    let channel = provider.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &channel, 0).await;
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(ask(&cx, &channel).await.unwrap_err().code(), Code::Unavailable);
    }
    assert!(begun.elapsed() < Duration::from_secs(1) + cx.slack(), "{:?}", begun.elapsed());
}

pub(super) async fn without_an_endpoint_calls_wait_until_their_deadline_if_asked_to(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.provider().await, cx.provider().await);
    let channel = client.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &channel, 0).await;
    let (begun, deadline) = (Instant::now(), Duration::from_millis(300));
    let failed = call(&cx, &channel, waiting(), deadline).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded, "{failed}");
    assert!(
        (deadline..deadline + Duration::from_secs(1) + cx.slack()).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    let waits = {
        let (cx, channel) = (cx.clone(), channel.clone());
        tokio::spawn(async move { call(&cx, &channel, waiting(), cx.soon()).await })
    };
    let a = Server::start().await;
    let _held = register(&cx, &owner, a.instance("a")).await;
    within(cx.soon(), "the call that waits is made", waits).await.unwrap().unwrap();
}

pub(super) async fn a_crashed_instance_leaves_the_channel(cx: Fixture) {
    real_time(&cx);
    let (crashing, staying, client) = (cx.client().await, cx.provider().await, cx.provider().await);
    let (a, b) = (Server::start().await, Server::start().await);
    let ttl = coord_api::RegisterOptions::default().with_ttl(Duration::from_secs(2));
    let _gone = crashing.provider.registry().register_with(a.instance("a"), ttl).await.unwrap();
    let _stays = register(&cx, &staying, b.instance("b")).await;
    let channel = client.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &channel, 2).await;
    crashing.crash().await;
    // The server itself lives on, so only the registry can tell.
    ready(&cx, &channel, 1).await;
    assert_eq!(spread(&cx, &channel, [&a, &b]).await, [0, 10]);
}

pub(super) async fn bad_addresses_are_skipped_and_harm_no_other(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.client().await, cx.provider().await);
    let good = Server::start().await;
    let _held = register(&cx, &owner.provider, good.instance("good")).await;
    let port = good.address.port();
    let nobody = [
        ("no-address", "http://127.0.0.1"),
        ("with-port", "127.0.0.1:80"),
        ("no-name", "a..b"),
        ("no-ip", "256.1.1.1"),
        ("listens", "0.0.0.0"),
    ];
    for (id, address) in nobody {
        let record = layout::service_record(SERVICE, id, address, port);
        owner.store.txn(Txn::new().then(Op::put(layout::service(SERVICE, id), record))).await.unwrap();
    }
    let port_zero = layout::service_record(SERVICE, "port-zero", "127.0.0.1", 0);
    for (id, record) in [("port-zero", port_zero), ("garbage", coord_api::Value::from(bad::GARBAGE))] {
        owner.store.txn(Txn::new().then(Op::put(layout::service(SERVICE, id), record))).await.unwrap();
    }
    let channel = client.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &channel, 1).await;
    assert_eq!(spread(&cx, &channel, [&good]).await, [10]);
    let mut skipped: Vec<_> =
        channel.state().skipped.into_iter().map(|skipped| (skipped.id, skipped.error.kind())).collect();
    skipped.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("garbage", ErrorKind::Codec),
        ("listens", ErrorKind::InvalidArgument),
        ("no-address", ErrorKind::InvalidArgument),
        ("no-ip", ErrorKind::InvalidArgument),
        ("no-name", ErrorKind::InvalidArgument),
        ("port-zero", ErrorKind::Codec),
        ("with-port", ErrorKind::InvalidArgument),
    ];
    assert_eq!(skipped, expected.map(|(id, kind)| (id.to_owned(), kind)));
    // One that comes while the channel is there, and is repaired.
    let late = layout::service_record(SERVICE, "late", "not/an/address", port);
    owner.store.txn(Txn::new().then(Op::put(layout::service(SERVICE, "late"), late))).await.unwrap();
    eventually(cx.soon(), "it is skipped", async || {
        channel.state().skipped.iter().any(|skipped| skipped.id == "late").then_some(())
    })
    .await;
    let second = Server::start().await;
    let _repaired = register(&cx, &owner.provider, second.instance("late")).await;
    ready(&cx, &channel, 2).await;
    assert_eq!(channel.state().skipped.len(), expected.len());
}

pub(super) async fn two_instances_of_one_address_are_one_endpoint(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.provider().await, cx.provider().await);
    let (shared, other) = (Server::start().await, Server::start().await);
    let first = register(&cx, &owner, shared.instance("a")).await;
    let _second = register(&cx, &owner, shared.instance("b")).await;
    let _third = register(&cx, &owner, other.instance("c")).await;
    let channel = client.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &channel, 2).await;
    assert_eq!(spread(&cx, &channel, [&shared, &other]).await, [5, 5]);
    let skipped: Vec<_> =
        channel.state().skipped.into_iter().map(|skipped| (skipped.id, skipped.error.kind())).collect();
    assert_eq!(skipped, [("b".to_owned(), ErrorKind::Conflict)]);
    first.unregister().await.unwrap();
    eventually(cx.soon(), "the other one has it now", async || {
        channel.state().skipped.is_empty().then_some(())
    })
    .await;
    assert_eq!(spread(&cx, &channel, [&shared, &other]).await, [5, 5]);
    assert!(
        channel.state().endpoints.iter().all(|endpoint| endpoint.connections == 1),
        "it kept its connection"
    );
}

pub(super) async fn two_providers_in_one_process_do_not_interfere(cx: Fixture) {
    real_time(&cx);
    let (east, west) = (cx.namespaced("east").await, cx.namespaced("west").await);
    let (a, b) = (Server::start().await, Server::start().await);
    let _east = register(&cx, &east, a.instance("x")).await;
    let leaves = register(&cx, &west, b.instance("x")).await;
    let to_east = east.registry().channel_with(SERVICE, options()).unwrap();
    let to_west = west.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &to_east, 1).await;
    ready(&cx, &to_west, 1).await;
    assert_eq!(spread(&cx, &to_east, [&a, &b]).await, [10, 0]);
    assert_eq!(spread(&cx, &to_west, [&a, &b]).await, [0, 10]);
    leaves.unregister().await.unwrap();
    ready(&cx, &to_west, 0).await;
    west.close().await.unwrap();
    drop(to_west);
    assert_eq!(spread(&cx, &to_east, [&a, &b]).await, [10, 0]);
    let state = to_east.state();
    assert_eq!(state.endpoints.iter().map(|endpoint| endpoint.connections).collect::<Vec<_>>(), [1]);
    assert_eq!(state.discovery.unwrap().watch, WatchState::Live);
}

pub(super) async fn a_dropped_channel_leaves_no_task(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.provider().await, cx.provider().await);
    let a = Server::start().await;
    let _held = register(&cx, &owner, a.instance("a")).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // The provider's own watch, which channels share, may stay for a while.
    let kept = client.registry().channel_with(SERVICE, options()).unwrap();
    ready(&cx, &kept, 1).await;
    ask(&cx, &kept).await.unwrap();
    let before = tasks();
    for _ in 0..20 {
        let channel = client.registry().channel_with(SERVICE, options()).unwrap();
        ready(&cx, &channel, 1).await;
        ask(&cx, &channel).await.unwrap();
        assert!(tasks() > before);
        drop(channel);
    }
    // Those of the server's side of the connections, too.
    eventually(cx.soon(), "all tasks end", async || (tasks() <= before).then_some(())).await;
}

pub(super) async fn a_channel_outlives_the_runtime_that_made_it(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.provider().await, cx.provider().await);
    let (a, b) = (Server::start().await, Server::start().await);
    let first = register(&cx, &owner, a.instance("a")).await;
    let channel = {
        let (cx, registry) = (cx.clone(), Arc::clone(client.registry()));
        elsewhere(async move || {
            let channel = registry.channel_with(SERVICE, options()).unwrap();
            ask(&cx, &channel).await.unwrap();
            channel
        })
        .await
    };
    assert_eq!(spread(&cx, &channel, [&a]).await, [10]);
    let _second = register(&cx, &owner, b.instance("b")).await;
    ready(&cx, &channel, 2).await;
    first.unregister().await.unwrap();
    ready(&cx, &channel, 1).await;
    assert_eq!(spread(&cx, &channel, [&a, &b]).await, [0, 10]);
    assert_eq!(channel.state().discovery.unwrap().watch, WatchState::Live);
}

pub(super) async fn a_runtime_that_stands_still_holds_up_no_other(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.provider().await, cx.provider().await);
    let a = Server::start().await;
    let _held = register(&cx, &owner, a.instance("a")).await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let stands_still = {
        let (cx, registry) = (cx.clone(), Arc::clone(client.registry()));
        tokio::spawn(elsewhere(async move || {
            let channel = registry.channel_with(SERVICE, options()).unwrap();
            ask(&cx, &channel).await.unwrap();
            let _ = tell.send(channel);
            let _ = released.recv();
        }))
    };
    let channel = within(cx.soon(), "a channel", told).await.unwrap();
    assert_eq!(spread(&cx, &channel, [&a]).await, [10]);
    let b = Server::start().await;
    let _comes = register(&cx, &owner, b.instance("b")).await;
    ready(&cx, &channel, 2).await;
    assert_eq!(spread(&cx, &channel, [&a, &b]).await, [5, 5]);
    drop(release);
    stands_still.await.unwrap();
}

pub(super) async fn dropped_anywhere_a_channel_leaves_no_connection(cx: Fixture) {
    real_time(&cx);
    let (owner, client) = (cx.provider().await, cx.provider().await);
    let server = Server::start().await;
    let counter = Counter::before(&server).await;
    let _held = register(&cx, &owner, counter.instance("a")).await;
    for round in 0..3 {
        let channel = client.registry().channel_with(SERVICE, options()).unwrap();
        ready(&cx, &channel, 1).await;
        ask(&cx, &channel).await.unwrap();
        assert_eq!(counter.open(), 1);
        match round {
            0 => drop(channel),
            1 => elsewhere(async move || drop(channel)).await,
            // With no runtime at all.
            _ => std::thread::spawn(move || drop(channel)).join().unwrap(),
        }
        eventually(cx.soon(), "its connection is closed", async || (counter.open() == 0).then_some(())).await;
    }
}

pub(super) async fn a_bad_service_name_is_an_invalid_argument(cx: Fixture) {
    real_time(&cx);
    let provider = cx.provider().await;
    for name in ["", "a/b", ".", "..", "a\nb"] {
        let error = provider.registry().channel(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name:?}");
    }
    let by_value = Arc::clone(provider.registry());
    by_value.channel_with(SERVICE, options()).expect("over any registry");
}
