//! R12 Compare-and-set.

use coord_api::Version;
use coord_api::prelude::*;
use futures_util::future::join_all;

use super::{conflict, value};
use crate::fixture::Fixture;

pub(super) async fn it_succeeds_iff_the_version_is_the_expected_one(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let first = one.config().set_raw("k", value("1")).await.unwrap();
    let second = two.config().compare_and_set_raw("k", value("2"), first).await.unwrap();
    for wrong in [first, Version::ZERO, Version::new(second.get() + 1)] {
        let error = one.config().compare_and_set_raw("k", value("3"), wrong).await.unwrap_err();
        assert_eq!(conflict(&error), second, "expected {wrong}");
        let found = two.config().get_raw("k").await.unwrap().unwrap();
        assert_eq!((found.value, found.version), (value("2"), second), "nothing was changed");
    }
    let third = one.config().compare_and_set_raw("k", value("3"), second).await.unwrap();
    assert_eq!(two.config().get_raw("k").await.unwrap().unwrap().version, third);
}

pub(super) async fn expected_zero_creates_iff_absent(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let created = one.config().compare_and_set_raw("k", value("1"), Version::ZERO).await.unwrap();
    assert_eq!(
        conflict(&two.config().compare_and_set_raw("k", value("2"), Version::ZERO).await.unwrap_err()),
        created
    );
    assert_eq!(one.config().get_raw("k").await.unwrap().unwrap().value, value("1"), "it was not overwritten");
    one.config().delete("k").await.unwrap();
    two.config().compare_and_set_raw("k", value("2"), Version::ZERO).await.unwrap();
    let empty = one.config().compare_and_set_raw("empty", value(""), Version::ZERO).await.unwrap();
    let error = one.config().compare_and_set_raw("empty", value("1"), Version::ZERO).await.unwrap_err();
    assert_eq!(conflict(&error), empty, "the empty value is not absence");
}

pub(super) async fn an_expectation_of_an_absent_key_is_a_conflict(cx: Fixture) {
    let provider = cx.provider().await;
    let config = provider.config();
    let deleted = config.set_raw("deleted", value("1")).await.unwrap();
    config.delete("deleted").await.unwrap();
    for (key, expected) in
        [("never", Version::new(1)), ("deleted", deleted), ("deleted", Version::new(u64::MAX))]
    {
        let error = config.compare_and_set_raw(key, value("2"), expected).await.unwrap_err();
        assert_eq!(conflict(&error), Version::ZERO, "{key} at {expected}");
        assert_eq!(config.get_raw(key).await.unwrap(), None);
    }
}

pub(super) async fn a_version_from_the_future_is_a_conflict(cx: Fixture) {
    let provider = cx.provider().await;
    let config = provider.config();
    let version = config.set_raw("k", value("1")).await.unwrap();
    for future in [version.get() + 1, version.get() + 1_000_000, i64::MAX.unsigned_abs(), u64::MAX] {
        let error = config.compare_and_set_raw("k", value("2"), Version::new(future)).await.unwrap_err();
        assert_eq!(conflict(&error), version, "{future}");
    }
    // Also once that version was given, to another key.
    for _ in 0..3 {
        let elsewhere = config.set_raw("elsewhere", value("1")).await.unwrap();
        let error = config.compare_and_set_raw("k", value("2"), elsewhere).await.unwrap_err();
        assert_eq!(conflict(&error), version);
    }
}

pub(super) async fn a_value_that_came_back_is_another_version(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let first = one.config().set_raw("k", value("A")).await.unwrap();
    two.config().set_raw("k", value("B")).await.unwrap();
    let third = two.config().set_raw("k", value("A")).await.unwrap();
    assert_eq!(conflict(&one.config().compare_and_set_raw("k", value("C"), first).await.unwrap_err()), third);
    two.config().delete("k").await.unwrap();
    let again = two.config().set_raw("k", value("A")).await.unwrap();
    assert_eq!(conflict(&one.config().compare_and_set_raw("k", value("C"), third).await.unwrap_err()), again);
}

pub(super) async fn a_conflict_carries_the_current_version(cx: Fixture) {
    let provider = cx.provider().await;
    let config = provider.config();
    let mut current = config.set_raw("n", value("0")).await.unwrap();
    for n in 1..=10 {
        // What a conflict carries is what the next try needs.
        let error = config.compare_and_set_raw("n", value("x"), Version::ZERO).await.unwrap_err();
        assert_eq!(conflict(&error), current);
        current = config.compare_and_set_raw("n", value(n.to_string()), conflict(&error)).await.unwrap();
    }
}

pub(super) async fn of_many_racers_exactly_one_wins(cx: Fixture) {
    let clients = join_all((0..8).map(|seed| cx.delayed(seed))).await;
    for round in 0..10 {
        let base = clients[0].provider.config().set_raw("k", value("base")).await.unwrap();
        let raced = clients.iter().enumerate().map(async |(n, client)| {
            let result = client.provider.config().compare_and_set_raw("k", value(n.to_string()), base).await;
            (n, result)
        });
        let results = join_all(raced).await;
        let won: Vec<(usize, Version)> =
            results.iter().filter_map(|(n, result)| Some((*n, *result.as_ref().ok()?))).collect();
        assert_eq!(won.len(), 1, "round {round}: {results:?}");
        for error in results.iter().filter_map(|(_, result)| result.as_ref().err()) {
            assert_eq!(conflict(error), won[0].1);
        }
        let found = clients[1].provider.config().get_raw("k").await.unwrap().unwrap();
        assert_eq!(
            (found.value, found.version),
            (value(won[0].0.to_string()), won[0].1),
            "the winner's value stands"
        );
    }
}

pub(super) async fn of_many_creators_exactly_one_wins(cx: Fixture) {
    let clients = join_all((0..8).map(|seed| cx.delayed(seed))).await;
    for round in 0..10 {
        let key = format!("created/{round}");
        let raced = clients
            .iter()
            .map(|client| client.provider.config().compare_and_set_raw(&key, value("v"), Version::ZERO));
        let results = join_all(raced).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "round {round}: {results:?}");
    }
}

pub(super) async fn increments_add_up(cx: Fixture) {
    let clients = join_all((0..5).map(|seed| cx.delayed(seed))).await;
    clients[0].provider.config().set("n", &0_u32).await.unwrap();
    let tasks = clients.into_iter().map(|client| {
        tokio::spawn(async move {
            let config = client.provider.config();
            for _ in 0..10 {
                loop {
                    let read = config.get_with_version::<u32>("n").await.unwrap().unwrap();
                    match config.compare_and_set("n", &(read.value + 1), read.version).await {
                        Ok(_) => break,
                        Err(error) => assert_ne!(conflict(&error), read.version),
                    }
                }
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
    assert_eq!(cx.provider().await.config().get::<u32>("n").await.unwrap(), Some(50));
}

pub(super) async fn of_many_racers_for_what_was_deleted_none_wins(cx: Fixture) {
    let clients = join_all((0..4).map(|seed| cx.delayed(seed))).await;
    for round in 0..5 {
        let config = clients[round % 4].provider.config();
        let deleted = config.set_raw("k", value("before")).await.unwrap();
        assert!(config.delete("k").await.unwrap());
        let racers = clients
            .iter()
            .cycle()
            .take(8)
            .map(|client| client.provider.config().compare_and_set_raw("k", value("after"), deleted));
        for answer in join_all(racers).await {
            assert_eq!(conflict(&answer.unwrap_err()), Version::ZERO);
        }
        assert_eq!(config.get_raw("k").await.unwrap(), None, "nobody created it");
    }
}
