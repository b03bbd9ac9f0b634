//! Leases.

use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::types::LeaseId;

/// The longest lease that can be asked for, in seconds (R7).
pub const MAX_TTL_SECONDS: u64 = 9_000_000_000;

/// A granted lease (S5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The granted TTL: whole seconds, never less than was asked for.
    pub ttl: Duration,
}

/// What a store knows of a live lease (S5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The time left until it expires unless it is renewed, as coarse as whole seconds rounded
    /// down. For people; deadlines count from when a renewal was sent.
    pub remaining: Duration,
    /// The keys on it, in byte order.
    pub keys: Vec<Bytes>,
}

/// Rounds a TTL up to whole seconds, as every store does (R7).
///
/// # Errors
///
/// `InvalidArgument` for zero and for more than [`MAX_TTL_SECONDS`].
pub fn round_ttl(operation: &'static str, ttl: Duration) -> Result<Duration> {
    if ttl.is_zero() {
        return Err(Error::invalid_argument(operation, "a TTL of zero"));
    }
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    if seconds > MAX_TTL_SECONDS {
        return Err(Error::invalid_argument(operation, "a TTL of more than 9,000,000,000 s"));
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_rounded_up_and_bounded() {
        let round = |ttl| round_ttl("t", ttl).map_err(|error| error.kind());
        assert_eq!(round(Duration::from_nanos(1)), Ok(Duration::from_secs(1)));
        assert_eq!(round(Duration::from_millis(1_001)), Ok(Duration::from_secs(2)));
        assert_eq!(round(Duration::from_secs(9_000_000_000)), Ok(Duration::from_secs(9_000_000_000)));
        assert_eq!(round(Duration::new(9_000_000_000, 1)), Err(crate::ErrorKind::InvalidArgument));
        assert_eq!(round(Duration::MAX), Err(crate::ErrorKind::InvalidArgument));
        assert_eq!(round(Duration::ZERO), Err(crate::ErrorKind::InvalidArgument));
    }
}
