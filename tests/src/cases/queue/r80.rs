//! R80 Claiming.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_api::{ErrorKind, Wait};
use coord_recipes::Claim;
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, never_within, within};
use coord_testkit::wrap::Fault;
use futures_util::future::join_all;
use tokio::time::sleep;

use super::primitives::{Primitives, delete, entries, put};
use super::{CLAIMS, ITEMS, VALUES, WAITERS, at_once, claimed, had, next, options, queue, text, waiter};

/// How often each item is had at the moment; never more than once.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<HashMap<String, u32>>>);

impl Held {
    fn begin(&self, item: &str) {
        let mut held = self.0.lock().unwrap();
        let times = held.entry(item.to_owned()).or_default();
        *times += 1;
        assert_eq!(*times, 1, "{item} is had twice at a time");
    }

    fn end(&self, item: &str) {
        *self.0.lock().unwrap().get_mut(item).unwrap() -= 1;
    }
}

pub(super) async fn an_item_is_had_by_one_at_a_time(cx: Fixture) {
    const ITEMS: usize = 40;
    let held = Held::default();
    let clients = join_all((1..=4).map(|n| cx.delayed(n))).await;
    let mut workers = Vec::new();
    for client in &clients {
        let (queue, held, options) = (Primitives::of(client).queue("q"), held.clone(), options(&cx));
        workers.push(tokio::spawn(async move {
            let mut done = Vec::new();
            loop {
                let claim = queue.claim(options).await.unwrap().unwrap();
                let item = text(&claim);
                if item == "end" {
                    claim.release().await.unwrap();
                    return done;
                }
                held.begin(&item);
                sleep(Duration::from_millis(1)).await;
                assert!(claim.is_held());
                // Some go back first.
                let again = claim.deliveries() == 1 && item.ends_with('7');
                held.end(&item);
                if again {
                    claim.release().await.unwrap();
                } else {
                    claim.ack().await.unwrap();
                    done.push(item);
                }
            }
        }));
    }
    let pusher = queue(&cx).await;
    for n in 0..ITEMS {
        pusher.push(format!("{n}")).await.unwrap();
    }
    eventually(cx.soon() * 3, "all are done", || async {
        (pusher.state().await.unwrap().items == 0).then_some(())
    })
    .await;
    pusher.push("end").await.unwrap();
    let mut done: Vec<String> =
        within(cx.soon(), "all end", join_all(workers)).await.into_iter().flat_map(Result::unwrap).collect();
    done.sort_by_key(|item| item.parse::<usize>().unwrap());
    assert_eq!(done, (0..ITEMS).map(|n| n.to_string()).collect::<Vec<_>>());
}

pub(super) async fn who_waits_is_served_in_order(cx: Fixture) {
    let (one, two) = (queue(&cx).await, queue(&cx).await);
    let mut waiters = Vec::new();
    for queue in [&one, &two, &one, &two] {
        waiters.push(waiter(&cx, queue, options(&cx)).await);
    }
    for n in 0..4 {
        two.push(format!("{n}")).await.unwrap();
    }
    let mut held = Vec::new();
    for (n, waiter) in waiters.into_iter().enumerate() {
        let claim = claimed(&cx, waiter).await;
        assert_eq!(text(&claim), n.to_string());
        held.push(claim);
    }
    assert_eq!(entries(&*cx.store().await, WAITERS).await, []);
}

pub(super) async fn an_item_costs_three_requests_and_one_more_where_its_claimer_waited(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let queue = Primitives::of(&client).queue("q");
    queue.push("warm").await.unwrap();
    next(&cx, &queue).await.ack().await.unwrap();
    // The watch may tell of the item before it is claimed, or after that.
    eventually(cx.soon(), "an item that is there is had by three requests", || async {
        queue.push("v").await.unwrap();
        sleep(Duration::from_millis(20)).await;
        let ((), counts) = counter.during(async { next(&cx, &queue).await.ack().await.unwrap() }).await;
        assert!(counts.requests() <= 3 && counts.watch == 0, "{counts:?}");
        (counts.requests() == 2).then_some(())
    })
    .await;
    let ((), counts) = counter
        .during(async {
            let waiter = waiter(&cx, &queue, options(&cx)).await;
            queue.push("v").await.unwrap();
            claimed(&cx, waiter).await.ack().await.unwrap();
        })
        .await;
    assert_eq!((counts.requests(), counts.watch), (4, 0), "{counts:?}");
}

