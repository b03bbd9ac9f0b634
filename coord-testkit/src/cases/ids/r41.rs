//! R41 Smallest.

use coord_api::prelude::*;
use coord_api::{ErrorKind, IdOptions, InstanceId, Outcome};
use futures_util::future::join_all;

use super::super::leased::{entries, put};
use super::super::slow::slow_provider;
use super::{acquire, numbers, up_to};
use crate::bad;
use crate::fixture::Fixture;
use crate::layout;

pub(super) async fn one_after_the_other_gets_the_smallest_free_id(cx: Fixture) {
    let provider = cx.provider().await;
    let mut held = Vec::new();
    for expected in 1..=5 {
        let id = provider.allocator().acquire_id("s", 10).await.unwrap();
        assert_eq!(id.id(), expected);
        assert_eq!(id.service(), "s");
        held.push(id);
    }
    held[2].release().await.unwrap();
    held[0].release().await.unwrap();
    for expected in [1, 3, 6] {
        let id = provider.allocator().acquire_id("s", 10).await.unwrap();
        assert_eq!(id.id(), expected);
        held.push(id);
    }
}

pub(super) async fn several_providers_share_one_range(cx: Fixture) {
    let providers = join_all((0..3).map(|_| cx.provider())).await;
    let mut held = Vec::new();
    for (provider, expected) in providers.iter().cycle().zip(1..=9) {
        let id = acquire(&cx, &**provider, 9).await.unwrap();
        assert_eq!(id.id(), expected);
        held.push(id);
    }
    held[4].release().await.unwrap();
    assert_eq!(acquire(&cx, &*providers[2], 9).await.unwrap().id(), 5);
}

pub(super) async fn n_at_once_of_one_provider_hold_the_n_smallest(cx: Fixture) {
    let provider = cx.provider().await;
    for n in [1, 2, 16, 40] {
        let held = join_all((0..n).map(|_| acquire(&cx, &*provider, 100))).await;
        let held: Vec<InstanceId> = held.into_iter().map(Result::unwrap).collect();
        assert_eq!(numbers(&held), (1..=n).collect::<Vec<u32>>());
        for id in &held {
            id.release().await.unwrap();
        }
    }
}

pub(super) async fn n_at_once_of_several_providers_hold_the_n_smallest(cx: Fixture) {
    let providers = join_all((0..5).map(|client| slow_provider(&cx, client))).await;
    for _ in 0..5 {
        let calls = (0..25).zip(providers.iter().cycle()).map(|(_, provider)| acquire(&cx, &**provider, 100));
        let held: Vec<InstanceId> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(numbers(&held), (1..=25).collect::<Vec<u32>>());
        for id in &held {
            id.release().await.unwrap();
        }
    }
}

pub(super) async fn n_at_once_fill_the_gaps(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(acquire(&cx, &*one, 20).await.unwrap());
    }
    for freed in [1, 4, 5, 8] {
        held[freed].release().await.unwrap();
    }
    let calls = (0..6).map(|n| acquire(&cx, if n % 2 == 0 { &*one } else { &*other }, 20));
    let more: Vec<InstanceId> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(numbers(&more), [2, 5, 6, 9, 11, 12]);
}

pub(super) async fn hundreds_at_once_hold_the_smallest(cx: Fixture) {
    // More than fit into one transaction.
    let provider = cx.provider().await;
    let held = join_all((0..300).map(|_| acquire(&cx, &*provider, 1_000))).await;
    let held: Vec<InstanceId> = held.into_iter().map(Result::unwrap).collect();
    assert_eq!(numbers(&held), (1..=300).collect::<Vec<u32>>());
}

