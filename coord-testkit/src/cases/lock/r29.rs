//! R29 Cancel.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, Outcome, Provider};
use tokio::time::{Instant, sleep, timeout};

use super::super::leased::{ONE_SECOND, drop_outside_a_runtime, queue};
use super::super::slow::slow_provider;
use super::stand_in_line;
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, never_within, within};
use crate::wrap::Fault;

/// Acquires a lock that nobody may hold: what stood before may delay that by a second at most.
async fn is_free(cx: &Fixture, provider: &Arc<dyn Provider>, key: &str, what: &str) {
    let guard = within(ONE_SECOND + cx.slack(), what, provider.lock().acquire(key, cx.ttl())).await.unwrap();
    guard.unlock().await.unwrap();
}

pub(super) async fn an_acquire_dropped_at_any_moment_leaves_no_ghost(cx: Fixture) {
    let (holder, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    for millis in 0.. {
        // Of a lock that is free.
        let provider = slow_provider(&cx, millis).await;
        let free = timeout(Duration::from_millis(millis), provider.lock().acquire("k", cx.ttl())).await;
        let done = free.is_ok();
        drop(free);
        is_free(
            &cx,
            &other,
            "k",
            &format!("the lock is free after an acquire was dropped after {millis} ms"),
        )
        .await;
        // Of one that is held, and freed as the waiter goes.
        let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
        let waiter = timeout(Duration::from_millis(millis), provider.lock().acquire("k", cx.ttl())).await;
        assert!(waiter.is_err(), "granted, though another holds it");
        guard.unlock().await.unwrap();
        let what = format!("no ghost is left of a waiter that was dropped after {millis} ms");
        is_free(&cx, &other, "k", &what).await;
        eventually(ONE_SECOND + cx.slack(), &what, || async {
            queue(&*store, "k").await.is_empty().then_some(())
        })
        .await;
        if done {
            return;
        }
    }
}

pub(super) async fn a_waiter_dropped_at_any_await_point_leaves_no_ghost(cx: Fixture) {
    let (holder, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    for warm in [false, true] {
        for polls in 0.. {
            let provider = cx.provider().await;
            if warm {
                provider.lock().acquire("warm", cx.ttl()).await.unwrap().unlock().await.unwrap();
            }
            let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
            let idle = poll_times(polls, cx.patience(), provider.lock().acquire("k", cx.ttl())).await;
            assert!(!matches!(idle, Polled::Done(_)), "granted, though another holds it");
            let mut next = stand_in_line(&cx, &other, "k").await;
            never_within(Duration::from_millis(1), "a grant", &mut next).await;
            guard.unlock().await.unwrap();
            let what =
                format!("the next waiter is granted after one before it was dropped after {polls} polls");
            let next = within(ONE_SECOND + cx.slack(), &what, next).await.unwrap().unwrap();
            eventually(ONE_SECOND + cx.slack(), "no ghost is left", || async {
                (queue(&*store, "k").await.len() == 1).then_some(())
            })
            .await;
            next.unlock().await.unwrap();
            if matches!(idle, Polled::Idle) {
                break;
            }
        }
    }
}

pub(super) async fn a_waiter_dropped_as_it_is_granted_passes_the_lock_on(cx: Fixture) {
    let (holder, provider, other) = (cx.provider().await, cx.provider().await, cx.provider().await);
    for polls in 0..5 {
        let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
        let mut waiter = Box::pin(provider.lock().acquire("k", cx.ttl()));
        never_within(cx.slack(), "a grant", &mut waiter).await;
        let next = stand_in_line(&cx, &other, "k").await;
        guard.unlock().await.unwrap();
        // It is its turn, and it may know.
        drop(poll_times(polls, cx.patience(), waiter).await);
        let what = format!(
            "the next waiter is granted after the one before it was dropped after {polls} polls of its turn"
        );
        let next = within(ONE_SECOND + cx.slack(), &what, next).await.unwrap().unwrap();
        next.unlock().await.unwrap();
    }
}

pub(super) async fn a_try_dropped_at_any_await_point_leaves_no_lock(cx: Fixture) {
    let other = cx.provider().await;
    for polls in 0.. {
        let provider = cx.provider().await;
        let tried = cx.dropped_after(polls, provider.lock().try_acquire("k", cx.ttl())).await;
        let done = tried.is_some();
        drop(tried);
        is_free(&cx, &other, "k", &format!("the lock is free after a try was dropped after {polls} polls"))
            .await;
        if done {
            return;
        }
    }
}

pub(super) async fn a_timed_out_acquire_leaves_no_ghost(cx: Fixture) {
    let (holder, provider, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    for timeout in [Duration::ZERO, Duration::from_nanos(1), cx.ttl() / 4, cx.ttl() / 4] {
        let error = provider.lock().acquire_timeout("k", cx.ttl(), timeout).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::Timeout, Outcome::NotApplied),
            "after {timeout:?}"
        );
    }
    eventually(ONE_SECOND + cx.slack(), "no ghost is left", || async {
        (queue(&*store, "k").await.len() == 1).then_some(())
    })
    .await;
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
    is_free(&cx, &cx.provider().await, "k", "the lock is free after all gave up").await;
}

pub(super) async fn an_acquire_times_out_when_it_should(cx: Fixture) {
    let (holder, provider) = (cx.provider().await, cx.provider().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let (start, timeout) = (Instant::now(), cx.ttl() / 2);
    let error = provider.lock().acquire_timeout("k", cx.ttl(), timeout).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(
        start.elapsed() >= timeout && start.elapsed() <= timeout + cx.slack(),
        "after {:?}",
        start.elapsed()
    );
    // In time it is granted.
    let lock = Arc::clone(provider.lock());
    let (ttl, timeout) = (cx.ttl(), cx.soon());
    let waiter = tokio::spawn(async move { lock.acquire_timeout("k", ttl, timeout).await });
    sleep(cx.ttl() / 4).await;
    guard.unlock().await.unwrap();
    let _ = within(ONE_SECOND + cx.slack(), "it is granted", waiter).await.unwrap().unwrap();
}

pub(super) async fn a_join_whose_answer_was_lost_leaves_no_ghost(cx: Fixture) {
    let other = cx.provider().await;
    for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
        let (client, faults) = cx.faulty().await;
        client.provider.lock().acquire("warm", cx.ttl()).await.unwrap().unlock().await.unwrap();
        for polls in 0.. {
            faults.next_put(fault, layout::lock_queue("k"));
            let polled =
                poll_times(polls, cx.patience(), client.provider.lock().acquire("k", cx.ttl())).await;
            let done = matches!(polled, Polled::Done(_));
            if let Polled::Done(Ok(guard)) = &polled {
                assert_eq!(
                    queue(&*cx.store().await, "k").await[0].created.get(),
                    guard.fencing_token().get()
                );
            }
            drop(polled);
            is_free(
                &cx,
                &other,
                "k",
                &format!("the lock is free after a join met {fault:?} and was dropped after {polls} polls"),
            )
            .await;
            if done {
                break;
            }
        }
    }
}

pub(super) async fn a_refused_join_leaves_no_ghost(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    client.provider.lock().acquire("warm", cx.ttl()).await.unwrap().unlock().await.unwrap();
    faults.next_put(Fault::Refuse, layout::lock_queue("k"));
    let refused = client.provider.lock().acquire("k", cx.ttl()).await;
    // Whether it is sent again or reported: it was proven not applied.
    if let Err(error) = &refused {
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied));
    }
    drop(refused);
    is_free(&cx, &cx.provider().await, "k", "the lock is free").await;
}