pub(super) async fn however_many_wait_an_item_costs_as_much(cx: Fixture) {
    const WAITING: usize = 24;
    let (client, counter) = cx.counting().await;
    let (mine, others) = (Primitives::of(&client), [queue(&cx).await, queue(&cx).await]);
    let mine = mine.queue("q");
    let mut waiters = Vec::new();
    for n in 0..WAITING {
        let queue = [&mine, &others[0], &others[1]][n % 3];
        waiters.push(waiter(&cx, queue, options(&cx)).await);
    }
    let ((), counts) = counter
        .during(async {
            for n in 0..WAITING {
                others[0].push(format!("{n}")).await.unwrap();
            }
            for (n, waiter) in waiters.into_iter().enumerate() {
                let claim = claimed(&cx, waiter).await;
                assert_eq!(text(&claim), n.to_string());
                claim.ack().await.unwrap();
            }
        })
        .await;
    // Each of this client's claims and acknowledges one item, and tries no other's.
    assert_eq!((counts.requests(), counts.watch), (WAITING / 3 * 2, 0), "{counts:?}");
}

pub(super) async fn an_item_of_a_crashed_claimer_is_delivered_again(cx: Fixture) {
    let (crashes, other) = (cx.client().await, queue(&cx).await);
    other.push("v").await.unwrap();
    let claim = {
        let queue = Primitives::of(&crashes).queue("q");
        queue.claim(options(&cx).with_ttl(cx.ttl())).await.unwrap().unwrap()
    };
    let waiting = waiter(&cx, &other, options(&cx)).await;
    crashes.crash().await;
    let granted = claim.ttl().max(cx.ttl());
    let again =
        within(cx.gone_by(granted), "it is delivered again", waiting).await.unwrap().unwrap().unwrap();
    assert_eq!((text(&again).as_str(), again.deliveries(), again.id()), ("v", 2, claim.id()));
    assert!(again.fencing_token() > claim.fencing_token());
}

pub(super) async fn a_claim_in_doubt_is_settled(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let mine = Primitives::of(&client).queue("q");
    mine.push("warm").await.unwrap();
    next(&cx, &mine).await.ack().await.unwrap();
    for (fault, waits) in [
        (Fault::LoseAnswer, false),
        (Fault::LoseRequest, false),
        (Fault::LoseAnswer, true),
        (Fault::LoseRequest, true),
    ] {
        faults.next_put(fault, CLAIMS);
        let claim = if waits {
            let waiting = waiter(&cx, &mine, options(&cx)).await;
            mine.push("v").await.unwrap();
            claimed(&cx, waiting).await
        } else {
            mine.push("v").await.unwrap();
            next(&cx, &mine).await
        };
        assert_eq!((text(&claim).as_str(), claim.deliveries()), ("v", 1), "{fault:?}");
        claim.ack().await.unwrap();
        assert_eq!(mine.state().await.unwrap(), Default::default(), "{fault:?}");
    }
}

pub(super) async fn a_claim_in_doubt_is_not_taken_for_that_of_another_one(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other, store) = (Primitives::of(&client).queue("q"), queue(&cx).await, cx.store().await);
    let id = mine.push("0").await.unwrap();
    next(&cx, &mine).await.release().await.unwrap();
    faults.next_put(Fault::LoseRequest, CLAIMS);
    // To settle it, the session's key is rewritten.
    faults.next(Fault::LateAnswer(cx.soon()), |request| request.puts("/sessions/"));
    let claim = tokio::spawn({
        let (mine, options) = (mine.clone(), options(&cx));
        async move { mine.claim(options).await }
    });
    eventually(cx.soon(), "it is in doubt", || async { (faults.unused() == 0).then_some(()) }).await;
    let others = format!("{CLAIMS}{id}");
    put(&*store, &others, "another one").await;
    faults.forget();
    other.push("1").await.unwrap();
    let second = claimed(&cx, claim).await;
    assert_eq!(text(&second), "1");
    second.ack().await.unwrap();
    delete(&*store, others).await;
    assert_eq!(text(&next(&cx, &other).await), "0");
}