pub(super) async fn the_range_is_inclusive_and_may_start_anywhere(cx: Fixture) {
    let provider = cx.provider().await;
    for (service, range) in
        [("a", 0..=1), ("b", 1..=1), ("c", 7..=9), ("d", u32::MAX - 1..=u32::MAX), ("e", 0..=3)]
    {
        let mut held = Vec::new();
        for expected in range.clone() {
            let id = provider
                .allocator()
                .acquire_id_with(service, IdOptions::default().with_range(range.clone()))
                .await
                .unwrap();
            assert_eq!(id.id(), expected, "{range:?}");
            held.push(id);
        }
        let error = provider
            .allocator()
            .acquire_id_with(service, IdOptions::default().with_range(range.clone()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{range:?}");
    }
    // Nearly all of them are free, and finding that out takes no time.
    let wide = IdOptions::default().with_range(0..=u32::MAX);
    assert_eq!(provider.allocator().acquire_id_with("wide", wide).await.unwrap().id(), 0);
}

pub(super) async fn the_default_range_starts_at_one(cx: Fixture) {
    let provider = cx.provider().await;
    assert_eq!(provider.allocator().acquire_id_with("a", IdOptions::default()).await.unwrap().id(), 1);
    assert_eq!(provider.allocator().acquire_id("b", 3).await.unwrap().id(), 1);
    let snowflake = IdOptions::default().with_range(0..=1023);
    assert_eq!(provider.allocator().acquire_id_with("c", snowflake).await.unwrap().id(), 0);
}

pub(super) async fn a_range_without_a_good_id_is_an_invalid_argument(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    #[expect(clippy::reversed_empty_ranges, reason = "it is what is refused")]
    for range in [1..=0, 0..=0, 5..=4, u32::MAX..=0] {
        let options = IdOptions::default().with_range(range.clone());
        let error = client.provider.allocator().acquire_id_with("s", options).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::InvalidArgument, Outcome::NotApplied),
            "{range:?}"
        );
    }
    assert_eq!(
        client.provider.allocator().acquire_id("s", 0).await.unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    let error = client.provider.allocator().acquire_id_timeout("s", 0, cx.ttl()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(counter.counts().all(), 0, "nothing was sent");
    // Nor was the range taken for that of the service.
    assert_eq!(client.provider.allocator().acquire_id("s", 3).await.unwrap().id(), 1);
}

pub(super) async fn another_range_of_the_same_service_is_an_invalid_argument(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let held = acquire(&cx, &*provider, 5).await.unwrap();
    for range in [1..=4, 1..=6, 0..=5, 2..=5] {
        let options = IdOptions::default().with_range(range.clone()).with_ttl(cx.ttl());
        let error = provider.allocator().acquire_id_with("s", options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{range:?}");
    }
    assert_eq!(acquire(&cx, &*provider, 5).await.unwrap().id(), 2);
    assert!(held.is_held());
    // Another service, or another provider, is another allocator.
    assert_eq!(provider.allocator().acquire_id("t", 6).await.unwrap().id(), 1);
    let theirs = other.allocator().acquire_id_with("s", up_to(&cx, 6)).await.unwrap();
    assert!(theirs.id() != held.id());
}

pub(super) async fn services_are_unrelated(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let mut held = Vec::new();
    for service in ["s", "st", "t", "S", "ids", "s-1"] {
        for provider in [&one, &other] {
            held.push(provider.allocator().acquire_id(service, 2).await.unwrap());
        }
        assert_eq!(numbers(&held[held.len() - 2..]), [1, 2], "{service}");
    }
}

pub(super) async fn bad_input_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    for service in bad::segments() {
        let error = client.provider.allocator().acquire_id(&service, 5).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::InvalidArgument, Outcome::NotApplied),
            "{service:?}"
        );
    }
    for ttl in bad::TTLS {
        let error = client
            .provider
            .allocator()
            .acquire_id_with("s", IdOptions::default().with_ttl(ttl))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::InvalidArgument, Outcome::NotApplied),
            "{ttl:?}"
        );
    }
    assert_eq!(counter.counts().all(), 0, "nothing was sent");
}

pub(super) async fn what_is_no_id_is_passed_over(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let ids = layout::id("s", 1).strip_suffix('1').unwrap().to_owned();
    for foreign in ["one", "", "01", "+1", "-1", "1.0", "1/2", " 1", "99999999999999999999", "4294967296"] {
        put(&*store, format!("{ids}{foreign}"), "theirs").await;
    }
    put(&*store, [ids.as_bytes(), bad::GARBAGE].concat(), bad::GARBAGE).await;
    let mut held = Vec::new();
    for expected in 1..=3 {
        let id = acquire(&cx, &*provider, 3).await.unwrap();
        assert_eq!(id.id(), expected);
        held.push(id);
    }
    assert_eq!(acquire(&cx, &*provider, 3).await.unwrap_err().kind(), ErrorKind::Exhausted);
    assert_eq!(entries(&*store, ids).await.len(), 14, "what others left is unharmed");
}

pub(super) async fn an_id_that_others_hold_is_passed_over(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    // Whoever wrote it, on a lease or on none.
    put(&*store, layout::id("s", 1), bad::GARBAGE).await;
    put(&*store, layout::id("s", 3), "").await;
    let held = [acquire(&cx, &*provider, 4).await.unwrap(), acquire(&cx, &*provider, 4).await.unwrap()];
    assert_eq!(numbers(&held), [2, 4]);
    assert_eq!(acquire(&cx, &*provider, 4).await.unwrap_err().kind(), ErrorKind::Exhausted);
}

pub(super) async fn sixteen_at_once_cost_at_most_four_requests(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let mut held = Vec::new();
    // With the first of its TTL, and without.
    for _ in 0..3 {
        let (acquired, counts) =
            counter.during(join_all((0..16).map(|_| acquire(&cx, &*client.provider, 100)))).await;
        held.extend(acquired.into_iter().map(Result::unwrap));
        assert!(counts.requests() <= 4, "{counts:?}");
    }
    assert_eq!(numbers(&held), (1..=48).collect::<Vec<u32>>());
}

pub(super) async fn the_cost_does_not_grow_with_what_is_held(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let mut held = vec![acquire(&cx, &*client.provider, 300).await.unwrap()];
    let mut costs = Vec::new();
    for _ in 0..200 {
        let (id, counts) = counter.during(acquire(&cx, &*client.provider, 300)).await;
        held.push(id.unwrap());
        costs.push(counts.requests());
    }
    assert!(costs.iter().all(|cost| *cost <= costs[0]), "{costs:?}");
    assert!(costs[0] <= 4);
}
