//! Locks: a queue of entries in the store, the oldest of which holds the lock (R25 to R33).

mod queue;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::handle::Leased as _;
use coord_api::store::{Compare, Entry, Op, Range, Span, Txn, round_ttl};
use coord_api::{DistributedLock, Error, ErrorKind, LockGuard, LockOptions, Outcome, Result, Wait, key};

use futures_util::future::BoxFuture;

use coord_core::session::{LeasedEntry, Placed, Token};
use coord_core::telemetry::{Subject, Timer};
use coord_core::{Client, Limit, backoff, keys};
use metrics::{Unit, describe_histogram, histogram};

use queue::{LockQueues, Turn};

const ACQUIRE: &str = "lock.acquire";

/// What a lock is called in logs and metrics.
pub(crate) const CONTRACT: &str = "lock";

const WAITED: &str = "coord_lock_wait_duration_seconds";
const HELD: &str = "coord_lock_held_duration_seconds";

/// Locks over a store.
#[derive(Debug)]
pub(crate) struct Locks {
    client: Client,
    queues: LockQueues,
    waited: Timer,
    held: Timer,
}

/// A lock: as its user names it, and where its queue is.
#[derive(Debug)]
struct LockName<'a> {
    name: &'a str,
    queue: Bytes,
}

/// Where an entry stands in its queue.
enum Position {
    /// The lock was free.
    Head,
    /// Others come first, as far as is known.
    Behind,
}

impl Locks {
    pub(crate) fn new(client: Client) -> Self {
        describe_histogram!(WAITED, Unit::Seconds, "Time until a lock was acquired");
        describe_histogram!(HELD, Unit::Seconds, "Time for which a lock was held");
        let (waited, held) =
            (Timer::new(client.home(), histogram!(WAITED)), Timer::new(client.home(), histogram!(HELD)));
        Locks { client, queues: LockQueues::default(), waited, held }
    }

    /// Waits in the queue for as long as it takes, or the caller wants.
    async fn acquire(&self, lock: &LockName<'_>, ttl: Duration, limit: Limit) -> Result<LeasedEntry> {
        let mut backoff = backoff();
        loop {
            match self.queue_up(lock, ttl, limit).await {
                // The lease died, or the entry was removed, while waiting: queue again, at the end
                // (R30).
                Err(error) if error.kind() == ErrorKind::LeaseLost => {
                    let pause = async {
                        self.client.home().sleep(backoff.pause()).await;
                        Ok(())
                    };
                    limit.queue(self.client.home(), ACQUIRE, pause).await?;
                }
                answer => return answer,
            }
        }
    }

    /// Waits in the queue once.
    async fn queue_up(&self, lock: &LockName<'_>, ttl: Duration, limit: Limit) -> Result<LeasedEntry> {
        let home = self.client.home();
        let (entry, position) = limit.answer(home, ACQUIRE, self.join(ACQUIRE, lock, ttl)).await?;
        if let Position::Behind = position {
            // Kept, so that who holds it is still known when the wait is over.
            let queue = self.queues.queue(&self.client, &lock.queue)?;
            let turn = limit.queue(home, ACQUIRE, self.await_turn(&lock.queue, &entry)).await;
            turn.map_err(|error| match queue.holder() {
                Some(holder) if error.kind() == ErrorKind::Timeout => error.held_by(&holder),
                _ => error,
            })?;
        }
        limit.answer(home, ACQUIRE, entry.session().freshen()).await?;
        Ok(entry)
    }

    /// Waits until an entry is the oldest of its queue.
    async fn await_turn(&self, queue: &Bytes, entry: &LeasedEntry) -> Result<()> {
        let turn = self.queues.wait(&self.client, queue, entry.number().unwrap_or_default(), entry.key());
        tokio::select! {
            biased;
            turn = turn => match turn? {
                Turn::Granted => Ok(()),
                Turn::Gone => Err(Error::lease_lost(ACQUIRE, "the place in the queue was removed")),
            },
            loss = entry.loss().wait() => Err(Error::lease_lost(ACQUIRE, format!("the place in the queue is {loss}"))),
        }
    }