pub(super) async fn a_claim_that_comes_late_changes_nothing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(&cx).await);
    mine.push("v").await.unwrap();
    next(&cx, &mine).await.release().await.unwrap();
    faults.next_put(Fault::Hold, CLAIMS);
    let claim = next(&cx, &mine).await;
    assert_eq!(claim.deliveries(), 2);
    claim.release().await.unwrap();
    let successor = next(&cx, &other).await;
    let before = entries(&*cx.store().await, ITEMS).await;
    for late in faults.take_held() {
        assert!(!late.apply().await.unwrap_or(false), "it took the item away");
    }
    assert_eq!(entries(&*cx.store().await, ITEMS).await, before);
    successor.ack().await.unwrap();
}

pub(super) async fn what_is_seen_too_late_is_refused_and_the_next_item_is_had(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(&cx).await);
    for n in 0..3 {
        other.push(format!("{n}")).await.unwrap();
    }
    let mut held = vec![next(&cx, &mine).await];
    assert_eq!(text(&held[0]), "0");
    // It does not hear that another one has it by now.
    faults.silence_watches();
    let first = next(&cx, &other).await;
    let claim = tokio::spawn({
        let (mine, options) = (mine.clone(), options(&cx));
        async move { mine.claim(options).await }
    });
    let store = cx.store().await;
    eventually(cx.soon(), "it waits for news", || async {
        (!entries(&*store, WAITERS).await.is_empty()).then_some(())
    })
    .await;
    faults.heal();
    held.push(claimed(&cx, claim).await);
    assert_eq!((text(&first).as_str(), text(&held[1]).as_str()), ("1", "2"));
    assert!(first.is_held() && held.iter().all(Claim::is_held));
}

pub(super) async fn who_does_not_wait_sees_what_the_store_has(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).queue("q"), queue(&cx).await);
    other.push("0").await.unwrap();
    next(&cx, &mine).await.ack().await.unwrap();
    faults.silence_watches();
    assert!(had(&cx, &mine).await.is_none());
    other.push("1").await.unwrap();
    let claim = had(&cx, &mine).await.expect("it was pushed before");
    assert!(had(&cx, &mine).await.is_none());
    assert!(had(&cx, &other).await.is_none());
    claim.ack().await.unwrap();
    faults.heal();
}

pub(super) async fn a_time_to_wait_ends_the_waiting_and_leaves_no_place(cx: Fixture) {
    let (mine, other) = (queue(&cx).await, queue(&cx).await);
    let short = options(&cx).with_wait(Wait::For(Duration::from_millis(200)));
    let (began, claim) = (tokio::time::Instant::now(), mine.claim(short).await.unwrap());
    assert!(claim.is_none() && began.elapsed() >= Duration::from_millis(200));
    let waiting = waiter(&cx, &other, options(&cx)).await;
    mine.push("v").await.unwrap();
    claimed(&cx, waiting).await.ack().await.unwrap();
    let store = cx.store().await;
    eventually(cx.soon(), "nobody waits", || async {
        entries(&*store, WAITERS).await.is_empty().then_some(())
    })
    .await;
    // What is free is had however short it is.
    mine.push("v").await.unwrap();
    let no_time = options(&cx).with_wait(Wait::For(Duration::from_nanos(1)));
    let claim = within(cx.soon(), "an answer", queue(&cx).await.claim(no_time)).await.unwrap();
    assert!(claim.is_some());
}

pub(super) async fn one_whose_place_is_gone_waits_anew(cx: Fixture) {
    let (mine, store) = (queue(&cx).await, cx.store().await);
    let waiting = waiter(&cx, &mine, options(&cx)).await;
    let place = entries(&*store, WAITERS).await[0].clone();
    delete(&*store, place.key.clone()).await;
    eventually(cx.soon(), "it waits anew", || async {
        let places = entries(&*store, WAITERS).await;
        places.first().filter(|now| now.key != place.key).map(drop)
    })
    .await;
    mine.push("v").await.unwrap();
    assert_eq!(text(&claimed(&cx, waiting).await), "v");
}

