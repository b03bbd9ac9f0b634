//! R77 Once a period.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, Fence, WriteOptions};
use coord_recipes::{Periodic, PeriodicRun};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, never_within, within};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::primitives::{Primitives, delete, entries};
use super::{Log, MARKER, QUEUE, every, further, instance, job, long, marker, stand};

/// How long a run takes where it is over at once.
const SHORT: Duration = Duration::from_millis(20);

pub(super) async fn once_a_period_one_of_all_does_it(cx: Fixture) {
    const RUNS: usize = 5;
    let (log, times, store) = (Log::default(), (every(&cx), SHORT), cx.store().await);
    let mut instances = Vec::new();
    for (place, name) in ["one", "two", "three"].into_iter().enumerate() {
        instances.push(instance(&cx, name, &further(&cx).await, times, &log));
        stand(&cx, &*store, place + 1).await;
    }
    let at_the_latest = every(&cx) + cx.lag() + cx.slack();
    let runs = log.begun(cx.soon() + at_the_latest * 5, RUNS).await;
    for pair in runs.windows(2) {
        let apart = pair[1].began - pair[0].began;
        assert!(apart <= at_the_latest, "a period of {apart:?}: {pair:?}");
    }
    log.check(&cx, every(&cx));
    assert!(runs.iter().all(|run| run.instance == "one"), "who leads does it: {runs:?}");
    instances.iter().for_each(tokio::task::JoinHandle::abort);
}

pub(super) async fn a_marker_of_its_own_stands_before_each_run(cx: Fixture) {
    let (mine, store) = (further(&cx).await, cx.store().await);
    let (found, mut looks) = mpsc::channel(1);
    let seen = Arc::clone(&store);
    let job = job(&cx, &mine, every(&cx));
    let look = move |run: PeriodicRun| {
        let (seen, found) = (Arc::clone(&seen), found.clone());
        async move {
            let standing = marker(&*seen).await;
            let lease = match standing.as_ref().and_then(|marker| marker.lease) {
                Some(lease) => seen.lease(lease).await.unwrap(),
                None => None,
            };
            let _ = found.send((run.fencing_token(), standing, lease)).await;
        }
    };
    let running = tokio::spawn(async move { job.run(look).await });
    let mut leases = Vec::new();
    for _ in 0..3 {
        let (token, standing, lease) = within(cx.soon() + every(&cx), "a run", looks.recv()).await.unwrap();
        let (standing, lease) = (standing.expect("a marker stands"), lease.expect("on a lease"));
        assert_eq!(token, standing.created.into());
        assert_eq!(lease.keys, [MARKER.as_bytes()], "nothing else hangs on its lease");
        assert!(lease.remaining <= every(&cx), "{lease:?}");
        let leader = entries(&*store, QUEUE).await.pop().unwrap();
        assert_ne!(leader.lease, standing.lease);
        assert!(!leases.contains(&standing.lease), "each has a lease of its own");
        leases.push(standing.lease);
    }
    running.abort();
}

pub(super) async fn a_run_that_is_longer_than_its_period_skips(cx: Fixture) {
    let (log, store) = (Log::default(), cx.store().await);
    let lasts = every(&cx) * 5 / 2;
    let one = instance(&cx, "one", &further(&cx).await, (every(&cx), lasts), &log);
    stand(&cx, &*store, 1).await;
    let two = instance(&cx, "two", &further(&cx).await, (every(&cx), lasts), &log);
    log.begun(cx.soon(), 1).await;
    // Nobody renews the marker, and nobody else begins because it is gone.
    eventually(cx.gone_by(every(&cx)), "the marker is gone", || async {
        marker(&*store).await.is_none().then_some(())
    })
    .await;
    let runs = log.begun(lasts * 3 + cx.soon(), 3).await;
    log.check(&cx, lasts);
    for pair in runs.windows(2) {
        let pause = pair[1].began - pair[0].ended.unwrap();
        assert!(pause <= cx.slack() * 2, "the next one begins when it has ended: {pause:?}");
    }
    one.abort();
    two.abort();
}

