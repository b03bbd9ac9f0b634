//! R33a Several locks at once.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, LockMode, LockOptions, Wait, WriteOptions};
use coord_recipes::{MAX_LOCKS, acquire_all};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, never_within, within};
use futures_util::future::join_all;

use super::primitives::{delete, entries};

fn options(cx: &Fixture) -> LockOptions {
    LockOptions::default().with_ttl(cx.ttl())
}

fn at_once(cx: &Fixture) -> LockOptions {
    options(cx).with_wait(Wait::Never)
}

/// Waits until nobody holds or waits for a lock.
async fn all_are_free(cx: &Fixture, what: &str) {
    let store = cx.store().await;
    eventually(cx.soon(), what, || async { entries(&*store, "/locks/").await.is_empty().then_some(()) })
        .await;
}

pub(super) async fn all_are_held_and_given_back_as_one(cx: Fixture) {
    let (mine, other) = (cx.provider().await, cx.provider().await);
    let set = acquire_all(mine.lock(), ["c", "a", "a/b"], options(&cx)).await.unwrap();
    let names: Vec<&str> = set.guards().iter().map(coord_api::LockGuard::key).collect();
    assert_eq!(names, ["a", "a/b", "c"]);
    assert!(set.is_held() && set.ttl() > Duration::ZERO);
    for name in names {
        let error = other.lock().acquire_with(name, at_once(&cx)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{name}");
    }
    let lost = set.lost();
    set.release().await.unwrap();
    assert!(!set.is_held());
    assert_eq!(within(cx.soon(), "the end", lost).await, coord_api::Loss::Released);
    set.release().await.unwrap();
    drop(acquire_all(other.lock(), ["a", "a/b", "c"], at_once(&cx)).await.unwrap());
    all_are_free(&cx, "dropped, they are free").await;
}

pub(super) async fn where_one_cannot_be_had_none_is_held(cx: Fixture) {
    let (mine, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    for taken in ["a", "b", "c"] {
        let held = other.lock().acquire_with(taken, options(&cx)).await.unwrap();
        let error = acquire_all(mine.lock(), ["a", "b", "c"], at_once(&cx)).await.unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::Conflict, Some(taken)));
        assert_eq!(entries(&*store, "/locks/").await.len(), 1, "{taken} alone is held");
        assert!(held.is_held());
        held.unlock().await.unwrap();
    }
}

pub(super) async fn a_time_to_wait_is_for_all_of_them(cx: Fixture) {
    let (mine, other) = (cx.provider().await, cx.provider().await);
    let first = other.lock().acquire_with("a", options(&cx)).await.unwrap();
    let second = other.lock().acquire_with("b", options(&cx)).await.unwrap();
    let limit = cx.ttl() * 2;
    let began = tokio::time::Instant::now();
    let mut both = Box::pin(acquire_all(mine.lock(), ["a", "b"], options(&cx).with_wait(Wait::For(limit))));
    never_within(limit / 2, "an answer", &mut both).await;
    first.unlock().await.unwrap();
    let error = within(cx.soon() + limit, "an answer", both).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Timeout, Some("b")));
    assert!(began.elapsed() < limit + cx.slack(), "{:?}", began.elapsed());
    second.unlock().await.unwrap();
    all_are_free(&cx, "it gave back what it had").await;
}

