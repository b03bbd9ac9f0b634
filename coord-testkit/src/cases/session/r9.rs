//! R9 Drop.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{IdOptions, LockOptions, RegisterOptions, ServiceInstance, Wait};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::super::leased::{
    Lasting, ONE_SECOND, drop_outside_a_runtime, entries, entry, gone, holders_lease, lease_of, lost_within, queue,
};
use crate::fixture::Fixture;
use crate::histories::{Workload, uphold};
use crate::layout;
use crate::wait::{eventually, within};
use crate::wrap::Fault;

fn instance(id: &str) -> ServiceInstance {
    ServiceInstance::new("s", id, "localhost", 80)
}

fn of_ttl(cx: &Fixture) -> RegisterOptions {
    RegisterOptions::default().with_ttl(cx.ttl())
}

/// Waits until nobody is registered any more.
async fn nobody_is_registered(cx: &Fixture, limit: Duration) {
    let provider = cx.provider().await;
    eventually(limit, "nobody is registered", || async { provider.registry().discover("s").await.unwrap().items.is_empty().then_some(()) })
        .await;
}

pub(super) async fn a_dropped_guard_frees_the_lock(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    for (first, second) in [(&one, &other), (&one, &one)] {
        drop(first.lock().acquire("k", cx.ttl()).await.unwrap());
        let next = within(ONE_SECOND + cx.slack(), "the lock is free", second.lock().acquire("k", cx.ttl())).await.unwrap();
        next.unlock().await.unwrap();
    }
}

pub(super) async fn a_dropped_registration_is_gone(cx: Fixture) {
    let provider = cx.provider().await;
    drop(provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap());
    nobody_is_registered(&cx, ONE_SECOND + cx.slack()).await;
}

pub(super) async fn a_dropped_id_is_free(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    drop(provider.allocator().acquire_id("s", 1).await.unwrap());
    within(ONE_SECOND + cx.slack(), "the id is free", other.allocator().acquire_id_timeout("s", 1, cx.soon()))
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
}

pub(super) async fn handles_may_be_dropped_outside_a_runtime(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let registration = provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
    let id = provider.allocator().acquire_id("s", 1).await.unwrap();
    let losts = [guard.lost(), registration.lost(), id.lost()];
    drop_outside_a_runtime((guard, registration, id));
    within(ONE_SECOND + cx.slack(), "lost() of each fires", join_all(losts)).await;
    let limit = ONE_SECOND + cx.slack();
    within(limit, "the lock is free", other.lock().acquire("k", cx.ttl())).await.unwrap().unlock().await.unwrap();
    within(limit, "the id is free", other.allocator().acquire_id_timeout("s", 1, cx.soon())).await.unwrap().release().await.unwrap();
    nobody_is_registered(&cx, limit).await;
    // The provider is unharmed.
    provider.lock().acquire("k", cx.ttl()).await.unwrap().unlock().await.unwrap();
}

pub(super) async fn a_provider_may_be_dropped_outside_a_runtime(cx: Fixture) {
    let other = cx.provider().await;
    let provider = cx.provider().await;
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let registration = provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
    let watch = provider.registry().watch("s").await.unwrap();
    drop_outside_a_runtime((provider, watch, guard, registration));
    // At the latest with its lease, which nobody renews any more.
    let limit = cx.gone_by(cx.ttl()) + ONE_SECOND;
    within(limit, "the lock is free", other.lock().acquire("k", cx.ttl())).await.unwrap().unlock().await.unwrap();
    nobody_is_registered(&cx, limit).await;
}

pub(super) async fn a_provider_may_be_dropped_before_its_handles(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.provider().await);
    let client = cx.client().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    drop(client);
    // Whether it is still held is one thing; that it is not believed to be held when it is not is another.
    for _ in 0..30 {
        tokio::time::sleep(cx.ttl() / 10).await;
        assert!(!guard.is_held() || queue(&*store, "k").await.len() == 1, "held, and gone from the store");
    }
    drop(guard);
    within(cx.gone_by(cx.ttl()) + ONE_SECOND, "the lock is free", other.lock().acquire("k", cx.ttl()))
        .await
        .unwrap()
        .unlock()
        .await
        .unwrap();
}

