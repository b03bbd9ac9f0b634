//! R42 Exhausted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, IdOptions, InstanceId, Outcome, Provider, Result, Wait};
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::super::leased::{Lasting, ONE_SECOND, entries};
use super::super::slow::slow_provider;
use super::{acquire, await_one, numbers, up_to};
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{never_within, within};
use crate::wrap::{Fault, Request};

/// Waits for an id in a task of its own.
fn waiter(cx: &Fixture, provider: &Arc<dyn Provider>, max: u32) -> JoinHandle<Result<InstanceId>> {
    let (cx, provider) = (cx.clone(), Arc::clone(provider));
    tokio::spawn(async move { await_one(&cx, &*provider, max).await })
}

/// Asserts that id 1 of 1 is free within a second.
async fn is_free(cx: &Fixture, provider: &dyn Provider, what: &str) {
    let id = within(ONE_SECOND + cx.slack(), what, await_one(cx, provider, 1)).await.unwrap();
    assert_eq!(id.id(), 1);
    id.release().await.unwrap();
}

pub(super) async fn when_none_is_free_it_is_exhausted_at_once(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let held = [acquire(&cx, &*one, 2).await.unwrap(), acquire(&cx, &*other, 2).await.unwrap()];
    for provider in [&one, &other] {
        for _ in 0..3 {
            let error = within(cx.slack(), "the answer comes at once", acquire(&cx, &**provider, 2))
                .await
                .unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Exhausted, Outcome::NotApplied));
        }
    }
    assert!(held.iter().all(InstanceId::is_held));
}

pub(super) async fn no_id_is_one_past_the_end(cx: Fixture) {
    let providers = join_all((0..3).map(|client| slow_provider(&cx, client))).await;
    let calls = (0..15).zip(providers.iter().cycle()).map(|(_, provider)| acquire(&cx, &**provider, 7));
    let (held, exhausted): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    let held: Vec<InstanceId> = held.into_iter().map(Result::unwrap).collect();
    assert_eq!(numbers(&held), [1, 2, 3, 4, 5, 6, 7]);
    assert!(exhausted.into_iter().all(|call| call.unwrap_err().kind() == ErrorKind::Exhausted));
}

pub(super) async fn exhausted_callers_leave_nothing_behind(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let held = acquire(&cx, &*provider, 1).await.unwrap();
    for _ in 0..5 {
        assert!(acquire(&cx, &*provider, 1).await.is_err());
        assert!(
            provider
                .allocator()
                .acquire_id_with("s", up_to(&cx, 1).with_wait(Wait::For(Duration::ZERO)))
                .await
                .is_err()
        );
    }
    assert_eq!(entries(&*store, layout::IDS.to_owned()).await.len(), 1);
    held.release().await.unwrap();
    sleep(cx.slack()).await;
    assert_eq!(entries(&*store, layout::IDS.to_owned()).await.len(), 0, "nor do they take it later");
}

pub(super) async fn a_waiting_call_gets_a_released_id(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    for provider in [&one, &other] {
        let held = [acquire(&cx, &*one, 2).await.unwrap(), acquire(&cx, &*one, 2).await.unwrap()];
        let mut waiting = waiter(&cx, provider, 2);
        never_within(cx.ttl() * 2, "an id", &mut waiting).await;
        held[0].release().await.unwrap();
        let id = within(ONE_SECOND + cx.slack(), "it gets the released id", waiting).await.unwrap().unwrap();
        assert_eq!(id.id(), 1);
        id.release().await.unwrap();
        held[1].release().await.unwrap();
    }
}

pub(super) async fn a_waiting_call_gets_a_dropped_id(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let held = acquire(&cx, &*provider, 1).await.unwrap();
    let mut waiting = waiter(&cx, &other, 1);
    never_within(cx.slack(), "an id", &mut waiting).await;
    drop(held);
    let id = within(ONE_SECOND + cx.slack(), "it gets the dropped id", waiting).await.unwrap().unwrap();
    assert!(id.is_held());
}

