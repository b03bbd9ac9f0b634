//! R8 Close.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Range, Span, Txn};
use coord_api::{ErrorKind, HandleState, Loss, ServiceInstance, Value, WatchStart};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::{Held, all_calls, contents, held_by_anyone};
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::layout;
use crate::view;
use crate::wait::{eventually, within};

/// How long closing takes at most, and how long after it everything that was pending has ended.
const FIVE_SECONDS: Duration = Duration::from_secs(5);

pub(super) async fn closing_twice_is_ok(cx: Fixture) {
    let provider = cx.provider().await;
    let _held = Held::new(&provider, cx.ttl()).await;
    for _ in 0..3 {
        within(FIVE_SECONDS, "closing ends", provider.close()).await.unwrap();
    }
    let unused = cx.provider().await;
    unused.close().await.unwrap();
    unused.close().await.unwrap();
}

pub(super) async fn closing_at_once_is_ok(cx: Fixture) {
    let (client, stranger) = (cx.delayed(1).await, cx.provider().await);
    let _held = Held::new(&client.provider, cx.ttl()).await;
    let closes = join_all((0..5).map(|_| client.provider.close()));
    for closed in within(FIVE_SECONDS, "closing ends", closes).await {
        closed.unwrap();
    }
    assert_eq!(held_by_anyone(&stranger, cx.ttl()).await, [false; 3]);
}

pub(super) async fn after_it_every_call_is_closed_without_io(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let store = cx.store().await;
    let _held = Held::new(&client.provider, cx.ttl()).await;
    client.provider.close().await.unwrap();
    let before = contents(&*store).await;
    for (name, call) in all_calls() {
        let (answer, counts) = counter.during(call(&client.provider, "name")).await;
        let error = answer.expect_err(name);
        assert_eq!((error.kind(), counts.all()), (ErrorKind::Closed, 0), "{name}: {error:?}");
    }
    sleep(cx.ttl() * 2).await;
    assert_eq!(contents(&*store).await, before);
}

pub(super) async fn what_was_held_is_free_when_it_returns(cx: Fixture) {
    let (client, stranger) = (cx.client().await, cx.provider().await);
    let store = cx.store().await;
    let _held = Held::new(&client.provider, cx.ttl()).await;
    // Sessions of other TTLs, and many of them.
    let mut more = Vec::new();
    for n in 1..6 {
        more.push(client.provider.lock().acquire(&format!("l{n}"), cx.ttl() * n).await.unwrap());
    }
    assert_eq!(held_by_anyone(&stranger, cx.ttl()).await, [true; 3]);
    client.provider.close().await.unwrap();
    let left: Vec<_> = contents(&*store).await.into_iter().map(|entry| entry.key).collect();
    let left = left.iter().filter(|key| !key.starts_with(layout::SESSIONS.as_bytes())).count();
    assert_eq!(left, 0, "nothing is held any more");
    assert_eq!(held_by_anyone(&stranger, cx.ttl()).await, [false; 3]);
    for n in 1..6 {
        stranger.lock().try_acquire(&format!("l{n}"), cx.ttl()).await.unwrap().unlock().await.unwrap();
    }
}

pub(super) async fn every_handle_is_told(cx: Fixture) {
    let provider = cx.provider().await;
    let held = Held::new(&provider, cx.ttl()).await;
    let lost = held.lost().map(tokio::spawn);
    provider.close().await.unwrap();
    assert!(!held.any_held());
    for lost in lost {
        assert_eq!(within(cx.slack(), "a handle is told that it is over", lost).await.unwrap(), Loss::Closed);
    }
    for lost in held.lost() {
        assert_eq!(within(cx.slack(), "who asks later is told at once", lost).await, Loss::Closed);
    }
    assert_eq!(held.guard.state(), HandleState::Ended(Loss::Closed));
    assert_eq!(held.registration.state(), HandleState::Ended(Loss::Closed));
    assert_eq!((held.guard.ttl(), held.registration.ttl(), held.id.ttl()), Default::default());
}

