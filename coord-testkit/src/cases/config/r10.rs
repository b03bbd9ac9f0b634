//! R10 Linearizable.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ConfigCenter, Error, ErrorKind, Outcome, Version, WatchStart};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::super::leased::Lasting;
use super::value;
use crate::fixture::Fixture;
use crate::linearizability::{self, Call, Moments, Op};
use crate::wait::within;
use crate::wrap::{Delayed, Fault, Faults, Faulty, Request};

/// The clients of a history.
const CLIENTS: u64 = 5;

/// What each of them does to each key.
const OPERATIONS: u64 = 40;

/// More than any history here needs; one that needs more is not decided, and fails.
const BUDGET: usize = 200_000;

/// Whether a failed write's outcome is unknown. `None` stands for a write that is known not to have
/// been applied, and is no part of the history.
fn unknown(error: &Error) -> Option<()> {
    assert!(error.is_transient(), "{error:?}");
    (error.outcome() == Outcome::Unknown).then_some(())
}

/// One operation; `None` when it is known to have done and seen nothing.
async fn operate(
    config: &dyn ConfigCenter,
    key: &str,
    choice: u64,
    unique: String,
    known: &mut Version,
) -> Option<Op> {
    let new = value(unique);
    match choice % 7 {
        0 | 1 => {
            let found = config.get_raw(key).await.ok()?;
            *known = found.as_ref().map_or(Version::ZERO, |found| found.version);
            Some(Op::Get(found.map(|found| (found.value, found.version))))
        }
        2 | 3 => match config.set_raw(key, new.clone()).await {
            Ok(version) => {
                *known = version;
                Some(Op::Set(new, Some(version)))
            }
            Err(error) => unknown(&error).map(|()| Op::Set(new, None)),
        },
        4 | 5 => {
            let expected = *known;
            match config.compare_and_set_raw(key, new.clone(), expected).await {
                Ok(version) => {
                    *known = version;
                    Some(Op::CompareAndSet(expected, new, Some(Ok(version))))
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    *known = super::conflict(&error);
                    Some(Op::CompareAndSet(expected, new, Some(Err(*known))))
                }
                Err(error) => unknown(&error).map(|()| Op::CompareAndSet(expected, new, None)),
            }
        }
        _ => match config.delete(key).await {
            Ok(existed) => {
                *known = Version::ZERO;
                Some(Op::Delete(Some(existed)))
            }
            Err(error) => unknown(&error).map(|()| Op::Delete(None)),
        },
    }
}

/// Lets clients work on a few keys at once and checks the history of each key.
async fn check(configs: Vec<Arc<dyn ConfigCenter>>) {
    let moments = Arc::new(Moments::default());
    for key in ["h/one", "h/two", "h/three"] {
        let workers = configs.iter().zip(1_u64..).map(|(config, client)| {
            let (config, moments) = (Arc::clone(config), Arc::clone(&moments));
            tokio::spawn(async move {
                let mut calls: Vec<Call> = Vec::new();
                let mut known = Version::ZERO;
                for n in 0..OPERATIONS {
                    // A fixed walk through the choices, another one for each client and key.
                    let choice = (n * client + n / 3 + key.len() as u64).wrapping_mul(0x9e37_79b9) >> 7;
                    let unique = format!("{client}/{n}");
                    let call = moments.record(operate(&*config, key, choice, unique, &mut known)).await;
                    calls.extend(call);
                    tokio::task::yield_now().await;
                }
                calls
            })
        });
        let history: Vec<Call> = join_all(workers).await.into_iter().flat_map(Result::unwrap).collect();
        assert!(history.len() > 100, "a history that says something");
        if let Err(why) = linearizability::check(history, BUDGET) {
            panic!("{key}: {why}");
        }
    }
}

pub(super) async fn every_client_reads_what_was_acknowledged_to_any(cx: Fixture) {
    let clients = join_all((0..4).map(|_| cx.provider())).await;
    for n in 0..40 {
        let (writer, reader) = (&clients[n % 4], &clients[(n + 1) % 4]);
        let version = writer.config().set_raw("k", value(n.to_string())).await.unwrap();
        let found = reader.config().get_raw("k").await.unwrap().expect("what was acknowledged is there");
        assert_eq!((found.value, found.version), (value(n.to_string()), version));
    }
}

pub(super) async fn concurrent_histories_are_linearizable(cx: Fixture) {
    let clients = join_all((0..CLIENTS).map(|_| cx.provider())).await;
    check(clients.iter().map(|client| Arc::clone(client.config())).collect()).await;
}

pub(super) async fn overlapping_requests_are_linearizable(cx: Fixture) {
    let clients = join_all((0..CLIENTS).map(|seed| cx.delayed(seed))).await;
    check(clients.iter().map(|client| Arc::clone(client.provider.config())).collect()).await;
}

