//! Work that several callers need, with the errors of a contract.

use std::future::Future;

use coord_api::{Error, ErrorKind, Outcome, Result};
use coord_home::{Home, Landed};

use crate::error::homeless;

/// One run at a time, whose answer goes to everyone who asked while it was under way.
#[derive(Debug)]
pub struct SingleFlight<T: Clone>(coord_home::SingleFlight<Result<T>>);

impl<T: Clone> Default for SingleFlight<T> {
    fn default() -> Self {
        SingleFlight(coord_home::SingleFlight::default())
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Joins the run that is under way, or starts one. Where its runtime ends, another one is
    /// started.
    ///
    /// # Errors
    ///
    /// Those of the run; `Internal`, outcome `Unknown`, where it panicked; and why there is no
    /// [`Home`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the run goes on, for whoever else waits or comes while it does.
    pub async fn run<F>(&self, home: &Home, operation: &'static str, start: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        loop {
            match self.0.join(home, &start).map_err(|error| homeless(operation, error))?.await {
                Landed::Done(answer) => return answer,
                // A given runtime may take a while to end.
                Landed::Cancelled => tokio::task::yield_now().await,
                Landed::Panicked => {
                    let error = Error::new(
                        ErrorKind::Internal,
                        operation,
                        "the store panicked, or what lies between",
                    );
                    return Err(error.with_outcome(Outcome::Unknown));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    #[derive(Default)]
    struct Work {
        begun: AtomicUsize,
        permits: Option<Semaphore>,
    }

    impl Work {
        async fn run(self: Arc<Self>) -> Result<usize> {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(permits) = &self.permits {
                permits.acquire().await.unwrap().forget();
            }
            Ok(number)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_while_it_runs_shares_it_and_who_asks_later_does_not() {
        let (flight, work, home) = (SingleFlight::default(), Arc::new(Work::default()), Home::new("test"));
        let ask = || flight.run(&home, "test", || Arc::clone(&work).run());
        assert!(join_all((0..100).map(|_| ask())).await.into_iter().all(|answer| answer.unwrap() == 1));
        assert_eq!(ask().await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_or_is_left_alone_holds_up_nobody() {
        let work = Arc::new(Work { permits: Some(Semaphore::new(0)), ..Work::default() });
        let (flight, home) = (SingleFlight::default(), Home::new("test"));
        let ask = || Box::pin(flight.run(&home, "test", || Arc::clone(&work).run()));
        let mut gone = ask();
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        let mut left_alone = ask();
        assert!(futures_util::poll!(&mut left_alone).is_pending());
        let waiting = ask();
        work.permits.as_ref().unwrap().add_permits(1);
        assert_eq!(waiting.await.unwrap(), 1, "one run for all of them");
        assert_eq!(left_alone.await.unwrap(), 1);
    }

    #[test]
    fn when_its_runtime_ends_another_one_runs_it() {
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let work = Arc::new(Work { permits: Some(Semaphore::new(0)), ..Work::default() });
        let (flight, home) = (SingleFlight::default(), Home::callers());
        let ask = || Box::pin(flight.run(&home, "test", || Arc::clone(&work).run()));
        let ending = runtime();
        let mut waiting = ask();
        ending.block_on(async { assert!(futures_util::poll!(&mut waiting).is_pending()) });
        drop(ending);
        work.permits.as_ref().unwrap().add_permits(1);
        assert!(runtime().block_on(waiting).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_an_error_for_all_who_wait() {
        let (flight, home) = (SingleFlight::<()>::default(), Home::new("test"));
        let error = flight.run(&home, "test", || async { panic!("on purpose") }).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Internal, Outcome::Unknown));
    }
}
