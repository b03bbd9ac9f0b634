//! The engine: keys with their history, revisions, transactions and leases as a pure state machine
//! that speaks etcd's messages. No clock, no I/O, no async; time comes in as the duration since the
//! store's own epoch. A header in its answers has the revision, and nothing else.

pub(crate) mod check;
mod keys;
mod leases;
mod log;
mod read;
mod span;
#[cfg(test)]
mod tests;
mod txn;
pub(crate) mod watchers;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, LeaseGrantResponse, LeaseTimeToLiveResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, ResponseHeader,
};
use crate::proto::mvccpb::KeyValue;
use crate::refusal::Refusal;
use keys::{Change, KeyTable};
use leases::LeaseTable;
use log::Log;
use span::Span;

/// The longest TTL that etcd grants, in seconds.
const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// The state machine.
#[derive(Debug)]
pub(crate) struct Engine {
    /// The last revision. That of an empty store is 1.
    revision: i64,
    /// The oldest revision that can be read at, or -1 while that is any.
    compacted: i64,
    keys: KeyTable,
    log: Log,
    leases: LeaseTable,
    /// In seconds.
    min_lease_ttl: i64,
    /// What the changes take in the table that are no longer in the log, in bytes.
    settled: usize,
}

impl Engine {
    /// An empty store that grants no lease of fewer seconds than this.
    pub(crate) fn new(min_lease_ttl: i64) -> Self {
        Engine {
            revision: 1,
            compacted: -1,
            keys: KeyTable::default(),
            log: Log::default(),
            leases: LeaseTable::default(),
            min_lease_ttl,
            settled: 0,
        }
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// How many bytes keys, values and history take, about.
    pub(crate) fn size(&self) -> usize {
        self.settled + self.log.size()
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        if request.revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        let at = if request.revision > 0 { request.revision } else { self.revision };
        if at < self.compacted {
            return Err(Refusal::Compacted);
        }
        Ok(RangeResponse { header: header(self.revision), ..read::read(&self.keys, request, at) })
    }

    pub(crate) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Refusal> {
        self.check_lease(request.lease)?;
        if (request.ignore_value || request.ignore_lease) && self.keys.latest(&request.key).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        let mut write = self.write();
        let response = write.put(request);
        write.finish();
        Ok(response)
    }

    pub(crate) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut write = self.write();
        let response = write.delete_range(request);
        write.finish();
        response
    }

    /// Forgets what happened before `revision`, so that it cannot be read at or watched from.
    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        self.compacted = revision;
        self.keys.compact(revision);
        self.log.compact(revision);
        self.settled = self.keys.size_before(self.log.oldest());
        Ok(())
    }

    /// Grants a lease under an id, which is not zero.
    pub(crate) fn grant(&mut self, now: Duration, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Refusal> {
        if ttl > MAX_LEASE_TTL {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if self.leases.get(id).is_some() {
            return Err(Refusal::LeaseExists);
        }
        let ttl = ttl.max(self.min_lease_ttl);
        self.leases.insert(now, id, ttl);
        Ok(LeaseGrantResponse { header: header(self.revision), id, ttl, error: String::new() })
    }

    /// Ends a lease, and deletes its keys in one revision.
    pub(crate) fn revoke(&mut self, id: i64) -> Result<(), Refusal> {
        let keys = self.leases.remove(id).ok_or(Refusal::LeaseNotFound)?;
        let mut write = self.write();
        for key in keys {
            write.delete(&key);
        }
        write.finish();
        Ok(())
    }

    /// Starts a lease's TTL anew, and returns it in seconds; `None` where the lease is gone.
    pub(crate) fn renew(&mut self, now: Duration, id: i64) -> Option<i64> {
        self.leases.renew(now, id)
    }

    /// What there is to say of a lease, also of one that is gone.
    pub(crate) fn time_to_live(&self, now: Duration, id: i64, with_keys: bool) -> LeaseTimeToLiveResponse {
        let response =
            LeaseTimeToLiveResponse { header: header(self.revision), id, ttl: -1, ..Default::default() };
        let Some(lease) = self.leases.get(id) else { return response };
        LeaseTimeToLiveResponse {
            ttl: i64::try_from(lease.remaining(now).as_secs()).unwrap_or(i64::MAX),
            granted_ttl: lease.ttl,
            keys: if with_keys { lease.keys().cloned().collect() } else { Vec::new() },
            ..response
        }
    }

    /// The ids of all leases, that which ends first first.
    pub(crate) fn leases(&self) -> Vec<i64> {
        self.leases.ids().collect()
    }

    /// When the next lease ends.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.leases.next_deadline()
    }

    /// Ends every lease whose time is over, each in a revision of its own, the earliest first.
    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some(id) = self.leases.due(now) {
            // It is there: it is due.
            let _ = self.revoke(id);
        }
    }

    fn check_lease(&self, id: i64) -> Result<(), Refusal> {
        if id != 0 && self.leases.get(id).is_none() {
            return Err(Refusal::LeaseNotFound);
        }
        Ok(())
    }

    fn write(&mut self) -> Write<'_> {
        Write { begin: self.revision, changed: false, engine: self }
    }
}

/// Changes that make one revision together. Each sees those before it.
struct Write<'a> {
    engine: &'a mut Engine,
    begin: i64,
    changed: bool,
}

impl Write<'_> {
    /// The revision that is reached, which is the next one as soon as anything changed.
    fn revision(&self) -> i64 {
        self.begin + i64::from(self.changed)
    }

    /// Makes the changes visible, and says at which revision the store is.
    fn finish(self) -> i64 {
        self.engine.revision = self.revision();
        self.engine.revision
    }

    /// A read at a revision that is neither compacted nor in the future.
    fn range(&self, request: &RangeRequest) -> RangeResponse {
        let current = self.revision();
        let at = if request.revision > 0 { request.revision } else { current };
        RangeResponse { header: header(current), ..read::read(&self.engine.keys, request, at) }
    }

    /// A put whose lease is there, and its key where anything of that is to be kept.
    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let before = self.engine.keys.latest(&request.key).cloned();
        let (value, lease) = match &before {
            Some(before) => (
                if request.ignore_value { before.value.clone() } else { request.value.clone() },
                if request.ignore_lease { before.lease } else { request.lease },
            ),
            None => (request.value.clone(), request.lease),
        };
        let revision = self.begin + 1;
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: before.as_ref().map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(1, |before| before.version + 1),
            value,
            lease,
        };
        self.engine.leases.attach(&request.key, (lease != 0).then_some(lease));
        self.push(Change { kv, deleted: false });
        PutResponse { header: header(revision), prev_kv: before.filter(|_| request.prev_kv) }
    }

    fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let span = Span::new(&request.key, &request.range_end);
        let found: Vec<KeyValue> = self.engine.keys.range(&span, i64::MAX).cloned().collect();
        for kv in &found {
            self.delete(&kv.key);
        }
        DeleteRangeResponse {
            header: header(self.revision()),
            deleted: i64::try_from(found.len()).unwrap_or(i64::MAX),
            prev_kvs: if request.prev_kv { found } else { Vec::new() },
        }
    }

    /// Deletes a key that is there.
    fn delete(&mut self, key: &Bytes) {
        self.engine.leases.attach(key, None);
        let kv = KeyValue { key: key.clone(), mod_revision: self.begin + 1, ..KeyValue::default() };
        self.push(Change { kv, deleted: true });
    }

    fn push(&mut self, change: Change) {
        let change = Arc::new(change);
        self.engine.keys.push(&change);
        self.engine.log.push(change);
        self.changed = true;
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}