pub(super) async fn a_run_that_was_cut_off_is_not_made_up_for(cx: Fixture) {
    let (log, store, times) = (Log::default(), cx.store().await, (every(&cx), every(&cx) / 2));
    let mut runs = 0;
    let mut leads = instance(&cx, "one", &further(&cx).await, times, &log);
    for _ in 0..3 {
        stand(&cx, &*store, 1).await;
        let next = instance(&cx, "next", &further(&cx).await, times, &log);
        stand(&cx, &*store, 2).await;
        runs += 1;
        log.begun(every(&cx) + cx.lag() + cx.soon(), runs).await;
        leads.abort();
        stand(&cx, &*store, 1).await;
        assert!(marker(&*store).await.is_some(), "the period goes on");
        leads = next;
    }
    log.begun(every(&cx) + cx.lag() + cx.soon(), runs + 1).await;
    log.check(&cx, every(&cx));
    leads.abort();
}

pub(super) async fn a_new_leader_begins_at_once_where_no_marker_stands(cx: Fixture) {
    let (log, store, times) = (Log::default(), cx.store().await, (every(&cx), long(&cx)));
    let one = instance(&cx, "one", &further(&cx).await, times, &log);
    stand(&cx, &*store, 1).await;
    let two = instance(&cx, "two", &further(&cx).await, times, &log);
    stand(&cx, &*store, 2).await;
    log.begun(cx.soon(), 1).await;
    let mut no_marker = Box::pin(async {
        eventually(cx.gone_by(every(&cx)), "the marker is gone", || async {
            marker(&*store).await.is_none().then_some(())
        })
        .await;
    });
    never_within(every(&cx) / 2, "the end of a period", &mut no_marker).await;
    no_marker.await;
    let went = Instant::now();
    one.abort();
    let runs = log.begun(cx.soon(), 2).await;
    assert_eq!(runs[1].instance, "two");
    assert!(runs[1].began - went <= cx.slack() * 2, "{:?}", runs[1].began - went);
    log.check(&cx, every(&cx));
    two.abort();
}

pub(super) async fn closing_ends_it_and_leaves_the_marker(cx: Fixture) {
    let (log, store, times) = (Log::default(), cx.store().await, (every(&cx), long(&cx)));
    let mine = further(&cx).await;
    let one = instance(&cx, "one", &mine, times, &log);
    stand(&cx, &*store, 1).await;
    let two = instance(&cx, "two", &further(&cx).await, times, &log);
    stand(&cx, &*store, 2).await;
    log.begun(cx.soon(), 1).await;
    mine.client.close().await.unwrap();
    let error = within(cx.soon(), "it ends", one).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(log.runs()[0].ended.is_some(), "the job is dropped");
    assert!(marker(&*store).await.is_some(), "the period goes on");
    log.begun(every(&cx) + cx.lag() + cx.soon(), 2).await;
    log.check(&cx, every(&cx));
    two.abort();
    let again = job(&cx, &mine, every(&cx)).run(async |_| {}).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Closed);
}

pub(super) async fn where_the_job_panics_the_next_one_leads(cx: Fixture) {
    let (log, store) = (Log::default(), cx.store().await);
    let panics = job(&cx, &further(&cx).await, every(&cx));
    let one = tokio::spawn(async move {
        // Not by a panic that is printed.
        panics.run(async |_| std::panic::resume_unwind(Box::new("on purpose"))).await
    });
    assert!(within(cx.soon(), "a panic", one).await.unwrap_err().is_panic(), "it is the caller's");
    assert!(marker(&*store).await.is_some(), "a run that failed is a run");
    let two = instance(&cx, "two", &further(&cx).await, (every(&cx), SHORT), &log);
    log.begun(every(&cx) + cx.lag() + cx.soon(), 1).await;
    two.abort();
}

