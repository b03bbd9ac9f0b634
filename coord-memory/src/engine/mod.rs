//! The engine: revisions, transactions, leases and history as a pure state machine. No clock, no
//! I/O, no async; time comes in as the duration since the store's own epoch.

mod history;
mod keys;
mod leases;
mod read;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Batch, Compare, Lease, LeaseInfo, Op, OpReply, Span, Txn, TxnReply};
use coord_api::{Error, LeaseId, Result, Revision, Value};

use history::History;
pub(crate) use history::{HistoryWindow, Record};
use keys::KeyTable;
pub(crate) use keys::Stored;
use leases::LeaseTable;

/// The revision of an empty store, so that [`Revision::ZERO`] is before everything.
const FIRST_REVISION: Revision = Revision::new(1);

/// What became of a lease; what a persistent storage has to write besides the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseChange {
    Granted(Lease),
    Gone(LeaseId),
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Engine {
    revision: Revision,
    keys: KeyTable,
    leases: LeaseTable,
    history: History,
    lease_changes: Vec<LeaseChange>,
}

/// What a store has to keep beside keys and leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) revision: Revision,
    pub(crate) next_lease: u64,
    pub(crate) keys: u64,
    pub(crate) leases: u64,
}

impl Engine {
    /// An empty store.
    pub(crate) fn new(window: HistoryWindow) -> Self {
        Engine::at(FIRST_REVISION, 1, window)
    }

    /// A store that stands at `revision` and is about to be filled with
    /// [`restore_lease`](Self::restore_lease) and then [`restore_key`](Self::restore_key).
    pub(crate) fn at(revision: Revision, next_lease: u64, window: HistoryWindow) -> Self {
        // Nothing ever happened in a store that is still at its first revision, so its history is
        // complete.
        let oldest = if revision > FIRST_REVISION { revision } else { Revision::ZERO };
        Engine {
            revision: revision.max(FIRST_REVISION),
            keys: KeyTable::default(),
            leases: LeaseTable::new(next_lease),
            history: History::new(oldest, window),
            lease_changes: Vec::new(),
        }
    }

    /// Puts a lease back that was granted before the store was reopened at time zero.
    #[cfg(any(feature = "sled", test))]
    pub(crate) fn restore_lease(&mut self, lease: Lease) {
        self.leases.restore(Duration::ZERO, lease.id, lease.ttl);
    }

