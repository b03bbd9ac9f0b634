//! Work that several callers need: done once, and in the home, so that no caller holds it up.

use std::fmt;
use std::future::Future;

use coord_recipes::Home;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::error::Fault;

/// One run at a time, whose answer goes to everyone who asked while it was under way.
pub(crate) struct Flight<T: Clone>(Mutex<Option<Run<T>>>);

struct Run<T: Clone> {
    task: AbortHandle,
    answer: Answer<T>,
}

type Answer<T> = Shared<BoxFuture<'static, Result<T, Fault>>>;

impl<T: Clone> Default for Flight<T> {
    fn default() -> Self {
        Flight(Mutex::new(None))
    }
}

impl<T: Clone + Send + Sync + 'static> Flight<T> {
    /// Joins the run that is under way, or starts one, unless there is an answer `already`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the run goes on, for whoever else waits or comes while it does.
    pub(crate) async fn join<F>(&self, home: &Home, already: impl Fn() -> Option<T>, start: impl FnOnce() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        if let Some(answer) = already() {
            return Ok(answer);
        }
        self.answer(home, already, start)?.await
    }

    fn answer<F>(&self, home: &Home, already: impl Fn() -> Option<T>, start: impl FnOnce() -> F) -> Result<Answer<T>, Fault>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let mut run = self.0.lock();
        // What came of the last one may have come in between.
        if let Some(answer) = already() {
            return Ok(async move { Ok(answer) }.boxed().shared());
        }
        if let Some(run) = run.as_ref().filter(|run| !run.task.is_finished()) {
            return Ok(run.answer.clone());
        }
        let task = home.spawn(start()).map_err(|error| Fault::homeless(&error))?;
        let abort = task.abort_handle();
        let answer = async move { task.await.unwrap_or_else(|_| Err(Fault::unavailable("what was to be waited for was broken off"))) };
        let answer = answer.boxed().shared();
        *run = Some(Run { task: abort, answer: answer.clone() });
        Ok(answer)
    }
}

impl<T: Clone> fmt::Debug for Flight<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("started", &self.0.lock().is_some()).finish()
    }
}
