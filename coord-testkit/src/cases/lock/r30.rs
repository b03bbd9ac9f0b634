//! R30 Live grant.

use coord_api::prelude::*;
use coord_api::{ErrorKind, LockGuard, Result};
use tokio::time::{sleep, sleep_until};

use super::super::leased::{Lasting, delete, note_renewals, queue};
use super::{Waiter, stand_in_line};
use crate::fixture::Fixture;
use crate::wait::{eventually, within};
use crate::wrap::{Fault, Request};

/// Asserts that a guard stands for the oldest entry of its queue, and that the entry hangs on a
/// live lease.
async fn is_head_and_live(cx: &Fixture, guard: &LockGuard) {
    let store = cx.store().await;
    let line = queue(&*store, "k").await;
    let head = line.first().expect("the guard's entry is there");
    assert_eq!(head.created.get(), guard.fencing_token().get(), "the guard is the oldest entry's");
    let lease = head.lease.expect("it hangs on a lease");
    assert!(store.lease(lease).await.unwrap().is_some_and(|lease| lease.keys.contains(&head.key)));
    assert!(guard.is_held());
}

/// What a waiter whose entry is gone may come to: an error, or a place of its own.
async fn granted_or_lost(cx: &Fixture, waiter: Waiter) -> Option<LockGuard> {
    let answer: Result<LockGuard> = within(cx.soon(), "the waiter is answered", waiter).await.unwrap();
    match answer {
        Ok(guard) => {
            is_head_and_live(cx, &guard).await;
            Some(guard)
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::LeaseLost);
            None
        }
    }
}

pub(super) async fn a_granted_entry_is_the_guards_own_and_live(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let first = one.lock().acquire("k", cx.ttl()).await.unwrap();
    is_head_and_live(&cx, &first).await;
    for provider in [&one, &other] {
        let guard = cx.provider().await.lock().acquire("other", cx.ttl()).await.unwrap();
        guard.unlock().await.unwrap();
        drop(provider.lock().try_acquire("k", cx.ttl()).await);
    }
    let second = stand_in_line(&cx, &other, "k").await;
    first.unlock().await.unwrap();
    let second = within(cx.soon(), "the second is granted", second).await.unwrap().unwrap();
    is_head_and_live(&cx, &second).await;
}

pub(super) async fn a_waiter_whose_lease_died_is_not_granted_without_an_entry(cx: Fixture) {
    let (holder, store) = (cx.provider().await, cx.store().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let waiter = stand_in_line(&cx, &cx.provider().await, "k").await;
    let lease = queue(&*store, "k").await[1].lease.unwrap();
    store.revoke_lease(lease).await.unwrap();
    guard.unlock().await.unwrap();
    let granted = granted_or_lost(&cx, waiter).await;
    let other = cx.provider().await.lock().try_acquire("k", cx.ttl()).await;
    assert_eq!(other.is_ok(), granted.is_none());
}

pub(super) async fn a_waiter_whose_entry_was_removed_is_not_granted_without_one(cx: Fixture) {
    let (holder, store) = (cx.provider().await, cx.store().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let waiter = stand_in_line(&cx, &cx.provider().await, "k").await;
    delete(&*store, queue(&*store, "k").await[1].key.to_vec()).await;
    guard.unlock().await.unwrap();
    granted_or_lost(&cx, waiter).await;
}

pub(super) async fn a_waiter_removed_while_it_was_cut_off_is_not_granted_without_an_entry(cx: Fixture) {
    let (holder, store) = (cx.provider().await, cx.store().await);
    let (client, faults) = cx.faulty().await;
    for compacted in [false, true] {
        let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
        let waiter = stand_in_line(&cx, &client.provider, "k").await;
        faults.hang();
        delete(&*store, queue(&*store, "k").await[1].key.to_vec()).await;
        guard.unlock().await.unwrap();
        if compacted {
            let present = super::super::leased::head(&*store).await;
            cx.compact(present).await;
        }
        faults.heal();
        if let Some(guard) = granted_or_lost(&cx, waiter).await {
            guard.unlock().await.unwrap();
        }
    }
}

pub(super) async fn a_guard_has_at_least_half_its_ttl_left(cx: Fixture) {
    let holder = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    assert!(guard.ttl() >= cx.ttl() / 2);
    let waiter = stand_in_line(&cx, &client.provider, "k").await;
    let noted = note_renewals(&faults);
    let (_, renewed) = eventually(cx.ttl() + cx.soon(), "the waiter is renewed", || async {
        noted.lock().unwrap().last().copied()
    })
    .await;
    // The answer comes, and then no other for more than half of the TTL.
    sleep(cx.ttl() / 20).await;
    let refused = Lasting::begin(&faults, Fault::Refuse, |request| matches!(request, Request::KeepAlive(_)));
    sleep_until(renewed + cx.ttl() * 7 / 10).await;
    refused.end();
    guard.unlock().await.unwrap();
    let guard = within(cx.soon(), "the waiter is granted", waiter).await.unwrap().unwrap();
    assert!(guard.ttl() >= cx.ttl() / 2, "{:?} are left", guard.ttl());
    is_head_and_live(&cx, &guard).await;
}

pub(super) async fn a_guard_of_a_session_that_was_silent_has_at_least_half_its_ttl_left(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let lock = client.provider.lock();
    let kept = lock.acquire("kept", cx.ttl()).await.unwrap();
    let noted = note_renewals(&faults);
    for attempt in 0..2 {
        let seen = noted.lock().unwrap().len();
        let renewed = eventually(cx.ttl() + cx.soon(), "a renewal", || async {
            noted.lock().unwrap().get(seen).map(|(_, renewed)| *renewed)
        })
        .await;
        sleep(cx.ttl() / 20).await;
        let refused =
            Lasting::begin(&faults, Fault::Refuse, |request| matches!(request, Request::KeepAlive(_)));
        sleep_until(renewed + cx.ttl() * 7 / 10).await;
        refused.end();
        // The lease is there, and has less than half of its TTL left.
        let guard = match attempt {
            0 => lock.try_acquire("k", cx.ttl()).await.unwrap(),
            _ => lock.acquire("k", cx.ttl()).await.unwrap(),
        };
        assert!(guard.ttl() >= cx.ttl() / 2, "{:?} are left", guard.ttl());
        is_head_and_live(&cx, &guard).await;
        guard.unlock().await.unwrap();
    }
    assert!(kept.is_held());
}

pub(super) async fn a_renewal_that_comes_too_late_grants_nothing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    // Nothing is renewed until shortly before the local deadline; then a renewal is applied in time
    // and answered too late.
    let refused = Lasting::begin(&faults, Fault::Refuse, |request| matches!(request, Request::KeepAlive(_)));
    sleep(kept.ttl() - cx.ttl() / 100).await;
    refused.end();
    let _late = Lasting::begin(&faults, Fault::LateAnswer(cx.ttl() / 20), |request| {
        matches!(request, Request::KeepAlive(_))
    });
    match within(cx.soon(), "an answer", client.provider.lock().acquire("k", cx.ttl())).await {
        Ok(guard) => is_head_and_live(&cx, &guard).await,
        Err(error) => assert_eq!(error.kind(), ErrorKind::LeaseLost),
    }
}
