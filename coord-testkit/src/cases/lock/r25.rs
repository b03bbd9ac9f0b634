//! R25 Exclusion and fencing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_api::ErrorKind;
use coord_api::prelude::*;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::leased::{head, queue};
use super::super::slow::slow_provider;
use super::stand_in_line;
use crate::fixture::Fixture;
use crate::wait::within;

pub(super) async fn increments_under_the_lock_are_all_counted(cx: Fixture) {
    let cx = &cx;
    join_all((0..5).map(|client| async move {
        let provider = if client < 2 { cx.provider().await } else { slow_provider(cx, client).await };
        for _ in 0..10 {
            let guard = provider.lock().acquire("counter", cx.ttl()).await.unwrap();
            // Neither atomic nor compared: only the lock keeps the others out.
            let count: u64 = provider.config().get("counter").await.unwrap().unwrap_or(0);
            sleep(Duration::from_millis(1)).await;
            provider.config().set("counter", &(count + 1)).await.unwrap();
            guard.unlock().await.unwrap();
        }
    }))
    .await;
    assert_eq!(cx.provider().await.config().get::<u64>("counter").await.unwrap(), Some(50));
}

pub(super) async fn no_two_guards_are_held_at_once(cx: Fixture) {
    let (cx, inside) = (&cx, &AtomicUsize::new(0));
    join_all((0..4).map(|client| async move {
        let provider = &if client == 0 { cx.provider().await } else { slow_provider(cx, client).await };
        // Several of one provider, and several providers.
        join_all((0..4).map(|task| async move {
            for round in 0..5 {
                let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
                sleep(Duration::from_millis(1)).await;
                assert!(guard.is_held());
                assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                if (client + task + round) % 2 == 0 {
                    guard.unlock().await.unwrap();
                }
            }
        }))
        .await;
    }))
    .await;
}

pub(super) async fn what_is_held_for_long_is_granted_to_nobody_else(cx: Fixture) {
    let (holder, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let mut waiters = vec![stand_in_line(&cx, &holder, "k").await, stand_in_line(&cx, &other, "k").await];
    let start = Instant::now();
    while start.elapsed() < cx.ttl() * 3 {
        for provider in [&holder, &other] {
            assert_eq!(
                provider.lock().try_acquire("k", cx.ttl()).await.unwrap_err().kind(),
                ErrorKind::Conflict
            );
            let waited = provider.lock().acquire_timeout("k", cx.ttl(), cx.ttl() / 10).await;
            assert_eq!(waited.unwrap_err().kind(), ErrorKind::Timeout);
        }
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()), "two hold the lock");
        assert!(guard.is_held());
        assert_eq!(queue(&*store, "k").await[0].created.get(), guard.fencing_token().get());
        sleep(cx.ttl() / 4).await;
    }
    let mut last = guard.fencing_token();
    guard.unlock().await.unwrap();
    for waiter in waiters.drain(..) {
        let next = within(cx.soon(), "the next one is granted", waiter).await.unwrap().unwrap();
        assert!(next.is_held() && next.fencing_token() > last);
        last = next.fencing_token();
        next.unlock().await.unwrap();
    }
}

pub(super) async fn tokens_rise_with_every_grant(cx: Fixture) {
    let cx = &cx;
    let seen = &Arc::new(std::sync::Mutex::new(Vec::new()));
    join_all((0..4).map(|client| async move {
        let provider = if client == 0 { cx.provider().await } else { slow_provider(cx, client).await };
        for round in 0..8 {
            let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
            seen.lock().unwrap().push(guard.fencing_token());
            if round % 2 == 0 {
                guard.unlock().await.unwrap();
            }
        }
    }))
    .await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 32);
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "in the order of the grants: {seen:?}");
}

pub(super) async fn tokens_rise_across_closed_providers_and_compactions(cx: Fixture) {
    let mut last = None;
    for round in 0..6 {
        let provider = cx.provider().await;
        let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
        assert!(Some(guard.fencing_token()) > last, "{:?} after {last:?}", guard.fencing_token());
        last = Some(guard.fencing_token());
        if round % 2 == 0 {
            guard.unlock().await.unwrap();
        }
        provider.close().await.unwrap();
        let present = head(&*cx.store().await).await;
        cx.compact(present).await;
    }
}

pub(super) async fn no_grant_before_the_holders_lease_is_over(cx: Fixture) {
    let guard = cx.provider().await.lock().acquire("k", cx.ttl()).await.unwrap();
    cx.reopen().await;
    let (start, left) = (Instant::now(), guard.ttl());
    let provider = cx.provider().await;
    let _next = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    assert!(start.elapsed() >= left, "granted {:?} before the holder could know", left - start.elapsed());
    assert!(!guard.is_held());
    assert!(start.elapsed() <= cx.gone_by(cx.ttl()) + cx.soon());
}
