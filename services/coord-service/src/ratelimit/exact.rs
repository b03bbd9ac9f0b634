//! The seam for limits that all instances share to the last request (R70).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord::{Error, Result};
use parking_lot::Mutex;

use super::bucket::{SECOND, Ticks};
use super::rule::LimitRule;

/// How long a decision waits for the exact scope before the instance's share decides (R70).
pub const EXACT_TIMEOUT: Duration = Duration::from_millis(50);

/// After a failure, how long nobody asks before one tries again.
const PAUSE: Ticks = SECOND;

/// Decides for all instances, to the last request: a server that they all use, such as one script
/// on Redis.
///
/// # Contract
///
/// - **R70** One call decides and counts, atomically, by the server's own time, so that no clock of
///   an instance counts.
/// - **R68** A rule that was changed neither refills nor empties its buckets. A bucket is best kept
///   as the time at which it is full, with the time in which an empty one fills
///   ([`ExactRequest::depth`]): where the latter is another one than before, what is missing is
///   multiplied by the new one over the old one.
/// - Buckets that are full need not be kept, so each expires when it is full.
///
/// It need not bound its own time: a call that is not done within [`EXACT_TIMEOUT`] is dropped, at
/// any point. It may have counted then.
#[async_trait]
pub trait ExactScope: fmt::Debug + Send + Sync + 'static {
    /// Decides on one request.
    ///
    /// # Errors
    ///
    /// Of any kind: the instance's share decides then.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have counted, or may yet.
    async fn decide(&self, request: &ExactRequest<'_>) -> Result<ExactAnswer>;
}

/// What is to be decided.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ExactRequest<'a> {
    /// The name of the rule that is used, which with the key names the bucket.
    pub rule: &'a str,
    /// Whose bucket it is: a user, an address, as the application named it.
    pub key: &'a str,
    /// How many requests are to be admitted at once, all or none. Not zero.
    pub count: u32,
    /// How much is admitted.
    pub limit: LimitRule,
}

impl<'a> ExactRequest<'a> {
    /// One request.
    pub fn new(rule: &'a str, key: &'a str, count: u32, limit: LimitRule) -> Self {
        ExactRequest { rule, key, count, limit }
    }

    /// The time in which one request comes back, rounded up to whole nanoseconds.
    pub fn interval(&self) -> Duration {
        let per = self.limit.per().duration().as_nanos();
        let interval = per.div_ceil(u128::from(self.limit.rate().max(1)));
        Duration::from_nanos(u64::try_from(interval).unwrap_or(u64::MAX))
    }

    /// The time in which an empty bucket is full: the burst times the interval.
    pub fn depth(&self) -> Duration {
        self.interval().saturating_mul(self.limit.burst())
    }
}

/// What the exact scope decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExactAnswer {
    /// All of it is admitted, and counted.
    Allowed,
    /// Nothing is, and nothing was counted.
    Denied {
        /// When as much would be admitted, if nobody else took anything; `None` where more is asked
        /// for than the burst.
        retry_after: Option<Duration>,
    },
}

/// How the exact scope is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExactStatus {
    /// Whether there is one.
    pub is_there: bool,
    /// Whether it answers, as far as was seen. While it does not, one decision a second asks it,
    /// and the instance's share decides on all others at once.
    pub answers: bool,
    /// Why it did not answer the last time, until it does.
    pub last_error: Option<Error>,
    /// How many decisions it made.
    pub decided: u64,
    /// How many decisions of exact rules the instance's share has made in its place, because it
    /// was not there, not asked, or did not answer.
    pub in_its_place: u64,
}

/// How a decision of an exact rule came about, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// It decided.
    Answered,
    /// It did not answer in time.
    TimedOut,
    /// It failed.
    Failed,
    /// It had not answered shortly before.
    Skipped,
    /// There is none.
    Absent,
    /// The caller does not wait.
    NotAwaited,
}

impl Route {
    pub(super) const ALL: [Route; 6] =
        [Route::Answered, Route::TimedOut, Route::Failed, Route::Skipped, Route::Absent, Route::NotAwaited];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Route::Answered => "answered",
            Route::TimedOut => "timeout",
            Route::Failed => "failed",
            Route::Skipped => "skipped",
            Route::Absent => "absent",
            Route::NotAwaited => "not_awaited",
        }
    }
}

/// Whether the exact scope is asked, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// When it may be asked again; zero while it answers.
    again: AtomicU64,
    routes: [AtomicU64; Route::ALL.len()],
    last_error: Mutex<Option<Error>>,
}

impl Asking {
    /// Whether to ask at this moment. While it does not answer, one is told so in each second.
    pub(super) fn may_ask(&self, now: Ticks) -> bool {
        let again = self.again.load(Ordering::Relaxed);
        let next = now.saturating_add(PAUSE);
        again == 0
            || (again <= now
                && self.again.compare_exchange(again, next, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    }

    pub(super) fn count(&self, route: Route) {
        if let Some(counter) = self.routes.get(route as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn answered(&self) {
        self.count(Route::Answered);
        if self.again.swap(0, Ordering::Relaxed) != 0 {
            *self.last_error.lock() = None;
        }
    }

    pub(super) fn failed(&self, route: Route, error: Error, now: Ticks) {
        self.count(route);
        *self.last_error.lock() = Some(error);
        self.again.store(now.saturating_add(PAUSE), Ordering::Relaxed);
    }

    /// How often each route was taken.
    pub(super) fn totals(&self) -> [(Route, u64); Route::ALL.len()] {
        Route::ALL.map(|route| {
            let total = self.routes.get(route as usize).map_or(0, |counter| counter.load(Ordering::Relaxed));
            (route, total)
        })
    }

    pub(super) fn status(&self, is_there: bool) -> ExactStatus {
        let totals = self.totals();
        let sum = |answered| {
            let routes = totals.iter().filter(|(route, _)| (*route == Route::Answered) == answered);
            routes.map(|(_, total)| total).sum()
        };
        ExactStatus {
            is_there,
            answers: is_there && self.again.load(Ordering::Relaxed) == 0,
            last_error: self.last_error.lock().clone(),
            decided: sum(true),
            in_its_place: sum(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use coord::ErrorKind;

    use super::*;

    #[test]
    fn while_it_does_not_answer_one_a_second_asks() {
        let asking = Asking::default();
        assert!(asking.may_ask(0) && asking.may_ask(0));
        asking.failed(Route::Failed, Error::new(ErrorKind::Unavailable, "t", "away"), 5);
        assert!(!asking.may_ask(5) && !asking.may_ask(5 + PAUSE - 1));
        assert!(asking.may_ask(5 + PAUSE), "one");
        assert!(!asking.may_ask(5 + PAUSE), "and no other");
        assert!(asking.may_ask(5 + 2 * PAUSE), "also where the one was dropped");
        let status = asking.status(true);
        assert!(!status.answers && status.last_error.is_some());
        asking.answered();
        assert!(asking.may_ask(5) && asking.may_ask(5));
        let status = asking.status(true);
        assert!(status.answers && status.last_error.is_none());
        assert_eq!((status.decided, status.in_its_place), (1, 1));
    }

    #[test]
    fn a_request_says_what_a_script_needs() {
        let request = ExactRequest::new("login", "ann", 1, LimitRule::per_second(300).with_burst(3));
        assert_eq!(request.interval(), Duration::from_nanos(3_333_334));
        assert_eq!(request.depth(), Duration::from_nanos(10_000_002));
    }
}