pub(super) async fn histories_with_unknown_outcomes_are_linearizable(cx: Fixture) {
    let mut clients = Vec::new();
    let mut all_faults = Vec::new();
    for n in 0..CLIENTS {
        let (faults, seed) = (Faults::default(), cx.seed(n));
        for fault in
            [Fault::LoseAnswer, Fault::Hold, Fault::LoseRequest, Fault::Refuse].into_iter().cycle().take(5)
        {
            // Not one after the other: one fault strikes every seventeen writes, or so.
            let mut writes = 0;
            faults.next(fault, move |request| {
                writes += u64::from(request.is_write());
                writes > 16 && request.is_write()
            });
        }
        let given = faults.clone();
        clients.push(
            cx.wrapped(|store| {
                let delayed = Delayed::new(store, Duration::from_millis(20), seed);
                Arc::new(Faulty::new(delayed, given))
            })
            .await,
        );
        all_faults.push(faults);
    }
    let late = tokio::spawn(async move {
        loop {
            for faults in &all_faults {
                for held in faults.take_held() {
                    let _ = held.apply().await;
                }
            }
            sleep(Duration::from_millis(150)).await;
        }
    });
    check(clients.iter().map(|client| Arc::clone(client.provider.config())).collect()).await;
    late.abort();
}

pub(super) async fn a_list_sees_what_was_acknowledged(cx: Fixture) {
    let (writer, reader) = (cx.provider().await, cx.provider().await);
    for n in 0..20 {
        let version = writer.config().set_raw(&format!("l/{n}"), value("v")).await.unwrap();
        let listed = reader.config().list_raw("l").await.unwrap();
        assert!(listed.revision >= version);
        assert_eq!(listed.items.len(), n + 1);
        assert!(listed.items.iter().any(|entry| entry.version == version));
    }
}

/// What a client reads of `d/k`, by each call that reads. A call may also go on trying.
async fn reads(cx: &Fixture, config: &dyn ConfigCenter) -> Vec<coord_api::Result<Option<Version>>> {
    let limit = cx.soon() * 2;
    let got =
        timeout(limit, config.get_raw("d/k")).await.map(|got| got.map(|got| got.map(|found| found.version)));
    let listed = timeout(limit, config.list_raw("d")).await.map(|listed| {
        listed.map(|list| list.items.iter().find(|entry| entry.key == "d/k").map(|entry| entry.version))
    });
    [got, listed].into_iter().flatten().collect()
}

/// Asserts that each call that reads finds this version, or fails.
async fn finds_or_fails(cx: &Fixture, config: &dyn ConfigCenter, version: Option<Version>, what: &str) {
    for read in reads(cx, config).await {
        match read {
            Ok(found) => assert_eq!(found, version, "{what}"),
            Err(error) => assert!(error.is_transient(), "{what}: {error}"),
        }
    }
}

pub(super) async fn what_cannot_be_read_is_not_answered_from_before(cx: Fixture) {
    let writer = cx.provider().await;
    for hang in [false, true] {
        let (client, faults) = cx.faulty().await;
        let config = client.provider.config();
        let before = writer.config().set_raw("d/k", value("before")).await.unwrap();
        finds_or_fails(&cx, &**config, Some(before), "at first").await;
        if hang {
            faults.hang();
        } else {
            faults.cut();
        }
        writer.config().delete("d/k").await.unwrap();
        finds_or_fails(&cx, &**config, None, "while the store is out of reach").await;
        faults.heal();
    }
}

pub(super) async fn after_a_failure_nothing_is_answered_from_before(cx: Fixture) {
    let writer = cx.provider().await;
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (client, faults) = cx.faulty().await;
        let config = client.provider.config();
        let before = writer.config().set_raw("d/k", value("before")).await.unwrap();
        finds_or_fails(&cx, &**config, Some(before), "at first").await;
        let failing =
            Lasting::begin(&faults, fault, |request| matches!(request, Request::Range(_) | Request::Txn(_)));
        let now = writer.config().set_raw("d/k", value("now")).await.unwrap();
        finds_or_fails(&cx, &**config, Some(now), &format!("while it fails: {fault:?}")).await;
        failing.end();
        for _ in 0..5 {
            let now = writer.config().set_raw("d/k", value("again")).await.unwrap();
            finds_or_fails(&cx, &**config, Some(now), &format!("after it failed: {fault:?}")).await;
        }
    }
}

pub(super) async fn a_watch_that_is_behind_makes_no_read_late(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (config, writer) = (client.provider.config(), cx.provider().await);
    let before = writer.config().set_raw("d/k", value("before")).await.unwrap();
    let mut watches = [
        config.watch_raw("d/k", WatchStart::Snapshot).await.unwrap(),
        config.watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap(),
    ];
    for watch in &mut watches {
        within(cx.soon(), "the state at first", watch.next()).await.unwrap().unwrap();
    }
    finds_or_fails(&cx, &**config, Some(before), "at first").await;
    // Whoever watches hears of nothing for now; whoever asks does.
    faults.silence_watches();
    for n in 0..3 {
        let now = writer.config().set_raw("d/k", value(n.to_string())).await.unwrap();
        finds_or_fails(&cx, &**config, Some(now), "while the watch is behind").await;
    }
    writer.config().delete("d/k").await.unwrap();
    finds_or_fails(&cx, &**config, None, "while the watch is behind").await;
}
