//! R81 Giving back.

use std::time::Duration;

use coord_api::ErrorKind;
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use coord_testkit::wrap::Fault;
use tokio::time::{Instant, sleep};

use super::primitives::{Primitives, delete, entries};
use super::{CLAIMS, RECEIPTS, at_once, had, next, options, queue, text};

const DELAY: Duration = Duration::from_secs(4);

pub(super) async fn what_is_acknowledged_is_gone(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(&cx).await);
    mine.push("v").await.unwrap();
    let claim = next(&cx, &mine).await;
    let mut lost = claim.lost();
    let (acknowledged, counts) = counter.during(claim.ack()).await;
    acknowledged.unwrap();
    assert_eq!(counts.requests(), 1, "{counts:?}");
    within(cx.soon(), "it is over", &mut lost).await;
    assert!(!claim.is_held());
    let (again, counts) = counter.during(claim.ack()).await;
    again.unwrap();
    assert_eq!(counts.all(), 0, "{counts:?}");
    assert!(had(&cx, &other).await.is_none());
    let left = entries(&*cx.store().await, "/queues/q/").await;
    assert!(left.iter().all(|entry| entry.key.starts_with(RECEIPTS.as_bytes())), "{left:?}");
    assert_eq!(claim.release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

pub(super) async fn an_acknowledgement_in_doubt_is_settled(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(&cx).await);
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Refuse] {
        mine.push("v").await.unwrap();
        let claim = next(&cx, &mine).await;
        faults.next_delete(fault, CLAIMS);
        within(cx.soon(), "it is acknowledged", claim.ack()).await.unwrap();
        assert_eq!(other.state().await.unwrap().items, 0, "{fault:?}");
    }
}

pub(super) async fn what_is_lost_before_it_is_settled_is_not_acknowledged(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other, store) = (Primitives::of(&client).queue("q"), queue(&cx).await, cx.store().await);
    for acknowledges in [true, false] {
        other.push("v").await.unwrap();
        let claim = next(&cx, &mine).await;
        let lease = entries(&*store, CLAIMS).await[0].lease.unwrap();
        if acknowledges {
            faults.next_delete(Fault::LoseRequest, CLAIMS);
        } else {
            faults.next_put(Fault::LoseRequest, CLAIMS);
        }
        // Settled, and then lost, before it looks.
        faults.next(Fault::LateAnswer(cx.soon()), |request| request.puts("/sessions/"));
        let ending =
            tokio::spawn(
                async move { if acknowledges { claim.ack().await } else { claim.retry(DELAY).await } },
            );
        let fence =
            |entry: &coord_api::store::Entry| entry.lease == Some(lease) && entry.created < entry.modified;
        eventually(cx.soon(), "its session's key is rewritten", || async {
            entries(&*store, "/sessions/").await.iter().any(fence).then_some(())
        })
        .await;
        store.revoke_lease(lease).await.unwrap();
        let successor = next(&cx, &other).await;
        assert_eq!(successor.deliveries(), 2);
        successor.ack().await.unwrap();
        faults.forget();
        let error = within(cx.soon(), "an answer", ending).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
    }
}

