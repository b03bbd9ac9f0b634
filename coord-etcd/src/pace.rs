//! One timer ahead of those of all calls.

use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};

/// Keeps calls' timeouts cheap.
///
/// Whoever starts a timer that is earlier than all others wakes tokio's driver, which costs some microseconds; where a process does nothing else, each call's timeout is
/// such a timer. With one that is always earlier, only that one is: once in half a timeout, while there are calls. Nothing depends on it but speed.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Is over before any call that starts until then can be.
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
    every: Duration,
}

impl Pace {
    /// For calls that may take `limit`.
    pub(crate) fn new(limit: Duration) -> Self {
        Pace { timer: Mutex::new(None), every: limit / 2 }
    }

    /// To be called before each call. Needs a tokio runtime.
    pub(crate) fn keep(&self) {
        let Some(mut timer) = self.timer.try_lock() else { return };
        if timer.as_ref().is_none_or(|timer| timer.is_elapsed()) {
            let timer = timer.insert(Box::pin(sleep(self.every)));
            // A timer starts when it is first polled; this one wakes nobody.
            let _pending = timer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}
