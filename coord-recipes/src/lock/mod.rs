//! Locks: a queue of entries in the store, the oldest of which holds the lock (R25 to R33).

mod queue;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::handle::Leased as _;
use coord_api::store::{Compare, Entry, Op, Range, Span, TxnReply, round_ttl};
use coord_api::{DistributedLock, Error, ErrorKind, LockGuard, LockOptions, Outcome, Result, Wait, key};

use futures_util::future::BoxFuture;

use crate::backoff::Backoff;
use crate::core::Core;
use crate::keys;
use crate::limit::Limit;
use crate::session::{Holding, Leased, Write};
use crate::telemetry::{Contract, Subject};
use queue::{Queues, Turn};

const ACQUIRE: &str = "lock.acquire";

/// Locks over a store.
#[derive(Debug)]
pub(crate) struct Locks {
    core: Arc<Core>,
    queues: Queues,
}

/// A lock: as its user names it, and where its queue is.
#[derive(Debug)]
struct Lock<'a> {
    name: &'a str,
    queue: Bytes,
}

/// What became of a place in the queue.
enum Place {
    /// The lock was free.
    Head,
    /// Others come first.
    Waiting,
}

impl Locks {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Locks { core, queues: Queues::default() }
    }

    /// Waits in the queue for as long as it takes, or the caller wants.
    async fn acquire(&self, lock: &Lock<'_>, ttl: Duration, limit: Limit) -> Result<Holding> {
        let mut backoff = Backoff::new();
        loop {
            match self.queue_up(lock, ttl, limit).await {
                // The lease died, or the entry was removed, while waiting: queue again, at the end (R30).
                Err(error) if error.kind() == ErrorKind::LeaseLost => {
                    let pause = async {
                        self.core.home.sleep(backoff.pause()).await;
                        Ok(())
                    };
                    limit.queue(&self.core.home, ACQUIRE, pause).await?;
                }
                answer => return answer,
            }
        }
    }

    /// Waits in the queue once.
    async fn queue_up(&self, lock: &Lock<'_>, ttl: Duration, limit: Limit) -> Result<Holding> {
        let home = &self.core.home;
        let (holding, place) = limit.answer(home, ACQUIRE, self.join(ACQUIRE, lock, ttl)).await?;
        if let Place::Waiting = place {
            // Kept, so that who holds it is still known when the wait is over.
            let queue = self.queues.queue(&self.core, &lock.queue)?;
            let turn = limit.queue(home, ACQUIRE, self.await_turn(&lock.queue, &holding)).await;
            turn.map_err(|error| match queue.holder() {
                Some(holder) if error.kind() == ErrorKind::Timeout => error.held_by(&holder),
                _ => error,
            })?;
        }
        limit.answer(home, ACQUIRE, holding.session().freshen()).await?;
        Ok(holding)
    }

    /// Waits until an entry is the oldest of its queue.
    async fn await_turn(&self, queue: &Bytes, holding: &Holding) -> Result<()> {
        let turn = self.queues.wait(&self.core, queue, holding.created().unwrap_or_default(), holding.key());
        tokio::select! {
            biased;
            turn = turn => match turn? {
                Turn::Granted => Ok(()),
                Turn::Gone => Err(Error::lease_lost(ACQUIRE, "the place in the queue was removed")),
            },
            loss = holding.loss().wait() => Err(Error::lease_lost(ACQUIRE, format!("the place in the queue is {loss}"))),
        }
    }

    /// Enters the queue: one request, which says whether anyone stands before.
    async fn join(&self, operation: &'static str, lock: &Lock<'_>, ttl: Duration) -> Result<(Holding, Place)> {
        let holding = self.new_entry(operation, lock, ttl).await?;
        // Two entries, in whatever order the store has them at hand: they tell whether it is alone, which is all that matters here.
        let others = Range::prefix(lock.queue.clone()).with_limit(2).with_keys_only();
        let join = Leased {
            compares: vec![Compare::Absent(holding.key().clone())],
            then: vec![self.put(&holding), Op::Range(others)],
            otherwise: Vec::new(),
        };
        match write_entry(&holding, &join).await? {
            Placed::Written(reply) => {
                let found = reply.range(1).ok_or_else(missing_answer)?;
                let alone = found.entries.iter().all(|entry| entry.key == *holding.key());
                Ok((holding, if alone { Place::Head } else { Place::Waiting }))
            }
            Placed::Recovered => Ok((holding, Place::Waiting)),
            Placed::Refused(_) => Err(Error::new(ErrorKind::Internal, operation, "another entry has this name")),
        }
    }

    /// Takes the lock if it is free: one request, no queue entry if it is not (R27).
    async fn try_acquire(&self, lock: &Lock<'_>, ttl: Duration) -> Result<Holding> {
        const OPERATION: &str = "lock.try_acquire";
        let queue = &lock.queue;
        let mut holding = self.new_entry(OPERATION, lock, ttl).await?;
        let attempt = Leased {
            compares: vec![Compare::RangeAbsent(Span::prefix(queue.clone()))],
            then: vec![self.put(&holding)],
            otherwise: vec![Op::Range(Range::prefix(queue.clone()))],
        };
        if let Placed::Refused(reply) = write_entry(&holding, &attempt).await? {
            let found = reply.range(0).ok_or_else(missing_answer)?;
            if let Some(first) = oldest(queue, &found.entries) {
                return Err(held(OPERATION, first));
            }
            // What lies there is no queue entry but, for example, the queue of a Go service's nested name. No compare can look past it: stand in the queue,
            // and leave it again if someone else came first.
            holding = self.join(OPERATION, lock, ttl).await?.0;
            let all = self.core.list(Span::prefix(queue.clone())).await?;
            match oldest(queue, &all.entries) {
                Some(first) if first.key == *holding.key() => {}
                Some(first) => {
                    holding.release().await?;
                    return Err(held(OPERATION, first));
                }
                None => return Err(Error::lease_lost(OPERATION, "the place in the queue was removed")),
            }
        }
        holding.session().freshen().await?;
        Ok(holding)
    }

    /// A holding with a key that was never given before; nothing is written yet.
    async fn new_entry(&self, operation: &'static str, lock: &Lock<'_>, ttl: Duration) -> Result<Holding> {
        let session = self.core.sessions.enter(&self.core, operation, ttl).await?;
        let key = keys::lock_entry(&lock.queue, session.lease(), session.nonce());
        Ok(Holding::new(session, key, Subject::new(Contract::Lock, lock.name)))
    }

    fn put(&self, holding: &Holding) -> Op {
        Op::put_leased(holding.key().clone(), self.core.name.clone(), holding.session().lease())
    }
}

