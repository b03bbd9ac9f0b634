//! R33 Unlock.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, Loss, Outcome};
use tokio::time::{Instant, sleep};

use super::super::leased::{ONE_SECOND, delete, holders_lease, lost_within, queue};
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::histories::{Workload, uphold};
use crate::layout;
use crate::model::{Contract, contract};
use crate::wait::within;
use crate::wrap::Fault;

pub(super) async fn after_unlock_the_next_try_succeeds(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    for _ in 0..10 {
        for (unlocks, tries) in [(&one, &other), (&other, &one), (&one, &one)] {
            let guard = unlocks.lock().acquire("k", cx.ttl()).await.unwrap();
            guard.unlock().await.unwrap();
            let next = tries.lock().try_acquire("k", cx.ttl()).await.unwrap();
            assert!(next.is_held() && !guard.is_held());
            next.unlock().await.unwrap();
        }
    }
    assert_eq!(queue(&*cx.store().await, "k").await.len(), 0);
}

pub(super) async fn a_second_unlock_repeats_nothing(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    guard.unlock().await.unwrap();
    let (again, counts) = counter.during(guard.unlock()).await;
    again.unwrap();
    assert_eq!(counts.requests(), 0);
    let next = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    guard.unlock().await.unwrap();
    drop(guard);
    sleep(cx.slack()).await;
    assert!(next.is_held());
    assert_eq!(cx.provider().await.lock().try_acquire("k", cx.ttl()).await.unwrap_err().kind(), ErrorKind::Conflict);
}

