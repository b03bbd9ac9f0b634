//! Which TTL serves one that was asked for: a program that computes a new one for each call must
//! not have a lease, a task and a watch for each.

use std::time::Duration;

use coord_api::store::MAX_TTL_SECONDS;

/// As many different TTLs as a provider serves exactly.
const EXACT: usize = 8;

/// What each decade of seconds is parted into beyond that.
const STEPS: [u64; 7] = [10, 15, 20, 30, 40, 60, 80];

/// The TTL of the session that serves `asked`, where sessions of the TTLs `live` are there already.
///
/// The first eight different TTLs are served as they were asked for. Beyond that a TTL is rounded
/// up to 1, 1.5, 2, 3, 4, 6 or 8 times a power of ten seconds: by half at most, and so to no more
/// than seven for each power of ten.
pub(super) fn served_by<'a>(
    asked: Duration,
    live: impl ExactSizeIterator<Item = &'a Duration> + Clone,
) -> Duration {
    if live.len() < EXACT || live.clone().any(|live| *live == asked) {
        return asked;
    }
    Duration::from_secs(round_up(asked.as_secs()).min(MAX_TTL_SECONDS)).max(asked)
}

fn round_up(seconds: u64) -> u64 {
    // Tenths, so that the steps are whole numbers.
    let mut decade: u64 = 1;
    loop {
        for step in STEPS {
            let rounded = step.saturating_mul(decade).div_ceil(10);
            if rounded >= seconds {
                return rounded;
            }
        }
        let Some(next) = decade.checked_mul(10) else { return seconds };
        decade = next;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_few_ttls_are_served_exactly_and_many_by_few_sessions_that_are_no_shorter() {
        let mut live: BTreeSet<Duration> = BTreeSet::new();
        for (number, seconds) in (1..=10_000).rev().enumerate() {
            let asked = Duration::from_secs(seconds);
            let served = served_by(asked, live.iter());
            assert!(
                served >= asked && served.as_secs() <= asked.as_secs().div_ceil(2) * 3,
                "{seconds} s served by {served:?}"
            );
            if number < EXACT {
                assert_eq!(served, asked);
            }
            live.insert(served);
            assert_eq!(served_by(asked, live.iter()), served, "the same again");
        }
        assert!(live.len() <= EXACT + 7 * 4 + 1, "{}", live.len());
    }

    #[test]
    fn the_longest_ttl_is_served_too() {
        let live: Vec<_> = (1..=8).map(Duration::from_secs).collect();
        let longest = Duration::from_secs(MAX_TTL_SECONDS);
        assert_eq!(served_by(longest, live.iter()), longest);
        assert_eq!(served_by(longest - Duration::from_secs(1), live.iter()), longest);
    }
}
