//! One timer ahead of those of all calls.

use std::task::{Context, Waker};
use std::time::Duration;

use coord_recipes::Home;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Keeps calls' timeouts cheap.
///
/// Whoever starts a timer that is earlier than all others wakes the home's thread, which costs some microseconds; where a process does nothing else, each call's timeout is
/// such a timer. With one that is always earlier, only that one is: once in half a timeout, while there are calls. Nothing depends on it but speed.
pub(crate) struct Pace {
    home: Home,
    /// Is over before any call that starts until then can be.
    timer: Mutex<Option<(Instant, BoxFuture<'static, ()>)>>,
    every: Duration,
}

impl Pace {
    /// For calls that may take `limit`.
    pub(crate) fn new(home: Home, limit: Duration) -> Self {
        Pace { home, timer: Mutex::new(None), every: limit / 2 }
    }

    /// To be called before each call.
    pub(crate) fn keep(&self, now: Instant) {
        let Some(mut timer) = self.timer.try_lock() else { return };
        if timer.as_ref().is_none_or(|(until, _)| now >= *until) {
            let (home, until) = (self.home.clone(), now + self.every);
            let (_, sleep) = timer.insert((until, async move { home.sleep_until(until).await }.boxed()));
            // A timer starts when it is first polled; this one wakes nobody.
            let _pending = sleep.poll_unpin(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").field("every", &self.every).finish_non_exhaustive()
    }
}
