//! Dropping a future at every one of its await points.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::time::timeout;

/// What became of a future that was polled a limited number of times.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled<T> {
    /// It was done before.
    Done(T),
    /// It was dropped at an await point, after that many polls.
    Dropped,
    /// It was dropped because nothing woke it any more: more polls make no difference.
    Idle,
}

/// Polls `future` at most `polls` times, each time that it wakes, and then drops it. Zero polls
/// drop it unpolled.
///
/// A future that is not woken for `patience` is dropped too.
pub async fn poll_times<F: Future>(polls: usize, patience: Duration, future: F) -> Polled<F::Output> {
    let mut left = polls;
    let mut future = pin!(future);
    let limited = poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(Polled::Dropped);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Polled::Done(output)),
            Poll::Pending if left == 0 => Poll::Ready(Polled::Dropped),
            Poll::Pending => Poll::Pending,
        }
    });
    timeout(patience, limited).await.unwrap_or(Polled::Idle)
}
