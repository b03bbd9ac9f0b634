//! Leases: their deadlines and their keys.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use coord_api::LeaseId;
use coord_api::store::LeaseInfo;

/// How long after its deadline a lease expires. A holder that counts the same TTL on the same clock
/// thus always knows first, also when virtual time jumps.
pub(crate) const LAG: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct LiveLease {
    ttl: Duration,
    deadline: Duration,
    keys: BTreeSet<Bytes>,
}

#[derive(Debug)]
pub(crate) struct LeaseTable {
    live: HashMap<LeaseId, LiveLease>,
    deadlines: BTreeSet<(Duration, LeaseId)>,
    next: u64,
}

impl LeaseTable {
    /// No leases; the next one gets the number `next`.
    pub(crate) fn new(next: u64) -> Self {
        LeaseTable { live: HashMap::new(), deadlines: BTreeSet::new(), next }
    }

    /// The number of the next lease: every number below was given out.
    pub(crate) fn next_id(&self) -> u64 {
        self.next
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.live.contains_key(&id)
    }

    pub(crate) fn grant(&mut self, now: Duration, ttl: Duration) -> LeaseId {
        let id = LeaseId::new(self.next);
        self.next = self.next.saturating_add(1);
        self.restore(now, id, ttl);
        id
    }

    /// Adds a lease that already has its number, with its full TTL from `now`.
    pub(crate) fn restore(&mut self, now: Duration, id: LeaseId, ttl: Duration) {
        let deadline = now.saturating_add(ttl);
        self.deadlines.insert((deadline, id));
        self.live.insert(id, LiveLease { ttl, deadline, keys: BTreeSet::new() });
    }

    /// Starts the TTL anew and returns it; `None` when the lease is gone.
    pub(crate) fn keep_alive(&mut self, now: Duration, id: LeaseId) -> Option<Duration> {
        let lease = self.live.get_mut(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now.saturating_add(lease.ttl);
        self.deadlines.insert((lease.deadline, id));
        Some(lease.ttl)
    }

    pub(crate) fn info(&self, now: Duration, id: LeaseId) -> Option<LeaseInfo> {
        let lease = self.live.get(&id)?;
        Some(LeaseInfo {
            remaining: lease.deadline.saturating_sub(now),
            keys: lease.keys.iter().cloned().collect(),
        })
    }

    /// Ends a lease and hands over its keys; `None` when it is gone.
    pub(crate) fn remove(&mut self, id: LeaseId) -> Option<BTreeSet<Bytes>> {
        let lease = self.live.remove(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        Some(lease.keys)
    }

    /// When the next lease expires.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| deadline.saturating_add(LAG))
    }

    /// The lease that expires first, if it is due.
    pub(crate) fn due(&self, now: Duration) -> Option<LeaseId> {
        let (deadline, id) = self.deadlines.first()?;
        (deadline.saturating_add(LAG) <= now).then_some(*id)
    }

    pub(crate) fn attach(&mut self, id: LeaseId, key: Bytes) {
        if let Some(lease) = self.live.get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    pub(crate) fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.live.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
}
