//! Leases for what outlives its writer, and is kept for a while: records of work that was done,
//! tokens of writes, delays (R60).
//!
//! They are never renewed, and nothing but their own time ends them: closing the client revokes
//! none of them. What is kept for one time is spread over several leases, so that each is kept for
//! no more than a quarter longer than was asked for, and so that not everything goes at once. A
//! lease that is gone is replaced by another one, and is nobody's loss.

use std::sync::Arc;
use std::time::Duration;

use coord_api::store::{MAX_TTL_SECONDS, round_ttl};
use coord_api::{Error, ErrorKind, LeaseId, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::flight::SingleFlight;
use crate::ground::Ground;

/// Keys that hang on one lease at most: a store deletes what expires together in one step.
const KEYS: usize = 1_000;

/// How many leases may come too late to be of use for one key, until it is given up.
const GRANTS: u32 = 3;

/// How long what is kept for `retention` is kept at most, the store's lag apart: a quarter more, in
/// whole seconds.
///
/// # Errors
///
/// `InvalidArgument` for zero, and for more than a store keeps.
fn longest(operation: &'static str, retention: Duration) -> Result<Duration> {
    let whole = round_ttl(operation, retention)?;
    let seconds = whole.as_secs();
    let longest = seconds.saturating_add(seconds.div_ceil(4));
    if longest > MAX_TTL_SECONDS {
        return Err(Error::invalid_argument(operation, "it is to be kept for more than 7,200,000,000 s"));
    }
    Ok(Duration::from_secs(longest))
}

/// A lease that was granted for a retention.
#[derive(Clone, Copy, Debug)]
struct RetentionLease {
    lease: LeaseId,
    /// The retention that it was granted for, in whole seconds.
    retention: Duration,
    /// Until when it serves that.
    serves_until: Instant,
    /// Until when it is certainly alive.
    expires: Instant,
    keys: usize,
}

impl RetentionLease {
    /// Whether a key that is put on it now is kept for `retention`, and for no longer than
    /// `longest`. One that was granted for another time may serve.
    fn serves(&self, retention: Duration, longest: Duration, now: Instant) -> bool {
        let left = self.expires.saturating_duration_since(now);
        (self.retention == retention && now <= self.serves_until) || (retention <= left && left <= longest)
    }
}

/// The leases that take more keys. Pure: the time comes in.
#[derive(Debug, Default)]
struct RetentionPool {
    leases: Vec<RetentionLease>,
}

impl RetentionPool {
    /// A lease for one more key; `None` where one must be granted.
    fn take(&mut self, retention: Duration, longest: Duration, now: Instant) -> Option<LeaseId> {
        self.leases.retain(|lease| lease.keys < KEYS && lease.expires > now);
        let fit = |lease: &&mut RetentionLease| lease.serves(retention, longest, now);
        let lease = self.leases.iter_mut().filter(fit).min_by_key(|lease| lease.expires)?;
        lease.keys += 1;
        Some(lease.lease)
    }

    /// A lease was granted for `retention`; it was asked for at `sent`.
    fn add(&mut self, lease: LeaseId, ttl: Duration, retention: Duration, longest: Duration, sent: Instant) {
        self.leases.push(RetentionLease {
            lease,
            retention,
            serves_until: sent + longest.saturating_sub(retention),
            expires: sent + ttl,
            keys: 0,
        });
    }

    /// A lease is gone.
    fn remove(&mut self, lease: LeaseId) {
        self.leases.retain(|known| known.lease != lease);
    }
}

/// The retention leases of one client.
#[derive(Debug)]
pub(crate) struct Retentions {
    ground: Arc<Ground>,
    pool: Arc<Mutex<RetentionPool>>,
    /// The grant of the next one: once, for all who need one. Says for which retention it came too
    /// late, if it did.
    granting: SingleFlight<Option<Duration>>,
}

impl Retentions {
    pub(crate) fn new(ground: Arc<Ground>) -> Self {
        Retentions { ground, pool: Arc::default(), granting: SingleFlight::default() }
    }

    /// A lease for one key that is to be kept for `retention` from now on.
    pub(crate) async fn lease(&self, operation: &'static str, retention: Duration) -> Result<LeaseId> {
        self.ground.ready(operation)?;
        let longest = longest(operation, retention)?;
        let retention = round_ttl(operation, retention)?;
        let mut too_late = 0;
        loop {
            let taken = self.pool.lock().take(retention, longest, self.ground.home.now());
            if let Some(lease) = taken {
                return Ok(lease);
            }
            if too_late == GRANTS {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    operation,
                    "the store takes longer to grant a lease than the quarter by which it is kept longer",
                ));
            }
            // Of those who need different ones at once, one is served after the other.
            let grant = || {
                let (ground, pool) = (Arc::clone(&self.ground), Arc::clone(&self.pool));
                async move {
                    let sent = ground.home.now();
                    // Not noted as the client's own: closing it leaves what is kept alone.
                    let granted = ground.store.grant_lease(longest).await?;
                    pool.lock().add(granted.id, granted.ttl, retention, longest, sent);
                    let serves_none = ground.home.now() > sent + longest.saturating_sub(retention);
                    Ok(serves_none.then_some(retention))
                }
            };
            let late = self.granting.run(&self.ground.home, operation, grant).await?;
            too_late += u32::from(late == Some(retention));
        }
    }

    /// The store said that a lease is gone: it is used no more.
    pub(crate) fn gone(&self, lease: LeaseId) {
        self.pool.lock().remove(lease);
    }
}

