//! Work that several callers need: done once, and at home.

use std::fmt;
use std::future::Future;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::{Home, HomeError};

/// One run at a time, whose answer goes to everyone who asked while it was under way.
///
/// The run is a task of the [`Home`], so that no caller holds it up: not one that goes away, nor
/// one that is left alone after its first poll, nor one whose runtime stands still.
pub struct SingleFlight<T: Clone> {
    running: Mutex<Option<RunningFlight<T>>>,
}

struct RunningFlight<T: Clone> {
    task: AbortHandle,
    answer: Answer<T>,
}

/// The answer of a run, for one of those who wait for it. Cancel safe: the run goes on, for whoever
/// else waits.
pub type Answer<T> = Shared<BoxFuture<'static, Landed<T>>>;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landed<T> {
    /// It was done.
    Done(T),
    /// The runtime that it ran on is gone.
    Cancelled,
    /// It panicked.
    Panicked,
}

impl<T: Clone> Default for SingleFlight<T> {
    fn default() -> Self {
        SingleFlight { running: Mutex::new(None) }
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Joins the run that is under way, or starts one.
    ///
    /// # Errors
    ///
    /// Why there is no [`Home`].
    pub fn join<F>(&self, home: &Home, start: impl FnOnce() -> F) -> Result<Answer<T>, HomeError>
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.join_unless(home, || None, start)
    }

    /// As [`join`](Self::join), unless there is an answer `already`. It is looked for where no run
    /// can end in between, so that none is made again whose answer has just come.
    ///
    /// # Errors
    ///
    /// As [`join`](Self::join).
    pub fn join_unless<F>(
        &self,
        home: &Home,
        already: impl FnOnce() -> Option<T>,
        start: impl FnOnce() -> F,
    ) -> Result<Answer<T>, HomeError>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.running.lock();
        if let Some(answer) = already() {
            return Ok(async move { Landed::Done(answer) }.boxed().shared());
        }
        if let Some(running) = running.as_ref().filter(|running| !running.task.is_finished()) {
            return Ok(running.answer.clone());
        }
        let task = home.spawn(start())?;
        let abort = task.abort_handle();
        let answer = async move {
            match task.await {
                Ok(answer) => Landed::Done(answer),
                Err(error) if error.is_panic() => Landed::Panicked,
                Err(_) => Landed::Cancelled,
            }
        };
        let answer = answer.boxed().shared();
        *running = Some(RunningFlight { task: abort, answer: answer.clone() });
        Ok(answer)
    }
}

impl<T: Clone> fmt::Debug for SingleFlight<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").field("started", &self.running.lock().is_some()).finish()
    }
}
