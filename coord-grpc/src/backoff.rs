//! How long to wait before an endpoint, or the registry, is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Growing, jittered pauses without end.
#[derive(Debug)]
pub(crate) struct Backoff {
    plan: ExponentialBuilder,
    pauses: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// Pauses from `shortest` to `longest`, jitter included. The same seed gives the same pauses.
    pub(crate) fn new(shortest: Duration, longest: Duration, seed: Option<u64>) -> Self {
        // The jitter adds up to the pause itself.
        let grown = longest / 2;
        let plan = ExponentialBuilder::default()
            .with_min_delay(shortest.min(grown))
            .with_max_delay(grown)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times();
        let plan = match seed {
            Some(seed) => plan.with_jitter_seed(seed),
            None => plan,
        };
        Backoff { pauses: plan.build(), plan, longest }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.longest).min(self.longest)
    }

    /// Starts anew from the shortest pause.
    pub(crate) fn reset(&mut self) {
        self.pauses = self.plan.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_the_pauses_and_they_stay_within_their_bounds() {
        let (shortest, longest) = (Duration::from_millis(20), Duration::from_millis(900));
        let pauses = |seed| {
            let mut backoff = Backoff::new(shortest, longest, Some(seed));
            (0..40).map(|_| backoff.pause()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
        assert!(pauses(7).iter().all(|pause| (shortest..=longest).contains(pause)));
        let mut backoff = Backoff::new(shortest, longest, None);
        assert!((0..20).map(|_| backoff.pause()).max() > Some(shortest * 2));
        backoff.reset();
        assert!(backoff.pause() <= shortest * 2);
    }
}