/// How the write of a queue entry ended.
enum Placed {
    Written(TxnReply),
    /// It was written, and the answer was lost.
    Recovered,
    Refused(TxnReply),
}

/// Writes a holding's entry, whose key is new: what became of a write without an answer can be read (R2).
async fn write_entry(holding: &Holding, write: &Leased) -> Result<Placed> {
    loop {
        holding.sending();
        match holding.session().write(write).await {
            Ok(Some(Write::Done(reply))) => {
                holding.written(reply.revision, reply.revision);
                return Ok(Placed::Written(reply));
            }
            Ok(Some(Write::Refused(reply))) => {
                holding.not_written();
                return Ok(Placed::Refused(reply));
            }
            Ok(None) => match holding.session().read(holding.key()).await? {
                Some(entry) => {
                    holding.written(entry.created, entry.modified);
                    return Ok(Placed::Recovered);
                }
                None => holding.not_written(),
            },
            Err(error) => {
                if error.outcome() == Outcome::NotApplied {
                    holding.not_written();
                }
                return Err(error);
            }
        }
    }
}

/// The entry of a queue that comes first. Deeper keys are the queues of other names.
fn oldest<'a>(queue: &Bytes, entries: &'a [Entry]) -> Option<&'a Entry> {
    entries.iter().filter(|entry| keys::segment(queue, &entry.key).is_some()).min_by_key(|entry| entry.created)
}

/// The lock is held, by whoever wrote this entry.
fn held(operation: &'static str, first: &Entry) -> Error {
    let error = Error::new(ErrorKind::Conflict, operation, "the lock is held");
    match keys::owner(&first.value) {
        Some(holder) => error.held_by(&holder),
        None => error,
    }
}

fn missing_answer() -> Error {
    Error::new(ErrorKind::Internal, "lock", "the store left out an answer")
}

#[async_trait]
impl DistributedLock for Locks {
    async fn acquire_with(&self, key: &str, options: LockOptions) -> Result<LockGuard> {
        let lock = Lock { name: key, queue: keys::lock_queue(key::check(ACQUIRE, key)?) };
        round_ttl(ACQUIRE, options.ttl)?;
        let began = self.core.telemetry.begin();
        // Boxed, because a future that is handed on is stored twice.
        let acquire: BoxFuture<'_, _> = match options.wait {
            Wait::Never => Box::pin(self.try_acquire(&lock, options.ttl)),
            wait => Box::pin(self.acquire(&lock, options.ttl, Limit::of(&self.core.home, wait))),
        };
        let holding = self.core.run_on(ACQUIRE, key, Outcome::NotApplied, acquire).await?;
        holding.held();
        self.core.telemetry.lock_acquired(began);
        Ok(LockGuard::new(key, holding))
    }
}
