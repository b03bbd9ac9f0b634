//! Failures on demand, as a cluster in trouble gives them.

use parking_lot::Mutex;
use tonic::{Code, Status};

/// How a cluster in trouble fails requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// `etcdserver: leader changed`. Nothing was done.
    LeaderChanged,
    /// `etcdserver: no leader`. Nothing was done.
    NoLeader,
    /// `etcdserver: too many requests`. Nothing was done.
    TooManyRequests,
    /// `etcdserver: request timed out`. On a real cluster the request may have been done
    /// nevertheless; here it was not.
    TimedOut,
}

impl Failure {
    fn status(self) -> Status {
        let (code, text) = match self {
            Failure::LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
            Failure::NoLeader => (Code::Unavailable, "etcdserver: no leader"),
            Failure::TooManyRequests => (Code::ResourceExhausted, "etcdserver: too many requests"),
            Failure::TimedOut => (Code::Unavailable, "etcdserver: request timed out"),
        };
        Status::new(code, text)
    }
}

/// Which requests are to fail.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<Option<(Failure, usize)>>);

impl Failures {
    pub(crate) fn set(&self, failure: Failure, requests: usize) {
        *self.0.lock() = Some((failure, requests));
    }

    /// Whether a request may go on.
    pub(crate) fn check(&self) -> Result<(), Status> {
        let mut next = self.0.lock();
        let Some((failure, left)) = *next else { return Ok(()) };
        *next = left.checked_sub(1).filter(|left| *left > 0).map(|left| (failure, left));
        if left == 0 { Ok(()) } else { Err(failure.status()) }
    }
}
