//! R49 Order.

use coord_api::ErrorKind;
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, never_within, within};

use super::primitives::entries;
use super::{QUEUE, first, semaphore, stand_in_line};

pub(super) async fn who_came_first_is_served_first(cx: Fixture) {
    let (mine, other) = (semaphore(&cx).await, semaphore(&cx).await);
    let mut held = mine.acquire(1, first(&cx, 1)).await.unwrap();
    let mut waiting = std::collections::VecDeque::new();
    for n in 0..6 {
        waiting.push_back(stand_in_line(&cx, [&mine, &other][n % 2], 1, 1).await);
    }
    while let Some(next) = waiting.pop_front() {
        let token = held.fencing_token();
        held.release().await.unwrap();
        held = within(cx.soon(), "who came first is served first", next).await.unwrap().unwrap();
        assert!(held.fencing_token() > token);
        assert!(waiting.iter().all(|waiter| !waiter.is_finished()));
    }
}

pub(super) async fn who_wants_many_is_not_overtaken(cx: Fixture) {
    let (mine, other) = (semaphore(&cx).await, semaphore(&cx).await);
    let held = mine.acquire(3, first(&cx, 4)).await.unwrap();
    let mut heavy = stand_in_line(&cx, &other, 4, 4).await;
    // One permit is free all the while.
    let mut light = stand_in_line(&cx, &mine, 1, 4).await;
    never_within(cx.ttl(), "a grant past who wants many", &mut light).await;
    never_within(cx.slack(), "a grant of what is held", &mut heavy).await;
    held.release().await.unwrap();
    let heavy = within(cx.soon(), "who wants many is granted", heavy).await.unwrap().unwrap();
    never_within(cx.slack(), "a grant of what is held", &mut light).await;
    heavy.release().await.unwrap();
    assert!(within(cx.soon(), "who wants few is granted", light).await.unwrap().unwrap().is_held());
}

pub(super) async fn who_goes_away_lets_the_next_ones_in(cx: Fixture) {
    let (mine, other) = (semaphore(&cx).await, semaphore(&cx).await);
    let held = mine.acquire(3, first(&cx, 4)).await.unwrap();
    let heavy = stand_in_line(&cx, &other, 4, 4).await;
    let light = stand_in_line(&cx, &mine, 1, 4).await;
    heavy.abort();
    assert!(within(cx.soon(), "who wants few is granted", light).await.unwrap().unwrap().is_held());
    assert!(held.is_held());
}

pub(super) async fn who_waits_for_more_than_a_lowered_limit_leaves(cx: Fixture) {
    let (mine, other, store) = (semaphore(&cx).await, semaphore(&cx).await, cx.store().await);
    let held = mine.acquire(1, first(&cx, 4)).await.unwrap();
    let heavy = stand_in_line(&cx, &other, 4, 4).await;
    let mut light = stand_in_line(&cx, &mine, 2, 4).await;
    mine.resize(2).await.unwrap();
    let error = within(cx.soon(), "it is told", heavy).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    eventually(cx.soon(), "it has left", || async {
        (entries(&*store, QUEUE).await.len() == 2).then_some(())
    })
    .await;
    never_within(cx.slack(), "a grant of what is held", &mut light).await;
    held.release().await.unwrap();
    assert!(within(cx.soon(), "the next one is granted", light).await.unwrap().unwrap().is_held());
}
