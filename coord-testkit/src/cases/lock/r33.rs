//! R33 Unlock.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, Loss, Outcome};
use tokio::time::{Instant, sleep};

use super::super::leased::{ONE_SECOND, delete, lost_within, queue};
use crate::fixture::Fixture;
use crate::layout;
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

pub(super) async fn an_old_guard_never_frees_its_successor(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.provider().await);
    let (client, faults) = cx.faulty().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let twin = client.provider.lock().acquire("l", cx.ttl()).await.unwrap();
    faults.cut();
    let next =
        within(cx.gone_by(cx.ttl()) + cx.soon(), "the lock passes on", other.lock().acquire("k", cx.ttl()))
            .await
            .unwrap();
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

pub(super) async fn a_guard_whose_unlock_hangs_is_not_held(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let guard = Arc::new(client.provider.lock().acquire("k", cx.ttl()).await.unwrap());
    let lost = guard.lost();
    faults.hang();
    let unlocking = Arc::clone(&guard);
    let unlock = tokio::spawn(async move { unlocking.unlock().await });
    assert_eq!(lost_within(cx.slack(), "lost() fires", lost).await.0, Loss::Released);
    assert!(
        !guard.is_held() && guard.ttl() == Duration::ZERO,
        "who unlocks holds nothing, whatever the store says"
    );
    sleep(cx.ttl() / 10).await;
    faults.heal();
    if let Err(error) = within(cx.soon(), "an answer", unlock).await.unwrap() {
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    }
    assert!(!guard.is_held());
    let other = cx.provider().await;
    within(cx.ttl(), "the lock is free", other.lock().acquire("k", cx.ttl()))
        .await
        .unwrap()
        .unlock()
        .await
        .unwrap();
    assert!(!guard.is_held());
}

pub(super) async fn an_unlock_whose_answer_was_lost_harms_no_successor(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    faults.next_delete(Fault::LoseAnswer, layout::lock_queue("k"));
    assert_eq!(guard.unlock().await.unwrap_err().outcome(), Outcome::Unknown);
    // Of the same provider, so that the pending release would find an entry of its own lease.
    let next =
        within(cx.soon(), "the lock is free", client.provider.lock().acquire("k", cx.ttl())).await.unwrap();
    let again = within(cx.soon(), "an answer", guard.unlock()).await;
    assert!(again.is_ok() || again.is_err_and(|error| error.kind() == ErrorKind::LeaseLost));
    drop(guard);
    sleep(cx.ttl() * 2).await;
    assert!(next.is_held());
    assert_eq!(
        cx.provider().await.lock().try_acquire("k", cx.ttl()).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
}

pub(super) async fn ttl_is_the_time_left(cx: Fixture) {
    let provider = cx.provider().await;
    let (asked, ttl) = (Instant::now(), cx.ttl());
    let guard = provider.lock().acquire("k", ttl).await.unwrap();
    // The local deadline lies a margin before the lease's own, counted from when it was asked for
    // at the earliest.
    let margin = (ttl / 20).clamp(Duration::from_millis(10), Duration::from_millis(500));
    assert!(
        guard.ttl() <= ttl - margin && guard.ttl() + margin + asked.elapsed() + cx.slack() >= ttl,
        "{:?}",
        guard.ttl()
    );
    let end = asked + ttl * 2;
    while Instant::now() < end {
        let left = guard.ttl();
        assert!(left <= ttl - margin);
        // A renewal counts from its sending, and is answered within 100 ms.
        let answered = Duration::from_millis(100);
        assert!(left + margin + ttl / 3 + answered + cx.slack() >= ttl, "{left:?} left of {ttl:?}");
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
        assert_eq!(
            provider.lock().try_acquire(&format!("{key}2"), cx.ttl()).await.unwrap().key(),
            format!("{key}2")
        );
    }
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
        assert!(
            told <= before + about && told + about >= after,
            "{told:?} told, between {after:?} and {before:?} left"
        );
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
        let next = within(ONE_SECOND + cx.slack(), "the lock is free", other.lock().acquire("k", cx.ttl()))
            .await
            .unwrap();
        next.unlock().await.unwrap();
    }
}
