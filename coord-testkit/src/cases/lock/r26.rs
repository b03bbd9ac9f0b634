//! R26 Not re-entrant.

use coord_api::ErrorKind;
use coord_api::prelude::*;

use super::super::leased::{put, queue};
use super::stand_in_line;
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{never_within, within};

pub(super) async fn a_second_acquire_by_the_same_provider_waits(cx: Fixture) {
    let provider = cx.provider().await;
    let first = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let mut second = stand_in_line(&cx, &provider, "k").await;
    never_within(cx.ttl() * 2, "a second grant to the same provider", &mut second).await;
    assert!(first.is_held());
    first.unlock().await.unwrap();
    let second = within(cx.soon(), "the second is granted", second).await.unwrap().unwrap();
    assert!(second.fencing_token() > first.fencing_token());
    // The first one is over; it says nothing about the second.
    assert!(!first.is_held() && second.is_held());
    drop(first);
    let error = cx.provider().await.lock().try_acquire("k", cx.ttl()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

pub(super) async fn a_second_try_by_the_same_provider_is_a_conflict(cx: Fixture) {
    let provider = cx.provider().await;
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    for ttl in [cx.ttl(), cx.ttl() * 2] {
        assert_eq!(provider.lock().try_acquire("k", ttl).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert!(guard.is_held());
}

pub(super) async fn nested_names_are_unrelated(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    for keys in [["a", "a/b", "a/b/c"], ["z/b/c", "z/b", "z"]] {
        let mut held = Vec::new();
        for key in keys {
            held.push(one.lock().try_acquire(key, cx.ttl()).await.unwrap());
            assert_eq!(queue(&*cx.store().await, key).await.len(), 1, "each has a queue of its own");
        }
        held[1].unlock().await.unwrap();
        for (key, free) in keys.into_iter().zip([false, true, false]) {
            assert_eq!(other.lock().try_acquire(key, cx.ttl()).await.is_ok(), free, "{key}");
        }
        assert!(held[0].is_held() && held[2].is_held());
    }
}

pub(super) async fn names_that_look_escaped_are_unrelated(cx: Fixture) {
    let provider = cx.provider().await;
    let mut held = Vec::new();
    for key in ["a/b", "a%2Fb", "a%2fb", "a%252Fb", "a%", "a%25", "ab", "a b"] {
        held.push(provider.lock().try_acquire(key, cx.ttl()).await.unwrap());
    }
    assert!(held.iter().all(coord_api::LockGuard::is_held));
}

pub(super) async fn a_leading_slash_makes_no_other_lock(cx: Fixture) {
    let provider = cx.provider().await;
    let _held = provider.lock().acquire("/a/b", cx.ttl()).await.unwrap();
    assert_eq!(provider.lock().try_acquire("a/b", cx.ttl()).await.unwrap_err().kind(), ErrorKind::Conflict);
}

pub(super) async fn what_others_keep_deeper_in_the_queue_is_unrelated(cx: Fixture) {
    // Another program may nest its queues; an entry of this lock has exactly one segment more.
    put(&*cx.store().await, format!("{}deeper/1f-1", layout::lock_queue("k")), "theirs").await;
    let provider = cx.provider().await;
    let guard = provider.lock().try_acquire("k", cx.ttl()).await.unwrap();
    guard.unlock().await.unwrap();
    let first = within(cx.soon(), "an acquire", provider.lock().acquire("k", cx.ttl())).await.unwrap();
    let second = stand_in_line(&cx, &cx.provider().await, "k").await;
    first.unlock().await.unwrap();
    let second = within(cx.soon(), "a hand-over", second).await.unwrap().unwrap();
    assert_eq!(provider.lock().try_acquire("k", cx.ttl()).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(second.is_held());
}

pub(super) async fn the_names_of_a_directory_are_held_at_once(cx: Fixture) {
    let providers = [cx.provider().await, cx.provider().await];
    let mut held = vec![providers[0].lock().acquire("d", cx.ttl()).await.unwrap()];
    for n in 0..12 {
        let key = format!("d/{}/{}", n / 4, n % 4);
        held.push(
            within(cx.soon(), "another lock", providers[n % 2].lock().acquire(&key, cx.ttl())).await.unwrap(),
        );
    }
    assert!(held.iter().all(coord_api::LockGuard::is_held));
    for guard in held {
        guard.unlock().await.unwrap();
    }
}
