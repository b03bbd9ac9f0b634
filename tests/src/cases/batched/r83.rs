//! R83 Failures of what was sent together.

use std::sync::Arc;

use coord_api::{ErrorKind, Outcome};
use coord_core::layers::Batched;
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use coord_testkit::wrap::{Fault, Faults, Request};
use futures_util::future::join_all;
use futures_util::{FutureExt as _, poll};

use super::{Layered, delete, get, put};

/// A layer over a store that may fail, whose next transaction that puts `k/bad` and others fails.
async fn failing(cx: &Fixture, fault: Fault) -> (Layered, Faults) {
    let (client, faults) = cx.faulty().await;
    faults.next(
        fault,
        |request| matches!(request, Request::Txn(txn) if request.puts("k/bad") && txn.then.len() > 1),
    );
    (Batched::new(Arc::clone(&client.store)), faults)
}

const KEYS: [&str; 5] = ["k/1", "k/2", "k/bad", "k/3", "k/4"];

pub(super) async fn what_is_refused_fails_its_own_caller_only(cx: Fixture) {
    let (store, faults) = failing(&cx, Fault::Deny).await;
    faults.next(
        Fault::Deny,
        |request| matches!(request, Request::Txn(txn) if request.puts("k/bad") && txn.then.len() == 1),
    );
    let written = join_all(KEYS.map(|key| put(&store, key, "v"))).await;
    for (key, written) in KEYS.into_iter().zip(written) {
        let expected = (key == "k/bad").then_some((ErrorKind::PermissionDenied, Outcome::NotApplied));
        assert_eq!(written.err().map(|error| (error.kind(), error.outcome())), expected, "{key}");
        assert_eq!(get(&store, key).await.unwrap().1.is_some(), expected.is_none(), "{key}");
    }
    assert_eq!(faults.unused(), 0);
}

pub(super) async fn what_is_too_large_fails_its_own_caller_only(cx: Fixture) {
    let store = Batched::new(cx.store().await);
    let large = "x".repeat((1 << 20) + 1);
    let (one, bad, other) =
        futures_util::join!(put(&store, "k/1", "v"), put(&store, "k/bad", large), put(&store, "k/2", "v"));
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(one.is_ok() && other.is_ok());
    // What is legal is done, though two of them do not fit into one transaction.
    let large = "x".repeat(1 << 20);
    let written = join_all(["k/1", "k/2", "k/3"].map(|key| put(&store, key, large.clone()))).await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    let read = join_all(["k/1", "k/2", "k/3"].map(|key| get(&store, key))).await;
    for read in read {
        assert_eq!(read.unwrap().1.as_ref(), Some(&large));
    }
}

pub(super) async fn a_lost_answer_leaves_every_write_of_it_in_doubt(cx: Fixture) {
    for (fault, applied) in [(Fault::LoseAnswer, true), (Fault::LoseRequest, false)] {
        let (store, faults) = failing(&cx, fault).await;
        let written = join_all(KEYS.map(|key| put(&store, key, "v"))).await;
        assert_eq!(faults.unused(), 0);
        let outcomes: Vec<_> =
            written.into_iter().map(|written| written.map_err(|e| e.outcome()).err()).collect();
        assert!(
            outcomes.iter().all(|outcome| matches!(outcome, None | Some(Outcome::Unknown))),
            "{outcomes:?}"
        );
        assert_eq!(outcomes[2], Some(Outcome::Unknown));
        for (key, outcome) in KEYS.into_iter().zip(outcomes) {
            assert_eq!(get(&store, key).await.unwrap().1.is_some(), applied || outcome.is_none(), "{key}");
        }
        join_all(KEYS.map(|key| delete(&store, key))).await;
    }
}

pub(super) async fn what_did_not_reach_the_store_was_not_applied(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = Batched::new(Arc::clone(&client.store));
    faults.cut();
    let written = join_all(KEYS.map(|key| put(&store, key, "v"))).await;
    for error in written.into_iter().map(Result::unwrap_err) {
        assert_eq!((error.is_transient(), error.outcome()), (true, Outcome::NotApplied), "{error}");
    }
    let read = join_all(KEYS.map(|key| get(&store, key))).await;
    assert!(read.into_iter().all(|read| read.unwrap_err().is_transient()));
    faults.heal();
    eventually(cx.soon(), "the line is open again", async || get(&store, "k/1").await.ok()).await;
    assert!(put(&store, "k/1", "v").await.is_ok());
}

pub(super) async fn who_goes_away_takes_nothing_with_it(cx: Fixture) {
    let store = Batched::new(cx.store().await);
    let mut stays = Vec::new();
    for n in 0..40 {
        let mut call = put(&store, format!("k/{n}"), "v").boxed();
        let _ = poll!(&mut call);
        // Every other one is given up, and of those that stay two are left alone for long.
        if n % 2 == 0 {
            stays.push(call);
        }
    }
    let left_alone = stays.split_off(stays.len() - 2);
    for stays in stays {
        within(cx.soon(), "who stays is served", stays).await.unwrap();
    }
    assert!(within(cx.soon(), "who comes later is served", put(&store, "k/0", "w")).await.is_ok());
    for left in left_alone {
        within(cx.soon(), "who was left alone was served", left).await.unwrap();
    }
}
