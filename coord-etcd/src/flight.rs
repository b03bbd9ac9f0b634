//! Work that several callers need, with the faults of a client.

use std::future::Future;

use coord_home::{Home, Landed, SingleFlight};

use crate::error::Fault;

/// One run at a time, whose answer goes to everyone who asked while it was under way.
#[derive(Debug)]
pub(crate) struct Flight<T: Clone>(SingleFlight<Result<T, Fault>>);

impl<T: Clone> Default for Flight<T> {
    fn default() -> Self {
        Flight(SingleFlight::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Flight<T> {
    /// Joins the run that is under way, or starts one, unless there is an answer `already`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the run goes on, for whoever else waits or comes while it does.
    pub(crate) async fn join<F>(
        &self,
        home: &Home,
        already: impl Fn() -> Option<T>,
        start: impl FnOnce() -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        if let Some(answer) = already() {
            return Ok(answer);
        }
        let answer =
            self.0.join_unless(home, || already().map(Ok), start).map_err(|error| Fault::no_home(&error))?;
        match answer.await {
            Landed::Done(answer) => answer,
            Landed::Cancelled | Landed::Panicked => {
                Err(Fault::unavailable("what was to be waited for was broken off"))
            }
        }
    }
}
