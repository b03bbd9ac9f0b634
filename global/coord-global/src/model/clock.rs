//! Times that decide who was last, and nothing else (G11).
//!
//! A time is claimed by who makes an edit: its wall clock, or a little more than the latest that it
//! has seen, so that whoever follows is later also where its clock is years behind. A clock that is
//! years ahead wins for as long as the edit travels: the fold takes no time that is more than
//! [`AHEAD_MS`] beyond the moment in which the edit was received.

use serde::{Deserialize, Serialize};

/// How far a claimed time may lie ahead of the moment in which the coordinator took the edit, in
/// milliseconds. What claims more counts as this.
pub const AHEAD_MS: u64 = 5_000;

/// A hybrid time: milliseconds of the wall clock since 1970, and a counter for what happened in
/// the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hlc {
    /// Milliseconds since 1970.
    pub ms: u64,
    /// Counts on where the wall clock does not.
    pub counter: u32,
}

impl Hlc {
    /// That moment of a wall clock.
    #[must_use]
    pub const fn at(ms: u64) -> Self {
        Self { ms, counter: 0 }
    }

    /// A time for who reads `ms` on its clock and has seen `seen`: later than that in any case.
    #[must_use]
    pub fn after(ms: u64, seen: Self) -> Self {
        if ms > seen.ms {
            return Self::at(ms);
        }
        match seen.counter.checked_add(1) {
            Some(counter) => Self { ms: seen.ms, counter },
            None => Self::at(seen.ms.saturating_add(1)),
        }
    }

    /// What counts of a time that was claimed by an edit that was received at `received_ms` on the
    /// coordinator's clock.
    #[must_use]
    pub fn capped(self, received_ms: u64) -> Self {
        self.min(Self::at(received_ms.saturating_add(AHEAD_MS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Y2001: u64 = 978_307_200_000;
    const Y2026: u64 = 1_767_225_600_000;
    const Y2099: u64 = 4_070_908_800_000;

    #[test]
    fn who_follows_is_later_whatever_its_clock_says() {
        let seen = Hlc::at(Y2026);
        for clock in [0, Y2001, Y2026, Y2026 + 1, Y2099, u64::MAX] {
            assert!(Hlc::after(clock, seen) > seen, "{clock}");
        }
        let full = Hlc { ms: Y2026, counter: u32::MAX };
        assert!(Hlc::after(Y2001, full) > full);
    }

    #[test]
    fn a_clock_that_is_ahead_counts_for_five_seconds() {
        let claimed = Hlc::after(Y2099, Hlc::at(Y2026));
        assert_eq!(claimed.capped(Y2026), Hlc::at(Y2026 + AHEAD_MS));
        let behind = Hlc::after(Y2001, Hlc::default());
        assert_eq!(behind.capped(Y2026), behind);
    }
}
