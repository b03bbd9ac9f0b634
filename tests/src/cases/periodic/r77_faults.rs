//! R77 Once a period, where something goes wrong.

use std::time::Duration;

use coord_api::store::Compare;
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use coord_testkit::wrap::{Fault, Faults, Request};
use tokio::time::{Instant, sleep};

use super::primitives::{Primitives, delete, entries};
use super::{Log, MARKER, QUEUE, every, further, instance, long, marker, stand};

/// How long a run takes where it is over at once.
const SHORT: Duration = Duration::from_millis(20);

pub(super) async fn at_the_loss_the_job_is_dropped(cx: Fixture) {
    let (log, store, times) = (Log::default(), cx.store().await, (every(&cx), long(&cx)));
    // Where it runs alone it leads again.
    let running = instance(&cx, "one", &further(&cx).await, times, &log);
    for begun in 1..=2 {
        log.begun(every(&cx) + cx.ttl() + cx.lag() + cx.soon(), begun).await;
        for entry in entries(&*store, QUEUE).await {
            delete(&*store, entry.key).await;
        }
        eventually(cx.ttl() + Duration::from_secs(1) + cx.slack(), "the job is dropped", || async {
            log.runs()[begun - 1].ended
        })
        .await;
    }
    log.begun(every(&cx) + cx.lag() + cx.soon(), 3).await;
    log.check(&cx, every(&cx));
    running.abort();
}

pub(super) async fn after_a_crash_the_next_run_comes_by_ttl_and_period(cx: Fixture) {
    let (log, store, times) = (Log::default(), cx.store().await, (every(&cx), SHORT));
    let client = cx.client().await;
    let primitives = Primitives::of(&client);
    let crashes = instance(&cx, "one", &primitives, times, &log);
    stand(&cx, &*store, 1).await;
    let other = instance(&cx, "two", &further(&cx).await, times, &log);
    stand(&cx, &*store, 2).await;
    let runs = log.begun(cx.soon() + every(&cx) + cx.lag(), 2).await.len();
    client.crash().await;
    let crashed = Instant::now();
    let at_the_latest = cx.ttl() + every(&cx) + cx.lag() * 2 + cx.slack();
    log.begun(at_the_latest, runs + 1).await;
    assert!(crashed.elapsed() <= at_the_latest, "{:?}", crashed.elapsed());
    assert_eq!(log.runs()[runs].instance, "two");
    log.check(&cx, every(&cx));
    crashes.abort();
    other.abort();
}

pub(super) async fn a_marker_in_doubt_is_settled(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (log, store) = (Log::default(), cx.store().await);
    faults.next_put(Fault::LoseAnswer, MARKER);
    let running = instance(&cx, "one", &Primitives::of(&client), (every(&cx), SHORT), &log);
    let runs = log.begun(cx.soon(), 1).await;
    assert_eq!(faults.unused(), 0);
    let standing = marker(&*store).await.expect("the marker of the run stands");
    assert_eq!(runs[0].token, standing.created.into());
    assert_eq!(faults.counter().counts().revoke, 0, "what it stands on is not given back");
    log.begun(every(&cx) + cx.lag() + cx.soon(), 2).await;
    log.check(&cx, every(&cx));
    running.abort();
}

pub(super) async fn a_marker_that_was_lost_on_its_way_is_written_anew(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (log, store) = (Log::default(), cx.store().await);
    for _ in 0..2 {
        faults.next_put(Fault::LoseRequest, MARKER);
    }
    let running = instance(&cx, "one", &Primitives::of(&client), (long(&cx), SHORT), &log);
    let runs = log.begun(cx.soon(), 1).await;
    let standing = marker(&*store).await.expect("the marker of the run stands");
    assert_eq!(runs[0].token, standing.created.into());
    let counts = faults.counter().counts();
    // One is the session's.
    assert_eq!((counts.grant, counts.revoke), (1 + 3, 2), "leases that carry nothing are given back");
    running.abort();
}

/// Whether a request writes a session's key anew, which settles a doubt.
fn rewrites_the_session(request: &Request<'_>) -> bool {
    let Request::Txn(txn) = request else { return false };
    request.puts("/sessions/") && txn.compares.iter().any(|compare| matches!(compare, Compare::Modified(..)))
}