    /// Enters the queue: one request, which says whether anyone stands before.
    async fn join(
        &self,
        operation: &'static str,
        lock: &LockName<'_>,
        ttl: Duration,
    ) -> Result<(LeasedEntry, Position)> {
        let entry = self.new_entry(operation, lock, ttl).await?;
        // Two entries, in whatever order the store has them at hand: they tell whether it is alone,
        // which is all that matters here.
        let others = Range::prefix(lock.queue.clone()).with_limit(2).with_keys_only();
        let join = || {
            Txn::new()
                .when(Compare::Absent(entry.key().clone()))
                .then(self.put(&entry))
                .then(Op::Range(others.clone()))
        };
        loop {
            match entry.place(&join).await? {
                Placed::Written(reply) => {
                    let found = reply.try_range(1)?;
                    let alone = found.entries.iter().all(|other| other.key == *entry.key());
                    return Ok((entry, if alone { Position::Head } else { Position::Behind }));
                }
                Placed::Refused(_) => {
                    return Err(Error::new(ErrorKind::Internal, operation, "another entry has this name"));
                }
                Placed::Found(found) => {
                    if confirmed(&entry, &found) {
                        return Ok((entry, Position::Behind));
                    }
                }
            }
        }
    }

    /// Takes the lock if it is free: one request, no queue entry if it is not (R27).
    async fn try_acquire(&self, lock: &LockName<'_>, ttl: Duration) -> Result<LeasedEntry> {
        const OPERATION: &str = "lock.try_acquire";
        let queue = &lock.queue;
        let mut entry = self.new_entry(OPERATION, lock, ttl).await?;
        let attempt = || {
            let free = Compare::RangeAbsent(Span::prefix(queue.clone()));
            Txn::new().when(free).then(self.put(&entry)).otherwise(Op::Range(Range::prefix(queue.clone())))
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
            if let Some(first) = oldest(queue, &found.entries) {
                return Err(held(OPERATION, first));
            }
            // What lies there is no queue entry but, for example, the queue of a Go service's
            // nested name. No compare can look past it: stand in the queue, and leave it again if
            // someone else came first.
            entry = self.join(OPERATION, lock, ttl).await?.0;
            let all = self.client.list(Span::prefix(queue.clone())).await?;
            match oldest(queue, &all.entries) {
                Some(first) if first.key == *entry.key() => {}
                Some(first) => {
                    entry.release().await?;
                    return Err(held(OPERATION, first));
                }
                None => return Err(Error::lease_lost(OPERATION, "the place in the queue was removed")),
            }
        }
        entry.session().freshen().await?;
        Ok(entry)
    }

    /// An entry with a key that was never given before; nothing is written yet.
    async fn new_entry(
        &self,
        operation: &'static str,
        lock: &LockName<'_>,
        ttl: Duration,
    ) -> Result<LeasedEntry> {
        let session = self.client.enter(operation, ttl).await?;
        let key = keys::lock_entry(&lock.queue, session.lease(), session.nonce());
        Ok(LeasedEntry::new(session, key, Subject::new(CONTRACT, lock.name).timed(&self.held)))
    }

    fn put(&self, entry: &LeasedEntry) -> Op {
        Op::put_leased(entry.key().clone(), self.client.name().to_owned(), entry.session().lease())
    }
}

/// Whether an entry, whose key is new, was written although the answer was lost.
fn confirmed(entry: &LeasedEntry, found: &[Option<Entry>]) -> bool {
    match found {
        [Some(found)] => {
            entry.confirm(found, Token::New);
            true
        }
        _ => false,
    }
}

/// The entry of a queue that comes first. Deeper keys are the queues of other names.
fn oldest<'a>(queue: &Bytes, entries: &'a [Entry]) -> Option<&'a Entry> {
    entries
        .iter()
        .filter(|entry| keys::segment(queue, &entry.key).is_some())
        .min_by_key(|entry| entry.created)
}

/// The lock is held, by whoever wrote this entry.
fn held(operation: &'static str, first: &Entry) -> Error {
    let error = Error::new(ErrorKind::Conflict, operation, "the lock is held");
    match keys::owner(&first.value) {
        Some(holder) => error.held_by(&holder),
        None => error,
    }
}

#[async_trait]
impl DistributedLock for Locks {
    async fn acquire_with(&self, key: &str, options: LockOptions) -> Result<LockGuard> {
        let lock = LockName { name: key, queue: keys::lock_queue(key::check(ACQUIRE, key)?) };
        round_ttl(ACQUIRE, options.ttl)?;
        let began = self.waited.begin();
        // Boxed, because a future that is handed on is stored twice.
        let acquire: BoxFuture<'_, _> = match options.wait {
            Wait::Never => Box::pin(self.try_acquire(&lock, options.ttl)),
            wait => Box::pin(self.acquire(&lock, options.ttl, Limit::of(self.client.home(), wait))),
        };
        let entry = self.client.run_on(ACQUIRE, key, Outcome::NotApplied, acquire).await?;
        entry.held();
        self.waited.end(began);
        Ok(LockGuard::new(key, entry))
    }
}
