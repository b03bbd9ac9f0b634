//! One bucket: the generic cell rate algorithm, as a pure state machine. Time comes in as an
//! argument.
//!
//! A bucket is one number, the moment at which it will be full again. A request moves it on by the
//! time that one request takes to come back, and is denied where that would be later than a bucket
//! that was empty now would be full. A bucket whose moment has come is full, like one that nobody
//! has used: it need not be kept.

use std::time::Duration;

/// A moment, or a time, in sixteenths of a nanosecond since the limiter was made: fine enough that
/// a rate of a million a second is right to 0.01 %, and enough for 36 years.
pub(super) type Ticks = u64;

const TICKS_PER_NANOSECOND: Ticks = 16;

/// The ticks of a second.
pub(super) const SECOND: Ticks = 1_000_000_000 * TICKS_PER_NANOSECOND;

/// A time in ticks; what is longer than they can count is as long as they can.
pub(super) fn ticks(time: Duration) -> Ticks {
    let nanoseconds = Ticks::from(time.subsec_nanos()) * TICKS_PER_NANOSECOND;
    time.as_secs().saturating_mul(SECOND).saturating_add(nanoseconds)
}

/// So many ticks, rounded up to whole nanoseconds.
pub(super) fn duration(ticks: Ticks) -> Duration {
    Duration::from_nanos(ticks.div_ceil(TICKS_PER_NANOSECOND))
}

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// The time in which one request comes back. Never zero.
    pub(super) interval: Ticks,
    /// The time in which an empty bucket is full: the burst, as a time. Never less than the
    /// interval.
    pub(super) depth: Ticks,
}

/// Why a bucket does not give what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It will after so many ticks, if nobody else takes anything.
    Wait(Ticks),
    /// It never holds so much.
    Never,
}

impl Pace {
    /// Takes `count` requests at once out of a bucket that is `full_at` this moment, and says when
    /// it is full from now on.
    #[inline]
    pub(super) fn take(self, full_at: Ticks, now: Ticks, count: u32) -> Result<Ticks, Refusal> {
        let cost = self.interval.saturating_mul(count.into());
        if cost > self.depth {
            return Err(Refusal::Never);
        }
        let next = full_at.max(now).saturating_add(cost);
        let latest = now.saturating_add(self.depth);
        if next > latest {
            return Err(Refusal::Wait(next - latest));
        }
        Ok(next)
    }

    /// Takes `count` requests whatever the bucket holds: it is empty at worst.
    pub(super) fn charge(self, full_at: Ticks, now: Ticks, count: u32) -> Ticks {
        let cost = self.interval.saturating_mul(count.into());
        full_at.max(now).saturating_add(cost).min(now.saturating_add(self.depth))
    }

    /// The moment at which a bucket is full that is empty now.
    pub(super) fn empty(self, now: Ticks) -> Ticks {
        now.saturating_add(self.depth)
    }

