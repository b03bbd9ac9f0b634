//! R45 Sharing.

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::{ErrorKind, LockGuard, LockMode, LockOptions, Provider, Result, Wait};
use futures_util::future::join_all;
use tokio::task::JoinHandle;

use super::super::leased::{ONE_SECOND, delete, put, queue};
use super::stand_in_line;
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, never_within, within};

/// Acquires a lock that is shared, or waits for it.
pub(super) async fn share(cx: &Fixture, provider: &Arc<dyn Provider>) -> LockGuard {
    provider.lock().acquire_shared("k", cx.ttl()).await.unwrap()
}

/// As [`share`], in a task of its own, and waits until it stands in the queue.
async fn stand_in_line_to_share(cx: &Fixture, provider: &Arc<dyn Provider>) -> JoinHandle<LockGuard> {
    let store = cx.store().await;
    let before = queue(&*store, "k").await;
    let (cx_, provider) = (cx.clone(), Arc::clone(provider));
    let waiter = tokio::spawn(async move { share(&cx_, &provider).await });
    eventually(cx.soon(), "the waiter stands in the queue", || async {
        (queue(&*store, "k").await.len() > before.len()).then_some(())
    })
    .await;
    waiter
}

/// Takes a lock if it is free, in this mode.
pub(super) async fn attempt(cx: &Fixture, provider: &Arc<dyn Provider>, mode: LockMode) -> Result<LockGuard> {
    let options = LockOptions::default().with_ttl(cx.ttl()).with_wait(Wait::Never).with_mode(mode);
    provider.lock().acquire_with("k", options).await
}

/// Asserts that a try in this mode finds the lock held.
pub(super) async fn is_held_against(cx: &Fixture, provider: &Arc<dyn Provider>, mode: LockMode) {
    let tried = attempt(cx, provider, mode).await;
    assert_eq!(tried.map(|guard| guard.mode()).map_err(|error| error.kind()), Err(ErrorKind::Conflict));
}

pub(super) async fn readers_hold_at_once(cx: Fixture) {
    let providers = join_all((0..3).map(|_| cx.provider())).await;
    let mut readers = Vec::new();
    for n in 0..9 {
        let reader = share(&cx, &providers[n % 3]);
        readers.push(within(cx.soon(), "readers do not wait for each other", reader).await);
    }
    assert!(readers.iter().all(|reader| reader.is_held() && reader.mode() == LockMode::Shared));
    assert_eq!(queue(&*cx.store().await, "k").await.len(), 9);
    join_all(readers.iter().map(LockGuard::unlock)).await.into_iter().for_each(Result::unwrap);
    let writer = attempt(&cx, &providers[0], LockMode::Exclusive).await.unwrap();
    assert_eq!(writer.mode(), LockMode::Exclusive);
}

pub(super) async fn a_writer_waits_for_every_reader(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let readers = [share(&cx, &one).await, share(&cx, &other).await, share(&cx, &one).await];
    let mut writer = stand_in_line(&cx, &other, "k").await;
    // Not in the order in which they came.
    for n in [1, 2, 0] {
        never_within(cx.ttl() / 2, "a grant to the writer", &mut writer).await;
        readers[n].unlock().await.unwrap();
    }
    let writer = within(cx.soon(), "the writer is granted", writer).await.unwrap().unwrap();
    assert!(readers.iter().all(|reader| !reader.is_held()));
    is_held_against(&cx, &one, LockMode::Shared).await;
    writer.unlock().await.unwrap();
}

pub(super) async fn a_reader_does_not_overtake_a_writer_that_waits(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let first = share(&cx, &one).await;
    let writer = stand_in_line(&cx, &other, "k").await;
    let mut second = stand_in_line_to_share(&cx, &one).await;
    never_within(cx.ttl(), "a grant to the reader", &mut second).await;
    first.unlock().await.unwrap();
    let writer = within(cx.soon(), "the writer is granted", writer).await.unwrap().unwrap();
    never_within(cx.ttl() / 2, "a grant to the reader", &mut second).await;
    writer.unlock().await.unwrap();
    assert!(within(cx.soon(), "the reader is granted", second).await.unwrap().is_held());
}

pub(super) async fn all_readers_up_to_the_next_writer_are_granted_by_one_change(cx: Fixture) {
    let providers = join_all((0..3).map(|_| cx.provider())).await;
    let holder = providers[0].lock().acquire("k", cx.ttl()).await.unwrap();
    let mut readers = Vec::new();
    for n in 0..9 {
        readers.push(stand_in_line_to_share(&cx, &providers[n % 3]).await);
    }
    let mut writer = stand_in_line(&cx, &providers[1], "k").await;
    let mut last = stand_in_line_to_share(&cx, &providers[2]).await;
    holder.unlock().await.unwrap();
    let granted = within(cx.soon(), "every reader before the writer is granted", join_all(readers)).await;
    let granted: Vec<LockGuard> = granted.into_iter().map(|reader| reader.unwrap()).collect();
    assert!(granted.iter().all(LockGuard::is_held), "all of them hold at once");
    never_within(cx.ttl() / 2, "a grant to the writer", &mut writer).await;
    never_within(cx.slack(), "a grant to the reader behind the writer", &mut last).await;
    drop(granted);
    let writer = within(cx.soon(), "the writer is granted", writer).await.unwrap().unwrap();
    writer.unlock().await.unwrap();
    assert!(within(cx.soon(), "the last reader is granted", last).await.unwrap().is_held());
}

