//! How a client is doing, as far as it knows by itself.

use std::time::Duration;

use coord_api::{Error, LeaseId};

/// How a client is doing, as far as it knows by itself: nothing is asked of the store for it.
///
/// It is what the operator's page shows first, and what a service may answer with when it is asked
/// for its health. Metrics tell the same over time.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ClientHealth {
    /// For how long nothing but failures has come from the store; `None` while it answers, and for
    /// the first second of an outage.
    pub out_of_reach: Option<Duration>,
    /// Its sessions, by their leases. None while it holds nothing.
    pub sessions: Vec<SessionHealth>,
    /// How many of its watches on the store are fed by it.
    pub live_watches: usize,
    /// How many are not, for the time being: they resume by themselves.
    pub suspended_watches: usize,
}

impl ClientHealth {
    /// Whether there is nothing to be told: the store answers, each session's last renewal was
    /// answered, and each watch is fed.
    pub fn is_good(&self) -> bool {
        self.out_of_reach.is_none()
            && self.suspended_watches == 0
            && self.sessions.iter().all(|session| session.failure.is_none())
    }
}

/// How a session is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionHealth {
    /// Its lease.
    pub session: LeaseId,
    /// How long the lease lives after a renewal.
    pub ttl: Duration,
    /// How long ago the last renewal that was answered had been sent.
    pub renewed_ago: Duration,
    /// How much time there is until what it carries is given up, unless a renewal is answered
    /// (R32).
    pub left: Duration,
    /// How the last renewal failed, where it did.
    pub failure: Option<Error>,
}
