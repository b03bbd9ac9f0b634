//! Times for people.

use std::time::Duration;

use coord::coord_core::time_of_day_ms;

/// The end of the year 9999, after which RFC 3339 has no name for a time.
const LAST_MS: u64 = 253_402_300_799_999;

/// A time that a program wrote down, as RFC 3339 in whole seconds; the number itself where it is no
/// time.
pub(crate) fn at(ms: u64) -> String {
    #[allow(clippy::disallowed_types, reason = "a stamp that was read, and is shown")]
    let time = std::time::SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    let time = time.filter(|_| ms <= LAST_MS);
    time.map_or_else(|| ms.to_string(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// What time it is.
pub(crate) fn now() -> Duration {
    Duration::from_millis(time_of_day_ms())
}

/// How long ago that was, in at most two units; clocks may differ, so that it may be yet to come.
pub(crate) fn ago(ms: u64) -> String {
    short(now().saturating_sub(Duration::from_millis(ms)))
}

/// A time in at most two units.
pub(crate) fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_units_are_enough() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (61, "1m01s"), (3_700, "1h01m"), (90_000, "1d01h"), (864_000, "10d00h")]
        {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
        assert_eq!(at(1_000), "1970-01-01T00:00:01Z");
        assert_eq!(
            (at(LAST_MS), at(LAST_MS + 1)),
            ("9999-12-31T23:59:59Z".to_owned(), "253402300800000".to_owned())
        );
        assert_eq!(ago(u64::MAX / 2), "0s", "yet to come");
    }
}
