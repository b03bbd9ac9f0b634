//! R13 Delete.

use coord_api::Version;
use coord_api::prelude::*;
use futures_util::future::join_all;

use super::{conflict, value};
use crate::fixture::Fixture;

pub(super) async fn delete_says_whether_the_key_existed(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    assert!(!one.config().delete("k").await.unwrap(), "it never existed");
    for text in ["v", ""] {
        two.config().set_raw("k", value(text)).await.unwrap();
        assert!(one.config().delete("k").await.unwrap(), "also with an empty value");
        assert!(!one.config().delete("k").await.unwrap());
        assert!(!two.config().delete("k").await.unwrap());
    }
}

pub(super) async fn what_was_deleted_is_absent_for_everyone(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    for key in ["k", "k/below", "kk"] {
        one.config().set_raw(key, value("v")).await.unwrap();
    }
    assert!(one.config().delete("k").await.unwrap());
    assert_eq!(two.config().get_raw("k").await.unwrap(), None);
    let left: Vec<String> =
        two.config().list_raw("").await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(left, ["k/below", "kk"], "its neighbours stay");
}

pub(super) async fn of_many_deleters_exactly_one_found_it(cx: Fixture) {
    let clients = join_all((0..6).map(|seed| cx.delayed(seed))).await;
    for round in 0..10 {
        clients[0].provider.config().set_raw("k", value("v")).await.unwrap();
        let found = join_all(clients.iter().map(|client| client.provider.config().delete("k"))).await;
        assert_eq!(found.into_iter().filter(|found| *found.as_ref().unwrap()).count(), 1, "round {round}");
    }
}

pub(super) async fn compare_and_delete_succeeds_iff_the_version_is_the_expected_one(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let first = one.config().set_raw("k", value("1")).await.unwrap();
    let second = one.config().set_raw("k", value("2")).await.unwrap();
    for wrong in [Version::ZERO, first, Version::new(second.get() + 1), Version::new(u64::MAX)] {
        assert_eq!(
            conflict(&two.config().compare_and_delete("k", wrong).await.unwrap_err()),
            second,
            "expected {wrong}"
        );
        assert_eq!(one.config().get_raw("k").await.unwrap().unwrap().version, second);
    }
    assert!(two.config().compare_and_delete("k", second).await.unwrap());
    assert_eq!(one.config().get_raw("k").await.unwrap(), None);
    assert_eq!(conflict(&two.config().compare_and_delete("k", second).await.unwrap_err()), Version::ZERO);
    assert!(
        !two.config().compare_and_delete("k", Version::ZERO).await.unwrap(),
        "expected to be absent, and absent"
    );
}

pub(super) async fn of_many_comparing_deleters_exactly_one_wins(cx: Fixture) {
    let clients = join_all((0..6).map(|seed| cx.delayed(seed))).await;
    for round in 0..10 {
        let version = clients[0].provider.config().set_raw("k", value("v")).await.unwrap();
        let results =
            join_all(clients.iter().map(|client| client.provider.config().compare_and_delete("k", version)))
                .await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "round {round}: {results:?}");
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            assert_eq!(conflict(error), Version::ZERO);
        }
    }
}
