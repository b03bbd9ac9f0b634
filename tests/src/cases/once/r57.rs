//! R57 While one runs, nobody else does.

use std::panic::AssertUnwindSafe;

use coord_recipes::{Begun, OnceError, OnceState};
use coord_testkit::Fixture;
use coord_testkit::wait::{never_within, within};
use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::primitives::{Primitives, delete, entries};
use super::{RECORD, begin, done, never, once, options};

pub(super) async fn a_live_one_is_never_doubled(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let running = begin(&mine, options(&cx)).await;
    let mut second = Box::pin(other.run("k", options(&cx), never));
    // Longer than a lease that nobody renews lives.
    never_within(cx.gone_by(cx.ttl()) * 2, "a second run", &mut second).await;
    assert!(running.is_held());
    assert_eq!(other.peek("k").await.unwrap(), Some(OnceState::Running(Some("kit".to_owned()))));
    running.complete("slow").await.unwrap();
    assert_eq!(within(cx.soon(), "the result", second).await.unwrap().value, "slow".into());
}

pub(super) async fn work_that_failed_is_done_anew(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let failing = async |_: &coord_recipes::Execution| Err(std::io::Error::other("no luck").into());
    for once in [&mine, &other] {
        match once.run("k", options(&cx), failing).await {
            Err(OnceError::Work(error)) => assert_eq!(error.to_string(), "no luck"),
            other => panic!("{other:?}"),
        }
        assert_eq!(entries(&*cx.store().await, RECORD).await, []);
    }
    assert!(other.run("k", options(&cx), async |_| Ok("luck".into())).await.unwrap().first);
}

pub(super) async fn work_that_was_dropped_is_done_anew(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let (begun, has_begun) = oneshot::channel();
    let run = {
        let (mine, options) = (mine.clone(), options(&cx));
        tokio::spawn(async move {
            let work = async |_: &coord_recipes::Execution| {
                begun.send(()).unwrap();
                std::future::pending().await
            };
            mine.run("k", options, work).await
        })
    };
    within(cx.soon(), "it runs", has_begun).await.unwrap();
    run.abort();
    let anew = other.run("k", options(&cx), async |_| Ok("anew".into()));
    assert!(within(cx.soon(), "it is done anew", anew).await.unwrap().first);
}

pub(super) async fn work_that_panicked_is_done_anew(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let panics = async |_: &coord_recipes::Execution| std::panic::resume_unwind(Box::new("on purpose"));
    let run = AssertUnwindSafe(mine.run("k", options(&cx), panics)).catch_unwind();
    assert!(within(cx.soon(), "a panic", run).await.is_err());
    let anew = other.run("k", options(&cx), async |_| Ok("anew".into()));
    assert!(within(cx.soon(), "it is done anew", anew).await.unwrap().first);
}

pub(super) async fn one_that_was_lost_goes_on_with_a_smaller_token(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let (go_on, may_go_on) = oneshot::channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    let first = {
        let (mine, options) = (mine.clone(), options(&cx));
        tokio::spawn(async move {
            let work = async |execution: &coord_recipes::Execution| {
                begun.send(execution.fencing_token()).unwrap();
                may_go_on.await.unwrap();
                Ok("first".into())
            };
            mine.run("k", options, work).await
        })
    };
    let token = within(cx.soon(), "it runs", has_begun).await.unwrap();
    delete(&*cx.store().await, RECORD).await;
    let Begun::Mine(second) = other.begin("k", options(&cx)).await.unwrap() else { panic!("it was done") };
    assert!(second.fencing_token() > token);
    go_on.send(()).unwrap();
    match within(cx.soon(), "the first one ends", first).await.unwrap() {
        Err(OnceError::NotRecorded { value, .. }) => assert_eq!(value, "first".into()),
        other => panic!("{other:?}"),
    }
    second.complete("second").await.unwrap();
    assert_eq!(done(&cx, &Primitives::of(&cx.client().await).once()).await, "second".into());
}
