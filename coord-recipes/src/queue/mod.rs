//! Places that are waited for in a queue in the store: what locks, semaphores and elections have in
//! common (R25 to R33).
//!
//! Each waiter writes an entry on its session's lease. Entries have their turn in the order of
//! their create revisions; a kind of queue says how a place is entered, and what an entry weighs.

mod view;
mod wait_queue;

use std::time::Duration;

use bytes::Bytes;
use coord_api::handle::Leased as _;
use coord_api::store::{Entry, Span, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Result};
use coord_core::session::{LeasedEntry, Placed, SessionRef, Token};
use coord_core::{Client, Limit, backoff};

pub(crate) use view::{Item, Queues, Reading};
use view::{Standing, Turn};
pub(crate) use wait_queue::{ALL, WaitQueue, Weight};

/// How a place of one kind is entered.
pub(crate) trait Join: Send + Sync {
    /// An entry whose key was never given before; nothing is written yet.
    fn entry(&self, session: SessionRef) -> LeasedEntry;

    /// The transaction that writes the entry iff it is absent, and asks for what
    /// [`has_turn`](Self::has_turn) wants to know.
    fn join(&self, entry: &LeasedEntry) -> Txn;

    /// Whether the entry had its turn at once, as far as the answers of its transaction tell.
    ///
    /// # Errors
    ///
    /// `Internal` where the store left out an answer.
    fn has_turn(&self, entry: &LeasedEntry, reply: &TxnReply) -> Result<bool>;

    /// A compare of the transaction did not hold. `Ok` where it is to be built anew, because it is
    /// known now what it must compare.
    ///
    /// # Errors
    ///
    /// Why there is no place to be had.
    fn refused(&mut self, reply: &TxnReply) -> Result<()>;
}

/// A place that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) operation: &'static str,
    /// The directory of the queue, which its waiters follow.
    pub(crate) directory: &'a Bytes,
    pub(crate) ttl: Duration,
}

impl Queues {
    /// Waits in the queue for as long as it takes, or the limit allows.
    ///
    /// # Errors
    ///
    /// `Timeout` where the limit ran out, naming the holder where it is known; `InvalidArgument`
    /// for an entry that can never have its turn; those of [`Join::refused`] and of the store.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the place is given up (R29).
    pub(crate) async fn acquire(
        &self,
        client: &Client,
        wanted: Wanted<'_>,
        limit: Limit,
        join: &mut dyn Join,
    ) -> Result<LeasedEntry> {
        let mut backoff = backoff();
        loop {
            match self.queue_up(client, wanted, limit, join).await {
                // The lease died, or the entry was removed, while waiting: queue again, at the end
                // (R30).
                Err(error) if error.kind() == ErrorKind::LeaseLost => {
                    let pause = async {
                        client.home().sleep(backoff.pause()).await;
                        Ok(())
                    };
                    limit.queue(client.home(), wanted.operation, pause).await?;
                }
                answer => return answer,
            }
        }
    }

    /// Enters the queue, and leaves it again where the turn does not come at once.
    ///
    /// # Errors
    ///
    /// `Conflict`, naming the holder where it is known, where others come first; those of
    /// [`Join::refused`] and of the store.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the place is given up (R29).
    pub(crate) async fn try_acquire(
        &self,
        client: &Client,
        wanted: Wanted<'_>,
        join: &mut dyn Join,
    ) -> Result<LeasedEntry> {
        let Wanted { operation, directory, .. } = wanted;
        let (entry, has_turn) = enter(client, wanted, join).await?;
        if !has_turn {
            let all = client.list(Span::prefix(directory.clone())).await?;
            match self.look(directory, all.entries, entry.key()) {
                Standing::HasTurn => {}
                Standing::Gone => {
                    return Err(Error::lease_lost(operation, "the place in the queue was removed"));
                }
                Standing::Behind(holder) => match entry.release().await {
                    Err(error) if error.kind() != ErrorKind::LeaseLost => return Err(error),
                    _ => return Err(taken(operation, holder.as_deref())),
                },
            }
        }
        entry.session().freshen().await?;
        Ok(entry)
    }

    /// Waits in the queue once.
    async fn queue_up(
        &self,
        client: &Client,
        wanted: Wanted<'_>,
        limit: Limit,
        join: &mut dyn Join,
    ) -> Result<LeasedEntry> {
        let (home, operation) = (client.home(), wanted.operation);
        let (entry, has_turn) = limit.answer(home, operation, enter(client, wanted, join)).await?;
        if !has_turn {
            // Kept, so that who holds it is still known when the wait is over.
            let queue = self.queue(client, operation, wanted.directory)?;
            let turn = limit.queue(home, operation, self.await_turn(client, wanted, &entry)).await;
            turn.map_err(|error| match queue.first_owner() {
                Some(holder) if error.kind() == ErrorKind::Timeout => error.held_by(&holder),
                _ => error,
            })?;
        }
        limit.answer(home, operation, entry.session().freshen()).await?;
        Ok(entry)
    }

    /// Waits until an entry has its turn.
    async fn await_turn(&self, client: &Client, wanted: Wanted<'_>, entry: &LeasedEntry) -> Result<()> {
        let Wanted { operation, directory, .. } = wanted;
        let place = (entry.number().unwrap_or_default(), entry.key());
        tokio::select! {
            biased;
            turn = self.wait(client, operation, directory, place) => match turn? {
                Turn::Granted => Ok(()),
                Turn::Gone => Err(Error::lease_lost(operation, "the place in the queue was removed")),
                Turn::TooHeavy(weight) => Err(too_heavy(operation, weight)),
            },
            loss = entry.loss().wait() => Err(Error::lease_lost(operation, format!("the place in the queue is {loss}"))),
        }
    }
}

/// Enters the queue: one request, which says whether the turn has come already.
///
/// # Errors
///
/// As [`Queues::acquire`].
///
/// # Cancel safety
///
/// Dropped, the place is given up (R29).
async fn enter(client: &Client, wanted: Wanted<'_>, join: &mut dyn Join) -> Result<(LeasedEntry, bool)> {
    let entry = join.entry(client.enter(wanted.operation, wanted.ttl).await?);
    loop {
        let placed = {
            let join = &*join;
            entry.place(&|| join.join(&entry)).await?
        };
        match placed {
            Placed::Written(reply) => {
                let has_turn = join.has_turn(&entry, &reply)?;
                return Ok((entry, has_turn));
            }
            Placed::Refused(reply) => join.refused(&reply)?,
            Placed::Found(found) => {
                if confirmed(&entry, &found) {
                    return Ok((entry, false));
                }
            }
        }
    }
}

/// Whether an entry, whose key is new, was written although the answer was lost.
pub(crate) fn confirmed(entry: &LeasedEntry, found: &[Option<Entry>]) -> bool {
    match found {
        [Some(found)] => {
            entry.confirm(found, Token::New);
            true
        }
        _ => false,
    }
}

/// Another one has the place.
pub(crate) fn taken(operation: &'static str, holder: Option<&str>) -> Error {
    let error = Error::new(ErrorKind::Conflict, operation, "it is held");
    match holder {
        Some(holder) => error.held_by(holder),
        None => error,
    }
}

/// An entry weighs more than what there is.
pub(crate) fn too_heavy(operation: &'static str, weight: Weight) -> Error {
    Error::invalid_argument(operation, format!("a weight of {weight}, which is over the limit; ask for less"))
}
