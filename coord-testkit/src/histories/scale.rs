//! How large a history is, which is all that a plan and its faults are drawn by.

use std::time::Duration;

use fastrand::Rng;

/// How large histories are, and what may strike them.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Operations, over all workers.
    pub operations: usize,
    /// Faults.
    pub strikes: usize,
    /// Whether the store is killed and opened again.
    pub restarts: bool,
    /// Faults of the servers that the harness makes.
    pub server_faults: &'static [&'static str],
    /// The TTL of everything leased; the pace follows from it.
    pub ttl: Duration,
}

/// A part of a span of time, in whole milliseconds, so that it is as it is printed.
pub(super) fn part(rng: &mut Rng, longest: Duration) -> Duration {
    Duration::from_millis(rng.u64(..=u64::try_from(longest.as_millis()).unwrap_or(0)))
}
