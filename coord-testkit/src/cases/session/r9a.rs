//! R9a Sessions.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, HandleState, IdOptions, LockGuard, RegisterOptions, ServiceInstance};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::leased::{
    BACKOFF_CAP, Lasting, ONE_SECOND, delete, entries, entry, gone, holders_lease, keep_alive_for_it,
    lease_of, lost_within, note_renewals, queue,
};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, within};
use crate::wrap::{Fault, Faults, Request};

fn instance(id: impl Into<String>) -> ServiceInstance {
    ServiceInstance::new("s", id, "localhost", 80)
}

fn of_ttl(cx: &Fixture) -> RegisterOptions {
    RegisterOptions::default().with_ttl(cx.ttl())
}

pub(super) async fn everything_of_one_ttl_shares_one_lease(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let store = cx.store().await;
    let _guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let _other = client.provider.lock().try_acquire("l", cx.ttl()).await.unwrap();
    let _registration = client.provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
    let _id = client
        .provider
        .allocator()
        .acquire_id_with("s", IdOptions::default().with_ttl(cx.ttl()))
        .await
        .unwrap();
    assert_eq!(counter.counts().grant, 1);
    let lease = holders_lease(&*store, "k").await;
    assert_eq!(holders_lease(&*store, "l").await, lease);
    assert_eq!(lease_of(&*store, layout::service("s", "a")).await, lease);
    assert_eq!(lease_of(&*store, layout::id("s", 1)).await, lease);
}

pub(super) async fn n_registrations_of_one_ttl_share_one_lease(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let registry = client.provider.registry();
    let mut held = Vec::new();
    for n in 0..100 {
        held.push(registry.register(instance(format!("i{n}"))).await.unwrap());
    }
    assert_eq!(counter.counts().grant, 1);
    let leases = entries(&*cx.store().await, layout::service("s", "")).await;
    assert_eq!(leases.len(), 100);
    assert!(leases.iter().all(|entry| entry.lease.is_some() && entry.lease == leases[0].lease));
}

pub(super) async fn ttls_that_round_up_to_the_same_share_one_lease(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let mut held = Vec::new();
    for (n, less) in [0, 1, 500, 999].into_iter().enumerate() {
        let ttl = cx.ttl() - Duration::from_millis(less);
        held.push(client.provider.lock().acquire(&format!("k{n}"), ttl).await.unwrap());
    }
    assert_eq!(counter.counts().grant, 1);
}

pub(super) async fn every_ttl_has_a_lease_of_its_own(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let (provider, store) = (&client.provider, cx.store().await);
    let short = provider.lock().acquire("short", cx.ttl()).await.unwrap();
    let long = provider.lock().acquire("long", cx.ttl() * 3).await.unwrap();
    assert_eq!(counter.counts().grant, 2);
    let (lease, other) = (holders_lease(&*store, "short").await, holders_lease(&*store, "long").await);
    assert_ne!(lease, other);
    // Nor does another provider share it.
    let _theirs = cx.provider().await.lock().acquire("theirs", cx.ttl()).await.unwrap();
    assert_ne!(holders_lease(&*store, "theirs").await, lease);
    assert!(long.ttl() > short.ttl());
    // One that is lost leaves the other alone.
    store.revoke_lease(lease).await.unwrap();
    lost_within(ONE_SECOND + cx.slack(), "the loss is noticed", short.lost()).await;
    sleep(cx.ttl()).await;
    assert!(long.is_held());
}

pub(super) async fn a_session_has_a_key_of_its_own(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let lease = holders_lease(&*store, "k").await;
    let session = entry(&*store, layout::session(lease)).await.expect("the session's key");
    assert_eq!(session.lease, Some(lease), "it goes with the lease");
    assert!(session.created < queue(&*store, "k").await[0].created, "it was there first");
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(entry(&*store, layout::session(lease)).await, None);
    lost_within(ONE_SECOND + cx.slack(), "the loss is noticed", guard.lost()).await;
}

