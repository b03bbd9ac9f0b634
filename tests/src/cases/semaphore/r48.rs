//! R48 Limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coord_api::ErrorKind;
use coord_recipes::Permit;
use coord_testkit::Fixture;
use coord_testkit::wait::{never_within, within};
use futures_util::future::join_all;

use super::primitives::{Primitives, entries};
use super::{QUEUE, at_once, first, semaphore, stand_in_line};

pub(super) async fn never_more_than_the_limit_are_held(cx: Fixture) {
    const LIMIT: u32 = 5;
    let semaphores = join_all((0..4).map(|_| semaphore(&cx))).await;
    let (held, most, done) =
        (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let workers = (0..20u32).map(|n| {
        let (semaphore, options) = (semaphores[n as usize % 4].clone(), first(&cx, LIMIT));
        let (held, most, done) = (Arc::clone(&held), Arc::clone(&most), Arc::clone(&done));
        tokio::spawn(async move {
            let weight = n % 3 + 1;
            let permit = semaphore.acquire(weight, options).await.unwrap();
            let now = held.fetch_add(weight, Ordering::SeqCst) + weight;
            most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(3)).await;
            assert!(permit.is_held() && permit.weight() == weight);
            held.fetch_sub(weight, Ordering::SeqCst);
            permit.release().await.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
        })
    });
    for worker in within(cx.soon() * 3, "all are served", join_all(workers)).await {
        worker.unwrap();
    }
    let most = most.load(Ordering::SeqCst);
    assert!((2..=LIMIT).contains(&most), "{most} permits were held at once");
    assert_eq!(done.load(Ordering::SeqCst), 20);
    assert_eq!(entries(&*cx.store().await, QUEUE).await, []);
}

pub(super) async fn a_lowered_limit_takes_nothing_back(cx: Fixture) {
    let (mine, other) = (semaphore(&cx).await, semaphore(&cx).await);
    let held = join_all((0..3).map(|_| mine.acquire(1, first(&cx, 3)))).await;
    let held: Vec<Permit> = held.into_iter().map(Result::unwrap).collect();
    other.resize(1).await.unwrap();
    let mut next = stand_in_line(&cx, &mine, 1, 3).await;
    for permit in &held {
        never_within(cx.ttl() / 2, "a grant", &mut next).await;
        assert!(permit.is_held());
        permit.release().await.unwrap();
    }
    assert!(within(cx.soon(), "the next one is granted", next).await.unwrap().unwrap().is_held());
}

pub(super) async fn a_raised_limit_lets_waiters_in(cx: Fixture) {
    let (mine, other) = (semaphore(&cx).await, semaphore(&cx).await);
    let held = mine.acquire(2, first(&cx, 2)).await.unwrap();
    let second = stand_in_line(&cx, &other, 1, 2).await;
    let third = stand_in_line(&cx, &mine, 1, 2).await;
    let mut fourth = stand_in_line(&cx, &other, 2, 2).await;
    semaphore(&cx).await.resize(4).await.unwrap();
    let second = within(cx.soon(), "the second is granted", second).await.unwrap().unwrap();
    let third = within(cx.soon(), "the third is granted", third).await.unwrap().unwrap();
    never_within(cx.slack(), "a grant beyond the limit", &mut fourth).await;
    assert!(held.is_held() && second.is_held() && third.is_held());
    held.release().await.unwrap();
    assert!(within(cx.soon(), "the fourth is granted", fourth).await.unwrap().unwrap().is_held());
}

pub(super) async fn a_limit_that_changed_elsewhere_is_kept_to(cx: Fixture) {
    let (mine, other) = (semaphore(&cx).await, semaphore(&cx).await);
    // It knows the limit, and that knowledge grows old.
    mine.acquire(1, first(&cx, 3)).await.unwrap().release().await.unwrap();
    other.resize(1).await.unwrap();
    let held = mine.acquire(1, at_once(&cx, 3)).await.unwrap();
    assert_eq!(mine.acquire(1, at_once(&cx, 3)).await.unwrap_err().kind(), ErrorKind::Conflict);
    other.resize(2).await.unwrap();
    let second = mine.acquire(1, at_once(&cx, 3)).await.unwrap();
    assert!(held.is_held() && second.is_held());
    assert_eq!(mine.acquire(1, at_once(&cx, 3)).await.unwrap_err().kind(), ErrorKind::Conflict);
}

pub(super) async fn permits_of_a_crashed_holder_come_back(cx: Fixture) {
    let (client, other) = (cx.client().await, semaphore(&cx).await);
    let dies = Primitives::of(&client).semaphore("s");
    let gone = [dies.acquire(2, first(&cx, 3)).await.unwrap(), dies.acquire(1, first(&cx, 3)).await.unwrap()];
    client.crash().await;
    let all =
        within(cx.gone_by(cx.ttl()) + cx.soon(), "they come back", other.acquire(3, first(&cx, 3))).await;
    assert!(all.unwrap().is_held());
    drop(gone);
}

pub(super) async fn who_joins_behind_many_waits(cx: Fixture) {
    let (mine, other) = (semaphore(&cx).await, semaphore(&cx).await);
    let held = mine.acquire(2, first(&cx, 2)).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..6 {
        waiting.push(stand_in_line(&cx, &other, 2, 2).await);
    }
    // More entries than it looks at, and a limit that rises behind its back.
    let mut last = stand_in_line(&cx, &mine, 1, 2).await;
    other.resize(3).await.unwrap();
    never_within(cx.slack(), "a grant past those who wait", &mut last).await;
    held.release().await.unwrap();
    for waiter in waiting {
        let permit = within(cx.soon(), "one after the other is served", waiter).await.unwrap().unwrap();
        permit.release().await.unwrap();
    }
    assert!(within(cx.soon(), "the last one is served", last).await.unwrap().unwrap().is_held());
}
