//! What a limiter answers.

use std::fmt;
use std::time::Duration;

/// Whether a request may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a request that is denied must not go on"]
pub enum Decision {
    /// It may, and is counted.
    Allowed,
    /// It may not, and took nothing.
    Denied(Denial),
}

impl Decision {
    /// Whether the request may go on.
    #[inline]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allowed)
    }

    /// When to try again, for a `Retry-After`: after this time as much would be admitted, if nobody
    /// else took anything. `None` for what is allowed, and where trying again does not help yet.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Decision::Allowed => None,
            Decision::Denied(denial) => denial.retry_after,
        }
    }

    pub(super) fn denied(reason: DenialReason, retry_after: Option<Duration>) -> Self {
        Decision::Denied(Denial { reason, retry_after })
    }
}

/// Why a request may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Denial {
    /// Why.
    pub reason: DenialReason,
    /// When to try again; `None` where trying again does not help yet.
    pub retry_after: Option<Duration>,
}

/// Why a request may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialReason {
    /// The limit is reached.
    Limit,
    /// It asks for more at once than the burst, or this instance's share of it.
    TooMany,
    /// This instance has just come, or come back, and the others make room for it (R69).
    Settling,
    /// This instance is not among those that share the limit: it is not registered, or not any
    /// more.
    NotRegistered,
    /// There are more instances than requests to admit in a second, and this one has no share.
    NoShare,
    /// The rule is strict, and this instance is cut off from the registry, or has lost its
    /// registration.
    CutOff,
}

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DenialReason::Limit => "the limit is reached",
            DenialReason::TooMany => "it asks for more at once than is ever admitted here",
            DenialReason::Settling => "this instance has just joined those that share the limit",
            DenialReason::NotRegistered => "this instance is not registered, and has no share of the limit",
            DenialReason::NoShare => "there are too many instances for each to have a share of the limit",
            DenialReason::CutOff => "this instance is cut off from the others that share the limit",
        })
    }
}