pub(super) async fn a_run_has_a_number_and_a_fence(cx: Fixture) {
    let (client, store) = (cx.client().await, cx.store().await);
    let (mine, config) = (Primitives::of(&client), Arc::clone(client.provider.config()));
    let kept: Arc<Mutex<Option<Fence>>> = Arc::default();
    let (told, mut tells) = mpsc::channel(1);
    let (job, keep) = (job(&cx, &mine, every(&cx)), Arc::clone(&kept));
    let write = move |run: PeriodicRun| {
        let (config, keep, told) = (Arc::clone(&config), Arc::clone(&keep), told.clone());
        async move {
            let options = WriteOptions::default().with_fence(run.fence());
            let written = config.write_with("fenced", "v".into(), options).await;
            *keep.lock().unwrap() = Some(run.fence());
            let _ = told.send((run.job().to_owned(), run.left(), written.map(drop))).await;
            std::future::pending::<()>().await;
        }
    };
    let running = tokio::spawn(async move { job.run(write).await });
    let (name, left, written) = within(cx.soon(), "a run", tells.recv()).await.unwrap();
    assert_eq!(name, "p");
    assert!(left <= every(&cx) && left + cx.slack() > every(&cx), "{left:?}");
    written.unwrap();
    for entry in entries(&*store, QUEUE).await {
        delete(&*store, entry.key).await;
    }
    let fence = kept.lock().unwrap().clone().unwrap();
    let options = WriteOptions::default().with_fence(fence);
    let late = client.provider.config().write_with("fenced", "late".into(), options).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::LeaseLost);
    running.abort();
}

pub(super) async fn a_period_is_two_requests(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let log = Log::default();
    let running = instance(&cx, "one", &Primitives::of(&client), (every(&cx), SHORT), &log);
    log.begun(cx.soon(), 1).await;
    let three_more = log.begun((every(&cx) + cx.lag()) * 3 + cx.soon(), 4);
    let (_, counts) = counter.during(three_more).await;
    assert_eq!((counts.grant, counts.txn, counts.requests()), (3, 3, 6), "{counts:?}");
    running.abort();
}

pub(super) async fn names_that_nest_are_unrelated(cx: Fixture) {
    let mine = further(&cx).await;
    let (ran, mut runs) = mpsc::channel(8);
    let mut running = Vec::new();
    for name in ["p", "p/q", "p/marker", "p%2Fq"] {
        let (job, ran) = (Periodic::new(&mine.client, name, long(&cx)).with_ttl(cx.ttl()), ran.clone());
        let tell = move |run: PeriodicRun| {
            let ran = ran.clone();
            async move {
                let _ = ran.send(run.job().to_owned()).await;
            }
        };
        running.push(tokio::spawn(async move { job.run(tell).await }));
    }
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(within(cx.soon(), "each of them runs", runs.recv()).await.unwrap());
    }
    all.sort();
    assert_eq!(all, ["p", "p%2Fq", "p/marker", "p/q"]);
    running.iter().for_each(tokio::task::JoinHandle::abort);
}

pub(super) async fn what_is_wrong_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let mine = Primitives::of(&client);
    let wrong = async {
        let mut errors = Vec::new();
        let mut run = async |job: Periodic| {
            let run = job.run(async |_| panic!("it is done"));
            errors.push(within(cx.soon(), "an answer", run).await.unwrap_err());
        };
        for bad in coord_testkit::bad::keys() {
            run(Periodic::new(&mine.client, &bad, every(&cx))).await;
        }
        let part = every(&cx) + Duration::from_nanos(1);
        for period in [Duration::ZERO, part, Duration::from_millis(1), Duration::MAX] {
            run(Periodic::new(&mine.client, "p", period)).await;
        }
        run(Periodic::new(&mine.client, "p", Duration::from_secs(9_000_000_001))).await;
        for ttl in [Duration::ZERO, Duration::MAX] {
            run(job(&cx, &mine, every(&cx)).with_ttl(ttl)).await;
        }
        errors
    };
    let (errors, counts) = counter.during(wrong).await;
    assert_eq!(counts.all(), 0, "{counts:?}");
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    sleep(cx.slack()).await;
    assert_eq!(counter.counts().all(), counts.all());
}