/// Has the next marker get stuck on its way, and nobody find out whether it was written.
fn hold_the_marker(faults: &Faults) {
    faults.next_put(Fault::Hold, MARKER);
    for _ in 0..1_000 {
        faults.next(Fault::Refuse, rewrites_the_session);
    }
}

/// The marker arrives that was held, changes nothing, and keeps nobody from running.
async fn comes_late(cx: &Fixture, faults: &Faults, runs_next: impl AsyncFnOnce()) {
    let mut held = faults.take_held();
    assert_eq!(held.len(), 1, "the marker");
    let applied = held.remove(0).apply().await;
    assert!(!applied.unwrap(), "a late marker was written");
    assert_eq!(marker(&*cx.store().await).await, None);
    runs_next().await;
}

pub(super) async fn a_marker_that_comes_after_the_loss_changes_nothing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (log, store) = (Log::default(), cx.store().await);
    hold_the_marker(&faults);
    let running = instance(&cx, "one", &Primitives::of(&client), (long(&cx), SHORT), &log);
    stand(&cx, &*store, 1).await;
    let first = entries(&*store, QUEUE).await.remove(0);
    // All but the rewriting of the session's key is answered.
    eventually(cx.soon(), "it is in doubt", || async { (faults.unused() < 1_000).then_some(()) }).await;
    delete(&*store, first.key.clone()).await;
    eventually(cx.ttl() + cx.soon(), "it runs for leader again", || async {
        entries(&*store, QUEUE).await.pop().filter(|entry| entry.created != first.created)
    })
    .await;
    assert_eq!(log.runs().len(), 0);
    comes_late(&cx, &faults, async || {
        faults.forget();
        log.begun(cx.soon(), 1).await;
    })
    .await;
    running.abort();
}

pub(super) async fn a_marker_that_comes_after_its_instance_went_changes_nothing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (log, store) = (Log::default(), cx.store().await);
    hold_the_marker(&faults);
    let gone = instance(&cx, "one", &Primitives::of(&client), (long(&cx), SHORT), &log);
    stand(&cx, &*store, 1).await;
    eventually(cx.soon(), "it is in doubt", || async { (faults.unused() < 1_000).then_some(()) }).await;
    gone.abort();
    let _ = gone.await;
    faults.forget();
    stand(&cx, &*store, 0).await;
    let other = further(&cx).await;
    comes_late(&cx, &faults, async || {
        let running = instance(&cx, "two", &other, (long(&cx), SHORT), &log);
        log.begun(cx.soon(), 1).await;
        running.abort();
    })
    .await;
}

pub(super) async fn a_store_that_does_not_answer_is_asked_for_ever(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let log = Log::default();
    faults.cut();
    let running = instance(&cx, "one", &Primitives::of(&client), (every(&cx), SHORT), &log);
    let outage = cx.ttl() * 3;
    for begun in 1..=3 {
        sleep(outage).await;
        assert!(!running.is_finished() && log.runs().len() < begun);
        faults.heal();
        log.begun(cx.ttl() + every(&cx) + cx.lag() * 2 + cx.soon(), begun).await;
        // Such that it is lost.
        if begun == 2 { faults.hang() } else { faults.cut() }
    }
    log.check(&cx, every(&cx));
    running.abort();
}

pub(super) async fn what_the_store_refuses_is_tried_again(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let log = Log::default();
    for _ in 0..3 {
        faults.next_put(Fault::Deny, QUEUE);
    }
    for _ in 0..3 {
        faults.next_put(Fault::Deny, MARKER);
    }
    let running = instance(&cx, "one", &Primitives::of(&client), (every(&cx), SHORT), &log);
    log.begun(cx.soon(), 1).await;
    assert_eq!(faults.unused(), 0);
    assert_eq!(faults.counter().counts().revoke, 3, "leases that carry nothing are given back");
    // A lease that is gone is no loss of the leadership.
    let leader = entries(&*cx.store().await, QUEUE).await.pop().unwrap();
    let store = cx.store().await;
    let standing = marker(&*store).await.unwrap();
    store.revoke_lease(standing.lease.unwrap()).await.unwrap();
    within(cx.soon(), "who deletes the marker ends the period", log.begun(cx.soon(), 2)).await;
    assert_eq!(entries(&*store, QUEUE).await.pop().unwrap().created, leader.created);
    running.abort();
}
