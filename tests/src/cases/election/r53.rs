//! R53 Resign, and leading by a function.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coord_api::{ErrorKind, Wait};
use coord_testkit::Fixture;
use coord_testkit::wait::{never_within, within};
use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::primitives::{delete, entries};
use super::{election, leader_says, options};

const QUEUE: &str = "/elections/e/";

/// Notes that it was dropped, and whether the election was still led then.
struct Work {
    ended: Arc<AtomicBool>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

fn work() -> (Work, Arc<AtomicBool>) {
    let ended = Arc::new(AtomicBool::new(false));
    (Work { ended: Arc::clone(&ended) }, ended)
}

pub(super) async fn leading_ends_with_the_work_and_not_before(cx: Fixture) {
    let (mine, other) = (election(&cx).await, election(&cx).await);
    let (finish, finished) = oneshot::channel::<u32>();
    let (work, ended) = work();
    let (begun, has_begun) = oneshot::channel();
    let led = {
        // Longer than the machine may let it wait: here nothing is to be lost.
        let (mine, options) = (mine.clone(), options(&cx).with_ttl(cx.ttl() * 3));
        // In a task of its own, as a service has it.
        tokio::spawn(async move {
            mine.lead("mine", options, async |leadership| {
                let _work = work;
                leadership.proclaim("at work").await.unwrap();
                begun.send(()).unwrap();
                finished.await.unwrap()
            })
            .await
        })
    };
    within(cx.soon(), "it leads", has_begun).await.unwrap();
    let mut next = Box::pin(async {
        let leads = other.campaign("other", options(&cx)).await.unwrap();
        assert!(ended.load(Ordering::SeqCst), "another one leads while the work goes on");
        leads
    });
    never_within(cx.ttl() * 4, "another leader", &mut next).await;
    leader_says(&mine, Some("at work")).await;
    finish.send(7).unwrap();
    assert_eq!(within(cx.soon(), "the work is done", led).await.unwrap().unwrap(), 7);
    assert!(within(cx.soon(), "another one leads", next).await.is_held());
}

pub(super) async fn a_lost_leadership_ends_the_work(cx: Fixture) {
    let (mine, store) = (election(&cx).await, cx.store().await);
    let (work, ended) = work();
    let (begun, has_begun) = oneshot::channel();
    let led = {
        let (mine, options) = (mine.clone(), options(&cx));
        tokio::spawn(async move {
            mine.lead("mine", options, async |_| {
                let _work = work;
                begun.send(()).unwrap();
                std::future::pending::<()>().await
            })
            .await
        })
    };
    within(cx.soon(), "it leads", has_begun).await.unwrap();
    for entry in entries(&*store, QUEUE).await {
        delete(&*store, entry.key).await;
    }
    let error = within(cx.ttl() + cx.soon(), "the work ends", led).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert!(ended.load(Ordering::SeqCst));
}

pub(super) async fn where_leading_is_dropped_the_work_ends_first(cx: Fixture) {
    let (mine, other) = (election(&cx).await, election(&cx).await);
    let (work, ended) = work();
    let mut led = Box::pin(mine.lead("mine", options(&cx), async |_| {
        let _work = work;
        std::future::pending::<()>().await
    }));
    never_within(cx.slack(), "the end of the work", &mut led).await;
    leader_says(&other, Some("mine")).await;
    assert!(!ended.load(Ordering::SeqCst));
    drop(led);
    assert!(ended.load(Ordering::SeqCst), "the work ends where leading is dropped");
    let next = other.campaign("other", options(&cx));
    assert!(within(cx.soon(), "another one leads", next).await.unwrap().is_held());
}

pub(super) async fn where_the_work_panics_another_one_leads(cx: Fixture) {
    let (mine, other) = (election(&cx).await, election(&cx).await);
    // Not by a panic that is printed.
    let led = mine.lead("mine", options(&cx), async |_| std::panic::resume_unwind(Box::new("on purpose")));
    let led: Result<coord_api::Result<()>, _> = AssertUnwindSafe(led).catch_unwind().await;
    assert!(led.is_err(), "the panic is the caller's");
    let next = other.campaign("other", options(&cx).with_wait(Wait::Forever));
    assert!(within(cx.soon(), "another one leads", next).await.unwrap().is_held());
}