pub(super) async fn waiting_calls_end_with_closed(cx: Fixture) {
    let (client, holder) = (cx.client().await, cx.provider().await);
    let _held = Held::new(&holder, cx.ttl()).await;
    let provider = Arc::clone(&client.provider);
    let lock =
        tokio::spawn(async move { provider.lock().acquire("held", Duration::from_secs(60)).await.map(drop) });
    let provider = Arc::clone(&client.provider);
    let id = tokio::spawn(async move {
        provider.allocator().acquire_id_timeout("held", 1, Duration::from_secs(3_600)).await.map(drop)
    });
    let mut watch = client.provider.config().watch_raw("k", WatchStart::Now).await.unwrap();
    let watch = tokio::spawn(async move { view::end(&mut watch).await.map_or(Ok(()), Err) });
    let mut service = client.provider.registry().watch("another").await.unwrap();
    let service = tokio::spawn(async move { view::end(&mut service).await.map_or(Ok(()), Err) });
    let store = cx.store().await;
    eventually(cx.soon(), "the waiter is in the queue", async || {
        let queue = store.range(Range::prefix(layout::lock_queue("held"))).await.unwrap();
        (queue.entries.len() == 2).then_some(())
    })
    .await;
    client.provider.close().await.unwrap();
    for (name, waiting) in [("lock", lock), ("id", id), ("watch", watch), ("service watch", service)] {
        let error = within(FIVE_SECONDS, name, waiting).await.unwrap().expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Closed, "{name}: {error:?}");
    }
    let queue = store.range(Range::prefix(layout::lock_queue("held"))).await.unwrap();
    assert_eq!(queue.entries.len(), 1, "no ghost waits");
}

pub(super) async fn calls_that_hang_end_with_closed(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    faults.hang();
    let calls = all_calls().map(|(name, call)| {
        let provider = Arc::clone(&client.provider);
        (name, tokio::spawn(async move { call(&provider, "name").await }))
    });
    let calls: Vec<_> = calls.collect();
    tokio::task::yield_now().await;
    let start = Instant::now();
    let closing = Arc::clone(&client.provider);
    let closing = tokio::spawn(async move { closing.close().await });
    for (name, call) in calls {
        let error = within(FIVE_SECONDS + cx.slack(), name, call).await.unwrap().expect_err(name);
        assert!(error.kind() == ErrorKind::Closed || error.is_transient(), "{name}: {error:?}");
    }
    assert!(start.elapsed() <= FIVE_SECONDS + cx.slack(), "after {:?}", start.elapsed());
    within(FIVE_SECONDS + cx.slack(), "closing ends", closing)
        .await
        .unwrap()
        .map_or_else(|error| assert_eq!(error.kind(), ErrorKind::Unavailable), |()| {});
}

pub(super) async fn nothing_heals_after_it(cx: Fixture) {
    let (client, stranger) = (cx.client().await, cx.provider().await);
    let instance = ServiceInstance::new("s", "i", "localhost", 80);
    let registration = client.provider.registry().register(instance).await.unwrap();
    // It is just being healed.
    let store = cx.store().await;
    store.txn(Txn::new().then(Op::delete(layout::service("s", "i")))).await.unwrap();
    client.provider.close().await.unwrap();
    sleep(cx.ttl() * 3).await;
    assert_eq!(stranger.registry().discover("s").await.unwrap().items, []);
    assert_eq!(registration.state(), HandleState::Ended(Loss::Closed));
}

pub(super) async fn it_leaves_other_clients_alone(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let mut watch = two.config().watch_raw("k", WatchStart::Now).await.unwrap();
    let _gone = one.lock().acquire("other", cx.ttl()).await.unwrap();
    let held = Held::new(&two, cx.ttl()).await;
    one.close().await.unwrap();
    drop(one);
    two.config().set_raw("k", Value::from("v")).await.unwrap();
    within(cx.soon(), "the other's watch goes on", watch.next()).await.unwrap().unwrap();
    sleep(cx.ttl() * 2).await;
    assert!(held.guard.is_held() && held.registration.state().is_held() && held.id.is_held());
}