pub(super) async fn they_are_acquired_one_after_the_other_in_byte_order(cx: Fixture) {
    let (mine, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let held = other.lock().acquire_with("b", options(&cx)).await.unwrap();
    let mut all = Box::pin(acquire_all(mine.lock(), ["c", "b", "a"], options(&cx)));
    never_within(cx.ttl() / 4, "an answer", &mut all).await;
    let entries_of = async |name: &str| entries(&*store, &format!("/locks/{name}/")).await.len();
    assert_eq!((entries_of("a").await, entries_of("b").await, entries_of("c").await), (1, 2, 0));
    held.unlock().await.unwrap();
    assert!(within(cx.soon(), "all are acquired", all).await.unwrap().is_held());
}

pub(super) async fn those_who_want_them_in_any_order_never_wait_in_a_circle(cx: Fixture) {
    let orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"], ["c", "a", "b"]];
    let providers = join_all(orders.iter().map(|_| cx.provider())).await;
    let workers = orders.into_iter().zip(providers).map(|(order, provider)| {
        let options = options(&cx);
        tokio::spawn(async move {
            for _ in 0..5 {
                let set = acquire_all(provider.lock(), order, options).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
                assert!(set.is_held());
                set.release().await.unwrap();
            }
        })
    });
    for worker in within(cx.soon() * 3, "all are served", join_all(workers)).await {
        worker.unwrap();
    }
    all_are_free(&cx, "nothing is left").await;
}

pub(super) async fn one_that_is_lost_ends_them_all(cx: Fixture) {
    let (mine, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let set = acquire_all(mine.lock(), ["a", "b"], options(&cx)).await.unwrap();
    for entry in entries(&*store, "/locks/b/").await {
        delete(&*store, entry.key).await;
    }
    let loss = within(cx.ttl() + cx.slack() + Duration::from_secs(1), "the loss", set.lost()).await;
    assert_eq!(loss, coord_api::Loss::Removed);
    assert!(!set.is_held());
    assert_eq!((set.state(), set.ttl()), (coord_api::HandleState::Ended(loss), Duration::ZERO));
    let error = coord_api::run_while_held(&set, std::future::pending::<()>()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    // Those that are left go with the handle.
    assert_eq!(set.release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert!(acquire_all(other.lock(), ["a", "b"], at_once(&cx)).await.unwrap().is_held());
}

pub(super) async fn their_fence_holds_while_all_are_held(cx: Fixture) {
    let (mine, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let write = async |fence: coord_api::Fence| {
        let options = WriteOptions::default().with_fence(fence);
        other.config().write_with("fenced", "v".into(), options).await
    };
    for lost in ["a", "b"] {
        let set = acquire_all(mine.lock(), ["a", "b"], options(&cx)).await.unwrap();
        let fence = set.fence();
        write(fence.clone()).await.unwrap();
        for entry in entries(&*store, &format!("/locks/{lost}/")).await {
            delete(&*store, entry.key).await;
        }
        // By the word of the store, whoever has noticed it.
        assert_eq!(write(fence).await.unwrap_err().kind(), ErrorKind::LeaseLost, "{lost} was lost");
        let _ = set.release().await;
        assert_eq!(write(set.fence()).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
}

pub(super) async fn one_that_is_lost_while_others_are_waited_for_is_told(cx: Fixture) {
    let (mine, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let held = other.lock().acquire_with("b", options(&cx)).await.unwrap();
    let mut both = Box::pin(acquire_all(mine.lock(), ["a", "b"], options(&cx)));
    never_within(cx.ttl() / 4, "an answer", &mut both).await;
    for entry in entries(&*store, "/locks/a/").await {
        delete(&*store, entry.key).await;
    }
    // It is noticed with the next renewal (R32).
    never_within(cx.ttl() + cx.slack() + Duration::from_secs(1), "an answer", &mut both).await;
    held.unlock().await.unwrap();
    let error = within(cx.soon(), "an answer", both).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::LeaseLost, Some("a")));
    all_are_free(&cx, "nothing is held").await;
}

pub(super) async fn a_token_is_greater_than_those_of_all_who_held_one_before(cx: Fixture) {
    let mine = cx.provider().await;
    let mut last = coord_api::FencingToken::new(0);
    for names in [vec!["a"], vec!["a", "b"], vec!["b"], vec!["c", "b"], vec!["c"], vec!["a", "b", "c"]] {
        let set = acquire_all(mine.lock(), &names, options(&cx)).await.unwrap();
        assert!(set.fencing_token() > last, "{names:?}");
        assert!(set.guards().iter().all(|guard| guard.fencing_token() > last || names.len() > 1));
        last = set.fencing_token();
        set.release().await.unwrap();
    }
}

pub(super) async fn readers_share_all_of_them(cx: Fixture) {
    let (mine, other) = (cx.provider().await, cx.provider().await);
    let shared = at_once(&cx).with_mode(LockMode::Shared);
    let one = acquire_all(mine.lock(), ["a", "b"], shared).await.unwrap();
    let two = acquire_all(other.lock(), ["b", "a"], shared).await.unwrap();
    assert!(one.is_held() && two.is_held());
    let error = acquire_all(other.lock(), ["b"], at_once(&cx)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

pub(super) async fn dropped_at_any_await_point_it_leaves_nothing(cx: Fixture) {
    for polls in 0..60 {
        let mine = cx.provider().await;
        let mut acquire = Box::pin(acquire_all(mine.lock(), ["a", "b"], options(&cx)));
        let mut done = false;
        for _ in 0..polls {
            if futures_util::poll!(&mut acquire).is_ready() {
                done = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(acquire);
        all_are_free(&cx, "nothing is left").await;
        if done {
            return;
        }
    }
}

pub(super) async fn what_is_wrong_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let lock = client.provider.lock();
    let wrong = async {
        let mut errors = Vec::new();
        for bad in coord_testkit::bad::keys() {
            errors.push(acquire_all(lock, ["a", &bad], options(&cx)).await.unwrap_err());
        }
        let too_many: Vec<String> = (0..=MAX_LOCKS).map(|n| n.to_string()).collect();
        errors.push(acquire_all(lock, too_many, options(&cx)).await.unwrap_err());
        errors.push(acquire_all(lock, [""; 0], options(&cx)).await.unwrap_err());
        errors.push(acquire_all(lock, ["a", "b", "a"], options(&cx)).await.unwrap_err());
        errors.push(acquire_all(lock, ["a", "/a"], options(&cx)).await.unwrap_err());
        for ttl in [Duration::ZERO, Duration::from_secs(9_000_000_001)] {
            errors.push(acquire_all(lock, ["a"], options(&cx).with_ttl(ttl)).await.unwrap_err());
        }
        errors
    };
    let (errors, counts) = counter.during(wrong).await;
    assert_eq!(counts.all(), 0, "{counts:?}");
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}
