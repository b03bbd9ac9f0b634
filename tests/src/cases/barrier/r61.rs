//! R61 Entering.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coord_api::{ErrorKind, Wait};
use coord_recipes::MAX_PARTIES;
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, never_within, within};
use coord_testkit::wrap::Fault;
use futures_util::future::join_all;

use super::primitives::{Primitives, delete, entries, put};
use super::{PARTIES, RELEASE, at_once, barrier, entered, met, options, waiter};

pub(super) async fn all_are_let_through_once_all_are_there(cx: Fixture) {
    let (mine, other) = (barrier(&cx).await, barrier(&cx).await);
    let mut first = waiter(&cx, &mine, 3).await;
    let mut second = waiter(&cx, &other, 3).await;
    never_within(cx.ttl() * 2, "it is let through", &mut first).await;
    never_within(cx.ttl() / 2, "it is let through", &mut second).await;
    let third = within(cx.soon(), "all are there", mine.enter(3, options(&cx))).await.unwrap();
    for waiter in [first, second] {
        let party = entered(&cx, waiter).await;
        assert!(party.is_held());
        assert_eq!(party.generation(), third.generation());
        assert!(party.fencing_token() < third.fencing_token());
    }
}

pub(super) async fn one_generation_comes_after_the_other(cx: Fixture) {
    const PARTIES: u32 = 4;
    let barriers = join_all((0..PARTIES).map(|_| barrier(&cx))).await;
    let there = Arc::new(AtomicU32::new(0));
    let workers = barriers.into_iter().map(|barrier| {
        let (there, options) = (Arc::clone(&there), options(&cx));
        tokio::spawn(async move {
            let mut generations = Vec::new();
            for round in 1..=5 {
                there.fetch_add(1, Ordering::SeqCst);
                let party = barrier.enter(PARTIES, options).await.unwrap();
                assert!(there.load(Ordering::SeqCst) >= round * PARTIES, "some were still to come");
                generations.push(party.generation());
                party.leave().await.unwrap();
            }
            generations
        })
    });
    let all = within(cx.soon() * 3, "five rounds", join_all(workers)).await;
    let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
    assert!(all.iter().all(|generations| generations == &all[0]), "{all:?}");
    assert!(all[0].windows(2).all(|pair| pair[0] < pair[1]), "{all:?}");
}

pub(super) async fn one_that_comes_too_early_waits_for_the_next_generation(cx: Fixture) {
    let (mine, other) = (barrier(&cx).await, barrier(&cx).await);
    let old = met(&cx, &[&mine, &other]).await;
    // Those who were let through are still there, and are not counted again.
    let mut early = waiter(&cx, &mine, 2).await;
    never_within(cx.ttl(), "it is let through", &mut early).await;
    let next = within(cx.soon(), "two are there", other.enter(2, options(&cx))).await.unwrap();
    assert!(next.generation() > old[0].generation());
    assert_eq!(entered(&cx, early).await.generation(), next.generation());
    assert!(old.iter().all(coord_recipes::Party::is_held));
}

pub(super) async fn one_that_went_away_is_not_counted(cx: Fixture) {
    let (mine, other) = (barrier(&cx).await, barrier(&cx).await);
    let gone = waiter(&cx, &other, 2).await;
    gone.abort();
    let store = cx.store().await;
    eventually(cx.soon(), "its place is gone", || async {
        entries(&*store, PARTIES).await.is_empty().then_some(())
    })
    .await;
    let mut first = waiter(&cx, &mine, 2).await;
    never_within(cx.ttl() / 2, "it is let through", &mut first).await;
    let second = within(cx.soon(), "two are there", other.enter(2, options(&cx))).await.unwrap();
    assert_eq!(entered(&cx, first).await.generation(), second.generation());
}

pub(super) async fn one_that_crashed_is_not_counted(cx: Fixture) {
    let (mine, other, client) = (barrier(&cx).await, barrier(&cx).await, cx.client().await);
    let crashed = waiter(&cx, &Primitives::of(&client).barrier("b"), 3).await;
    let mut first = waiter(&cx, &mine, 3).await;
    client.crash().await;
    crashed.abort();
    let store = cx.store().await;
    eventually(cx.gone_by(cx.ttl()), "its place is gone", || async {
        (entries(&*store, PARTIES).await.len() == 1).then_some(())
    })
    .await;
    let mut second = waiter(&cx, &other, 3).await;
    never_within(cx.ttl() / 2, "it is let through", &mut first).await;
    never_within(cx.ttl() / 2, "it is let through", &mut second).await;
    let third = within(cx.soon(), "three are there", mine.enter(3, options(&cx))).await.unwrap();
    assert_eq!(entered(&cx, second).await.generation(), third.generation());
    assert_eq!(entered(&cx, first).await.generation(), third.generation());
}