pub(super) async fn a_drop_never_blocks_on_a_store_that_hangs(cx: Fixture) {
    let other = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let registration = client.provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
    let waiter = {
        let lock = std::sync::Arc::clone(client.provider.lock());
        let ttl = cx.ttl();
        let mut waiter = Box::pin(async move { lock.acquire("k", ttl).await });
        crate::wait::never_within(cx.slack(), "a grant", &mut waiter).await;
        waiter
    };
    faults.hang();
    let hung = Instant::now();
    drop_outside_a_runtime((guard, registration, waiter));
    // The store was not told: the lease takes everything along.
    let limit = cx.gone_by(cx.ttl()).saturating_sub(hung.elapsed()) + ONE_SECOND;
    let store = cx.store().await;
    eventually(limit, "the lock is free", async || queue(&*store, "k").await.is_empty().then_some(())).await;
    nobody_is_registered(&cx, ONE_SECOND).await;
    within(cx.soon(), "the next grant", other.lock().acquire("k", cx.ttl())).await.unwrap().unlock().await.unwrap();
}

pub(super) async fn a_release_that_failed_is_repeated(cx: Fixture) {
    let other = cx.provider().await;
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (client, faults) = cx.faulty().await;
        // Its lease is renewed, so that only the release can free the lock.
        let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
        let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
        for _ in 0..3 {
            faults.next_delete(fault, layout::lock_queue("k"));
        }
        drop(guard);
        within(cx.ttl(), "the release is repeated", other.lock().acquire("k", cx.ttl())).await.unwrap().unlock().await.unwrap();
        assert!(kept.is_held(), "{fault:?}");
        kept.unlock().await.unwrap();
    }
}

pub(super) async fn a_release_of_a_registration_that_failed_is_repeated(cx: Fixture) {
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (client, faults) = cx.faulty().await;
        let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
        let registration = client.provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
        for _ in 0..3 {
            faults.next_delete(fault, layout::service("s", "a"));
        }
        drop(registration);
        nobody_is_registered(&cx, cx.ttl()).await;
        assert!(kept.is_held(), "{fault:?}");
        kept.unlock().await.unwrap();
    }
}

pub(super) async fn many_releases_that_failed_are_repeated(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let mut guards = Vec::new();
    for n in 0..300 {
        guards.push(client.provider.lock().acquire(&format!("k{n}"), cx.ttl()).await.unwrap());
    }
    let start = Instant::now();
    let cut = Lasting::begin(&faults, Fault::Refuse, |request| request.deletes(layout::LOCKS));
    drop(guards);
    tokio::time::sleep(cx.ttl() / 4).await;
    cut.end();
    let limit = cx.ttl().saturating_sub(start.elapsed());
    eventually(limit, "all are released", || async { (entries(&*store, layout::LOCKS.to_owned()).await.len() == 1).then_some(()) }).await;
    assert!(kept.is_held());
}

pub(super) async fn a_release_that_is_owed_harms_no_successor(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (other, store) = (cx.provider().await, cx.store().await);
    let registration = client.provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let cut = Lasting::begin(&faults, Fault::Refuse, |request| request.deletes("/"));
    drop((registration, guard));
    tokio::time::sleep(cx.ttl() / 8).await;
    // Someone takes over what is to be removed.
    let registered = other.registry().register_with(instance("a").with_metadata("of", "other"), of_ttl(&cx)).await.unwrap();
    let waiter = {
        let (lock, ttl) = (std::sync::Arc::clone(client.provider.lock()), cx.ttl());
        tokio::spawn(async move { lock.acquire("k", ttl).await })
    };
    tokio::time::sleep(cx.ttl() / 8).await;
    cut.end();
    let guard = within(cx.ttl(), "the release is repeated", waiter).await.unwrap().unwrap();
    tokio::time::sleep(cx.ttl() * 2).await;
    assert!(guard.is_held());
    assert_eq!(queue(&*store, "k").await.len(), 1);
    assert!(registered.state().is_held());
    assert_eq!(other.registry().discover("s").await.unwrap().items, [instance("a").with_metadata("of", "other")]);
}