pub(super) async fn a_cut_off_waiter_is_gone_by_ttl_and_lag(cx: Fixture) {
    let (holder, store) = (cx.provider().await, cx.store().await);
    let (client, faults) = cx.faulty().await;
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let waiter = stand_in_line(&cx, &client.provider, "k").await;
    faults.cut();
    waiter.abort();
    let cut = Instant::now();
    let next = stand_in_line(&cx, &cx.provider().await, "k").await;
    guard.unlock().await.unwrap();
    let limit = cx.gone_by(cx.ttl()).saturating_sub(cut.elapsed()) + ONE_SECOND;
    let next = within(limit, "the next waiter is granted", next).await.unwrap().unwrap();
    assert_eq!(queue(&*store, "k").await.len(), 1);
    assert!(next.is_held());
}

pub(super) async fn a_pending_acquire_dropped_outside_a_runtime_leaves_no_ghost(cx: Fixture) {
    let (holder, provider, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let lock = Arc::clone(provider.lock());
    let ttl = cx.ttl();
    let mut waiter = Box::pin(async move { lock.acquire("k", ttl).await });
    never_within(cx.patience(), "a grant", &mut waiter).await;
    assert_eq!(queue(&*store, "k").await.len(), 2);
    drop_outside_a_runtime(waiter);
    eventually(ONE_SECOND + cx.slack(), "no ghost is left", || async {
        (queue(&*store, "k").await.len() == 1).then_some(())
    })
    .await;
    guard.unlock().await.unwrap();
    is_free(&cx, &holder, "k", "the lock is free").await;
}

pub(super) async fn each_of_several_waiters_times_out_at_its_own_time(cx: Fixture) {
    let (holder, provider, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let start = Instant::now();
    // The later they come, the earlier they go, and so each from the end of the queue.
    let waiters = [4, 3, 2, 1].map(|quarters| {
        let (lock, ttl, limit) = (Arc::clone(provider.lock()), cx.ttl(), cx.ttl() * quarters / 4);
        tokio::spawn(async move {
            let error = lock.acquire_timeout("k", ttl, limit).await.unwrap_err();
            (error.kind(), limit, start.elapsed())
        })
    });
    for waiter in waiters {
        let (kind, limit, elapsed) =
            within(cx.ttl() + cx.soon(), "a waiter times out", waiter).await.unwrap();
        assert_eq!(kind, ErrorKind::Timeout);
        assert!(elapsed >= limit && elapsed <= limit + cx.slack(), "{limit:?}: after {elapsed:?}");
    }
    eventually(ONE_SECOND + cx.slack(), "no ghost is left", || async {
        (queue(&*store, "k").await.len() == 1).then_some(())
    })
    .await;
    assert!(guard.is_held());
}