pub(super) async fn an_old_guard_never_frees_its_successor(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.provider().await);
    let (client, faults) = cx.faulty().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let twin = client.provider.lock().acquire("l", cx.ttl()).await.unwrap();
    faults.cut();
    let next = within(cx.gone_by(cx.ttl()) + cx.soon(), "the lock passes on", other.lock().acquire("k", cx.ttl())).await.unwrap();
    let entry = queue(&*store, "k").await;
    faults.heal();
    assert_eq!(guard.unlock().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(guard.unlock().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    drop(guard);
    drop(twin);
    sleep(cx.ttl() * 2).await;
    assert!(next.is_held());
    assert_eq!(queue(&*store, "k").await, entry);
    // Not within one provider either.
    let again = client.provider.lock().acquire_timeout("k", cx.ttl(), cx.slack()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Timeout);
    next.unlock().await.unwrap();
}

pub(super) async fn unlocking_what_was_lost_is_lease_lost(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    store.revoke_lease(holders_lease(&*store, "k").await).await.unwrap();
    let error = within(cx.soon(), "an answer", guard.unlock()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert!(!guard.is_held());
    assert_eq!(guard.unlock().await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

pub(super) async fn unlocking_what_was_removed_is_lease_lost(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    delete(&*store, queue(&*store, "k").await[0].key.to_vec()).await;
    let next = cx.provider().await.lock().try_acquire("k", cx.ttl()).await.unwrap();
    let error = guard.unlock().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert!(!guard.is_held());
    assert_eq!(queue(&*store, "k").await[0].created.get(), next.fencing_token().get());
}

pub(super) async fn a_failed_unlock_is_unknown_and_a_debt(cx: Fixture) {
    let other = cx.provider().await;
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (client, faults) = cx.faulty().await;
        // Its lease goes on, so that only the release itself can free the lock.
        let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
        let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
        for _ in 0..3 {
            faults.next_delete(fault, layout::lock_queue("k"));
        }
        let error = within(cx.soon(), "an answer", guard.unlock()).await.unwrap_err();
        assert!(error.is_transient(), "{fault:?}: {error}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{fault:?}");
        assert!(!guard.is_held(), "a failed unlock ends the guard all the same");
        within(cx.ttl(), "the release is repeated", other.lock().acquire("k", cx.ttl())).await.unwrap().unlock().await.unwrap();
        assert!(kept.is_held());
        kept.unlock().await.unwrap();
    }
}

pub(super) async fn a_guard_whose_unlock_hangs_is_not_held(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let guard = Arc::new(client.provider.lock().acquire("k", cx.ttl()).await.unwrap());
    let lost = guard.lost();
    faults.hang();
    let unlocking = Arc::clone(&guard);
    let unlock = tokio::spawn(async move { unlocking.unlock().await });
    assert_eq!(lost_within(cx.slack(), "lost() fires", lost).await.0, Loss::Released);
    assert!(!guard.is_held() && guard.ttl() == Duration::ZERO, "who unlocks holds nothing, whatever the store says");
    sleep(cx.ttl() / 10).await;
    faults.heal();
    if let Err(error) = within(cx.soon(), "an answer", unlock).await.unwrap() {
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    }
    assert!(!guard.is_held());
    let other = cx.provider().await;
    within(cx.ttl(), "the lock is free", other.lock().acquire("k", cx.ttl())).await.unwrap().unlock().await.unwrap();
    assert!(!guard.is_held());
}

pub(super) async fn an_unlock_whose_answer_was_lost_harms_no_successor(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    faults.next_delete(Fault::LoseAnswer, layout::lock_queue("k"));
    assert_eq!(guard.unlock().await.unwrap_err().outcome(), Outcome::Unknown);
    // Of the same provider, so that the debt would find an entry of its own lease.
    let next = within(cx.soon(), "the lock is free", client.provider.lock().acquire("k", cx.ttl())).await.unwrap();
    let again = within(cx.soon(), "an answer", guard.unlock()).await;
    assert!(again.is_ok() || again.is_err_and(|error| error.kind() == ErrorKind::LeaseLost));
    drop(guard);
    sleep(cx.ttl() * 2).await;
    assert!(next.is_held());
    assert_eq!(cx.provider().await.lock().try_acquire("k", cx.ttl()).await.unwrap_err().kind(), ErrorKind::Conflict);
}

pub(super) async fn an_unlock_applied_late_harms_no_successor(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    for same_provider in [true, false] {
        let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
        faults.next_delete(Fault::Hold, layout::lock_queue("k"));
        assert_eq!(guard.unlock().await.unwrap_err().outcome(), Outcome::Unknown);
        let successor = if same_provider { Arc::clone(&client.provider) } else { cx.provider().await };
        let next = within(cx.ttl() * 2, "the release is repeated", successor.lock().acquire("k", cx.ttl())).await.unwrap();
        let held = faults.take_held();
        assert_eq!(held.len(), 1);
        for held in held {
            let _ = held.apply().await;
        }
        assert_eq!(queue(&*store, "k").await[0].created.get(), next.fencing_token().get());
        assert!(next.is_held());
        next.unlock().await.unwrap();
    }
}

pub(super) async fn an_unlock_dropped_at_any_await_point_frees_the_lock(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    for polls in 1.. {
        let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
        let polled = poll_times(polls, cx.slack(), guard.unlock()).await;
        // The guard is kept: it is the call that was dropped.
        let what = format!("the lock is free after an unlock was dropped after {polls} polls");
        let next = within(ONE_SECOND + cx.slack(), &what, other.lock().acquire("k", cx.ttl())).await.unwrap();
        assert!(!guard.is_held());
        let again = guard.unlock().await;
        assert!(again.is_ok() || again.is_err_and(|error| error.kind() == ErrorKind::LeaseLost));
        assert!(next.is_held());
        next.unlock().await.unwrap();
        if matches!(polled, Polled::Done(_)) {
            return;
        }
    }
}

pub(super) async fn lost_fires_on_unlock(cx: Fixture) {
    let provider = cx.provider().await;
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let lost = guard.lost();
    guard.unlock().await.unwrap();
    assert_eq!(lost_within(cx.slack(), "lost() fires", lost).await.0, Loss::Released);
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let lost = guard.lost();
    drop(guard);
    assert_eq!(lost_within(cx.slack(), "lost() fires", lost).await.0, Loss::Released);
}

pub(super) async fn ttl_is_the_time_left(cx: Fixture) {
    let provider = cx.provider().await;
    let (asked, ttl) = (Instant::now(), cx.ttl());
    let guard = provider.lock().acquire("k", ttl).await.unwrap();
    // The local deadline lies a margin before the lease's own, counted from when it was asked for at the earliest.
    let margin = (ttl / 20).clamp(Duration::from_millis(10), Duration::from_millis(500));
    assert!(guard.ttl() <= ttl - margin && guard.ttl() + margin + asked.elapsed() + cx.slack() >= ttl, "{:?}", guard.ttl());
    let end = asked + ttl * 2;
    while Instant::now() < end {
        let left = guard.ttl();
        assert!(left <= ttl - margin);
        assert!(left + margin + ttl / 3 + cx.slack() >= ttl, "{left:?} left of {ttl:?}");
        sleep(ttl / 100).await;
    }
    // Rounded up to whole seconds.
    let longer = provider.lock().acquire("l", ttl + Duration::from_millis(1)).await.unwrap();
    assert!(longer.ttl() > ttl, "{:?}", longer.ttl());
    guard.unlock().await.unwrap();
    assert_eq!(guard.ttl(), Duration::ZERO);
}

pub(super) async fn key_is_the_callers_key(cx: Fixture) {
    let provider = cx.provider().await;
    for key in ["k", "a/b", "/a/c", "a%2Fb"] {
        assert_eq!(provider.lock().acquire(key, cx.ttl()).await.unwrap().key(), key);
        assert_eq!(provider.lock().try_acquire(&format!("{key}2"), cx.ttl()).await.unwrap().key(), format!("{key}2"));
    }
}

pub(super) async fn in_random_histories_only_the_holder_removes_its_grant(cx: Fixture) {
    uphold(&cx, "r33::in_random_histories_only_the_holder_removes_its_grant", Workload::Locks, false, &["r33"]).await;
}

pub(super) async fn random_sequences_answer_as_the_model_does(cx: Fixture) {
    contract(&cx, "r33::random_sequences_answer_as_the_model_does", "r33", Contract::Locks).await;
}

pub(super) async fn ttl_runs_down_where_nothing_is_renewed(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    faults.cut();
    let (start, left) = (Instant::now(), guard.ttl());
    let about = Duration::from_millis(20);
    while start.elapsed() < left {
        let before = left.saturating_sub(start.elapsed());
        let (told, after) = (guard.ttl(), left.saturating_sub(start.elapsed()));
        assert!(told <= before + about && told + about >= after, "{told:?} told, between {after:?} and {before:?} left");
        sleep(left / 20).await;
    }
    assert_eq!(guard.ttl(), Duration::ZERO);
    assert!(!guard.is_held());
}

pub(super) async fn a_guard_that_outlives_its_provider_value_is_unlocked(cx: Fixture) {
    let other = cx.provider().await;
    for seed in 0..10 {
        // Whose requests can overtake one another.
        let guard = cx.delayed(seed).await.provider.lock().acquire("k", cx.ttl()).await.unwrap();
        // It may have gone with its provider; where it is held, it is held until it is unlocked.
        if guard.is_held() {
            guard.unlock().await.unwrap();
        }
        let next = within(ONE_SECOND + cx.slack(), "the lock is free", other.lock().acquire("k", cx.ttl())).await.unwrap();
        next.unlock().await.unwrap();
    }
}
