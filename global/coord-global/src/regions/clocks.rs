//! Whether the leader's wall clock can be trusted with what is deleted by age.

/// How far the leader's wall clock may be from the median of the regions', in milliseconds: 5
/// minutes.
pub const CLOCK_OFF_MS: u64 = 300_000;

/// Two clocks in the moment in which a new heartbeat was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the region claims in it, in milliseconds since 1970.
    pub claimed_ms: u64,
    /// What the leader's wall clock said then, in milliseconds since 1970.
    pub wall_ms: u64,
}

impl Reading {
    /// How far the leader's clock is ahead, in milliseconds; negative where it is behind.
    fn offset(self) -> i64 {
        let offset = i128::from(self.wall_ms) - i128::from(self.claimed_ms);
        i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX })
    }
}

/// How far the leader's wall clock is ahead of the median of the clocks that heartbeats claim, in
/// milliseconds; negative where it is behind, `None` where there are none. A reading for each
/// region that is not offline, of its last heartbeat.
///
/// Of an even number the leader's own clock is one more, so that the median is a clock and not the
/// middle between two: of two regions that contradict each other, the one is right that agrees
/// with the leader.
#[must_use]
pub fn median_offset(heartbeats: impl IntoIterator<Item = Reading>) -> Option<i64> {
    let mut offsets: Vec<i64> = heartbeats.into_iter().map(Reading::offset).collect();
    if offsets.is_empty() {
        return None;
    }
    if offsets.len() % 2 == 0 {
        offsets.push(0);
    }
    offsets.sort_unstable();
    offsets.get(offsets.len() / 2).copied()
}

/// Whether the leader's wall clock is so far from the regions' that nothing is to be forgotten,
/// expired or swept by it: more than [`CLOCK_OFF_MS`]. Where nobody is there to compare with,
/// nothing speaks against it.
#[must_use]
pub fn clock_is_off(median_offset: Option<i64>) -> bool {
    median_offset.is_some_and(|offset| offset.unsigned_abs() > CLOCK_OFF_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const Y2001: u64 = 978_307_200_000;
    const Y2026: u64 = 1_767_225_600_000;
    const Y2099: u64 = 4_070_908_800_000;

    fn is_off(wall_ms: u64, claimed: &[u64]) -> bool {
        clock_is_off(median_offset(
            claimed.iter().map(|claimed_ms| Reading { claimed_ms: *claimed_ms, wall_ms }),
        ))
    }

    #[test]
    fn most_clocks_decide() {
        assert!(!is_off(Y2026, &[]), "nobody to compare with");
        assert!(!is_off(Y2026, &[Y2026]));
        assert!(is_off(Y2026, &[Y2099]), "one of two is wrong, and nobody knows which");
        assert!(!is_off(Y2026, &[Y2026, Y2099]), "two of three agree");
        assert!(!is_off(Y2026, &[Y2001, Y2099]), "each is alone, and the leader in the middle");
        assert!(is_off(Y2099, &[Y2026, Y2026]));
        assert!(is_off(Y2001, &[Y2026, Y2026]));
        assert!(is_off(Y2099, &[Y2026, Y2026, Y2099]));
        assert!(!is_off(Y2026, &[Y2026, Y2026, Y2099]));
    }

    #[test]
    fn five_minutes_are_not_yet_off() {
        for wall in [Y2026 + CLOCK_OFF_MS, Y2026 - CLOCK_OFF_MS] {
            assert!(!is_off(wall, &[Y2026]));
        }
        for wall in [Y2026 + CLOCK_OFF_MS + 1, Y2026 - CLOCK_OFF_MS - 1, 0, u64::MAX] {
            assert!(is_off(wall, &[Y2026]));
        }
        assert_eq!(median_offset([Reading { claimed_ms: 5, wall_ms: 3 }]), Some(-2));
        assert_eq!(median_offset([Reading { claimed_ms: u64::MAX, wall_ms: 0 }]), Some(i64::MIN));
        assert!(clock_is_off(Some(i64::MIN)));
    }

    proptest! {
        /// Where more than half of the regions agree, the others change nothing.
        #[test]
        fn a_minority_is_not_heard(
            others in proptest::collection::vec(any::<u64>(), 0..5),
            wall in prop_oneof![Just(Y2001), Just(Y2026), Just(Y2099)],
        ) {
            let mut claimed = others.clone();
            claimed.extend(std::iter::repeat_n(Y2026, others.len() + 1));
            prop_assert_eq!(is_off(wall, &claimed), wall != Y2026);
        }
    }
}