pub(super) async fn who_goes_away_lets_the_next_one_have_the_item(cx: Fixture) {
    let (one, two) = (queue(&cx).await, queue(&cx).await);
    let (first, second) = (waiter(&cx, &one, options(&cx)).await, waiter(&cx, &two, options(&cx)).await);
    first.abort();
    one.push("v").await.unwrap();
    assert_eq!(text(&claimed(&cx, second).await), "v");
}

pub(super) async fn of_an_ordered_queue_one_item_is_had_at_a_time(cx: Fixture) {
    let (mine, other) = (Primitives::of(&cx.client().await), Primitives::of(&cx.client().await));
    let (mine, other) = (mine.ordered_queue("q"), other.ordered_queue("q"));
    for n in 0..4 {
        mine.push(format!("{n}")).await.unwrap();
    }
    for n in 0..4 {
        let (holder, waits) = if n % 2 == 0 { (&mine, &other) } else { (&other, &mine) };
        let claim = next(&cx, holder).await;
        assert_eq!((text(&claim), claim.deliveries()), (n.to_string(), 1));
        assert!(had(&cx, waits).await.is_none());
        assert!(had(&cx, holder).await.is_none());
        let mut next = Box::pin(waits.claim(options(&cx)));
        never_within(Duration::from_millis(200), "a second one", &mut next).await;
        drop(next);
        claim.ack().await.unwrap();
    }
    assert!(had(&cx, &mine).await.is_none());
}

pub(super) async fn of_an_ordered_queue_a_retry_holds_up_those_behind_it(cx: Fixture) {
    let queue = Primitives::of(&cx.client().await).ordered_queue("q");
    queue.push("0").await.unwrap();
    queue.push("1").await.unwrap();
    next(&cx, &queue).await.retry(Duration::from_secs(2)).await.unwrap();
    assert!(had(&cx, &queue).await.is_none());
    let again = within(cx.soon() + cx.lag(), "it comes again", queue.claim(options(&cx))).await;
    let again = again.unwrap().unwrap();
    assert_eq!((text(&again).as_str(), again.deliveries()), ("0", 2));
    again.ack().await.unwrap();
    assert_eq!(text(&next(&cx, &queue).await), "1");
}

pub(super) async fn what_was_delivered_too_often_is_put_aside(cx: Fixture) {
    let (mine, other) = (queue(&cx).await, queue(&cx).await);
    mine.push("poison").await.unwrap();
    mine.push("good").await.unwrap();
    let twice = at_once(&cx).with_max_deliveries(2);
    for n in 1..=2 {
        let queue = if n == 1 { &mine } else { &other };
        let claim = queue.claim(twice).await.unwrap().unwrap();
        assert_eq!((text(&claim).as_str(), claim.deliveries()), ("poison", n));
        claim.release().await.unwrap();
    }
    let claim = within(cx.soon(), "the next one", mine.claim(twice.with_wait(Wait::Forever))).await;
    assert_eq!(text(&claim.unwrap().unwrap()), "good");
    let dead = other.dead(10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].value.as_ref(), dead[0].deliveries), (&b"poison"[..], 2));
    // Without waiting, too.
    assert!(other.redrive(&dead[0].id).await.unwrap());
    let once = at_once(&cx).with_max_deliveries(1);
    other.claim(once).await.unwrap().unwrap().release().await.unwrap();
    let good = other.claim(once).await.unwrap();
    assert!(good.is_none_or(|claim| text(&claim) == "good"));
    assert_eq!(other.dead(10).await.unwrap()[0].deliveries, 1);
}

