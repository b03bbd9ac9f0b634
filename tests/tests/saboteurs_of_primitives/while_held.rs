//! Work under a handle that is done wrongly: R76.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use coord_api::handle::Leased;
use coord_api::{Error, Result};
use coord_testkit::{Case, Harness, Verdict, run};
use coord_tests::cases::election::{RunWhileHeld, WhileHeld, while_held_cases};
use coord_tests::harness::memory::Volatile;
use coord_tests::harness::sabotaged::CASES_AGAINST;

/// Looks at the handle after each step instead of before it.
struct LooksAfter;

impl WhileHeld for LooksAfter {
    async fn run<H: Leased + ?Sized, F: Future>(handle: &H, work: F) -> Result<F::Output> {
        let (mut lost, mut work) = (handle.lost(), pin!(work));
        let done = poll_fn(|cx| {
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            let is_lost = pin!(&mut lost).poll(cx).is_ready() || !handle.state().is_held();
            if is_lost { Poll::Ready(None) } else { Poll::Pending }
        });
        done.await.ok_or_else(|| Error::lease_lost("test", "lost"))
    }
}

/// Throws away a value where the handle was lost in the last step.
struct ThrowsTheValueAway;

impl WhileHeld for ThrowsTheValueAway {
    async fn run<H: Leased + ?Sized, F: Future>(handle: &H, work: F) -> Result<F::Output> {
        let value = RunWhileHeld::run(handle, work).await?;
        if handle.state().is_held() { Ok(value) } else { Err(Error::lease_lost("test", "lost")) }
    }
}

/// Does the work to its end, and looks at the handle then.
struct NeverStops;

impl WhileHeld for NeverStops {
    async fn run<H: Leased + ?Sized, F: Future>(_: &H, work: F) -> Result<F::Output> {
        Ok(work.await)
    }
}

/// Gives the handle back once the work is done.
struct Releases;

impl WhileHeld for Releases {
    async fn run<H: Leased + ?Sized, F: Future>(handle: &H, work: F) -> Result<F::Output> {
        let value = RunWhileHeld::run(handle, work).await?;
        let _ = handle.release().await;
        Ok(value)
    }
}

/// The cases of R76 that fail what does the work in this way.
fn failed_while_held<R: WhileHeld>() -> Vec<&'static str> {
    let fails = |case: &Case| {
        let verdict = run(case, async { Arc::new(Volatile::start()) as Arc<dyn Harness> });
        matches!(verdict, Verdict::Failed(_))
    };
    while_held_cases::<R>().iter().filter(|case| fails(case)).map(|case| case.sentence).collect()
}

#[test]
fn each_that_does_work_wrongly_is_failed() {
    assert_eq!(failed_while_held::<RunWhileHeld>(), [""; 0]);
    for (id, failed) in [
        ("while-held-looks-after", failed_while_held::<LooksAfter>()),
        ("while-held-throws-the-value-away", failed_while_held::<ThrowsTheValueAway>()),
        ("while-held-never-stops", failed_while_held::<NeverStops>()),
        ("while-held-releases", failed_while_held::<Releases>()),
    ] {
        assert!(failed.len() >= CASES_AGAINST, "{id}: {failed:?}");
    }
}