pub(super) async fn a_waiting_call_gets_a_crashed_holders_id(cx: Fixture) {
    let (client, other) = (cx.client().await, cx.provider().await);
    let held = acquire(&cx, &*client.provider, 1).await.unwrap();
    let mut waiting = waiter(&cx, &other, 1);
    never_within(cx.slack(), "an id", &mut waiting).await;
    // What the requests of one call cost on this very store; the waiting call makes them when the
    // id is free.
    let start = Instant::now();
    other.allocator().acquire_id("another", 1).await.unwrap().release().await.unwrap();
    let requests = start.elapsed() * 2;
    let (left, crashed) = (held.ttl(), Instant::now());
    client.crash().await;
    never_within(left.saturating_sub(crashed.elapsed()), "an id while its holder may use it", &mut waiting)
        .await;
    let limit = cx.gone_by(cx.ttl()).saturating_sub(crashed.elapsed()) + requests;
    let id = within(limit, "it gets the id of the crashed holder", waiting).await.unwrap().unwrap();
    assert!(id.generation() > held.generation());
}

pub(super) async fn a_waiting_call_times_out(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let held = acquire(&cx, &*provider, 1).await.unwrap();
    // What a client does first may take its time.
    other.lock().acquire("first", cx.ttl()).await.unwrap().unlock().await.unwrap();
    for limit in [Duration::ZERO, cx.ttl() / 4, cx.ttl()] {
        for provider in [&provider, &other] {
            let start = Instant::now();
            let call = provider.allocator().acquire_id_with("s", up_to(&cx, 1).with_wait(Wait::For(limit)));
            let error = call.await.unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotApplied));
            assert!(
                start.elapsed() >= limit && start.elapsed() <= limit + cx.slack(),
                "{limit:?}: {:?}",
                start.elapsed()
            );
        }
    }
    held.release().await.unwrap();
    is_free(&cx, &*other, "the id is free after all gave up").await;
}

pub(super) async fn a_freed_id_goes_to_one_contender(cx: Fixture) {
    let holder = cx.provider().await;
    let held = acquire(&cx, &*holder, 1).await.unwrap();
    let providers = join_all((0..4).map(|client| slow_provider(&cx, client))).await;
    let limit = cx.ttl();
    let calls = (0..8).zip(providers.iter().cycle()).map(|(_, provider)| {
        let (allocator, options) =
            (Arc::clone(provider.allocator()), up_to(&cx, 1).with_wait(Wait::For(limit)));
        tokio::spawn(async move { allocator.acquire_id_with("s", options).await })
    });
    let calls: Vec<_> = calls.collect();
    sleep(limit / 2).await;
    held.release().await.unwrap();
    let answers: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(InstanceId::is_held)
        || answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Timeout)));
}