pub(super) async fn an_item_without_a_value_is_codec_and_is_put_aside(cx: Fixture) {
    let (mine, store) = (queue(&cx).await, cx.store().await);
    let id = mine.push("v").await.unwrap();
    delete(&*store, format!("{VALUES}{id}")).await;
    let once = at_once(&cx).with_max_deliveries(1);
    assert_eq!(mine.claim(once).await.unwrap_err().kind(), ErrorKind::Codec);
    eventually(cx.soon(), "it is free again", || async {
        entries(&*store, CLAIMS).await.is_empty().then_some(())
    })
    .await;
    assert!(mine.claim(once).await.unwrap().is_none());
    assert_eq!(mine.state().await.unwrap().items, 0);
}

pub(super) async fn what_others_left_is_no_item(cx: Fixture) {
    let (mine, store) = (queue(&cx).await, cx.store().await);
    for foreign in
        ["/queues/q/q/i/", "/queues/q/q/i/a/b", "/queues/q/q/x", "/queues/q/q/w/a/b", "/queues/q/q/c/"]
    {
        put(&*store, foreign, "x").await;
    }
    assert_eq!(mine.state().await.unwrap(), Default::default());
    mine.push("v").await.unwrap();
    // A count that is none is that of an item that was never delivered.
    put(&*store, &format!("{ITEMS}foreign"), "many").await;
    put(&*store, &format!("{VALUES}foreign"), "w").await;
    let (one, two) = (next(&cx, &mine).await, next(&cx, &mine).await);
    assert_eq!((text(&one).as_str(), text(&two).as_str(), two.deliveries()), ("v", "w", 1));
}

pub(super) async fn all_that_was_pushed_is_done_under_faults(cx: Fixture) {
    const EACH: usize = 15;
    let options = options(&cx).with_ttl(cx.ttl()).with_wait(Wait::For(Duration::from_millis(500)));
    let mut workers = Vec::new();
    let mut links = Vec::new();
    for worker in 0..3 {
        let (client, faults) = cx.faulty().await;
        links.push(faults);
        let queue = Primitives::of(&client).queue("q");
        workers.push(tokio::spawn(async move {
            let (mut pushed, mut unknown, mut done) = (Vec::new(), Vec::new(), Vec::new());
            for n in 0..EACH {
                let item = format!("{worker}-{n}");
                match queue.push(item.clone()).await {
                    Ok(_) => pushed.push(item),
                    Err(_) => unknown.push(item),
                }
                if let Ok(Some(claim)) = queue.claim(options).await {
                    if work(&claim).await {
                        done.push(text(&claim));
                    }
                }
            }
            (pushed, unknown, done)
        }));
    }
    for _ in 0..10 {
        for faults in &links {
            for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
                faults.next_put(fault, "/queues/q/");
                faults.next_delete(fault, "/queues/q/");
                sleep(Duration::from_millis(20)).await;
            }
            faults.cut();
            sleep(Duration::from_millis(30)).await;
            faults.heal();
        }
    }
    links.iter().for_each(coord_testkit::wrap::Faults::forget);
    let all = within(cx.soon() * 6, "all workers end", join_all(workers)).await;
    let (mut pushed, mut unknown, mut done) = (Vec::new(), Vec::new(), Vec::new());
    for (p, u, d) in all.into_iter().map(Result::unwrap) {
        pushed.extend(p);
        unknown.extend(u);
        done.extend(d);
    }
    // What is left is done in quiet.
    let rest = queue(&cx).await;
    let until_empty = async {
        while rest.state().await.unwrap().items > 0 {
            if let Some(claim) = rest.claim(options).await.unwrap() {
                claim.ack().await.unwrap();
                done.push(text(&claim));
            }
        }
    };
    within(cx.soon() * 3, "the queue is empty", until_empty).await;
    for item in &pushed {
        assert_eq!(done.iter().filter(|done| *done == item).count(), 1, "{item} was pushed once");
    }
    for item in &done {
        assert!(pushed.contains(item) || unknown.contains(item), "{item} was never pushed");
        assert_eq!(done.iter().filter(|done| *done == item).count(), 1, "{item} was acknowledged twice");
    }
}

/// Does an item, and says whether it was acknowledged.
async fn work(claim: &Claim) -> bool {
    sleep(Duration::from_millis(5)).await;
    claim.ack().await.is_ok()
}
