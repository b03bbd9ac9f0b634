//! The one task of a store: it expires leases on time, so that watchers hear of it though nobody
//! calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coord_home::Home;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Whether the task runs, and its bell.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    running: AtomicBool,
    bell: Notify,
}

impl Expiry {
    /// Starts the task unless it runs. Where there is no place for it nothing happens, and the next
    /// operation tries again.
    ///
    /// The task calls what `look` makes: it expires what is to be expired, and says when there will
    /// be more to do, or `None` once the store is gone. When the task ends, also with its runtime
    /// before the store, it calls what `ended` makes.
    pub(crate) fn ensure<L, E>(
        self: &Arc<Self>,
        home: &Home,
        look: impl FnOnce() -> L,
        ended: impl FnOnce() -> E,
    ) where
        L: Fn() -> Option<Option<Instant>> + Send + 'static,
        E: FnOnce() + Send + 'static,
    {
        if self.running.load(Ordering::Acquire) || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let running = RunningTask { expiry: Arc::clone(self), ended: Some(ended()) };
        // A task that is not taken is dropped, and with that does not run.
        let _ = home.spawn(run(running, home.clone(), look()));
    }

    /// Makes the task look again: a lease was granted, or the store is gone.
    pub(crate) fn poke(&self) {
        self.bell.notify_one();
    }
}

async fn run<E: FnOnce()>(running: RunningTask<E>, home: Home, look: impl Fn() -> Option<Option<Instant>>) {
    let bell = &running.expiry.bell;
    while let Some(next) = look() {
        match next {
            Some(at) => tokio::select! {
                () = home.sleep_until(at) => {}
                () = bell.notified() => {}
            },
            None => bell.notified().await,
        }
    }
}

/// That the task runs. Dropped, it does not.
struct RunningTask<E: FnOnce()> {
    expiry: Arc<Expiry>,
    ended: Option<E>,
}

impl<E: FnOnce()> Drop for RunningTask<E> {
    fn drop(&mut self) {
        self.expiry.running.store(false, Ordering::Release);
        if let Some(ended) = self.ended.take() {
            ended();
        }
    }
}