pub(super) async fn waiters_of_one_provider_share_what_is_freed(cx: Fixture) {
    let (holder, provider) = (cx.provider().await, cx.provider().await);
    let held = join_all((0..4).map(|_| acquire(&cx, &*holder, 4))).await;
    let held: Vec<InstanceId> = held.into_iter().map(Result::unwrap).collect();
    let mut waiting: Vec<_> = (0..4).map(|_| waiter(&cx, &provider, 4)).collect();
    never_within(cx.slack(), "an id", &mut waiting[0]).await;
    held[1].release().await.unwrap();
    held[3].release().await.unwrap();
    sleep(ONE_SECOND + cx.slack()).await;
    let (done, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(JoinHandle::is_finished);
    assert_eq!((done.len(), waiting.len()), (2, 2));
    held[0].release().await.unwrap();
    held[2].release().await.unwrap();
    let mut got = Vec::new();
    for call in done.into_iter().chain(waiting) {
        got.push(within(ONE_SECOND + cx.slack(), "each gets one", call).await.unwrap().unwrap());
    }
    assert_eq!(numbers(&got), [1, 2, 3, 4]);
}

pub(super) async fn nobody_sleeps_while_an_id_is_free(cx: Fixture) {
    // Ids come and go while the waiters look; each of them must be served in turn.
    let providers = join_all((0..3).map(|client| slow_provider(&cx, client))).await;
    let calls = (0..12).zip(providers.iter().cycle()).map(|(n, provider)| {
        let (cx, provider) = (cx.clone(), Arc::clone(provider));
        tokio::spawn(async move {
            for _ in 0..5 {
                let id = await_one(&cx, &*provider, 2).await.unwrap();
                assert!(id.id() <= 2);
                if n % 2 == 0 {
                    tokio::task::yield_now().await;
                }
                id.release().await.unwrap();
            }
        })
    });
    let all = within(cx.soon(), "all are served, again and again", join_all(calls.collect::<Vec<_>>())).await;
    assert!(all.iter().all(|done| done.is_ok()));
}

pub(super) async fn no_freed_id_is_missed_with_a_broken_watch(cx: Fixture) {
    let holder = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    for hang in [true, false] {
        let held = acquire(&cx, &*holder, 1).await.unwrap();
        let mut waiting = waiter(&cx, &client.provider, 1);
        never_within(cx.patience(), "an id", &mut waiting).await;
        if hang {
            faults.hang()
        } else {
            faults.break_watches()
        }
        held.release().await.unwrap();
        faults.heal();
        match within(cx.soon(), "it gets the released id", waiting).await.unwrap() {
            Ok(id) => id.release().await.unwrap(),
            // A request of its own was under way when the link hung.
            Err(error) => assert!(hang && error.is_transient(), "{error:?}"),
        }
    }
}

pub(super) async fn no_freed_id_is_missed_between_looking_and_watching(cx: Fixture) {
    let holder = cx.provider().await;
    for looks in 1..4 {
        let (client, faults) = cx.faulty().await;
        let held = acquire(&cx, &*holder, 1).await.unwrap();
        // So many looks find nothing free, and the ones after them fail while the id is released.
        let looked = Arc::new(AtomicUsize::new(0));
        let failing = Lasting::begin(&faults, Fault::Refuse, move |request| match request {
            Request::Range(range) => {
                range.span.start().starts_with(layout::IDS.as_bytes())
                    && looked.fetch_add(1, Ordering::SeqCst) >= looks
            }
            Request::Watch(span) => {
                span.start().starts_with(layout::IDS.as_bytes()) && looked.load(Ordering::SeqCst) > looks
            }
            _ => false,
        });
        let waiting = waiter(&cx, &client.provider, 1);
        sleep(cx.slack()).await;
        held.release().await.unwrap();
        failing.end();
        // A look of the waiter's own that failed is an answer, too; sleeping on is none.
        match within(cx.soon(), "it does not sleep while the id is free", waiting).await.unwrap() {
            Ok(id) => id.release().await.unwrap(),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

pub(super) async fn a_call_dropped_at_any_moment_leaks_no_id(cx: Fixture) {
    let (holder, other) = (cx.provider().await, cx.provider().await);
    for millis in 0.. {
        let provider = slow_provider(&cx, millis).await;
        let free = timeout(Duration::from_millis(millis), acquire(&cx, &*provider, 1)).await;
        let done = free.is_ok();
        drop(free);
        sleep(Duration::from_millis(50)).await;
        is_free(&cx, &*other, &format!("the id is free after a call was dropped after {millis} ms")).await;
        // Of one that waits, and is served as it goes.
        let held = acquire(&cx, &*holder, 1).await.unwrap();
        let mut waiting = Box::pin(await_one(&cx, &*provider, 1));
        never_within(cx.slack(), "an id", &mut waiting).await;
        held.release().await.unwrap();
        drop(timeout(Duration::from_millis(millis), waiting).await);
        is_free(
            &cx,
            &*other,
            &format!("the id is free after a call was dropped {millis} ms after its turn came"),
        )
        .await;
        if done {
            return;
        }
    }
}

pub(super) async fn a_waiting_call_dropped_at_any_await_point_leaks_no_id(cx: Fixture) {
    let (holder, other) = (cx.provider().await, cx.provider().await);
    for polls in 0.. {
        let provider = cx.provider().await;
        let held = acquire(&cx, &*holder, 1).await.unwrap();
        let polled = poll_times(polls, cx.patience(), await_one(&cx, &*provider, 1)).await;
        assert!(!matches!(polled, Polled::Done(_)), "the id is held");
        held.release().await.unwrap();
        is_free(
            &cx,
            &*other,
            &format!("the id is free after a waiting call was dropped after {polls} polls"),
        )
        .await;
        // Dropped as it is served.
        let held = acquire(&cx, &*holder, 1).await.unwrap();
        let mut waiting = Box::pin(await_one(&cx, &*provider, 1));
        never_within(cx.slack(), "an id", &mut waiting).await;
        held.release().await.unwrap();
        drop(poll_times(polls, cx.patience(), waiting).await);
        is_free(
            &cx,
            &*other,
            &format!("the id is free after a call was dropped after {polls} polls of its turn"),
        )
        .await;
        if matches!(polled, Polled::Idle) {
            return;
        }
    }
}

pub(super) async fn a_call_whose_answer_was_lost_leaks_no_id(cx: Fixture) {
    let other = cx.provider().await;
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Refuse] {
        let (client, faults) = cx.faulty().await;
        let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
        faults.next_put(fault, layout::id("s", 1));
        match within(cx.soon(), "an answer", acquire(&cx, &*client.provider, 1)).await {
            Ok(id) => {
                assert_eq!(
                    acquire(&cx, &*other, 1).await.unwrap_err().kind(),
                    ErrorKind::Exhausted,
                    "{fault:?}"
                );
                sleep(cx.ttl()).await;
                assert!(id.is_held());
                id.release().await.unwrap();
            }
            Err(error) => assert!(error.is_transient(), "{fault:?}: {error}"),
        }
        is_free(&cx, &*other, "the id is free").await;
        assert!(kept.is_held());
        kept.unlock().await.unwrap();
    }
}

pub(super) async fn to_be_refused_takes_no_longer_than_to_be_served(cx: Fixture) {
    let (holder, other) = (cx.provider().await, cx.provider().await);
    let held = acquire(&cx, &*holder, 1).await.unwrap();
    let (mut slowest, mut fastest) = (Duration::ZERO, Duration::MAX);
    for _ in 0..8 {
        let start = Instant::now();
        other.allocator().acquire_id("another", 1).await.unwrap().release().await.unwrap();
        slowest = slowest.max(start.elapsed());
        let start = Instant::now();
        assert_eq!(acquire(&cx, &*other, 1).await.unwrap_err().kind(), ErrorKind::Exhausted);
        fastest = fastest.min(start.elapsed());
    }
    assert!(
        fastest <= slowest + Duration::from_millis(50),
        "{fastest:?} to be refused, {slowest:?} to be served"
    );
    assert!(held.is_held());
}

pub(super) async fn what_is_free_is_had_however_short_the_wait(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let at_once =
        || IdOptions::default().with_range(1..=1).with_ttl(cx.ttl()).with_wait(Wait::For(Duration::ZERO));
    let id = provider.allocator().acquire_id_with("s", at_once()).await.unwrap();
    let refused =
        within(cx.soon(), "the wait is over at once", other.allocator().acquire_id_with("s", at_once()))
            .await
            .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Timeout);
    id.release().await.unwrap();
    assert!(other.allocator().acquire_id_with("s", at_once()).await.is_ok());
}
