//! How a member did lately, and when it is tried again. Pure: time comes in.

use std::time::Duration;

use tokio::time::Instant;

/// The longest pause before the first trial of a member that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How often the pause doubles at most: to 32 s.
const DOUBLINGS: u32 = 5;

/// A member that answers for so long has its past forgiven.
const TRUSTED_AFTER: Duration = Duration::from_secs(60);

/// How a member did lately.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failed: Option<Instant>,
    recovered: Option<Instant>,
    /// Failures since it was last trusted.
    strikes: u32,
}

impl Health {
    /// A call to it failed, and the fault was its own.
    pub(crate) fn fail(&mut self, now: Instant) {
        if self.failed.is_none() && self.recovered.is_none_or(|recovered| now.saturating_duration_since(recovered) >= TRUSTED_AFTER) {
            self.strikes = 0;
        }
        self.failed = Some(now);
    }

    /// It failed a trial, too.
    pub(crate) fn fail_trial(&mut self) {
        self.strikes = self.strikes.saturating_add(1);
    }

    /// It passed a trial.
    pub(crate) fn recover(&mut self, now: Instant) {
        self.failed = None;
        self.recovered = Some(now);
        self.strikes = self.strikes.saturating_add(1);
    }

    /// When it last failed, unless it has recovered.
    pub(crate) fn failed(&self) -> Option<Instant> {
        self.failed
    }

    /// The pause before its next trial, `chance` (from 0 to 1) of its second half. Many clients that lost a member at once come back to it one by one.
    pub(crate) fn pause(&self, chance: f64) -> Duration {
        let longest = FIRST_PAUSE * (1 << self.strikes.min(DOUBLINGS));
        longest.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_member_that_goes_on_failing_is_tried_more_and_more_rarely() {
        let mut health = Health::default();
        assert_eq!(health.failed(), None);
        let now = Instant::now();
        health.fail(now);
        assert_eq!(health.failed(), Some(now));
        for longest in [1, 2, 4, 8, 16, 32, 32] {
            assert_eq!((health.pause(0.0), health.pause(1.0)), (SECOND * longest / 2, SECOND * longest));
            // What is asked of it meanwhile, because there is nobody else, changes nothing.
            health.fail(now + SECOND);
            health.fail_trial();
        }
    }

    #[test]
    fn one_that_fails_again_soon_has_to_wait_longer_and_later_it_is_forgiven() {
        let mut health = Health::default();
        let mut now = Instant::now();
        for longest in [1, 2, 4] {
            health.fail(now);
            assert_eq!(health.pause(1.0), SECOND * longest);
            health.recover(now);
            assert_eq!(health.failed(), None);
            now += TRUSTED_AFTER - SECOND;
        }
        health.recover(now);
        health.fail(now + TRUSTED_AFTER);
        assert_eq!(health.pause(1.0), SECOND);
    }
}