    /// When a bucket of this pace is full that goes on at another one: it stays as full as it was,
    /// in proportion. An empty one stays empty, a full one full, and rounding never fills.
    pub(super) fn convert(self, full_at: Ticks, now: Ticks, new: Pace) -> Ticks {
        let missing = u128::from(full_at.saturating_sub(now)) * u128::from(new.depth);
        let missing = missing.div_ceil(u128::from(self.depth.max(1)));
        now.saturating_add(Ticks::try_from(missing).unwrap_or(Ticks::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(rate: u64, burst: u64) -> Pace {
        let interval = SECOND.div_ceil(rate);
        Pace { interval, depth: interval * burst }
    }

    /// A bucket as one thinks of it: so many requests in it, growing with time. In units in which
    /// one request is `pace.interval`.
    struct Model {
        pace: Pace,
        level: u128,
        at: Ticks,
    }

    impl Model {
        fn take(&mut self, now: Ticks, count: u32) -> bool {
            self.level = (self.level + u128::from(now - self.at)).min(self.pace.depth.into());
            self.at = now;
            let cost = u128::from(self.pace.interval) * u128::from(count);
            let admitted = cost <= self.level;
            if admitted {
                self.level -= cost;
            }
            admitted
        }
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_its_rate() {
        let pace = pace(10, 3);
        let mut full_at = 0;
        for _ in 0..3 {
            full_at = pace.take(full_at, 0, 1).unwrap();
        }
        assert_eq!(pace.take(full_at, 0, 1), Err(Refusal::Wait(pace.interval)));
        assert_eq!(pace.take(full_at, pace.interval - 1, 1), Err(Refusal::Wait(1)));
        assert_eq!(pace.take(full_at, pace.interval, 1), Ok(full_at + pace.interval));
        assert_eq!(pace.take(full_at, 10 * SECOND, 3), Ok(10 * SECOND + pace.depth));
        assert_eq!(pace.take(full_at, 10 * SECOND, 4), Err(Refusal::Never));
        assert_eq!(pace.take(full_at, 10 * SECOND, 0), Ok(10 * SECOND));
    }

    #[test]
    fn what_is_charged_empties_it_at_worst() {
        let pace = pace(10, 3);
        assert_eq!(pace.charge(0, 0, 1), pace.interval);
        assert_eq!(pace.charge(0, 0, 1_000), pace.depth);
        assert_eq!(pace.charge(pace.depth, 0, 1), pace.depth);
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let slow = Pace { interval: Ticks::MAX / 2, depth: Ticks::MAX - 1 };
        assert_eq!(slow.take(0, Ticks::MAX, u32::MAX), Err(Refusal::Never));
        assert!(slow.take(0, Ticks::MAX - 1, 1).is_ok());
        assert_eq!(slow.charge(Ticks::MAX, Ticks::MAX, u32::MAX), Ticks::MAX);
        assert_eq!(pace(1, 1).convert(Ticks::MAX, 0, slow), Ticks::MAX);
        assert_eq!(ticks(Duration::MAX), Ticks::MAX);
        assert_eq!(duration(ticks(Duration::from_nanos(7))), Duration::from_nanos(7));
        assert_eq!(duration(1), Duration::from_nanos(1));
    }

    fn paces() -> impl Strategy<Value = Pace> {
        (1..2_000_u64, 1..500_u64).prop_map(|(rate, burst)| pace(rate, burst))
    }

    /// Pauses of up to half a second, most of them short, and how much is asked for after each.
    fn demand() -> impl Strategy<Value = Vec<(Ticks, u32)>> {
        let pause = prop_oneof![Just(0), 0..SECOND / 1_000, 0..SECOND / 2];
        prop::collection::vec((pause, 0..6_u32), 1..300)
    }

    proptest! {
        #[test]
        fn it_decides_as_the_model_does(pace in paces(), demand in demand()) {
            let mut model = Model { pace, level: pace.depth.into(), at: 0 };
            let (mut now, mut full_at) = (0, 0);
            for (pause, count) in demand {
                now += pause;
                let taken = pace.take(full_at, now, count);
                prop_assert_eq!(taken.is_ok(), model.take(now, count), "{} at {}", count, now);
                match taken {
                    Ok(next) => full_at = next,
                    // After exactly that time, and no earlier, it is had.
                    Err(Refusal::Wait(wait)) => {
                        prop_assert!(pace.take(full_at, now + wait, count).is_ok());
                        prop_assert!(pace.take(full_at, now + wait - 1, count).is_err());
                    }
                    Err(Refusal::Never) => prop_assert!(u64::from(count) * pace.interval > pace.depth),
                }
            }
        }

        /// R68: at most the greatest burst, and what came back at the rates of the time; for each
        /// window, whatever its beginning and end. Where the burst was raised more than once, each
        /// raise counts.
        #[test]
        fn changes_of_its_pace_admit_no_more_than_the_old_and_the_new_one(
            first in paces(),
            steps in prop::collection::vec((paces(), demand()), 1..5),
        ) {
            // Admissions, and the rate and burst in force from some moment on, both as requests.
            let mut admitted: Vec<(Ticks, f64)> = Vec::new();
            let mut in_force: Vec<(Ticks, Pace)> = vec![(0, first)];
            let (mut now, mut full_at, mut pace) = (0, 0, first);
            for (next, demand) in steps {
                for (pause, count) in demand {
                    now += pause;
                    if let Ok(next) = pace.take(full_at, now, count) {
                        full_at = next;
                        admitted.push((now, f64::from(count)));
                    }
                }
                full_at = pace.convert(full_at, now, next);
                pace = next;
                in_force.push((now, next));
            }
            let burst = |pace: &Pace| pace.depth as f64 / pace.interval as f64;
            for (index, (start, _)) in admitted.iter().enumerate() {
                let mut total = 0.0;
                for (end, count) in admitted.iter().skip(index) {
                    total += count;
                    let mut permitted: f64 = 0.0;
                    let mut before: Option<f64> = None;
                    for (at, (from, pace)) in in_force.iter().enumerate() {
                        let until = in_force.get(at + 1).map_or(Ticks::MAX, |(until, _)| *until);
                        if until < *start || from > end {
                            continue;
                        }
                        let time = until.min(*end) - (*from).max(*start);
                        permitted += time as f64 / pace.interval as f64;
                        permitted += match before {
                            None => burst(pace),
                            Some(before) => (burst(pace) - before).max(0.0),
                        };
                        before = Some(burst(pace));
                    }
                    prop_assert!(total <= permitted + 1e-6, "{total} of {permitted} from {start} to {end}");
                }
            }
        }

        #[test]
        fn a_change_neither_refills_nor_empties(old in paces(), new in paces(), used in 0..500_u32) {
            let now = 5 * SECOND;
            prop_assert_eq!(old.convert(old.empty(now), now, new), new.empty(now), "empty stays empty");
            prop_assert_eq!(old.convert(now, now, new), now, "full stays full");
            prop_assert_eq!(old.convert(0, now, new), now, "full stays full");
            let some = old.charge(0, now, used);
            let kept = new.convert(old.convert(some, now, new), now, old);
            prop_assert!(kept >= some && kept - some <= 1 + old.depth / new.depth, "{} {}", some, kept);
        }
    }
}