pub(super) async fn an_acknowledgement_after_the_loss_harms_no_successor(cx: Fixture) {
    let (mine, other, store) = (queue(&cx).await, queue(&cx).await, cx.store().await);
    mine.push("v").await.unwrap();
    for _ in 0..2 {
        let claim = next(&cx, &mine).await;
        let lease = entries(&*store, CLAIMS).await[0].lease.unwrap();
        store.revoke_lease(lease).await.unwrap();
        let successor = next(&cx, &other).await;
        assert!(successor.fencing_token() > claim.fencing_token());
        for error in [claim.ack().await.unwrap_err(), claim.retry(DELAY).await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
        }
        assert!(successor.is_held() && had(&cx, &mine).await.is_none());
        successor.release().await.unwrap();
    }
    let claim = next(&cx, &mine).await;
    claim.release().await.unwrap();
    assert_eq!(claim.ack().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(mine.state().await.unwrap().items, 1);
}

pub(super) async fn an_acknowledgement_that_comes_late_harms_no_successor(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(&cx).await);
    mine.push("v").await.unwrap();
    let claim = next(&cx, &mine).await;
    faults.next_delete(Fault::Hold, CLAIMS);
    // It gives up halfway, and gives the item back.
    let mut ack = Box::pin(claim.ack());
    let _ = futures_util::poll!(&mut ack);
    eventually(cx.soon(), "the request is stuck", || {
        let _ = &faults;
        async { (faults.unused() == 0).then_some(()) }
    })
    .await;
    drop(ack);
    drop(claim);
    let successor = next(&cx, &other).await;
    for late in faults.take_held() {
        assert!(!late.apply().await.unwrap_or(false), "it took the item away");
    }
    assert!(successor.is_held());
    assert_eq!(other.state().await.unwrap().items, 1);
    successor.ack().await.unwrap();
}

pub(super) async fn an_acknowledgement_of_a_removed_claim_harms_no_successor(cx: Fixture) {
    let (mine, other, store) = (queue(&cx).await, queue(&cx).await, cx.store().await);
    mine.push("v").await.unwrap();
    for retries in [false, true] {
        let claim = next(&cx, &mine).await;
        delete(&*store, entries(&*store, CLAIMS).await[0].key.clone()).await;
        let successor = next(&cx, &other).await;
        let answer = if retries { claim.retry(DELAY).await } else { claim.ack().await };
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::LeaseLost);
        assert_eq!(entries(&*store, CLAIMS).await[0].created.get(), successor.fencing_token().get());
        assert_eq!(mine.state().await.unwrap().items, 1);
        successor.release().await.unwrap();
    }
}

pub(super) async fn an_item_that_is_given_back_is_free_at_its_old_place(cx: Fixture) {
    let (mine, other) = (queue(&cx).await, queue(&cx).await);
    for n in 0..3 {
        mine.push(format!("{n}")).await.unwrap();
    }
    let (first, second) = (next(&cx, &mine).await, next(&cx, &mine).await);
    first.release().await.unwrap();
    let again = next(&cx, &other).await;
    assert_eq!((text(&again).as_str(), again.deliveries()), ("0", 2));
    drop(second);
    eventually(cx.soon(), "what was dropped is free", || async {
        let claim = other.claim(at_once(&cx)).await.unwrap();
        claim.filter(|claim| text(claim) == "1").map(|claim| assert_eq!(claim.deliveries(), 2))
    })
    .await;
}

pub(super) async fn a_retry_comes_when_its_time_is_over(cx: Fixture) {
    let (mine, other) = (queue(&cx).await, queue(&cx).await);
    mine.push("v").await.unwrap();
    let claim = next(&cx, &mine).await;
    let asked = Instant::now();
    claim.retry(DELAY).await.unwrap();
    assert!(!claim.is_held());
    is_had_after_the_delay(&cx, &other, asked).await;
}

/// Nobody has the item before the delay is over, and then it is had.
async fn is_had_after_the_delay(cx: &Fixture, queue: &coord_recipes::Queue, asked: Instant) {
    while asked.elapsed() + Duration::from_millis(200) < DELAY {
        assert!(had(cx, queue).await.is_none(), "after {:?}", asked.elapsed());
        sleep(Duration::from_millis(200)).await;
    }
    let longest = DELAY.mul_f64(1.25) + cx.lag() + cx.slack();
    let claim = within(longest.saturating_sub(asked.elapsed()), "it comes", queue.claim(options(cx))).await;
    claim.unwrap().unwrap().ack().await.unwrap();
}