    /// Puts a key back. Says whether it fits: it is new, and its lease is there.
    #[cfg(any(feature = "sled", test))]
    pub(crate) fn restore_key(&mut self, key: Bytes, stored: Stored) -> bool {
        if self.keys.get(&key).is_some() || stored.modified > self.revision {
            return false;
        }
        if let Some(id) = stored.lease {
            if !self.leases.contains(id) {
                return false;
            }
            self.leases.attach(id, key.clone());
        }
        self.keys.insert_new(key, Arc::new(stored));
        true
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            revision: self.revision,
            next_lease: self.leases.next_id(),
            keys: self.keys.len() as u64,
            leases: self.leases.len() as u64,
        }
    }

    /// The oldest revision that can be read at or watched after (S4).
    pub(crate) fn oldest(&self) -> Revision {
        self.history.oldest()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<Stored>> {
        self.keys.get(key)
    }

    /// Runs a transaction that [`Txn::validate`] found good (S3).
    pub(crate) fn txn(&mut self, txn: Txn) -> Result<TxnReply> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { txn.then } else { txn.otherwise };
        // Nothing below fails but a bad range, and that cannot be bad here: so a transaction is
        // whole or not at all.
        for op in &ops {
            if let Op::Put { lease: Some(id), .. } = op {
                if !self.leases.contains(*id) {
                    return Err(Error::lease_lost("store.txn", "the lease of a put is gone"));
                }
            }
        }
        let next = self.revision.next();
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            replies.push(match op {
                Op::Put { key, value, lease } => {
                    self.put(next, key, value, lease);
                    self.revision = next;
                    OpReply::Put
                }
                Op::Delete { key } => {
                    let existed = self.delete(next, key);
                    if existed {
                        self.revision = next;
                    }
                    OpReply::Delete { existed }
                }
                Op::Range(range) => {
                    OpReply::Range(self.range(&range).map_err(|error| error.in_operation("store.txn"))?)
                }
            });
        }
        Ok(TxnReply { succeeded, revision: self.revision, replies })
    }

    /// Grants a lease of a TTL that is already rounded (S5).
    pub(crate) fn grant(&mut self, now: Duration, ttl: Duration) -> Lease {
        let lease = Lease { id: self.leases.grant(now, ttl), ttl };
        self.lease_changes.push(LeaseChange::Granted(lease));
        lease
    }

    /// Starts a lease's TTL anew and returns it; `None` when it is gone.
    pub(crate) fn keep_alive(&mut self, now: Duration, id: LeaseId) -> Option<Duration> {
        self.leases.keep_alive(now, id)
    }

    pub(crate) fn lease(&self, now: Duration, id: LeaseId) -> Option<LeaseInfo> {
        self.leases.info(now, id)
    }

    /// Ends a lease, deleting its keys in one revision.
    pub(crate) fn revoke(&mut self, id: LeaseId) {
        let Some(keys) = self.leases.remove(id) else { return };
        self.lease_changes.push(LeaseChange::Gone(id));
        let next = self.revision.next();
        for key in keys {
            if self.delete(next, key) {
                self.revision = next;
            }
        }
    }

    /// When the next lease expires, if any lives.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.leases.next_expiry()
    }

    /// Ends every lease that is due, each in a revision of its own, the earliest deadline first.
    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some(id) = self.leases.due(now) {
            self.revoke(id);
        }
    }

    /// Forgets history up to `through`, or up to the present where that is later.
    pub(crate) fn compact(&mut self, through: Revision) {
        self.history.compact(through.min(self.revision));
    }

    /// Cuts history to its window. Not done by the writes themselves, so that whoever persists and
    /// announces a write still finds all of it.
    pub(crate) fn trim(&mut self) {
        self.history.trim();
    }

    /// The changes that were made since the store stood at `revision`, as long as nothing was
    /// trimmed.
    pub(crate) fn changes_since(&self, revision: Revision) -> impl Iterator<Item = &Record> {
        self.history.newest(revision)
    }

    /// The first revision in `from..=through` that changed something in `span`, with its changes
    /// there.
    pub(crate) fn first_batch(&self, span: &Span, from: Revision, through: Revision) -> Option<Batch> {
        self.history.first_batch(span, from, through)
    }

    /// What became of leases since the last call.
    pub(crate) fn take_lease_changes(&mut self) -> std::vec::Drain<'_, LeaseChange> {
        self.lease_changes.drain(..)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let stored = |key: &Bytes| self.keys.get(key);
        match compare {
            Compare::Absent(key) => stored(key).is_none(),
            Compare::Present(key) => stored(key).is_some(),
            Compare::Modified(key, revision) => {
                stored(key).is_some_and(|stored| stored.modified == *revision)
            }
            Compare::Created(key, revision) => stored(key).is_some_and(|stored| stored.created == *revision),
            Compare::Lease(key, id) => stored(key).is_some_and(|stored| stored.lease == Some(*id)),
            Compare::RangeAbsent(span) => self.keys.range(span, None).next().is_none(),
        }
    }

    fn put(&mut self, revision: Revision, key: Bytes, value: Value, lease: Option<LeaseId>) {
        let stored = |created| Arc::new(Stored { value, created, modified: revision, lease });
        let (before, after) = match self.keys.get_mut(&key) {
            Some(place) => {
                let after = stored(place.created);
                (Some(std::mem::replace(place, Arc::clone(&after))), after)
            }
            None => {
                let after = stored(revision);
                self.keys.insert_new(key.clone(), Arc::clone(&after));
                (None, after)
            }
        };
        let held = before.as_ref().and_then(|before| before.lease);
        if held != lease {
            if let Some(id) = held {
                self.leases.detach(id, &key);
            }
            if let Some(id) = lease {
                self.leases.attach(id, key.clone());
            }
        }
        self.history.push(Record { revision, key, before, after: Some(after) });
    }

    fn delete(&mut self, revision: Revision, key: Bytes) -> bool {
        let Some(before) = self.keys.remove(&key) else { return false };
        if let Some(id) = before.lease {
            self.leases.detach(id, &key);
        }
        self.history.push(Record { revision, key, before: Some(before), after: None });
        true
    }
}