pub(super) async fn one_whose_place_is_gone_enters_anew(cx: Fixture) {
    let (mine, other, store) = (barrier(&cx).await, barrier(&cx).await, cx.store().await);
    let first = waiter(&cx, &mine, 2).await;
    let place = entries(&*store, PARTIES).await[0].clone();
    delete(&*store, place.key.clone()).await;
    eventually(cx.soon(), "it has another place", || async {
        entries(&*store, PARTIES).await.iter().any(|entry| entry.created > place.created).then_some(())
    })
    .await;
    let second = within(cx.soon(), "two are there", other.enter(2, options(&cx))).await.unwrap();
    assert_eq!(entered(&cx, first).await.generation(), second.generation());
}

pub(super) async fn a_release_that_comes_late_lets_nobody_through(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (late, mine, other) = (Primitives::of(&client).barrier("b"), barrier(&cx).await, barrier(&cx).await);
    late.enter(1, options(&cx)).await.unwrap().leave().await.unwrap();
    let first = waiter(&cx, &mine, 2).await;
    // The last one's release gets stuck, and its session ends before it can settle that.
    faults.next_put(Fault::Hold, RELEASE);
    let cut = faults.clone();
    faults.next(Fault::Refuse, move |request| {
        let settles = request.puts("/sessions/");
        if settles {
            cut.cut();
        }
        settles
    });
    let answer = within(cx.soon(), "an answer", late.enter(2, options(&cx))).await;
    assert!(answer.is_err(), "{answer:?}");
    let store = cx.store().await;
    let places = entries(&*store, PARTIES).await;
    store.revoke_lease(places[1].lease.unwrap()).await.unwrap();
    first.abort();
    eventually(cx.soon(), "nobody is there", || async {
        entries(&*store, PARTIES).await.is_empty().then_some(())
    })
    .await;
    let mut waiting = waiter(&cx, &mine, 2).await;
    let held = faults.take_held();
    assert_eq!(held.len(), 1);
    for late in held {
        assert!(!late.apply().await.unwrap_or(false), "the release of one who is gone is applied");
    }
    never_within(cx.ttl() / 2, "it is let through", &mut waiting).await;
    let second = within(cx.soon(), "two are there", other.enter(2, options(&cx))).await.unwrap();
    assert_eq!(entered(&cx, waiting).await.generation(), second.generation());
}

pub(super) async fn a_release_in_doubt_is_settled(cx: Fixture) {
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Hold] {
        let (client, faults) = cx.faulty().await;
        let (last, mine) = (Primitives::of(&client).barrier("b"), barrier(&cx).await);
        let first = waiter(&cx, &mine, 2).await;
        faults.next_put(fault, RELEASE);
        let last = within(cx.soon(), "two are there", last.enter(2, options(&cx))).await.unwrap();
        let first = entered(&cx, first).await;
        assert_eq!(first.generation(), last.generation(), "{fault:?}");
        for late in faults.take_held() {
            assert!(!late.apply().await.unwrap_or(false), "a write that was fenced off is applied");
        }
        let (one, two) = futures_util::future::join(first.leave(), last.leave()).await;
        one.unwrap();
        two.unwrap();
    }
}

