//! Locks: a queue of entries in the store (R25 to R33, R45 to R47).
//!
//! The oldest entry holds the lock; where it is a shared one, so do the shared ones behind it, up
//! to the next that wants the lock for itself.

mod guard;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, Range, Span, Txn, TxnReply, round_ttl};
use coord_api::{
    DistributedLock, Error, ErrorKind, LockGuard, LockMode, LockOptions, Outcome, Result, Wait, key,
};

use futures_util::future::BoxFuture;

use coord_core::session::{LeasedEntry, Placed, SessionRef};
use coord_core::telemetry::{Subject, Timer};
use coord_core::{Client, Limit, keys};
use metrics::{Unit, describe_histogram, histogram};

use crate::queue::{ALL, Item, Join, Queues, Reading, Wanted, confirmed, taken};
use guard::HeldLock;

const ACQUIRE: &str = "lock.acquire";
const TRY_ACQUIRE: &str = "lock.try_acquire";

/// What a lock is called in logs and metrics.
pub(crate) const CONTRACT: &str = "lock";

const WAITED: &str = "coord_lock_wait_duration_seconds";
const HELD: &str = "coord_lock_held_duration_seconds";

/// Locks over a store.
#[derive(Debug)]
pub(crate) struct Locks {
    client: Client,
    queues: Queues,
    waited: Timer,
    held: Timer,
}

/// A lock that someone wants: as its user names it, where its queue is, and whether it is shared.
#[derive(Debug)]
struct LockName<'a> {
    locks: &'a Locks,
    name: &'a str,
    queue: Bytes,
    mode: LockMode,
}

impl Locks {
    pub(crate) fn new(client: Client) -> Self {
        describe_histogram!(WAITED, Unit::Seconds, "Time until a lock was acquired");
        describe_histogram!(HELD, Unit::Seconds, "Time for which a lock was held");
        let (waited, held) =
            (Timer::new(client.home(), histogram!(WAITED)), Timer::new(client.home(), histogram!(HELD)));
        Locks { client, queues: Queues::new(READING), waited, held }
    }

    /// Takes the lock if it is free: one request, no queue entry if it is not (R27).
    async fn try_acquire(&self, mut lock: LockName<'_>, ttl: Duration) -> Result<LeasedEntry> {
        let entry = lock.entry(self.client.enter(TRY_ACQUIRE, ttl).await?);
        let attempt = || {
            let others = lock.others();
            let free = Compare::RangeAbsent(others.clone());
            Txn::new().when(free).then(lock.put(&entry)).otherwise(Op::Range(Range::new(others)))
        };
        let refused = loop {
            match entry.place(&attempt).await? {
                Placed::Written(_) => break None,
                Placed::Refused(reply) => break Some(reply),
                Placed::Found(found) => {
                    if confirmed(&entry, &found) {
                        break None;
                    }
                }
            }
        };
        if let Some(reply) = refused {
            let found = reply.try_range(0)?;
            if let Some(first) = holder(&lock, &found.entries) {
                return Err(taken(TRY_ACQUIRE, keys::owner(&first.value).map(|owner| owner.name).as_deref()));
            }
            // What lies there is no entry that keeps others out, but one that was downgraded or,
            // for example, the queue of a Go service's nested name. No compare can look past it:
            // stand in the queue, and leave it again if someone else came first.
            let queue = lock.queue.clone();
            let wanted = Wanted { operation: TRY_ACQUIRE, directory: &queue, ttl };
            return self.queues.try_acquire(&self.client, wanted, &mut lock).await;
        }
        entry.session().freshen().await?;
        Ok(entry)
    }
}

impl LockName<'_> {
    /// Where the entries lie that keep this one from its turn, if they are older.
    fn others(&self) -> Span {
        match self.mode {
            LockMode::Shared => keys::exclusive_lock_entries(&self.queue),
            _ => Span::prefix(self.queue.clone()),
        }
    }

    fn put(&self, entry: &LeasedEntry) -> Op {
        Op::put_leased(entry.key().clone(), self.locks.client.owner().value(), entry.session().lease())
    }
}

impl Join for LockName<'_> {
    fn entry(&self, session: SessionRef) -> LeasedEntry {
        let shared = self.mode == LockMode::Shared;
        let key = keys::lock_entry(&self.queue, shared, session.lease(), session.nonce());
        LeasedEntry::new(session, key, Subject::new(CONTRACT, self.name).timed(&self.locks.held))
    }

    fn join(&self, entry: &LeasedEntry) -> Txn {
        // Two entries, in whatever order the store has them at hand: they tell whether another one
        // than the own is there, which is all that matters here.
        let others = Range::new(self.others()).with_limit(2).with_keys_only();
        Txn::new().when(Compare::Absent(entry.key().clone())).then(self.put(entry)).then(Op::Range(others))
    }

    fn has_turn(&self, entry: &LeasedEntry, reply: &TxnReply) -> Result<bool> {
        Ok(reply.try_range(1)?.entries.iter().all(|other| other.key == *entry.key()))
    }

    fn refused(&mut self, _: &TxnReply) -> Result<()> {
        Err(Error::new(ErrorKind::Internal, ACQUIRE, "another entry has this name"))
    }
}

/// How the queue of a lock is read.
pub(crate) const READING: Reading = Reading { item, capacity: ALL };

/// What an entry of a lock's directory is. Deeper keys are the queues of other names, which Go
/// services do not escape.
fn item(queue: &[u8], entry: &Entry) -> Item {
    match keys::lock_place(queue, &entry.key) {
        Some(shared) if shared || keys::is_downgraded(&entry.value) => Item::Entry(1),
        Some(_) => Item::Entry(ALL),
        None => Item::Other,
    }
}

/// Who keeps this one from its turn, of entries that are older: the oldest of them.
fn holder<'a>(lock: &LockName<'_>, entries: &'a [Entry]) -> Option<&'a Entry> {
    let keeps_out = |entry: &&Entry| match item(&lock.queue, entry) {
        Item::Entry(weight) => weight == ALL || lock.mode != LockMode::Shared,
        _ => false,
    };
    entries.iter().filter(keeps_out).min_by_key(|entry| entry.created)
}

#[async_trait]
impl DistributedLock for Locks {
    async fn acquire_with(&self, key: &str, options: LockOptions) -> Result<LockGuard> {
        let LockOptions { ttl, wait, mode, .. } = options;
        let queue = keys::lock_queue(key::check(ACQUIRE, key)?);
        let mut lock = LockName { locks: self, name: key, queue: queue.clone(), mode };
        round_ttl(ACQUIRE, ttl)?;
        let began = self.waited.begin();
        let wanted = Wanted { operation: ACQUIRE, directory: &queue, ttl };
        // Boxed, because a future that is handed on is stored twice.
        let acquire: BoxFuture<'_, _> = match wait {
            Wait::Never => Box::pin(self.try_acquire(lock, ttl)),
            wait => {
                let limit = Limit::of(self.client.home(), wait);
                let lock = &mut lock;
                Box::pin(self.queues.acquire(&self.client, wanted, limit, lock))
            }
        };
        let entry = self.client.run_on(ACQUIRE, key, Outcome::NotApplied, acquire).await?;
        entry.held();
        self.waited.end(began);
        Ok(LockGuard::new(key, HeldLock::new(self.client.clone(), key, mode, entry)))
    }
}
