//! R76 While held. What does the work is a parameter, so that the cases can be tested with what
//! does it wrongly.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coord_api::handle::Leased;
use coord_api::prelude::*;
use coord_api::{ErrorKind, Result, ServiceInstance, run_while_held};
use coord_testkit::wait::within;
use coord_testkit::{Case, Fixture};
use futures_util::future::{poll_fn, poll_immediate};
use tokio::time::sleep;

use super::primitives::{Primitives, delete, entries};

const QUEUE: &str = "/locks/k/";

/// What does work for as long as a handle is held.
pub trait WhileHeld: 'static {
    /// As [`run_while_held`].
    fn run<H: Leased + ?Sized, F: Future>(handle: &H, work: F) -> impl Future<Output = Result<F::Output>>;
}

/// [`run_while_held`] itself.
pub struct RunWhileHeld;

impl WhileHeld for RunWhileHeld {
    fn run<H: Leased + ?Sized, F: Future>(handle: &H, work: F) -> impl Future<Output = Result<F::Output>> {
        run_while_held(handle, work)
    }
}

/// The cases, of what does the work in this way.
pub fn cases<R: WhileHeld>() -> Vec<Case> {
    let cases: &[Case] = coord_testkit::list_cases! {
        r76 {
            work_is_done_while_the_handle_is_held => work_is_done_while_the_handle_is_held::<R>,
            at_the_loss_the_work_is_dropped_before_the_error => at_the_loss_the_work_is_dropped_before_the_error::<R>,
            no_step_begins_once_the_handle_is_lost => no_step_begins_once_the_handle_is_lost::<R>,
            a_value_that_was_ready_is_returned => a_value_that_was_ready_is_returned::<R>,
            a_value_counts_whatever_its_last_step_has_lost => a_value_counts_whatever_its_last_step_has_lost::<R>,
            nothing_is_released_at_the_end => nothing_is_released_at_the_end::<R>,
            any_handle_will_do => any_handle_will_do::<R>,
        }
    };
    cases.to_vec()
}

/// Notes when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub(super) async fn work_is_done_while_the_handle_is_held<R: WhileHeld>(cx: Fixture) {
    let guard = cx.provider().await.lock().acquire("k", cx.ttl()).await.unwrap();
    let steps = async {
        for _ in 0..4 {
            sleep(cx.ttl()).await;
            assert!(guard.is_held());
        }
        "done"
    };
    assert_eq!(R::run(&guard, steps).await.unwrap(), "done");
    assert!(guard.is_held(), "it is given back by its owner");
    guard.unlock().await.unwrap();
}

pub(super) async fn at_the_loss_the_work_is_dropped_before_the_error<R: WhileHeld>(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let witness = Dropped(Arc::clone(&dropped));
    let mut running = pin!(R::run(&guard, async move {
        let _witness = witness;
        std::future::pending::<()>().await
    }));
    assert!(poll_immediate(&mut running).await.is_none());
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    for entry in entries(&*store, QUEUE).await {
        delete(&*store, entry.key).await;
    }
    // Nothing but the loss itself wakes it.
    let error = within(cx.ttl() + cx.soon(), "the work ends", running).await.unwrap_err();
    assert_eq!((error.kind(), dropped.load(Ordering::SeqCst)), (ErrorKind::LeaseLost, 1));
}

pub(super) async fn no_step_begins_once_the_handle_is_lost<R: WhileHeld>(cx: Fixture) {
    let provider = cx.provider().await;
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let work = poll_fn(move |cx| {
        counted.fetch_add(1, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        std::task::Poll::<()>::Pending
    });
    let mut running = pin!(R::run(&guard, work));
    assert!(poll_immediate(&mut running).await.is_none());
    let before = polls.load(Ordering::SeqCst);
    guard.unlock().await.unwrap();
    let error = within(cx.soon(), "the work ends", running).await.unwrap_err();
    assert_eq!((error.kind(), polls.load(Ordering::SeqCst)), (ErrorKind::LeaseLost, before));
    // Nor where it is lost before the work begins.
    let lost = R::run(&guard, async { panic!("a step of a lost handle") }).await;
    assert_eq!(lost.map(|never: ()| never).unwrap_err().kind(), ErrorKind::LeaseLost);
}

/// Does work whose only step has a value, and loses the handle: by closing its client.
async fn loses<R: WhileHeld, H: Leased>(cx: &Fixture, handle: H, close: impl Future<Output = Result<()>>) {
    let mut close = pin!(close);
    let value = R::run(&handle, async {
        // What is held is told of the end at once; the store may take its time.
        let _ = poll_immediate(&mut close).await;
        assert!(!handle.state().is_held());
        "ready"
    });
    assert_eq!(within(cx.soon(), "a value", value).await.unwrap(), "ready");
}

pub(super) async fn a_value_that_was_ready_is_returned<R: WhileHeld>(cx: Fixture) {
    let provider = cx.provider().await;
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    loses::<R, _>(&cx, guard, provider.close()).await;
}

pub(super) async fn a_value_counts_whatever_its_last_step_has_lost<R: WhileHeld>(cx: Fixture) {
    for is_election in [true, false] {
        let client = Primitives::of(&cx.client().await);
        let close = client.client.close();
        if is_election {
            let leads = client.election("e").campaign("me", super::options(&cx)).await.unwrap();
            loses::<R, _>(&cx, leads, close).await;
        } else {
            let limit = coord_recipes::PermitLimit::First(1);
            let options = coord_recipes::PermitOptions::new(limit).with_ttl(cx.ttl());
            let permit = client.semaphore("p").acquire(1, options).await.unwrap();
            loses::<R, _>(&cx, permit, close).await;
        }
    }
}

pub(super) async fn nothing_is_released_at_the_end<R: WhileHeld>(cx: Fixture) {
    let provider = cx.provider().await;
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    R::run(&guard, async {}).await.unwrap();
    sleep(cx.slack()).await;
    assert!(guard.is_held());
    assert_eq!(provider.lock().try_acquire("k", cx.ttl()).await.unwrap_err().kind(), ErrorKind::Conflict);
}

/// Runs work under a handle, and lets the handle go.
async fn runs_under<R: WhileHeld, H: Leased>(cx: &Fixture, handle: H) {
    assert_eq!(R::run(&handle, async { 7 }).await.unwrap(), 7);
    handle.release().await.unwrap();
    let ended = R::run(&handle, async { panic!("a step of a lost handle") });
    let ended: Result<()> = within(cx.soon(), "an answer", ended).await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::LeaseLost);
}

pub(super) async fn any_handle_will_do<R: WhileHeld>(cx: Fixture) {
    let client = cx.client().await;
    let (provider, primitives) = (&client.provider, Primitives::of(&client));
    runs_under::<R, _>(&cx, provider.lock().acquire("k", cx.ttl()).await.unwrap()).await;
    runs_under::<R, _>(&cx, provider.allocator().acquire_id("s", 3).await.unwrap()).await;
    let instance = ServiceInstance::new("s", "one", "localhost", 80);
    runs_under::<R, _>(&cx, provider.registry().register(instance).await.unwrap()).await;
    runs_under::<R, _>(&cx, primitives.election("e").campaign("me", super::options(&cx)).await.unwrap())
        .await;
    let options = coord_recipes::PermitOptions::new(coord_recipes::PermitLimit::First(1)).with_ttl(cx.ttl());
    runs_under::<R, _>(&cx, primitives.semaphore("p").acquire(1, options).await.unwrap()).await;
}