pub(super) async fn readers_never_see_half_of_what_a_writer_does(cx: Fixture) {
    let providers = join_all((0..4).map(|_| cx.provider())).await;
    let config = providers[0].config();
    config.set("a", &0u32).await.unwrap();
    config.set("b", &0u32).await.unwrap();
    let works = (0..4).map(|n| {
        let (cx, provider) = (cx.clone(), Arc::clone(&providers[n]));
        tokio::spawn(async move {
            let config = provider.config();
            for round in 0..10 {
                if n < 2 && round % 2 == 0 {
                    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
                    let a: u32 = config.get("a").await.unwrap().unwrap();
                    config.set("a", &(a + 1)).await.unwrap();
                    let b: u32 = config.get("b").await.unwrap().unwrap();
                    config.set("b", &(b + 1)).await.unwrap();
                    guard.unlock().await.unwrap();
                } else {
                    let guard = share(&cx, &provider).await;
                    let a: u32 = config.get("a").await.unwrap().unwrap();
                    let b: u32 = config.get("b").await.unwrap().unwrap();
                    assert_eq!(a, b, "a reader was there beside a writer");
                    guard.unlock().await.unwrap();
                }
            }
        })
    });
    for work in within(cx.soon() * 6, "all is done", join_all(works)).await {
        work.unwrap();
    }
    assert_eq!(config.get::<u32>("b").await.unwrap().unwrap(), 10, "each increment counts once");
}

pub(super) async fn a_shared_try_is_a_conflict_iff_an_exclusive_one_stands(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let first = attempt(&cx, &one, LockMode::Shared).await.unwrap();
    let second = attempt(&cx, &other, LockMode::Shared).await.unwrap();
    is_held_against(&cx, &one, LockMode::Exclusive).await;
    let writer = stand_in_line(&cx, &other, "k").await;
    // It waits only, and still comes first.
    is_held_against(&cx, &one, LockMode::Shared).await;
    first.unlock().await.unwrap();
    second.unlock().await.unwrap();
    let writer = within(cx.soon(), "the writer is granted", writer).await.unwrap().unwrap();
    is_held_against(&cx, &one, LockMode::Shared).await;
    is_held_against(&cx, &one, LockMode::Exclusive).await;
    assert_eq!(queue(&*cx.store().await, "k").await.len(), 1, "a try leaves no entry");
    writer.unlock().await.unwrap();
    attempt(&cx, &one, LockMode::Shared).await.unwrap().unlock().await.unwrap();
}

pub(super) async fn a_crashed_reader_lets_the_writer_in(cx: Fixture) {
    let (client, other) = (cx.client().await, cx.provider().await);
    let reader = share(&cx, &client.provider).await;
    let writer = stand_in_line(&cx, &other, "k").await;
    client.crash().await;
    let limit = cx.gone_by(cx.ttl()) + ONE_SECOND;
    assert!(within(limit, "the writer is granted", writer).await.unwrap().unwrap().is_held());
    drop(reader);
}

pub(super) async fn a_reader_that_goes_away_leaves_no_ghost(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let writer = one.lock().acquire("k", cx.ttl()).await.unwrap();
    let reader = stand_in_line_to_share(&cx, &other).await;
    let next = stand_in_line(&cx, &one, "k").await;
    reader.abort();
    let store = cx.store().await;
    eventually(ONE_SECOND + cx.slack(), "the reader's entry is gone", || async {
        (queue(&*store, "k").await.len() == 2).then_some(())
    })
    .await;
    writer.unlock().await.unwrap();
    assert!(within(cx.soon(), "the next writer is granted", next).await.unwrap().unwrap().is_held());
}

pub(super) async fn sharing_costs_one_request_and_giving_back_another(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let _first = share(&cx, &client.provider).await;
    for _ in 0..5 {
        let (guard, counts) = counter.during(share(&cx, &client.provider)).await;
        assert_eq!((counts.requests(), counts.watch), (1, 0), "{counts:?}");
        let (unlocked, counts) = counter.during(guard.unlock()).await;
        unlocked.unwrap();
        assert_eq!(counts.requests(), 1, "{counts:?}");
    }
}

pub(super) async fn another_programs_mutex_keeps_readers_out(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let reader = share(&cx, &provider).await;
    // As a Go client's mutex stands there: its lease in hexadecimal, and nothing else.
    let foreign = format!("{}deadbeef", layout::lock_queue("k"));
    put(&*store, foreign.clone(), "").await;
    assert!(reader.is_held(), "who came later takes nothing away");
    is_held_against(&cx, &provider, LockMode::Shared).await;
    let mut second = stand_in_line_to_share(&cx, &provider).await;
    never_within(cx.slack(), "a grant past the mutex", &mut second).await;
    delete(&*store, foreign).await;
    assert!(within(cx.soon(), "the reader is granted", second).await.unwrap().is_held());
}

pub(super) async fn what_others_keep_deeper_in_the_queue_keeps_no_reader_out(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    put(&*store, format!("{}nested/deadbeef", layout::lock_queue("k")), "").await;
    put(&*store, format!("{}~r/nested/deadbeef", layout::lock_queue("k")), "").await;
    let tried = attempt(&cx, &provider, LockMode::Shared).await.unwrap();
    let waited = within(cx.soon(), "a grant", share(&cx, &provider)).await;
    assert!(tried.is_held() && waited.is_held());
    is_held_against(&cx, &provider, LockMode::Exclusive).await;
    tried.unlock().await.unwrap();
    waited.unlock().await.unwrap();
    assert!(attempt(&cx, &provider, LockMode::Exclusive).await.is_ok());
}
