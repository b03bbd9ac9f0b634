//! How long to wait before trying a store again, for what is tried for ever.

use std::time::Duration;

use coord_home::{Backoff, BackoffPolicy};

/// The longest pause between two tries, jitter included.
const LONGEST: Duration = Duration::from_secs(2);

const FIRST: Duration = Duration::from_millis(50);

/// Pauses that grow from 50 ms to 2 s.
pub fn backoff() -> Backoff {
    backoff_up_to(LONGEST)
}

/// Pauses that grow from 50 ms to `longest`, at most 2 s.
pub(crate) fn backoff_up_to(longest: Duration) -> Backoff {
    Backoff::new(BackoffPolicy::new(FIRST, longest.min(LONGEST)))
}
