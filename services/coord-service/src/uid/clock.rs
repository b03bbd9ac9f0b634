//! The two clocks that a generator goes by.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coord::coord_core::Home;
use tokio::time::Instant;

use super::layout::EPOCH_UNIX_MS;

/// What both clocks say, as nearly at once as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// The clock of day, in nanoseconds since the epoch of the ids; zero before that.
    pub(super) day: u64,
    /// The monotonic clock, in nanoseconds since the generator was made.
    pub(super) monotonic: u64,
}

/// A clock of day: how long ago 1970 was.
type GivenClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Where the time of day comes from.
#[derive(Clone, Default)]
pub(super) enum DayClock {
    /// The machine's clock.
    #[default]
    Machine,
    /// A clock that the caller has given.
    Given(GivenClock),
}

impl DayClock {
    fn since_1970(&self) -> Duration {
        match self {
            DayClock::Machine => machine(),
            DayClock::Given(clock) => clock(),
        }
    }
}

impl fmt::Debug for DayClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DayClock::Machine => "Machine",
            DayClock::Given(_) => "Given",
        })
    }
}

/// What the machine's clock says; zero where it stands before 1970.
///
/// The one place that asks the time of day, and only for what the ids say of when they were made,
/// which other machines compare. Nothing that must hold rests on it: that no id comes twice rests
/// on the horizon in the store, and deadlines go by the monotonic clock.
#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "ids carry the time of day (R65)")]
fn machine() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Both clocks of a generator.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    day: DayClock,
    home: Home,
    origin: Instant,
}

impl Clocks {
    /// The monotonic clock is that of `home`, by which leases go too.
    pub(super) fn new(day: DayClock, home: Home) -> Self {
        let origin = home.now();
        Clocks { day, home, origin }
    }

    /// Where the monotonic clock is at home.
    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// Reads both. The clock of day comes first: whatever keeps the thread between the two then
    /// makes it look late, and never early.
    pub(super) fn read(&self) -> Reading {
        let day = nanos(self.day.since_1970().saturating_sub(Duration::from_millis(EPOCH_UNIX_MS)));
        Reading { day, monotonic: self.monotonic() }
    }

    /// The monotonic clock alone.
    pub(super) fn monotonic(&self) -> u64 {
        nanos(self.home.now().saturating_duration_since(self.origin))
    }
}

/// A time in nanoseconds; what does not fit, five centuries, is as good as for ever.
pub(super) fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_clock_is_read_in_nanoseconds_since_the_epoch() {
        let clocks = Clocks::new(DayClock::Machine, Home::callers());
        let (one, two) = (clocks.read(), clocks.read());
        // Somewhere between 2024 and the end of the layout.
        assert!((410_000_000_000_000_000..2_200_000_000_000_000_000).contains(&one.day), "{one:?}");
        assert!(two.monotonic >= one.monotonic);
    }

    #[test]
    fn a_clock_before_the_epoch_is_at_the_epoch() {
        let given = DayClock::Given(Arc::new(|| Duration::from_secs(5)));
        assert_eq!(Clocks::new(given, Home::callers()).read().day, 0);
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }
}