pub(super) async fn nothing_dropped_is_held_for_ever(cx: Fixture) {
    let other = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let lease = holders_lease(&*store, "k").await;
    // The lease is renewed without fault; only the release never gets through.
    let refused = Lasting::begin(&faults, Fault::Refuse, |request| request.deletes(&layout::lock_queue("k")));
    let dropped = Instant::now();
    drop(guard);
    // The debt may grow one TTL old before the renewals end, and what was renewed last runs for another one.
    let limit = cx.ttl() * 2 + cx.ttl() / 3 + cx.lag() + cx.slack();
    let acquire = other.lock().acquire_with("k", LockOptions::default().with_ttl(cx.ttl()).with_wait(Wait::For(limit)));
    let next = acquire.await.expect("the lease of what was dropped ran out");
    assert!(dropped.elapsed() >= cx.ttl(), "one TTL long the release is only repeated");
    assert!(!kept.is_held(), "what shares the lease goes with it, and knows before");
    lost_within(cx.slack(), "lost() fires", kept.lost()).await;
    gone(&*store, lease, cx.slack(), "the lease is gone").await;
    assert!(next.is_held());
    refused.end();
    // A new lease carries what comes next.
    let again = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let key = queue(&*store, "kept").await[0].key.to_vec();
    assert_ne!(lease_of(&*store, String::from_utf8(key).unwrap()).await, lease);
    assert!(again.is_held() && entry(&*store, layout::session(lease)).await.is_none());
}

pub(super) async fn a_debt_is_not_paid_by_an_earlier_one_of_the_same_key(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let _kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let acquire = || client.provider.allocator().acquire_id_with("s", IdOptions::default().with_ttl(cx.ttl()));
    // The release of the first is applied at once, and while its answer is out the id is taken and dropped again.
    faults.next(Fault::LateAnswer(Duration::from_millis(300)), |request| request.deletes(layout::IDS));
    drop(acquire().await.unwrap());
    eventually(cx.soon(), "the id is free", || async { entry(&*store, layout::id("s", 1)).await.is_none().then_some(()) }).await;
    let second = acquire().await.unwrap();
    assert_eq!(second.id(), 1);
    drop(second);
    let limit = ONE_SECOND + cx.slack();
    eventually(limit, "the id is free again", || async { entry(&*store, layout::id("s", 1)).await.is_none().then_some(()) }).await;
}

pub(super) async fn a_late_release_pays_no_debt_of_a_later_handle(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let _kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let acquire = || client.provider.allocator().acquire_id_with("s", IdOptions::default().with_ttl(cx.ttl()));
    let first = acquire().await.unwrap();
    faults.next_delete(Fault::LoseAnswer, layout::IDS);
    first.release().await.unwrap_err();
    let second = acquire().await.unwrap();
    assert_eq!(second.id(), 1);
    // The second is owed, and the first is released once more.
    faults.next_delete(Fault::Refuse, layout::IDS);
    drop(second);
    eventually(cx.soon(), "its release is refused", || async { (faults.unused() == 0).then_some(()) }).await;
    let _ = within(cx.soon(), "an answer", first.release()).await;
    let what = "the id of the second is free";
    eventually(cx.ttl(), what, || async { entry(&*store, layout::id("s", 1)).await.is_none().then_some(()) }).await;
}

pub(super) async fn after_random_histories_nothing_dropped_is_held(cx: Fixture) {
    uphold(&cx, "r9::after_random_histories_nothing_dropped_is_held", Workload::Mixed, false, &["r9"]).await;
}

pub(super) async fn no_dropped_id_is_held_for_ever(cx: Fixture) {
    let other = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    let options = IdOptions::default().with_range(1..=1).with_ttl(cx.ttl());
    let id = client.provider.allocator().acquire_id_with("s", options.clone()).await.unwrap();
    let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let refused = Lasting::begin(&faults, Fault::Refuse, |request| request.deletes(layout::IDS));
    let dropped = Instant::now();
    drop(id);
    let limit = cx.ttl() * 2 + cx.ttl() / 3 + cx.lag() + cx.slack();
    let next = other.allocator().acquire_id_with("s", options.with_wait(Wait::For(limit))).await;
    assert!(next.expect("the lease of what was dropped ran out").is_held());
    assert!(dropped.elapsed() >= cx.ttl(), "one TTL long the release is only repeated");
    assert!(!kept.is_held(), "what shares the lease goes with it, and knows before");
    refused.end();
    let again = within(cx.soon(), "a new lease carries what comes next", client.provider.lock().acquire("kept", cx.ttl())).await.unwrap();
    assert!(again.is_held());
}
