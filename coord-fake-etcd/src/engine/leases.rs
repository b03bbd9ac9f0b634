//! Leases with their deadlines, and the keys on them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;

/// A lease that lives.
#[derive(Debug)]
pub(crate) struct Lease {
    /// In seconds, as granted.
    pub(crate) ttl: i64,
    deadline: Duration,
    keys: BTreeSet<Bytes>,
}

impl Lease {
    /// How long it has left.
    pub(crate) fn remaining(&self, now: Duration) -> Duration {
        self.deadline.saturating_sub(now)
    }

    /// The keys on it, in their order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.iter()
    }
}

/// All leases. Times are since the store's own epoch.
#[derive(Debug, Default)]
pub(crate) struct LeaseTable {
    leases: BTreeMap<i64, Lease>,
    deadlines: BTreeSet<(Duration, i64)>,
    /// On which lease a key is.
    holders: HashMap<Bytes, i64>,
}

impl LeaseTable {
    pub(crate) fn get(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// The ids of all, that which ends first first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = i64> {
        self.deadlines.iter().map(|(_, id)| *id)
    }

    /// Adds a lease under an id that none has.
    pub(crate) fn insert(&mut self, now: Duration, id: i64, ttl: i64) {
        let deadline = now + seconds(ttl);
        self.deadlines.insert((deadline, id));
        self.leases.insert(id, Lease { ttl, deadline, keys: BTreeSet::new() });
    }

    /// Starts a lease's TTL anew, and says how long it is.
    pub(crate) fn renew(&mut self, now: Duration, id: i64) -> Option<i64> {
        let lease = self.leases.get_mut(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + seconds(lease.ttl);
        self.deadlines.insert((lease.deadline, id));
        Some(lease.ttl)
    }

    /// Ends a lease, and says which keys were on it, in their order.
    pub(crate) fn remove(&mut self, id: i64) -> Option<BTreeSet<Bytes>> {
        let lease = self.leases.remove(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        for key in &lease.keys {
            self.holders.remove(key);
        }
        Some(lease.keys)
    }

    /// Puts a key on a lease, or on none, wherever it was before.
    pub(crate) fn attach(&mut self, key: &Bytes, id: Option<i64>) {
        if let Some(before) = self.holders.remove(key) {
            if let Some(lease) = self.leases.get_mut(&before) {
                lease.keys.remove(key);
            }
        }
        let Some(id) = id else { return };
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key.clone());
            self.holders.insert(key.clone(), id);
        }
    }

    /// When the next one ends.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// One whose time is over, the earliest first.
    pub(crate) fn due(&self, now: Duration) -> Option<i64> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}