pub(super) async fn out_of_reach_it_is_unavailable_and_closed_all_the_same(cx: Fixture) {
    for hang in [false, true] {
        let (client, faults) = cx.faulty().await;
        let stranger = cx.provider().await;
        let held = Held::new(&client.provider, cx.ttl()).await;
        let lost = held.lost();
        if hang {
            faults.hang();
        } else {
            faults.cut();
        }
        let start = Instant::now();
        let closed = within(FIVE_SECONDS + cx.slack(), "closing ends", client.provider.close()).await;
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::Unavailable, "hang: {hang}");
        assert!(!held.any_held());
        for lost in lost {
            assert_eq!(within(cx.slack(), "a handle is told", lost).await, Loss::Closed);
        }
        for (name, call) in all_calls() {
            let asked = Instant::now();
            let error = call(&client.provider, "name").await.expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Closed, "{name}");
            assert!(asked.elapsed() <= cx.slack(), "{name} waited");
        }
        faults.heal();
        // Nothing is renewed any more, whatever else becomes of it.
        let left = cx.gone_by(cx.ttl()).saturating_sub(start.elapsed());
        sleep(left).await;
        assert_eq!(held_by_anyone(&stranger, cx.ttl()).await, [false; 3], "hang: {hang}");
    }
}

pub(super) async fn it_may_be_dropped_and_finished_later(cx: Fixture) {
    let stranger = cx.provider().await;
    for polls in 1..50 {
        let client = cx.delayed(polls).await;
        let held = Held::new(&client.provider, cx.ttl()).await;
        let polled = poll_times(usize::try_from(polls).unwrap(), cx.soon(), client.provider.close()).await;
        assert!(!held.any_held(), "once polled, the provider is closed");
        let error = client.provider.config().get_raw("k").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        within(FIVE_SECONDS, "closing again finishes the work", client.provider.close()).await.unwrap();
        assert_eq!(held_by_anyone(&stranger, cx.ttl()).await, [false; 3], "after {polls} polls");
        if matches!(polled, Polled::Done(_)) {
            break;
        }
    }
}

pub(super) async fn handles_can_be_used_and_dropped_after_it(cx: Fixture) {
    let (provider, stranger) = (cx.provider().await, cx.provider().await);
    let held = Held::new(&provider, cx.ttl()).await;
    provider.close().await.unwrap();
    let taken = Held::new(&stranger, cx.ttl()).await;
    for (name, result) in [
        ("unlock", held.guard.unlock().await),
        ("release", held.id.release().await),
        ("update", held.registration.update(ServiceInstance::new("held", "i", "localhost", 81)).await),
    ] {
        let kind = result.expect_err(name).kind();
        assert!(matches!(kind, ErrorKind::LeaseLost | ErrorKind::Closed), "{name}: {kind:?}");
    }
    let _ = held.registration.unregister().await;
    drop(held);
    drop(provider);
    sleep(cx.ttl() * 2).await;
    assert!(
        taken.guard.is_held() && taken.registration.state().is_held() && taken.id.is_held(),
        "no successor is harmed"
    );
    assert_eq!(held_by_anyone(&cx.provider().await, cx.ttl()).await, [true; 3]);
}

pub(super) async fn a_closed_store_client_is_closed_and_revokes_nothing(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let lease = store.grant_lease(cx.ttl()).await.unwrap();
    store.txn(Txn::new().then(Op::put_leased("k", "v", lease.id))).await.unwrap();
    let mut watch = store.watch(Span::key("k"), None).await.unwrap();
    let mut kept = other.watch(Span::key("k"), None).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    let kinds = [
        store.range(Range::key("k")).await.unwrap_err().kind(),
        store.txn(Txn::new().then(Op::put("k", "v"))).await.unwrap_err().kind(),
        store.watch(Span::key("k"), None).await.unwrap_err().kind(),
        store.grant_lease(cx.ttl()).await.unwrap_err().kind(),
        store.keep_alive(lease.id).await.unwrap_err().kind(),
        store.lease(lease.id).await.unwrap_err().kind(),
        store.revoke_lease(lease.id).await.unwrap_err().kind(),
        store.status().await.unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Closed; 8]);
    let last = within(FIVE_SECONDS, "the stream of a closed client ends", async {
        loop {
            match watch.next().await {
                Some(Ok(_)) => {}
                other => return other,
            }
        }
    })
    .await;
    assert_eq!(last.expect("the last item says why").unwrap_err().kind(), ErrorKind::Closed);
    assert!(other.lease(lease.id).await.unwrap().is_some(), "it revokes nothing");
    other.txn(Txn::new().then(Op::put("k", "other"))).await.unwrap();
    within(cx.soon(), "other clients are left alone", kept.next()).await.unwrap().unwrap();
}
