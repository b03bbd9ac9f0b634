//! Whether the store can be reached, as the provider's own requests tell.

use std::time::Duration;

use tokio::time::Instant;

/// How long nothing but failures may come before the store counts as out of reach: a member that is
/// changed, or a leader that is elected, is no outage.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// What the requests of a provider have shown so far. Pure: it is told what time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reach {
    /// The last request was answered, or none was sent.
    #[default]
    Within,
    /// Requests fail since then.
    Doubtful(Instant),
    /// Requests fail since then, and the operator was told.
    Out(Instant),
}

/// What the operator is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The store is out of reach.
    Out,
    /// It is back after so long.
    Back(Duration),
}

impl Reach {
    /// A request failed because the store could not be reached.
    pub(super) fn failed(&mut self, now: Instant) -> Option<News> {
        match *self {
            Reach::Within => *self = Reach::Doubtful(now),
            Reach::Doubtful(since) if now.saturating_duration_since(since) >= GRACE => {
                *self = Reach::Out(since);
                return Some(News::Out);
            }
            Reach::Doubtful(_) | Reach::Out(_) => {}
        }
        None
    }

    /// A request was answered.
    pub(super) fn answered(&mut self, now: Instant) -> Option<News> {
        match std::mem::take(self) {
            Reach::Out(since) => Some(News::Back(now.saturating_duration_since(since))),
            Reach::Within | Reach::Doubtful(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn one_outage_is_told_once_and_its_end_once() {
        let start = Instant::now();
        let mut reach = Reach::default();
        assert_eq!(reach.failed(start), None);
        assert_eq!(reach.failed(at(start, 999)), None);
        assert_eq!(reach.failed(at(start, 1_000)), Some(News::Out));
        assert_eq!(reach.failed(at(start, 60_000)), None);
        assert_eq!(reach.answered(at(start, 61_000)), Some(News::Back(Duration::from_secs(61))));
        assert_eq!(reach.answered(at(start, 62_000)), None);
    }

    #[test]
    fn failures_between_answers_are_no_outage() {
        let start = Instant::now();
        let mut reach = Reach::default();
        for second in 0..10 {
            assert_eq!(reach.failed(at(start, second * 2_000)), None);
            assert_eq!(reach.answered(at(start, second * 2_000 + 500)), None);
        }
    }
}
