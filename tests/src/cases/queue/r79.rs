//! R79 Pushing.

use std::time::Duration;

use coord_api::{ErrorKind, Outcome};
use coord_recipes::{Claim, ClaimOptions, ItemId, MAX_ITEM_BYTES, Queue};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use coord_testkit::wrap::{Fault, Request};
use futures_util::future::join_all;

use super::primitives::{Primitives, entries};
use super::{ITEMS, RECEIPTS, VALUES, had, next, options, queue, text};

pub(super) async fn items_come_in_the_order_in_which_they_were_pushed(cx: Fixture) {
    let (mine, other) = (queue(&cx).await, queue(&cx).await);
    for n in 0..10 {
        let queue = if n % 3 == 0 { &other } else { &mine };
        queue.push(format!("{n}")).await.unwrap();
    }
    let mut held = Vec::new();
    for n in 0..10 {
        let queue = if n % 2 == 0 { &other } else { &mine };
        let claim = next(&cx, queue).await;
        assert_eq!((text(&claim), claim.deliveries()), (n.to_string(), 1));
        held.push(claim);
    }
    assert!(had(&cx, &mine).await.is_none());
}

pub(super) async fn to_push_is_one_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let queue = Primitives::of(&client).queue("q");
    queue.push("warm").await.unwrap();
    for _ in 0..3 {
        let (pushed, counts) = counter.during(queue.push("v")).await;
        pushed.unwrap();
        assert_eq!(counts.requests(), 1, "{counts:?}");
    }
    let day = Duration::from_secs(86_400);
    queue.push_after(day, "warm").await.unwrap();
    let (pushed, counts) = counter.during(queue.push_after(day, "v")).await;
    pushed.unwrap();
    assert_eq!(counts.requests(), 1, "{counts:?}");
}

pub(super) async fn a_push_whose_answer_is_lost_is_there_once(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(&cx).await);
    mine.push("warm").await.unwrap();
    let mut pushed = 1;
    for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
        faults.next_put(fault, ITEMS);
        let id = within(cx.soon(), "it is pushed", mine.push("v")).await.unwrap();
        pushed += 1;
        assert_eq!(other.state().await.unwrap().items, pushed, "{fault:?}");
        let items = entries(&*cx.store().await, ITEMS).await;
        assert_eq!(items.last().unwrap().key, format!("{ITEMS}{id}"));
    }
    faults.next_put(Fault::Refuse, ITEMS);
    let error = mine.push("v").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied));
    assert_eq!(other.state().await.unwrap().items, pushed);
}

pub(super) async fn a_push_in_doubt_whose_item_was_taken_since_is_not_made_again(cx: Fixture) {
    let (taken, pushed, other) = taken_in_doubt(&cx, async |claim| claim.ack().await.unwrap()).await;
    assert_eq!(taken.id(), &pushed);
    assert!(had(&cx, &other).await.is_none(), "it was pushed again");
}

pub(super) async fn a_push_in_doubt_whose_item_is_had_leaves_it_alone(cx: Fixture) {
    let (taken, pushed, other) = taken_in_doubt(&cx, async |_| ()).await;
    assert_eq!(taken.id(), &pushed);
    assert!(taken.is_held());
    taken.release().await.unwrap();
    let again = next(&cx, &other).await;
    assert_eq!((again.id(), again.deliveries()), (&pushed, 2));
}

/// A push whose answer is lost, and whose doubt is settled only after another client has claimed
/// the item, and done this with it; what was pushed, and the queue of that client.
async fn taken_in_doubt(cx: &Fixture, then: impl AsyncFnOnce(&Claim)) -> (Claim, ItemId, Queue) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(cx).await);
    mine.push("warm").await.unwrap();
    next(cx, &other).await.ack().await.unwrap();
    faults.next_put(Fault::LoseAnswer, ITEMS);
    // To settle it, the session's key is rewritten.
    faults.next(Fault::LateAnswer(cx.soon()), |request| request.puts("/sessions/"));
    let push = tokio::spawn(async move { mine.push("v").await });
    let taken = next(cx, &other).await;
    assert_eq!(text(&taken), "v");
    then(&taken).await;
    faults.forget();
    let pushed = within(cx.soon(), "it is pushed", push).await.unwrap().unwrap();
    (taken, pushed, other)
}

pub(super) async fn a_push_that_is_applied_late_is_not_there_twice(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(&cx).await);
    mine.push("warm").await.unwrap();
    faults.next_put(Fault::Hold, ITEMS);
    within(cx.soon(), "it is pushed", mine.push("v")).await.unwrap();
    let late = faults.take_held();
    assert_eq!(late.len(), 1);
    for late in late {
        assert!(!late.apply().await.unwrap_or(false), "it is there twice");
    }
    assert_eq!(other.state().await.unwrap().items, 2);
}

pub(super) async fn a_push_that_cannot_be_settled_is_unknown(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(&cx).await);
    mine.push("warm").await.unwrap();
    faults.next_put(Fault::LoseAnswer, ITEMS);
    faults.next(Fault::Deny, |request| matches!(request, Request::Txn(_)) && request.puts("/sessions/"));
    let error = within(cx.soon(), "an answer", mine.push("v")).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    assert_eq!(other.state().await.unwrap().items, 2);
    mine.push("v").await.unwrap();
}

