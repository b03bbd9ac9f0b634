//! Work that blocks.

use coord_api::store::Effect;
use coord_api::{Error, ErrorKind, Result};
use coord_home::Home;

use crate::error::homeless;

/// Runs `work`, which may block, on a thread for such work of the [`Home`]: what files and embedded
/// databases need, for nothing may block where futures are polled. Under a paused clock time stands
/// still meanwhile.
///
/// # Errors
///
/// Those of `work`; where no thread is to be had, as [`homeless`] says; `Internal` where `work`
/// panicked or its runtime ended, with the outcome that `effect` leaves in doubt.
///
/// # Cancel safety
///
/// What was begun goes on to its end, and nobody hears of it. Left alone after a poll it goes on as
/// well, so that what `work` has locked is let go of.
pub async fn blocking<T: Send + 'static>(
    home: &Home,
    operation: &'static str,
    effect: Effect,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let running = home.spawn_blocking(work).map_err(|error| homeless(operation, error))?;
    running.await.unwrap_or_else(|_| {
        let error = Error::new(ErrorKind::Internal, operation, "work on a thread for it did not end");
        Err(error.with_outcome(effect.in_doubt()))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use coord_api::Outcome;
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_blocks_leaves_the_caller_free_and_panics_are_errors() {
        let (go, gone) = mpsc::channel();
        let home = Home::shared();
        let waits = blocking(&home, "t", Effect::Read, move || Ok(gone.recv().unwrap()));
        let mut waits = std::pin::pin!(waits);
        assert!(waits.as_mut().now_or_never().is_none());
        go.send(7).unwrap();
        assert_eq!(waits.await.unwrap(), 7);

        let failed: Result<()> = blocking(&home, "t", Effect::Write, || panic!("on purpose")).await;
        let error = failed.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Internal, Outcome::Unknown));
        let failed: Result<()> = blocking(&home, "t", Effect::Write, || Err(Error::closed("t"))).await;
        assert_eq!(failed.unwrap_err().outcome(), Outcome::NotApplied, "what it says itself");
    }

    #[tokio::test]
    async fn what_is_left_alone_after_a_poll_goes_on() {
        let (done, was_done) = mpsc::channel();
        let home = Home::shared();
        let mut left = Box::pin(blocking(&home, "t", Effect::Read, move || {
            done.send(()).unwrap();
            Ok(())
        }));
        assert!(left.as_mut().now_or_never().is_none_or(|done| done.is_ok()));
        was_done.recv_timeout(Duration::from_secs(60)).unwrap();
        drop(left);
    }
}
