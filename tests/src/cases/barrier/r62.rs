//! R62 Leaving.

use coord_api::prelude::*;
use coord_api::{ErrorKind, Fence, WriteOptions};
use coord_testkit::Fixture;
use coord_testkit::wait::{never_within, within};

use super::primitives::{Primitives, delete, entries};
use super::{PARTIES, RELEASE, barrier, entered, met, options, waiter};

pub(super) async fn all_leave_together(cx: Fixture) {
    let (mine, other) = (barrier(&cx).await, barrier(&cx).await);
    let mut parties = met(&cx, &[&mine, &other, &mine]).await;
    let (third, second) = (parties.pop().unwrap(), parties.pop().unwrap());
    let mut first = Box::pin(parties.pop().unwrap().leave());
    let mut second = Box::pin(second.leave());
    never_within(cx.ttl(), "it has left", &mut first).await;
    never_within(cx.ttl() / 2, "it has left", &mut second).await;
    assert_eq!(entries(&*cx.store().await, RELEASE).await.len(), 1, "one of them is still there");
    within(cx.soon(), "all leave", third.leave()).await.unwrap();
    within(cx.soon(), "all leave", first).await.unwrap();
    within(cx.soon(), "all leave", second).await.unwrap();
}

pub(super) async fn who_dropped_its_party_has_left(cx: Fixture) {
    let (mine, other) = (barrier(&cx).await, barrier(&cx).await);
    let mut parties = met(&cx, &[&mine, &other]).await;
    let mut leaves = Box::pin(parties.pop().unwrap().leave());
    never_within(cx.ttl(), "it has left", &mut leaves).await;
    drop(parties);
    within(cx.soon(), "all have left", leaves).await.unwrap();
}

pub(super) async fn the_fence_of_a_party_holds_until_it_leaves(cx: Fixture) {
    let (mine, other, writer) = (barrier(&cx).await, barrier(&cx).await, cx.provider().await);
    let write = async |fence: Fence| {
        let options = WriteOptions::default().with_fence(fence);
        writer.config().write_with("fenced", "v".into(), options).await
    };
    let parties = met(&cx, &[&mine, &other]).await;
    for party in parties {
        let fence = party.fence();
        write(fence.clone()).await.unwrap();
        party.release().await.unwrap();
        assert_eq!(write(fence).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
}

pub(super) async fn who_crashed_has_left(cx: Fixture) {
    let (mine, client) = (barrier(&cx).await, cx.client().await);
    let crashes = Primitives::of(&client).barrier("b");
    let mut parties = met(&cx, &[&mine, &crashes]).await;
    let crashed = parties.pop().unwrap();
    let mut leaves = Box::pin(parties.pop().unwrap().leave());
    never_within(cx.ttl(), "it has left", &mut leaves).await;
    client.crash().await;
    within(cx.gone_by(cx.ttl()), "all have left", leaves).await.unwrap();
    drop(crashed);
}

pub(super) async fn the_last_one_clears_up(cx: Fixture) {
    let (mine, other, store) = (barrier(&cx).await, barrier(&cx).await, cx.store().await);
    for _ in 0..3 {
        let parties = met(&cx, &[&mine, &other]).await;
        assert_eq!(entries(&*store, RELEASE).await.len(), 1);
        let leave = parties.into_iter().map(coord_recipes::Party::leave);
        for left in within(cx.soon(), "all leave", futures_util::future::join_all(leave)).await {
            left.unwrap();
        }
        assert_eq!(entries(&*store, "/barriers/").await, []);
    }
}

pub(super) async fn who_waits_for_the_next_generation_keeps_nobody_from_leaving(cx: Fixture) {
    let (mine, other, store) = (barrier(&cx).await, barrier(&cx).await, cx.store().await);
    let parties = met(&cx, &[&mine, &other]).await;
    let next = waiter(&cx, &mine, 2).await;
    let leave = parties.into_iter().map(coord_recipes::Party::leave);
    for left in within(cx.soon(), "all leave", futures_util::future::join_all(leave)).await {
        left.unwrap();
    }
    assert_eq!(entries(&*store, RELEASE).await.len(), 1, "the record is needed by those who are there");
    let last = within(cx.soon(), "two are there", other.enter(2, options(&cx))).await.unwrap();
    let next = entered(&cx, next).await;
    assert_eq!(next.generation(), last.generation());
    let (one, two) = futures_util::future::join(next.leave(), last.leave()).await;
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(entries(&*store, "/barriers/").await, []);
}

pub(super) async fn to_leave_is_one_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let (mine, other) = (Primitives::of(&client).barrier("b"), barrier(&cx).await);
    mine.enter(1, options(&cx)).await.unwrap().leave().await.unwrap();
    let mut parties = met(&cx, &[&mine, &other, &other]).await;
    let (third, second) = (parties.pop().unwrap(), parties.pop().unwrap());
    second.release().await.unwrap();
    third.release().await.unwrap();
    // The last one: its own leave, and the record's.
    let (left, counts) = counter.during(parties.pop().unwrap().leave()).await;
    left.unwrap();
    assert_eq!(counts.requests(), 2, "{counts:?}");
}

pub(super) async fn one_that_was_lost_is_told(cx: Fixture) {
    let (mine, other, store) = (barrier(&cx).await, barrier(&cx).await, cx.store().await);
    let mut parties = met(&cx, &[&mine, &other]).await;
    for entry in entries(&*store, PARTIES).await {
        delete(&*store, entry.key).await;
    }
    let error = within(cx.soon(), "an answer", parties.pop().unwrap().leave()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    let known = parties.pop().unwrap();
    within(cx.soon(), "the loss", known.lost()).await;
    assert_eq!(known.leave().await.unwrap_err().kind(), ErrorKind::LeaseLost);
}