pub(super) async fn first_acquires_at_once_share_one_grant(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let keys: Vec<String> = (0..16).map(|n| format!("k{n}")).collect();
    let held = join_all(keys.iter().map(|key| client.provider.lock().acquire(key, cx.ttl()))).await;
    assert!(held.iter().all(Result::is_ok));
    assert_eq!(counter.counts().grant, 1);
}

pub(super) async fn after_the_first_of_its_ttl_an_acquire_is_one_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let first = client.provider.lock().acquire("first", cx.ttl()).await.unwrap();
    first.unlock().await.unwrap();
    // Kept, so that no release falls into the count.
    let mut held = Vec::new();
    for key in ["first", "second", "third"] {
        let (guard, counts) = counter.during(client.provider.lock().acquire(key, cx.ttl())).await;
        assert_eq!(counts.requests(), 1, "{counts:?}");
        held.push(guard.unwrap());
    }
    assert!(held.iter().all(LockGuard::is_held));
}

pub(super) async fn after_the_first_of_its_ttl_a_try_is_one_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let holder = cx.provider().await.lock().acquire("held", cx.ttl()).await.unwrap();
    let _first = client.provider.lock().acquire("first", cx.ttl()).await.unwrap();
    let mut tries = Vec::new();
    for (key, free) in [("free", true), ("held", false), ("first", false)] {
        let (tried, counts) = counter.during(client.provider.lock().try_acquire(key, cx.ttl())).await;
        assert_eq!(counts.requests(), 1, "{key}: {counts:?}");
        assert_eq!(tried.is_ok(), free);
        tries.push(tried);
    }
    assert!(holder.is_held());
}

pub(super) async fn an_unlock_is_one_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    for key in ["k", "k", "l"] {
        let guard = client.provider.lock().acquire(key, cx.ttl()).await.unwrap();
        let (unlocked, counts) = counter.during(guard.unlock()).await;
        unlocked.unwrap();
        assert_eq!(counts.requests(), 1, "{counts:?}");
        let ((), counts) = counter
            .during(async {
                drop(guard);
                sleep(cx.slack()).await;
            })
            .await;
        assert_eq!(counts.requests(), 0, "nothing is left to be done");
    }
}

pub(super) async fn the_cost_does_not_grow_with_what_is_held(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let mut held = vec![client.provider.lock().acquire("first", cx.ttl() * 5).await.unwrap()];
    for hundreds in 0..3 {
        let before = counter.counts();
        for n in 0..100 {
            held.push(
                client.provider.lock().acquire(&format!("{hundreds}/{n}"), cx.ttl() * 5).await.unwrap(),
            );
        }
        assert_eq!(counter.counts().since(&before).requests(), 100);
    }
    let before = counter.counts();
    for guard in &held {
        guard.unlock().await.unwrap();
    }
    assert_eq!(counter.counts().since(&before).requests(), held.len());
}

pub(super) async fn a_lease_that_carried_nothing_for_one_ttl_is_revoked(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let store = cx.store().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let lease = holders_lease(&*store, "k").await;
    sleep(cx.ttl() * 2).await;
    guard.unlock().await.unwrap();
    drop(guard);
    let idle = Instant::now();
    let counted = counter.counts().revoke;
    // A renewal in between does not keep it.
    gone(&*store, lease, cx.ttl() + cx.ttl() / 3 + cx.slack(), "the idle lease is gone").await;
    assert!(idle.elapsed() + cx.slack() >= cx.ttl() / 2, "it may be needed again");
    eventually(cx.slack(), "it was revoked", || async {
        (counter.counts().revoke == counted + 1).then_some(())
    })
    .await;
    assert_eq!(entries(&*store, layout::SESSIONS.to_owned()).await.len(), 0);
    // And then it costs nothing any more.
    let ((), counts) = counter.during(sleep(cx.ttl() * 3)).await;
    assert_eq!(counts.requests() + counts.keep_alive + counts.lease, 0, "{counts:?}");
    assert!(client.provider.lock().acquire("k", cx.ttl()).await.unwrap().is_held());
}

