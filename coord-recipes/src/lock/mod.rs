//! Locks: a queue of entries in the store, the oldest of which holds the lock (R25 to R33).

mod queue;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::handle::Leased as _;
use coord_api::store::{Compare, Op, Range, Span, TxnReply, round_ttl};
use coord_api::{DistributedLock, Error, ErrorKind, LockGuard, LockOptions, Outcome, Result, Wait, key};

use futures_util::future::BoxFuture;

use crate::backoff::Backoff;
use crate::core::Core;
use crate::keys;
use crate::limit::Limit;
use crate::session::{Holding, Leased, Write};
use queue::{Queues, Turn};

const ACQUIRE: &str = "lock.acquire";

/// Locks over a store.
#[derive(Debug)]
pub(crate) struct Locks {
    core: Arc<Core>,
    queues: Queues,
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
    async fn acquire(&self, queue: &Bytes, ttl: Duration, limit: Limit) -> Result<Holding> {
        let mut backoff = Backoff::new();
        loop {
            match self.queue_up(queue, ttl, limit).await {
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
    async fn queue_up(&self, queue: &Bytes, ttl: Duration, limit: Limit) -> Result<Holding> {
        let home = &self.core.home;
        let (holding, place) = limit.answer(home, ACQUIRE, self.join(ACQUIRE, queue, ttl)).await?;
        if let Place::Waiting = place {
            limit.queue(home, ACQUIRE, self.await_turn(queue, &holding)).await?;
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
    async fn join(&self, operation: &'static str, queue: &Bytes, ttl: Duration) -> Result<(Holding, Place)> {
        let holding = self.new_entry(operation, queue, ttl).await?;
        // Two entries, in whatever order the store has them at hand: they tell whether it is alone, which is all that matters here.
        let others = Range::prefix(queue.clone()).with_limit(2).with_keys_only();
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
    async fn try_acquire(&self, queue: &Bytes, ttl: Duration) -> Result<Holding> {
        const OPERATION: &str = "lock.try_acquire";
        let held = || Error::new(ErrorKind::Conflict, OPERATION, "the lock is held");
        let mut holding = self.new_entry(OPERATION, queue, ttl).await?;
        let attempt = Leased {
            compares: vec![Compare::RangeAbsent(Span::prefix(queue.clone()))],
            then: vec![self.put(&holding)],
            otherwise: vec![Op::Range(Range::prefix(queue.clone()).with_keys_only())],
        };
        if let Placed::Refused(reply) = write_entry(&holding, &attempt).await? {
            let found = reply.range(0).ok_or_else(missing_answer)?;
            if found.entries.iter().any(|entry| keys::segment(queue, &entry.key).is_some()) {
                return Err(held());
            }
            // What lies there is no queue entry but, for example, the queue of a Go service's nested name. No compare can look past it: stand in the queue,
            // and leave it again if someone else came first.
            holding = self.join(OPERATION, queue, ttl).await?.0;
            let all = self.core.list(Span::prefix(queue.clone())).await?;
            let first = all.entries.iter().filter(|entry| keys::segment(queue, &entry.key).is_some()).min_by_key(|entry| entry.created);
            if first.is_none_or(|first| first.key != *holding.key()) {
                holding.release().await?;
                return Err(held());
            }
        }
        holding.session().freshen().await?;
        Ok(holding)
    }

    /// A holding with a key that was never given before; nothing is written yet.
    async fn new_entry(&self, operation: &'static str, queue: &Bytes, ttl: Duration) -> Result<Holding> {
        let session = self.core.sessions.enter(&self.core, operation, ttl).await?;
        let key = keys::lock_entry(queue, session.lease(), session.nonce());
        Ok(Holding::new(session, key))
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

fn missing_answer() -> Error {
    Error::new(ErrorKind::Internal, "lock", "the store left out an answer")
}

#[async_trait]
impl DistributedLock for Locks {
    async fn acquire_with(&self, key: &str, options: LockOptions) -> Result<LockGuard> {
        let queue = keys::lock_queue(key::check(ACQUIRE, key)?);
        round_ttl(ACQUIRE, options.ttl)?;
        // Boxed, because a future that is handed on is stored twice.
        let acquire: BoxFuture<'_, _> = match options.wait {
            Wait::Never => Box::pin(self.try_acquire(&queue, options.ttl)),
            wait => Box::pin(self.acquire(&queue, options.ttl, Limit::of(&self.core.home, wait))),
        };
        Ok(LockGuard::new(key, self.core.run(ACQUIRE, Outcome::NotApplied, acquire).await?))
    }
}
