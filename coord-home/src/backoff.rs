//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// Exponential back-off with equal jitter: each pause is at least one half of a bound and at most
/// the bound, which grows with each failure up to a longest one. So those who failed together do
/// not come back together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffPolicy {
    first: Duration,
    longest: Duration,
    multiplier: f64,
}

impl BackoffPolicy {
    /// Bounds from `first` to `longest`, each twice the one before.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        BackoffPolicy { first, longest, multiplier: 2.0 }
    }

    /// Sets how much larger each bound is than the one before.
    #[must_use]
    pub const fn with_multiplier(self, multiplier: f64) -> Self {
        BackoffPolicy { multiplier, ..self }
    }

    /// The pause after a failure that so many others came before. `chance`, from 0 to 1, says where
    /// it lies between one half of the bound and the bound.
    pub fn pause(&self, earlier_failures: u32, chance: f64) -> Duration {
        let grown = self.first.as_secs_f64()
            * self.multiplier.powi(i32::try_from(earlier_failures).unwrap_or(i32::MAX));
        let bound = Duration::try_from_secs_f64(grown).unwrap_or(self.longest).min(self.longest);
        (bound / 2).saturating_add((bound / 2).mul_f64(chance.clamp(0.0, 1.0)))
    }
}

/// The pauses of one who goes on trying.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use coord_home::{Backoff, BackoffPolicy};
///
/// let mut backoff = Backoff::new(BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(2)));
/// assert!(backoff.pause() <= Duration::from_millis(100));
/// assert!(backoff.pause() >= Duration::from_millis(100));
/// backoff.reset();
/// assert!(backoff.pause() <= Duration::from_millis(100));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// From the shortest pause on.
    pub fn new(policy: BackoffPolicy) -> Self {
        Backoff { policy, failures: 0, random: fastrand::Rng::new() }
    }

    /// As [`new`](Self::new). The same seed gives the same pauses.
    pub fn with_seed(policy: BackoffPolicy, seed: u64) -> Self {
        Backoff { random: fastrand::Rng::with_seed(seed), ..Backoff::new(policy) }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.policy.pause(self.failures, self.random.f64());
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// Begins again with the shortest pause.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_lie_between_half_and_all_of_their_bound() {
        let policy = BackoffPolicy::new(Duration::from_secs(1), Duration::from_secs(10));
        for (failures, bound) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 10), (5, 10), (u32::MAX, 10)] {
            let bound = Duration::from_secs(bound);
            assert_eq!(
                [0.0, 0.5, 1.0, 7.0].map(|chance| policy.pause(failures, chance)),
                [bound / 2, bound * 3 / 4, bound, bound]
            );
        }
        assert_eq!(policy.with_multiplier(3.0).pause(2, 1.0), Duration::from_secs(9));
    }

    #[test]
    fn no_policy_panics() {
        for multiplier in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
            for (first, longest) in [
                (Duration::ZERO, Duration::ZERO),
                (Duration::MAX, Duration::MAX),
                (Duration::MAX, Duration::ZERO),
            ] {
                let policy = BackoffPolicy::new(first, longest).with_multiplier(multiplier);
                assert!(
                    [0, 1, 2, u32::MAX].into_iter().all(|failures| policy.pause(failures, 1.0) <= longest)
                );
            }
        }
    }

    #[test]
    fn a_seed_repeats_the_pauses() {
        let policy = BackoffPolicy::new(Duration::from_millis(20), Duration::from_millis(900));
        let pauses = |seed| {
            let mut backoff = Backoff::with_seed(policy, seed);
            (0..40).map(|_| backoff.pause()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
        assert!(
            pauses(7)
                .iter()
                .all(|pause| (Duration::from_millis(10)..=Duration::from_millis(900)).contains(pause))
        );
    }
}