/// By when a lease is gone that carries nothing any more, a renewal in between notwithstanding.
fn idle_for(cx: &Fixture) -> Duration {
    cx.ttl() + cx.ttl() / 3 + cx.slack()
}

pub(super) async fn a_lease_whose_registrations_and_ids_are_gone_is_revoked(cx: Fixture) {
    let store = cx.store().await;
    for dropped in [false, true] {
        let client = cx.client().await;
        let registration =
            client.provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
        let id = client
            .provider
            .allocator()
            .acquire_id_with("s", IdOptions::default().with_ttl(cx.ttl()))
            .await
            .unwrap();
        let lease = lease_of(&*store, layout::service("s", "a")).await;
        if !dropped {
            registration.unregister().await.unwrap();
            id.release().await.unwrap();
        }
        drop((registration, id));
        gone(&*store, lease, idle_for(&cx), "the idle lease is gone").await;
    }
}

pub(super) async fn a_handle_that_is_over_keeps_no_lease(cx: Fixture) {
    let store = cx.store().await;
    for removed in [false, true] {
        let client = cx.client().await;
        let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
        let registration =
            client.provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
        let id = client
            .provider
            .allocator()
            .acquire_id_with("s", IdOptions::default().with_ttl(cx.ttl()))
            .await
            .unwrap();
        let lease = lease_of(&*store, layout::service("s", "a")).await;
        registration.unregister().await.unwrap();
        if removed {
            delete(&*store, queue(&*store, "k").await.remove(0).key).await;
            delete(&*store, layout::id("s", 1)).await;
            within(
                cx.ttl() / 3 + ONE_SECOND + cx.slack(),
                "the removals are noticed",
                join_all([guard.lost(), id.lost()]),
            )
            .await;
        } else {
            guard.unlock().await.unwrap();
            id.release().await.unwrap();
        }
        gone(&*store, lease, idle_for(&cx), "the idle lease is gone, though the handles are kept").await;
    }
}

pub(super) async fn a_lease_that_is_used_again_in_time_lives_on(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    for _ in 0..8 {
        client.provider.lock().acquire("k", cx.ttl()).await.unwrap().unlock().await.unwrap();
        sleep(cx.ttl() / 2).await;
    }
    assert_eq!((counter.counts().grant, counter.counts().revoke), (1, 0));
}

pub(super) async fn releasing_one_handle_never_revokes_the_lease(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let store = cx.store().await;
    let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let lease = holders_lease(&*store, "kept").await;
    for _ in 0..5 {
        client.provider.lock().acquire("k", cx.ttl()).await.unwrap().unlock().await.unwrap();
        drop(client.provider.lock().acquire("k", cx.ttl()).await.unwrap());
        client
            .provider
            .registry()
            .register_with(instance("a"), of_ttl(&cx))
            .await
            .unwrap()
            .unregister()
            .await
            .unwrap();
        let id = client
            .provider
            .allocator()
            .acquire_id_with("s", IdOptions::default().with_ttl(cx.ttl()))
            .await
            .unwrap();
        id.release().await.unwrap();
    }
    sleep(cx.ttl() * 2).await;
    assert_eq!((counter.counts().grant, counter.counts().revoke), (1, 0));
    assert!(kept.is_held());
    assert_eq!(holders_lease(&*store, "kept").await, lease);
}

pub(super) async fn losing_the_lease_loses_every_handle_on_it(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let guards = [
        provider.lock().acquire("k", cx.ttl()).await.unwrap(),
        provider.lock().acquire("l", cx.ttl()).await.unwrap(),
        provider.lock().try_acquire("m", cx.ttl()).await.unwrap(),
    ];
    let id =
        provider.allocator().acquire_id_with("s", IdOptions::default().with_ttl(cx.ttl())).await.unwrap();
    store.revoke_lease(holders_lease(&*store, "k").await).await.unwrap();
    for lost in guards.iter().map(LockGuard::lost).chain([id.lost()]) {
        lost_within(ONE_SECOND + cx.slack(), "the loss is noticed", lost).await;
    }
    assert!(!guards.iter().any(LockGuard::is_held) && !id.is_held());
}