pub(super) async fn a_push_whose_session_is_lost_before_it_is_settled_is_unknown(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other, store) = (Primitives::of(&client).queue("q"), queue(&cx).await, cx.store().await);
    mine.push("warm").await.unwrap();
    next(&cx, &other).await.ack().await.unwrap();
    let lease = entries(&*store, RECEIPTS).await[0].lease.unwrap();
    faults.next_put(Fault::LoseAnswer, ITEMS);
    // Settled, and then lost, before it looks.
    faults.next(Fault::LateAnswer(cx.soon()), |request| request.puts("/sessions/"));
    let fence =
        move |entry: &coord_api::store::Entry| entry.lease == Some(lease) && entry.created < entry.modified;
    let push = tokio::spawn(async move { mine.push("v").await });
    eventually(cx.soon(), "its session's key is rewritten", || async {
        entries(&*store, "/sessions/").await.iter().any(fence).then_some(())
    })
    .await;
    next(&cx, &other).await.ack().await.unwrap();
    store.revoke_lease(lease).await.unwrap();
    faults.forget();
    let error = within(cx.soon(), "an answer", push).await.unwrap().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    assert!(had(&cx, &other).await.is_none(), "it was pushed again");
}

pub(super) async fn items_outlive_who_pushed_them(cx: Fixture) {
    let other = queue(&cx).await;
    let (closes, crashes) = (cx.client().await, cx.client().await);
    let primitives = Primitives::of(&closes);
    primitives.queue("q").push("closed").await.unwrap();
    primitives.client.close().await.unwrap();
    let primitives = Primitives::of(&crashes);
    primitives.queue("q").push("crashed").await.unwrap();
    crashes.crash().await;
    for expected in ["closed", "crashed"] {
        let claim = next(&cx, &other).await;
        assert_eq!(text(&claim), expected);
        claim.ack().await.unwrap();
    }
}

pub(super) async fn receipts_do_not_pile_up(cx: Fixture) {
    let store = cx.store().await;
    let (client, faults) = cx.faulty().await;
    let primitives = Primitives::of(&client);
    let few = async || entries(&*store, RECEIPTS).await.len() <= 10;
    let queue = primitives.queue("q");
    for _ in 0..20 {
        for pushed in join_all((0..5).map(|_| queue.push("v"))).await {
            pushed.unwrap();
        }
        assert!(few().await);
    }
    assert_eq!(entries(&*store, ITEMS).await.len(), 100);
    // Nor those of queues that are made for one push.
    drop(queue);
    for n in 0..20 {
        primitives.queue(if n % 2 == 0 { "q" } else { "other" }).push("v").await.unwrap();
    }
    assert!(few().await);
    // Nor those of pushes that are given up once they are applied.
    for n in 1..=20 {
        faults.next_put(Fault::LateAnswer(cx.soon()), ITEMS);
        let queue = primitives.queue("q");
        let push = tokio::spawn(async move { queue.push("v").await });
        eventually(cx.soon(), "it is applied", || async {
            (entries(&*store, ITEMS).await.len() == 110 + n).then_some(())
        })
        .await;
        push.abort();
        let _ = push.await;
    }
    primitives.queue("q").push("v").await.unwrap();
    assert!(few().await);
    primitives.client.close().await.unwrap();
    eventually(cx.soon(), "its receipts go with it", || async {
        entries(&*store, RECEIPTS).await.is_empty().then_some(())
    })
    .await;
}

pub(super) async fn what_is_wrong_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let primitives = Primitives::of(&client);
    let wrong = async {
        let mut errors = Vec::new();
        for bad in coord_testkit::bad::keys() {
            let queue = primitives.queue(&bad);
            errors.push(queue.push("v").await.unwrap_err());
            errors.push(queue.claim(options(&cx)).await.unwrap_err());
            errors.push(queue.state().await.unwrap_err());
            errors.push(queue.dead(1).await.unwrap_err());
        }
        let queue = primitives.queue("q");
        errors.push(queue.push(vec![0; MAX_ITEM_BYTES + 1]).await.unwrap_err());
        for delay in [Duration::ZERO, Duration::from_secs(7_200_000_001), Duration::MAX] {
            errors.push(queue.push_after(delay, "v").await.unwrap_err());
        }
        let no_ttl = ClaimOptions::default().with_ttl(Duration::ZERO);
        for options in [no_ttl, ClaimOptions::default().with_max_deliveries(0)] {
            errors.push(queue.claim(options).await.unwrap_err());
        }
        errors
    };
    let (errors, counts) = counter.during(wrong).await;
    assert_eq!(counts.all(), 0, "{counts:?}");
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    let queue = primitives.queue("q");
    queue.push(vec![0; MAX_ITEM_BYTES]).await.unwrap();
    assert_eq!(next(&cx, &queue).await.value().len(), MAX_ITEM_BYTES);
    assert!("a/b".parse::<ItemId>().is_err());
}

pub(super) async fn names_that_nest_are_unrelated(cx: Fixture) {
    let primitives = Primitives::of(&cx.client().await);
    let names = ["q", "q/q", "q/q/i", "q%2Fq", "q/v"];
    for name in names {
        primitives.queue(name).push(name).await.unwrap();
    }
    for name in names {
        let queue = primitives.queue(name);
        assert_eq!(queue.state().await.unwrap().items, 1, "{name}");
        let claim = next(&cx, &queue).await;
        assert_eq!(text(&claim), name);
        claim.ack().await.unwrap();
    }
    assert_eq!(entries(&*cx.store().await, VALUES).await, []);
}

pub(super) async fn an_ordered_queue_and_another_one_share_no_name(cx: Fixture) {
    let primitives = Primitives::of(&cx.client().await);
    let (plain, ordered) = (primitives.queue("q"), primitives.ordered_queue("q"));
    plain.push("plain").await.unwrap();
    ordered.push("ordered").await.unwrap();
    assert_eq!((plain.state().await.unwrap().items, ordered.state().await.unwrap().items), (1, 1));
    assert_eq!(text(&next(&cx, &ordered).await), "ordered");
    assert_eq!(text(&next(&cx, &plain).await), "plain");
}
