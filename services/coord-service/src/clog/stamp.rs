//! The time stamps of records, which are for people: RFC 3339, UTC, microseconds.
//!
//! This is the one place of the logs that asks what time of day it is. Nothing is decided by it.

use std::time::Duration;

/// The last second that a stamp can show: 9999-12-31T23:59:59Z.
const LAST: u64 = 253_402_300_799;

/// How long ago 1970 began. A clock that is set to before that shows 1970.
#[expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a log line tells people what their clock showed; nothing is decided by it"
)]
pub(super) fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Writes stamps. It keeps the last second's text, since most records follow another one closely.
#[derive(Debug)]
pub(super) struct Stamps {
    second: u64,
    /// `1970-01-01T00:00:00`
    text: [u8; 19],
}

impl Stamps {
    pub(super) const fn new() -> Self {
        Stamps { second: 0, text: *b"1970-01-01T00:00:00" }
    }

    /// Writes `1970-01-01T00:00:00.000000Z`, for a time since 1970 began.
    pub(super) fn write(&mut self, since: Duration, out: &mut Vec<u8>) {
        let second = since.as_secs().min(LAST);
        if second != self.second {
            self.second = second;
            self.text = text_of(second);
        }
        out.extend_from_slice(&self.text);
        let mut micros = *b".000000Z";
        if let Some(digits) = micros.get_mut(1..7) {
            put(digits, since.subsec_micros());
        }
        out.extend_from_slice(&micros);
    }
}

/// Date and time of a second.
fn text_of(second: u64) -> [u8; 19] {
    let (days, rest) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let numbers = [
        (0..4, year),
        (5..7, month),
        (8..10, day),
        (11..13, rest / 3_600),
        (14..16, rest / 60 % 60),
        (17..19, rest % 60),
    ];
    let mut text = *b"0000-00-00T00:00:00";
    for (place, number) in numbers {
        if let Some(digits) = text.get_mut(place) {
            put(digits, u32::try_from(number).unwrap_or_default());
        }
    }
    text
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Years are taken to begin in March, so that the leap day is the last one: then the lengths of
/// months follow `(153 m + 2) / 5`, and 400 years have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let (month, in_next_year) = match from_march {
        0..=9 => (from_march + 3, 0),
        _ => (from_march - 9, 1),
    };
    (era * 400 + year_of_era + in_next_year, month, day)
}

/// Fills `digits` with the last digits of a number.
fn put(digits: &mut [u8], mut number: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(since: Duration) -> String {
        let mut out = Vec::new();
        Stamps::new().write(since, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_times_are_shown_right() {
        for (second, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_000_000_000, "2001-09-09T01:46:40"),
            (1_709_164_800, "2024-02-29T00:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (LAST, "9999-12-31T23:59:59"),
            (u64::MAX, "9999-12-31T23:59:59"),
        ] {
            assert_eq!(stamp(Duration::from_secs(second)), format!("{text}.000000Z"));
        }
        assert_eq!(stamp(Duration::from_nanos(1_999_999_999)), "1970-01-01T00:00:01.999999Z");
        assert_eq!(stamp(Duration::from_micros(7)), "1970-01-01T00:00:00.000007Z");
    }

    /// All days that there are, against a calendar that is turned page by page.
    #[test]
    fn each_day_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..=LAST / 86_400 {
            assert_eq!(civil(days), (year, month, day), "day {days}");
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }

    #[test]
    fn the_kept_second_is_not_mistaken_for_another() {
        let mut stamps = Stamps::new();
        for second in [5, 5, 6, 5, 86_405] {
            let mut out = Vec::new();
            stamps.write(Duration::new(second, 1_000), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), stamp(Duration::new(second, 1_000)));
        }
    }
}
