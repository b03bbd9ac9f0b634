//! R59 Who comes meanwhile.

use std::time::Duration;

use coord_api::{ErrorKind, Wait};
use coord_recipes::{Begun, OnceError};
use coord_testkit::Fixture;
use coord_testkit::wait::{never_within, within};

use super::{at_once, begin, kind, never, once, options};

pub(super) async fn others_wait_for_the_result(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let running = begin(&mine, options(&cx)).await;
    // Of the same client, and of another one.
    let mut here = Box::pin(mine.run("k", options(&cx), never));
    let mut there = Box::pin(other.run("k", options(&cx), never));
    never_within(cx.ttl() / 2, "a result", &mut here).await;
    never_within(cx.ttl() / 2, "a result", &mut there).await;
    running.complete("done").await.unwrap();
    for waiting in [here, there] {
        let ran = within(cx.soon(), "the result", waiting).await.unwrap();
        assert_eq!((ran.value, ran.first), ("done".into(), false));
    }
}

pub(super) async fn who_waits_takes_over_where_it_is_not_done(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    for round in 0..3 {
        let running = begin(&mine, options(&cx)).await;
        let mut waiting = Box::pin(other.begin("k", options(&cx)));
        never_within(cx.ttl() / 2, "a second run", &mut waiting).await;
        match round {
            0 => running.release().await.unwrap(),
            1 => drop(running),
            _ => running.fail("no way").await.unwrap(),
        }
        match within(cx.soon(), "the next one takes over", waiting).await {
            Ok(Begun::Mine(next)) if round < 2 => next.release().await.unwrap(),
            Err(OnceError::Failed(reason)) if round == 2 => assert_eq!(reason, "no way"),
            answer => panic!("round {round}: {answer:?}"),
        }
    }
}

pub(super) async fn without_waiting_another_one_is_a_conflict(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let running = begin(&mine, options(&cx)).await;
    for once in [&mine, &other] {
        let error = within(cx.soon(), "an answer", once.run("k", at_once(&cx), never)).await.unwrap_err();
        assert_eq!(kind(&error), ErrorKind::Conflict);
        assert_eq!(error.coord().and_then(coord_api::Error::holder), Some("kit"));
        assert_eq!(error.coord().and_then(coord_api::Error::key), Some("k"));
        assert_eq!(once.forget("k").await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert!(running.is_held());
}

pub(super) async fn a_time_to_wait_ends_the_waiting(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let running = begin(&mine, options(&cx)).await;
    let wait = options(&cx).with_wait(Wait::For(cx.ttl() / 2));
    let error = within(cx.soon(), "an answer", other.run("k", wait, never)).await.unwrap_err();
    assert_eq!(kind(&error), ErrorKind::Timeout);
    running.release().await.unwrap();
    // What is free is had however short the wait is.
    let short = options(&cx).with_wait(Wait::For(Duration::from_nanos(1)));
    assert!(other.run("k", short, async |_| Ok("v".into())).await.unwrap().first);
}

pub(super) async fn something_else_under_the_same_key_is_an_invalid_argument(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let fingerprint = |of: &'static str| options(&cx).with_fingerprint(of);
    let running = begin(&mine, fingerprint("a")).await;
    let refused = async || {
        for once in [&mine, &other] {
            for options in [fingerprint("b"), options(&cx), fingerprint("aa")] {
                let answer = within(cx.soon(), "an answer", once.run("k", options, never)).await;
                assert_eq!(kind(&answer.unwrap_err()), ErrorKind::InvalidArgument);
            }
        }
    };
    refused().await;
    assert!(running.is_held());
    running.complete("a's").await.unwrap();
    refused().await;
    assert_eq!(other.run("k", fingerprint("a"), never).await.unwrap().value, "a's".into());
}