/// Checks a time for which something is to be kept, before any I/O.
///
/// # Errors
///
/// `InvalidArgument` for zero, and for more than 7,200,000,000 s.
pub fn check_retention(operation: &'static str, retention: Duration) -> Result<()> {
    longest(operation, retention).map(drop)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use coord_api::store::{Lease, Store};
    use coord_home::Home;
    use coord_memory::MemoryStore;

    use super::*;
    use crate::Client;

    /// A store that grants after a while.
    #[derive(Debug)]
    struct GrantsLate(MemoryStore, Duration);

    #[async_trait]
    impl Store for GrantsLate {
        async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
            let lease = self.0.grant_lease(ttl).await;
            tokio::time::sleep(self.1).await;
            lease
        }

        coord_api::forward_store! {
            self => self.0;
            range, txn, watch, keep_alive, lease, revoke_lease, status, close
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_granted_too_late_is_an_error_and_no_endless_granting() {
        for (late, is_had) in [(500, true), (1_500, false)] {
            let store = GrantsLate(MemoryStore::new(), Duration::from_millis(late));
            let client = Client::new(Arc::new(store), "t", Home::callers());
            let had = client.retention_lease("t", seconds(1)).await;
            assert_eq!(
                had.as_ref().err().map(Error::kind),
                (!is_had).then_some(ErrorKind::Timeout),
                "{had:?}"
            );
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn longest_of(retention: u64) -> Duration {
        longest("t", seconds(retention)).unwrap()
    }

    struct Pool {
        pool: RetentionPool,
        granted: u64,
        start: Instant,
    }

    impl Pool {
        fn new() -> Self {
            Pool { pool: RetentionPool::default(), granted: 0, start: Instant::now() }
        }

        /// The number of the lease that a key gets which is written at this second.
        fn take(&mut self, retention: u64, at: u64) -> u64 {
            let (longest, now) = (longest_of(retention), self.start + seconds(at));
            let retention = seconds(retention);
            if let Some(lease) = self.pool.take(retention, longest, now) {
                return lease.get();
            }
            self.granted += 1;
            self.pool.add(LeaseId::new(self.granted), longest, retention, longest, now);
            self.pool.take(retention, longest, now).unwrap().get()
        }
    }

    #[test]
    fn there_is_a_new_one_each_quarter_and_each_thousand_keys() {
        let mut pool = Pool::new();
        assert_eq!([0, 5, 10].map(|at| pool.take(40, at)), [1, 1, 1]);
        assert_eq!([11, 21].map(|at| pool.take(40, at)), [2, 2]);
        assert_eq!(pool.take(40, 22), 3);
        let leases: Vec<u64> = (0..KEYS).map(|_| pool.take(40, 23)).collect();
        assert_eq!((leases.first(), leases.last()), (Some(&3), Some(&4)));
        assert_eq!(leases.iter().filter(|lease| **lease == 3).count(), KEYS - 1);
    }

    #[test]
    fn nothing_is_kept_too_short_or_a_quarter_too_long_and_many_times_share_few_leases() {
        let (mut pool, mut ends) = (Pool::new(), std::collections::BTreeMap::new());
        let mut of_long_ones = 0;
        for number in 0..5_000_u64 {
            let (retention, at) = (1 + number * 7_919 % 3_600, number / 50);
            let before = pool.granted;
            let lease = pool.take(retention, at);
            if pool.granted > before {
                ends.insert(lease, at + longest_of(retention).as_secs());
                of_long_ones += usize::from(retention >= 600);
            }
            let kept = ends.get(&lease).unwrap() - at;
            assert!((retention..=longest_of(retention).as_secs()).contains(&kept), "{retention}: {kept}");
        }
        // Some 4,000 keys, most of them for a time that no other one has.
        assert!(of_long_ones < 400, "{of_long_ones} leases");
    }

    #[test]
    fn a_store_that_grants_more_than_was_asked_for_serves_as_well() {
        let (mut pool, start) = (RetentionPool::default(), Instant::now());
        pool.add(LeaseId::new(1), seconds(60), seconds(1), longest_of(1), start);
        assert!(pool.take(seconds(1), longest_of(1), start).is_some());
        assert!(pool.take(seconds(1), longest_of(1), start + seconds(2)).is_none());
    }

    #[test]
    fn one_that_is_gone_is_used_no_more() {
        let mut pool = Pool::new();
        assert_eq!(pool.take(40, 0), 1);
        pool.pool.remove(LeaseId::new(1));
        assert_eq!(pool.take(40, 0), 2);
    }

    #[test]
    fn zero_and_what_no_store_keeps_is_refused() {
        for bad in [Duration::ZERO, seconds(7_200_000_001), Duration::MAX] {
            assert_eq!(check_retention("t", bad).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        assert!(check_retention("t", seconds(7_200_000_000)).is_ok());
    }
}
