//! R50 Permits.

use std::time::Duration;

use coord_api::ErrorKind;
use coord_recipes::{MAX_PERMITS, PermitLimit, PermitOptions};
use coord_testkit::Fixture;
use coord_testkit::wait::within;

use super::primitives::{Primitives, entries, put};
use super::{QUEUE, at_once, first, semaphore, stand_in_line};

const LIMIT: &str = "/semaphores/s/limit";

pub(super) async fn a_first_limit_is_stored_where_none_is(cx: Fixture) {
    let (mine, other, store) = (semaphore(&cx).await, semaphore(&cx).await, cx.store().await);
    let one = mine.acquire(1, first(&cx, 2)).await.unwrap();
    assert_eq!(entries(&*store, LIMIT).await[0].value, "2".into());
    // Whoever says something else gets what is stored.
    let two = other.acquire(1, at_once(&cx, 9)).await.unwrap();
    assert_eq!(other.acquire(1, at_once(&cx, 9)).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(one.is_held() && two.is_held());
    assert_eq!(entries(&*store, LIMIT).await[0].value, "2".into());
    // And may have more than it says itself.
    one.release().await.unwrap();
    two.release().await.unwrap();
    assert!(other.acquire(2, at_once(&cx, 1)).await.unwrap().is_held());
}

pub(super) async fn an_exact_limit_is_that_or_an_error(cx: Fixture) {
    let (mine, other, store) = (semaphore(&cx).await, semaphore(&cx).await, cx.store().await);
    let exactly = |limit| PermitOptions::new(PermitLimit::Exactly(limit)).with_ttl(cx.ttl());
    let held = mine.acquire(1, exactly(2)).await.unwrap();
    for semaphore in [&mine, &other] {
        let error = semaphore.acquire(1, exactly(3)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(entries(&*store, QUEUE).await.len(), 1, "who is refused leaves nothing");
    // What it knows grows old, in both directions.
    other.resize(3).await.unwrap();
    assert_eq!(mine.acquire(1, exactly(2)).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(mine.acquire(2, exactly(3)).await.unwrap().is_held());
    assert!(held.is_held());
}

pub(super) async fn what_is_wrong_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let primitives = Primitives::of(&client);
    let wrong = async {
        let mut errors = Vec::new();
        for name in coord_testkit::bad::keys() {
            let semaphore = primitives.semaphore(&name);
            errors.push(semaphore.acquire(1, first(&cx, 1)).await.unwrap_err());
            errors.push(semaphore.resize(1).await.unwrap_err());
            errors.push(semaphore.remove().await.unwrap_err());
        }
        let semaphore = primitives.semaphore("s");
        for limit in [0, MAX_PERMITS + 1, u32::MAX] {
            errors.push(semaphore.acquire(1, first(&cx, limit)).await.unwrap_err());
            errors.push(semaphore.resize(limit).await.unwrap_err());
        }
        for weight in [0, MAX_PERMITS + 1, u32::MAX] {
            errors.push(semaphore.acquire(weight, first(&cx, 4)).await.unwrap_err());
        }
        let exactly = PermitOptions::new(PermitLimit::Exactly(4)).with_ttl(cx.ttl());
        errors.push(semaphore.acquire(5, exactly).await.unwrap_err());
        for ttl in [Duration::ZERO, Duration::from_secs(9_000_000_001)] {
            errors.push(semaphore.acquire(1, first(&cx, 1).with_ttl(ttl)).await.unwrap_err());
        }
        errors
    };
    let (errors, counts) = counter.during(wrong).await;
    assert_eq!(counts.requests(), 0, "{counts:?}");
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}

pub(super) async fn more_than_the_stored_limit_is_an_invalid_argument(cx: Fixture) {
    let (mine, store) = (semaphore(&cx).await, cx.store().await);
    let error = mine.acquire(5, first(&cx, 4)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(entries(&*store, "/semaphores/").await, [], "nothing is stored");
    mine.resize(2).await.unwrap();
    for semaphore in [mine.clone(), semaphore(&cx).await] {
        let error = semaphore.acquire(3, first(&cx, 4)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(entries(&*store, QUEUE).await, []);
    mine.resize(MAX_PERMITS).await.unwrap();
    assert!(mine.acquire(MAX_PERMITS, first(&cx, 4)).await.unwrap().is_held());
}

pub(super) async fn a_limit_that_is_no_number_is_codec(cx: Fixture) {
    let (mine, store) = (semaphore(&cx).await, cx.store().await);
    for garbage in ["", "many", "-1", "0", "1025", "2.0", "\u{661}"] {
        put(&*store, LIMIT, garbage).await;
        let error = within(cx.soon(), "an answer", mine.acquire(1, first(&cx, 1))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec, "{garbage:?}");
    }
    mine.resize(1).await.unwrap();
    assert!(mine.acquire(1, first(&cx, 1)).await.unwrap().is_held());
}

pub(super) async fn without_waiting_too_few_are_a_conflict(cx: Fixture) {
    let (mine, other, store) = (semaphore(&cx).await, semaphore(&cx).await, cx.store().await);
    let held = mine.acquire(2, first(&cx, 3)).await.unwrap();
    for semaphore in [&mine, &other] {
        assert_eq!(semaphore.acquire(2, at_once(&cx, 3)).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    let one = other.acquire(1, at_once(&cx, 3)).await.unwrap();
    let waiter = stand_in_line(&cx, &mine, 3, 3).await;
    one.release().await.unwrap();
    // One is free, and who waits for three comes first.
    assert_eq!(other.acquire(1, at_once(&cx, 3)).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(entries(&*store, QUEUE).await.len(), 2, "a try leaves no entry");
    held.release().await.unwrap();
    assert!(within(cx.soon(), "the waiter is undisturbed", waiter).await.unwrap().unwrap().is_held());
}

pub(super) async fn permits_and_their_release_are_one_request_each(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let primitives = Primitives::of(&client);
    let kept = primitives.semaphore("s");
    kept.acquire(1, first(&cx, 3)).await.unwrap().release().await.unwrap();
    for _ in 0..5 {
        // Made anew for each use: what is known of the limit is shared.
        let (permit, counts) = counter.during(primitives.semaphore("s").acquire(2, first(&cx, 3))).await;
        let permit = permit.unwrap();
        assert_eq!((counts.requests(), counts.watch), (1, 0), "{counts:?}");
        let (released, counts) = counter.during(permit.release()).await;
        released.unwrap();
        assert_eq!(counts.requests(), 1, "{counts:?}");
    }
}

pub(super) async fn it_is_removed_once_nobody_is_there(cx: Fixture) {
    let (mine, other, store) = (semaphore(&cx).await, semaphore(&cx).await, cx.store().await);
    let held = mine.acquire(1, first(&cx, 1)).await.unwrap();
    assert_eq!(other.remove().await.unwrap_err().kind(), ErrorKind::Conflict);
    held.release().await.unwrap();
    other.remove().await.unwrap();
    assert_eq!(entries(&*store, "/semaphores/").await, []);
    other.remove().await.unwrap();
    // Who knew the old limit learns that there is none.
    let again = mine.acquire(2, first(&cx, 2)).await.unwrap();
    assert_eq!(entries(&*store, LIMIT).await[0].value, "2".into());
    assert!(again.is_held());
}

pub(super) async fn names_that_nest_are_unrelated(cx: Fixture) {
    let primitives = Primitives::of(&cx.client().await);
    let mut held = Vec::new();
    for name in ["s", "s/q", "s/limit", "s%2Fq", "s/q/1f-0-1"] {
        held.push(primitives.semaphore(name).acquire(1, at_once(&cx, 1)).await.unwrap());
    }
    assert!(held.iter().all(coord_recipes::Permit::is_held));
}