pub(super) async fn a_retry_in_doubt_is_settled(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(&cx).await);
    let day = Duration::from_secs(86_400);
    let mut delayed = 0;
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Refuse] {
        mine.push("v").await.unwrap();
        let claim = next(&cx, &mine).await;
        faults.next_put(fault, CLAIMS);
        within(cx.soon(), "it is given back", claim.retry(day)).await.unwrap();
        delayed += 1;
        let state = other.state().await.unwrap();
        assert_eq!((state.items, state.claimed), (delayed, delayed), "{fault:?}");
        drop(claim);
        assert!(had(&cx, &other).await.is_none());
    }
}

pub(super) async fn a_retry_outlives_who_asked_for_it(cx: Fixture) {
    let other = queue(&cx).await;
    let primitives = Primitives::of(&cx.client().await);
    let mine = primitives.queue("q");
    mine.push("v").await.unwrap();
    let claim = next(&cx, &mine).await;
    let asked = Instant::now();
    claim.retry(DELAY).await.unwrap();
    primitives.client.close().await.unwrap();
    is_had_after_the_delay(&cx, &other, asked).await;
}

pub(super) async fn a_delayed_item_comes_when_its_time_is_over(cx: Fixture) {
    let (mine, other) = (queue(&cx).await, queue(&cx).await);
    let asked = Instant::now();
    mine.push_after(DELAY, "late").await.unwrap();
    mine.push("early").await.unwrap();
    let claim = next(&cx, &other).await;
    assert_eq!(text(&claim), "early");
    claim.ack().await.unwrap();
    is_had_after_the_delay(&cx, &other, asked).await;
}

pub(super) async fn a_lease_of_a_delay_that_is_gone_is_replaced(cx: Fixture) {
    let (mine, store) = (queue(&cx).await, cx.store().await);
    let day = Duration::from_secs(86_400);
    mine.push_after(day, "0").await.unwrap();
    let lease = entries(&*store, CLAIMS).await[0].lease.unwrap();
    store.revoke_lease(lease).await.unwrap();
    // What was delayed is free: that is what whoever revoked it wanted.
    let claim = next(&cx, &mine).await;
    claim.retry(day).await.unwrap();
    within(cx.soon(), "it is pushed", mine.push_after(day, "1")).await.unwrap();
    let claims = entries(&*store, CLAIMS).await;
    assert_eq!(claims.len(), 2);
    assert!(claims.iter().all(|claim| claim.lease.is_some_and(|now| now != lease)));
}

pub(super) async fn dead_items_are_listed_brought_back_and_discarded(cx: Fixture) {
    let (mine, other) = (queue(&cx).await, queue(&cx).await);
    let once = at_once(&cx).with_max_deliveries(1);
    for n in 0..4 {
        mine.push(format!("{n}")).await.unwrap();
        let claim = mine.claim(once).await.unwrap().unwrap();
        assert_eq!(text(&claim), n.to_string());
        claim.release().await.unwrap();
        assert!(mine.claim(once).await.unwrap().is_none());
    }
    let dead = other.dead(3).await.unwrap();
    let values: Vec<&[u8]> = dead.iter().map(|dead| dead.value.as_ref()).collect();
    assert_eq!(values, [b"0", b"1", b"2"]);
    assert!(other.redrive(&dead[1].id).await.unwrap());
    assert!(!mine.redrive(&dead[1].id).await.unwrap());
    assert!(other.discard(&dead[0].id).await.unwrap());
    assert!(!mine.discard(&dead[0].id).await.unwrap() && !mine.redrive(&dead[0].id).await.unwrap());
    mine.push("new").await.unwrap();
    let claim = next(&cx, &mine).await;
    assert_eq!((text(&claim).as_str(), claim.deliveries(), claim.id()), ("1", 1, &dead[1].id));
    assert_eq!(other.dead(10).await.unwrap().len(), 2);
    let store = cx.store().await;
    assert_eq!(entries(&*store, &format!("/queues/q/v/{}", dead[0].id)).await, []);
}
