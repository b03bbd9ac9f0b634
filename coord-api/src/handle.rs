//! What everything leased has in common: a fencing number, a state to read, `lost()`, and a
//! release.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::fence::Fence;
use crate::types::FencingToken;

/// Why a handle stands for nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// It was not renewed in time: its local deadline passed, or the store said that the lease is
    /// gone (R32).
    Expired,
    /// Someone removed its entry from the store (R32).
    Removed,
    /// Another owner, or a later handle of the same provider, took its place (R34).
    Superseded,
    /// The provider was closed (R8).
    Closed,
    /// It was released, or dropped.
    Released,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::Expired => "expired",
            Loss::Removed => "removed",
            Loss::Superseded => "superseded",
            Loss::Closed => "closed",
            Loss::Released => "released",
        })
    }
}

/// What a handle stands for at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandleState {
    /// It holds what it was given for: the lock, the registration, the id.
    Held,
    /// It is gone from the store for now and being brought back. Only registrations heal (R37).
    Lost,
    /// It is over, for good.
    Ended(Loss),
}

impl HandleState {
    /// Whether this is [`HandleState::Held`].
    pub fn is_held(self) -> bool {
        self == HandleState::Held
    }
}

/// Everything that hangs on a lease: [`LockGuard`](crate::LockGuard),
/// [`Registration`](crate::Registration), [`InstanceId`](crate::InstanceId), what a backend
/// provides behind them, and the handles of primitives that are made of them.
///
/// # Contract
///
/// - **R9** Dropping never blocks and never panics, also outside a runtime; it hands the release to
///   the provider.
/// - **R32** `state` compares the clock with the local deadline itself, so that it is right also
///   when nothing else runs. `lost` fires at that deadline, at most 100 ms of scheduling later.
#[async_trait]
pub trait Leased: fmt::Debug + Send + Sync + 'static {
    /// The number that orders the grants of this key. It may rise while a registration heals.
    fn fencing_token(&self) -> FencingToken;

    /// What ties a write to the same store to this handle: it is applied only while this holds
    /// (R55). One that is taken while nothing is held fails every write.
    fn fence(&self) -> Fence;

    /// What the handle stands for at this moment.
    fn state(&self) -> HandleState;

    /// The time left to the local deadline, zero when not held (R33).
    fn ttl(&self) -> Duration;

    /// Resolves once the handle is over for good, also when it is released or dropped; polled
    /// again, it is ready again.
    fn lost(&self) -> Lost;

    /// Gives it back. Idempotent; it never harms a successor.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when there was nothing left to give back (locks and ids). `Unavailable` or
    /// `Timeout`, outcome `Unknown`, when the store did not answer: the handle is over all the
    /// same, and the provider goes on trying (R9).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the release to the provider.
    async fn release(&self) -> Result<()>;
}

/// Makes a [`Leased`] of a type that has a backend's one in the field `inner`.
macro_rules! leased_by_inner {
    ($handle:ty) => {
        #[async_trait::async_trait]
        impl $crate::handle::Leased for $handle {
            fn fencing_token(&self) -> $crate::FencingToken {
                self.inner.fencing_token()
            }

            fn fence(&self) -> $crate::Fence {
                self.inner.fence()
            }

            fn state(&self) -> $crate::HandleState {
                self.inner.state()
            }

            fn ttl(&self) -> std::time::Duration {
                self.inner.ttl()
            }

            fn lost(&self) -> $crate::Lost {
                self.inner.lost()
            }

            async fn release(&self) -> $crate::Result<()> {
                self.inner.release().await
            }
        }
    };
}

pub(crate) use leased_by_inner;

/// Runs `future` for as long as `handle` is held (R76).
///
/// The handle is looked at before each poll of the future, so that no step of it begins once the
/// handle is lost. Then the future is dropped, and after that this ends. It releases nothing: the
/// handle stays its owner's.
///
/// # Errors
///
/// `LeaseLost` when the handle was lost before the future was ready. A value that was ready in a
/// step that had begun while the handle was held is returned.
///
/// # Cancel safety
///
/// Dropped, `future` is dropped at the point that it has reached.
pub async fn run_while_held<H: Leased + ?Sized, F: Future>(handle: &H, future: F) -> Result<F::Output> {
    let mut lost = handle.lost();
    let done = {
        let mut future = pin!(future);
        poll_fn(|cx| {
            // Polled to be woken at the loss; whether it is held, the handle's state says.
            let is_lost = Pin::new(&mut lost).poll(cx).is_ready();
            if is_lost || !handle.state().is_held() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    };
    // The future is gone by now.
    done.ok_or_else(|| Error::lease_lost("run_while_held", "it was lost before the work was done"))
}

/// A future that resolves once a handle is over for good. It borrows nothing, so it may outlive the
/// handle or move to another task.
///
/// A loss is for ever: polled again, it is ready again, with the same [`Loss`] (R32). So it can
/// stay in a `select!` loop that goes on, to finish what was begun. One poll in 128 gives way to
/// others first, as tokio's own futures do, so that such a loop does not keep its runtime from
/// everything else.
#[must_use = "futures do nothing unless polled"]
pub struct Lost(LostState);

enum LostState {
    For(Pin<Box<dyn Future<Output = Loss> + Send>>),
    Over {
        loss: Loss,
        /// How often it was polled since it last gave way.
        polls: u8,
    },
}

/// How often in a row a `Lost` that is over is ready before it gives way once.
const IN_A_ROW: u8 = 127;

impl Lost {
    /// Wraps a backend's future.
    pub fn new(future: impl Future<Output = Loss> + Send + 'static) -> Self {
        Lost(LostState::For(Box::pin(future)))
    }
}

impl Future for Lost {
    type Output = Loss;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Loss> {
        let loss = match &mut self.0 {
            LostState::Over { polls, .. } if *polls == IN_A_ROW => {
                *polls = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            LostState::Over { loss, polls } => {
                *polls += 1;
                return Poll::Ready(*loss);
            }
            LostState::For(future) => ready!(future.as_mut().poll(cx)),
        };
        // The backend's future is dropped here, and never polled again.
        self.0 = LostState::Over { loss, polls: 0 };
        Poll::Ready(loss)
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lost").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_loss_stays_ready_and_gives_way_now_and_then() {
        let mut lost = Lost::new(std::future::ready(Loss::Closed));
        let mut cx = Context::from_waker(Waker::noop());
        let polls = (0..1_000).map(|_| Pin::new(&mut lost).poll(&mut cx));
        let gave_way = polls.filter(|poll| match poll {
            Poll::Ready(loss) => *loss != Loss::Closed,
            Poll::Pending => true,
        });
        assert_eq!(gave_way.count(), 1_000 / 128);
    }
}