pub(super) async fn a_lost_lease_is_replaced(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    for _ in 0..3 {
        let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
        store.revoke_lease(holders_lease(&*store, "k").await).await.unwrap();
        // At once, before anyone may have noticed, and after.
        let next =
            within(cx.soon(), "the next acquire", provider.lock().acquire("l", cx.ttl())).await.unwrap();
        assert!(store.lease(holders_lease(&*store, "l").await).await.unwrap().is_some());
        lost_within(ONE_SECOND + cx.slack(), "the loss is noticed", guard.lost()).await;
        assert!(next.is_held());
    }
}

pub(super) async fn close_revokes_every_lease(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let longer = provider.lock().acquire("l", cx.ttl() * 100).await.unwrap();
    let released = provider.lock().acquire("m", cx.ttl() * 200).await.unwrap();
    let leases = [
        holders_lease(&*store, "k").await,
        holders_lease(&*store, "l").await,
        holders_lease(&*store, "m").await,
    ];
    // An idle lease, too.
    released.unlock().await.unwrap();
    provider.close().await.unwrap();
    for lease in leases {
        assert_eq!(store.lease(lease).await.unwrap(), None);
    }
    assert_eq!(entries(&*store, "/".to_owned()).await.len(), 0);
    assert!(!guard.is_held() && !longer.is_held());
}

/// What must become of a lease that still lives in the store when its local deadline has passed.
/// `silence` keeps its owner from hearing of renewals, and what it returns ends that.
async fn revoked_and_never_renewed<H: FnOnce()>(cx: Fixture, silence: impl FnOnce(&Faults) -> H) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let noted = note_renewals(&faults);
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let registration = client.provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
    let lease = holders_lease(&*store, "k").await;
    let heal = silence(&faults);
    // Nobody but its owner can end it now.
    let kept = keep_alive_for_it(&store, lease, cx.ttl());
    lost_within(cx.ttl() + cx.soon(), "lost() fires", guard.lost()).await;
    let lost = Instant::now();
    sleep(cx.ttl() / 2).await;
    heal();
    let limit = BACKOFF_CAP + ONE_SECOND + cx.slack();
    within(limit, "the lease is revoked at the next contact", kept).await.unwrap();
    assert_eq!(store.lease(lease).await.unwrap(), None);
    // The registration moves to a new lease, the lock stays lost.
    eventually(limit, "the registration is back", || async {
        let found = entry(&*store, layout::service("s", "a")).await;
        found.is_some_and(|entry| entry.lease != Some(lease)).then_some(())
    })
    .await;
    eventually(cx.slack(), "its handle says so", || async {
        (registration.state() == HandleState::Held).then_some(())
    })
    .await;
    let late = noted.lock().unwrap().iter().filter(|(renewed, at)| *renewed == lease && *at > lost).count();
    assert_eq!(late, 0, "renewed after its local deadline");
    assert!(!guard.is_held());
    assert_eq!(guard.unlock().await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

pub(super) async fn after_its_deadline_a_lease_is_revoked_and_never_renewed(cx: Fixture) {
    // The store renews, and only the answers are lost.
    revoked_and_never_renewed(cx, |faults| {
        let deaf =
            Lasting::begin(faults, Fault::LoseAnswer, |request| matches!(request, Request::KeepAlive(_)));
        move || deaf.end()
    })
    .await;
}

pub(super) async fn after_a_hang_a_lease_is_revoked_and_never_renewed(cx: Fixture) {
    revoked_and_never_renewed(cx, |faults| {
        faults.hang();
        let faults = faults.clone();
        move || faults.heal()
    })
    .await;
}
