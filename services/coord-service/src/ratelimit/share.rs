//! An instance's part of a limit that all instances of a service have together (R69).

use super::bucket::{Pace, SECOND, Ticks};
use super::rule::LimitRule;

/// The part of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) pace: Pace,
    /// Whether it is anything at all. There is nothing for some of the instances where there are
    /// more of them than requests in a second.
    pub(super) admits: bool,
}

impl Share {
    /// All of the limit.
    pub(super) fn whole(rule: &LimitRule) -> Self {
        Share::of(rule, 1, 0)
    }

    /// The part of the instance before which `rank` others stand, of `instances`.
    ///
    /// Over all ranks: bursts add up to the burst, and rates to the rate, where the burst is one
    /// request or more for each. Else buckets hold one request each, rates add up to the rate, and
    /// what all of them can admit within a second to no more than rate and burst. Parts never grow
    /// with `instances` or `rank`.
    pub(super) fn of(rule: &LimitRule, instances: u32, rank: u32) -> Self {
        let rate = u128::from(rule.rate());
        let per = u128::from(rule.per().ticks());
        let burst = u128::from(rule.burst());
        let second = u128::from(SECOND);
        let instances = u128::from(instances.max(1));
        // The time in which one request comes back to an instance at its part of the rate.
        let even = (instances * per).div_ceil(rate);
        if burst >= instances {
            let depth = (burst * even / instances).max(even);
            return Share { pace: Pace { interval: fit(even), depth: fit(depth) }, admits: true };
        }
        // Whole requests that the instances may admit within a second, all together: some get one
        // more than the others.
        let together = (rate * second + burst * per) / per;
        let (fewer, with_more) = (together / instances, together % instances);
        let has_more = u128::from(rank) < with_more;
        let most = fewer + u128::from(has_more);
        let needed = if fewer * instances * per >= rate * second {
            even
        } else if has_more {
            // What the others cannot use of the rate.
            let others = (instances - with_more) * fewer * per;
            (with_more * per * second).div_ceil((rate * second).saturating_sub(others).max(1))
        } else {
            0
        };
        // In a closed second there is a request at its beginning, and one after each interval.
        let spaced = second.checked_div(most).map_or(even, |interval| interval + 1);
        let interval = fit(needed.max(spaced));
        Share { pace: Pace { interval, depth: interval }, admits: most > 0 }
    }
}

fn fit(ticks: u128) -> Ticks {
    Ticks::try_from(ticks).unwrap_or(Ticks::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rule::Per;
    use super::*;

    fn rules() -> impl Strategy<Value = LimitRule> {
        let rate = prop_oneof![1..20_u32, 1..2_000_u32, 1..=LimitRule::MAX];
        let burst = prop_oneof![1..20_u32, 1..2_000_u32, 1..100_000_u32];
        let per = prop_oneof![Just(Per::Second), Just(Per::Minute), Just(Per::Hour)];
        (rate, per, burst).prop_map(|(rate, per, burst)| LimitRule::new(rate, per).with_burst(burst))
    }

    /// What a bucket that is full can admit within a closed second.
    fn in_a_second(share: Share) -> u64 {
        if share.admits { (share.pace.depth + SECOND) / share.pace.interval } else { 0 }
    }

    fn rate(rule: &LimitRule) -> f64 {
        f64::from(rule.rate()) * SECOND as f64 / rule.per().ticks() as f64
    }

    #[test]
    fn few_share_a_limit_evenly() {
        let rule = LimitRule::new(1_000, Per::Second).with_burst(100);
        assert_eq!(
            Share::whole(&rule),
            Share { pace: Pace { interval: SECOND / 1_000, depth: SECOND / 10 }, admits: true }
        );
        let fourth = Share::of(&rule, 4, 3);
        assert_eq!(fourth.pace, Pace { interval: SECOND / 250, depth: SECOND / 10 });
        assert_eq!((in_a_second(fourth), fourth.admits), (275, true));
    }

    #[test]
    fn a_burst_of_less_than_one_each_costs_no_rate() {
        // 1,010 in a second over 400 instances: two each, and 210 of them three.
        let rule = LimitRule::new(1_000, Per::Second).with_burst(10);
        let counts: Vec<u64> = (0..400).map(|rank| in_a_second(Share::of(&rule, 400, rank))).collect();
        assert_eq!(counts.iter().sum::<u64>(), 1_010);
        assert_eq!((counts[0], counts[209], counts[210], counts[399]), (3, 3, 2, 2));
    }

    #[test]
    fn more_instances_than_requests_leave_some_without() {
        let rule = LimitRule::new(5, Per::Second).with_burst(2);
        let admitting = |rank| Share::of(&rule, 100, rank).admits;
        assert_eq!((0..100).filter(|rank| admitting(*rank)).count(), 7);
        assert!(admitting(6) && !admitting(7));
        // The rate is kept all the same: 5/7 of a request a second each.
        let interval = Share::of(&rule, 100, 0).pace.interval;
        assert_eq!(interval, (7 * SECOND).div_ceil(5));
        let hourly = LimitRule::new(1, Per::Hour);
        assert!(Share::of(&hourly, 3, 0).admits && !Share::of(&hourly, 3, 1).admits);
        assert_eq!(Share::of(&hourly, 3, 0).pace.interval, 3_600 * SECOND);
    }

    proptest! {
        #[test]
        fn all_together_admit_no_more_than_rate_and_burst_in_a_second(
            rule in rules(),
            instances in 1..300_u32,
        ) {
            let shares: Vec<Share> = (0..instances).map(|rank| Share::of(&rule, instances, rank)).collect();
            let together: u64 = shares.iter().map(|share| in_a_second(*share)).sum();
            let permitted = rate(&rule) + f64::from(rule.burst());
            prop_assert!(together as f64 <= permitted * (1.0 + 1e-9), "{together} of {permitted}");
            let rates: f64 = shares.iter().filter(|share| share.admits)
                .map(|share| SECOND as f64 / share.pace.interval as f64).sum();
            prop_assert!(rates <= rate(&rule) * (1.0 + 1e-9), "{rates} of {}", rate(&rule));
            // What is lost to rounding is a ten-thousandth, or what the spacing of whole requests
            // in a closed second takes.
            prop_assert!(rates >= rate(&rule) * (1.0 - 1e-3), "{rates} of {}", rate(&rule));
        }

        #[test]
        fn a_share_never_grows_with_the_number_of_instances(
            rule in rules(),
            instances in 1..300_u32,
            rank in 0..300_u32,
        ) {
            let rank = rank % instances;
            let share = Share::of(&rule, instances, rank);
            for other in [Share::of(&rule, instances + 1, rank), Share::of(&rule, instances + 1, rank + 1)] {
                prop_assert!(!other.admits || share.admits);
                if other.admits {
                    prop_assert!(other.pace.interval >= share.pace.interval, "{share:?} {other:?}");
                    prop_assert!(in_a_second(other) <= in_a_second(share), "{share:?} {other:?}");
                }
            }
        }
    }
}
