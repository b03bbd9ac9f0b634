//! R27 Try.

use std::time::Duration;

use coord_api::ErrorKind;
use coord_api::prelude::*;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::leased::{delete, head, put, queue};
use super::super::slow::slow_provider;
use super::stand_in_line;
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{never_within, within};

pub(super) async fn a_held_lock_is_a_conflict_at_once(cx: Fixture) {
    let (holder, other) = (cx.provider().await, cx.provider().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    // It takes its requests and no waiting: not longer than to take and free a lock does, on this
    // very store.
    let mut slowest = Duration::ZERO;
    for _ in 0..8 {
        let start = Instant::now();
        other.lock().try_acquire("free", cx.ttl()).await.unwrap().unlock().await.unwrap();
        slowest = slowest.max(start.elapsed());
    }
    let mut fastest = Duration::MAX;
    for _ in 0..8 {
        let start = Instant::now();
        let tried = within(cx.soon(), "the answer comes", other.lock().try_acquire("k", cx.ttl())).await;
        assert_eq!(tried.unwrap_err().kind(), ErrorKind::Conflict);
        fastest = fastest.min(start.elapsed());
    }
    assert!(
        fastest <= slowest + Duration::from_millis(50),
        "{fastest:?} to be refused, {slowest:?} to lock and unlock"
    );
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
}

pub(super) async fn a_try_costs_at_most_two_requests(cx: Fixture) {
    let holder = cx.provider().await;
    let (client, counter) = cx.counting().await;
    let _warm = client.provider.lock().acquire("warm", cx.ttl()).await.unwrap();
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let waiter = stand_in_line(&cx, &cx.provider().await, "k").await;
    for _ in 0..5 {
        let (tried, counts) = counter.during(client.provider.lock().try_acquire("k", cx.ttl())).await;
        assert_eq!(tried.unwrap_err().kind(), ErrorKind::Conflict);
        assert!(counts.requests() <= 2 && counts.watch == 0, "it asks, and does not wait: {counts:?}");
    }
    // Nor does it come back to it.
    let ((), counts) = counter.during(sleep(cx.ttl() / 4)).await;
    assert_eq!(counts.requests(), 0, "{counts:?}");
    guard.unlock().await.unwrap();
    let _ = within(cx.soon(), "the waiter is granted", waiter).await.unwrap().unwrap();
}

pub(super) async fn a_failed_try_leaves_no_entry_and_disturbs_no_waiter(cx: Fixture) {
    let (holder, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    // So that the tries below write no session.
    let _warm = other.lock().acquire("warm", cx.ttl()).await.unwrap();
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let mut waiter = stand_in_line(&cx, &cx.provider().await, "k").await;
    let (before, revision) = (queue(&*store, "k").await, head(&*store).await);
    for _ in 0..5 {
        assert_eq!(other.lock().try_acquire("k", cx.ttl()).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert_eq!(queue(&*store, "k").await, before);
    assert_eq!(head(&*store).await, revision, "nothing was written");
    never_within(cx.slack(), "a grant", &mut waiter).await;
    guard.unlock().await.unwrap();
    let waiter = within(cx.soon(), "the waiter is granted", waiter).await.unwrap().unwrap();
    assert_eq!(waiter.fencing_token().get(), before[1].created.get());
}

pub(super) async fn of_many_tries_exactly_one_succeeds(cx: Fixture) {
    let providers = join_all((0..4).map(|client| slow_provider(&cx, client))).await;
    for round in 0..5 {
        let key = &format!("k{round}");
        let tries = (0..16)
            .zip(providers.iter().cycle())
            .map(|(_, provider)| provider.lock().try_acquire(key, cx.ttl()));
        let (won, lost): (Vec<_>, Vec<_>) = join_all(tries).await.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        assert!(lost.into_iter().all(|tried| tried.unwrap_err().kind() == ErrorKind::Conflict));
        assert_eq!(queue(&*cx.store().await, key).await.len(), 1);
    }
}

pub(super) async fn a_queue_of_waiters_is_a_conflict(cx: Fixture) {
    let (holder, other) = (cx.provider().await, cx.provider().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let waiter = stand_in_line(&cx, &cx.provider().await, "k").await;
    guard.unlock().await.unwrap();
    // Whether or not the waiter knows already: its entry is the oldest.
    assert_eq!(other.lock().try_acquire("k", cx.ttl()).await.unwrap_err().kind(), ErrorKind::Conflict);
    let waiter = within(cx.soon(), "the waiter is granted", waiter).await.unwrap().unwrap();
    waiter.unlock().await.unwrap();
    other.lock().try_acquire("k", cx.ttl()).await.unwrap().unlock().await.unwrap();
}

pub(super) async fn a_free_lock_is_taken(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    for provider in [&one, &other, &one] {
        let guard = provider.lock().try_acquire("k", cx.ttl()).await.unwrap();
        assert!(guard.is_held());
        assert_eq!(queue(&*cx.store().await, "k").await.len(), 1);
        guard.unlock().await.unwrap();
    }
}

pub(super) async fn a_foreign_entry_is_a_conflict(cx: Fixture) {
    // What stands in the queue holds the lock, whoever wrote it and whatever it says.
    let (provider, store) = (cx.provider().await, cx.store().await);
    let foreign = [layout::lock_queue("k").as_bytes(), b"\xff\xfe"].concat();
    put(&*store, foreign.clone(), b"\xff\xfe".as_slice()).await;
    let tried =
        within(cx.patience(), "the answer comes at once", provider.lock().try_acquire("k", cx.ttl())).await;
    assert_eq!(tried.unwrap_err().kind(), ErrorKind::Conflict);
    let mut waiter = stand_in_line(&cx, &provider, "k").await;
    never_within(cx.slack(), "a grant", &mut waiter).await;
    delete(&*store, foreign).await;
    let guard = within(cx.soon(), "the waiter is granted", waiter).await.unwrap().unwrap();
    guard.unlock().await.unwrap();
}
