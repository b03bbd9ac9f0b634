//! How long to wait before trying a store again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The longest pause between two tries of what is retried for ever, jitter included.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(2);

const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Growing, jittered pauses without end, for what is retried for ever.
#[derive(Debug)]
pub struct Backoff {
    pauses: ExponentialBackoff,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::new()
    }
}

impl Backoff {
    /// Pauses that grow from 50 ms to `longest`, at most 2 s.
    pub fn up_to(longest: Duration) -> Self {
        let longest = longest.min(MAX_PAUSE);
        Backoff { pauses: Self::pauses(longest), longest }
    }

    /// Pauses that grow from 50 ms to 2 s.
    pub fn new() -> Self {
        Backoff::up_to(MAX_PAUSE)
    }

    fn pauses(longest: Duration) -> ExponentialBackoff {
        // The jitter adds up to the pause itself, so the growth stops at half of the longest.
        let grown = longest / 2;
        ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE.min(grown))
            .with_max_delay(grown)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times()
            .build()
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.longest).min(self.longest)
    }

    /// Starts anew from the shortest pause.
    pub fn reset(&mut self) {
        self.pauses = Self::pauses(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_never_end_and_never_exceed_the_longest() {
        let mut backoff = Backoff::up_to(Duration::from_millis(400));
        let pauses: Vec<_> = (0..50).map(|_| backoff.pause()).collect();
        assert!(pauses.iter().all(|pause| !pause.is_zero() && *pause <= Duration::from_millis(400)));
        assert!(pauses[0] <= Duration::from_millis(100));
        assert!(pauses[49] >= Duration::from_millis(200));
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }
}
