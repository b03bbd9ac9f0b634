//! Waiting for conditions, with deadlines. Every helper fails by panicking with the sentence that
//! did not come true.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(10);

/// Waits for `future`, at most `limit`.
///
/// # Panics
///
/// When it is not done by then: `what` was to happen.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match timeout(limit, future).await {
        Ok(output) => output,
        #[expect(clippy::panic, reason = "a case fails by panicking")]
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}

/// Asks `probe` again and again until it gives something, at most for `limit`. It is asked once
/// more at the end.
///
/// # Panics
///
/// When it never did: `what` was to become true.
pub async fn eventually<T, F>(limit: Duration, what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let last = Instant::now() >= deadline;
        if let Some(found) = within(limit, what, probe()).await {
            return found;
        }
        assert!(!last, "not within {limit:?}: {what}");
        sleep(STEP.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

/// Asserts that `future` is still pending after `span`. It can be awaited on afterwards.
///
/// # Panics
///
/// When it is done before: `what` was not to happen.
pub async fn never_within<F: Future + Unpin>(span: Duration, what: &str, future: &mut F) {
    assert!(timeout(span, future).await.is_err(), "within {span:?}, though it must not: {what}");
}