pub(super) async fn without_waiting_others_that_are_to_come_are_a_conflict(cx: Fixture) {
    let (mine, other, store) = (barrier(&cx).await, barrier(&cx).await, cx.store().await);
    let error = within(cx.soon(), "an answer", mine.enter(2, at_once(&cx))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(entries(&*store, PARTIES).await, []);
    let waiting = waiter(&cx, &other, 2).await;
    let last = within(cx.soon(), "an answer", mine.enter(2, at_once(&cx))).await.unwrap();
    assert_eq!(entered(&cx, waiting).await.generation(), last.generation());
    assert!(within(cx.soon(), "an answer", mine.enter(1, at_once(&cx))).await.unwrap().is_held());
}

pub(super) async fn a_time_to_wait_ends_the_waiting(cx: Fixture) {
    let (mine, store) = (barrier(&cx).await, cx.store().await);
    let short = options(&cx).with_wait(Wait::For(cx.ttl() / 2));
    let error = within(cx.soon(), "an answer", mine.enter(2, short)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    eventually(cx.soon(), "it is not counted any more", || async {
        entries(&*store, PARTIES).await.is_empty().then_some(())
    })
    .await;
}

pub(super) async fn another_number_of_parties_is_an_invalid_argument(cx: Fixture) {
    let (mine, other, store) = (barrier(&cx).await, barrier(&cx).await, cx.store().await);
    let first = waiter(&cx, &mine, 2).await;
    for number in [1, 3, MAX_PARTIES] {
        for barrier in [&mine, &other] {
            let error =
                within(cx.soon(), "an answer", barrier.enter(number, options(&cx))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{number}");
        }
    }
    assert_eq!(entries(&*store, PARTIES).await.len(), 1, "who is refused leaves nothing");
    let second = within(cx.soon(), "two are there", other.enter(2, options(&cx))).await.unwrap();
    assert_eq!(entered(&cx, first).await.generation(), second.generation());
    // Once they were let through, the next ones may be more.
    let third = met(&cx, &[&mine, &other, &mine]).await;
    assert!(third[0].generation() > second.generation());
}

pub(super) async fn what_is_wrong_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let primitives = Primitives::of(&client);
    let wrong = async {
        let mut errors = Vec::new();
        for name in coord_testkit::bad::keys() {
            errors.push(primitives.barrier(&name).enter(1, options(&cx)).await.unwrap_err());
        }
        let barrier = primitives.barrier("b");
        for parties in [0, MAX_PARTIES + 1, u32::MAX] {
            errors.push(barrier.enter(parties, options(&cx)).await.unwrap_err());
        }
        for ttl in [Duration::ZERO, Duration::from_secs(9_000_000_001)] {
            errors.push(barrier.enter(1, options(&cx).with_ttl(ttl)).await.unwrap_err());
        }
        errors
    };
    let (errors, counts) = counter.during(wrong).await;
    assert_eq!(counts.all(), 0, "{counts:?}");
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}

pub(super) async fn what_others_left_is_written_over(cx: Fixture) {
    let (mine, other, store) = (barrier(&cx).await, barrier(&cx).await, cx.store().await);
    put(&*store, &format!("{PARTIES}no-party"), "").await;
    put(&*store, &format!("{PARTIES}deeper/1f-1-2"), "").await;
    for garbage in ["", "many", "-1", "18446744073709551616"] {
        put(&*store, RELEASE, garbage).await;
        let both = met(&cx, &[&mine, &other]).await;
        assert_eq!(both[0].generation(), both[1].generation(), "{garbage:?}");
        for party in both {
            party.release().await.unwrap();
        }
    }
}

pub(super) async fn to_enter_is_one_request_and_one_of_the_last(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let (mine, other) = (Primitives::of(&client).barrier("b"), barrier(&cx).await);
    mine.enter(1, options(&cx)).await.unwrap().leave().await.unwrap();
    let waiting = waiter(&cx, &other, 2).await;
    let (last, counts) = counter.during(mine.enter(2, options(&cx))).await;
    assert_eq!((last.unwrap().is_held(), counts.requests()), (true, 2), "{counts:?}");
    entered(&cx, waiting).await.leave().await.unwrap();
}

pub(super) async fn an_entry_dropped_at_any_await_point_leaves_nothing(cx: Fixture) {
    let store = cx.store().await;
    for polls in 0..40 {
        let mine = barrier(&cx).await;
        let mut enter = Box::pin(mine.enter(1, options(&cx)));
        let mut done = false;
        for _ in 0..polls {
            if futures_util::poll!(&mut enter).is_ready() {
                done = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(enter);
        eventually(cx.soon(), "nothing is left", || async {
            entries(&*store, PARTIES).await.is_empty().then_some(())
        })
        .await;
        if done {
            return;
        }
    }
}

pub(super) async fn names_that_nest_are_unrelated(cx: Fixture) {
    let primitives = Primitives::of(&cx.client().await);
    let mut waiting = Vec::new();
    for name in ["b", "b/p", "b/release", "b%2Fp", "b/p/1f-0-2"] {
        let barrier = primitives.barrier(name);
        let options = options(&cx);
        waiting.push((barrier.clone(), tokio::spawn(async move { barrier.enter(2, options).await })));
    }
    for (barrier, first) in waiting {
        let second = within(cx.soon(), "two are there", barrier.enter(2, options(&cx))).await.unwrap();
        assert_eq!(entered(&cx, first).await.generation(), second.generation(), "{barrier:?}");
    }
}
