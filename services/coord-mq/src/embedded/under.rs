//! Writes that are applied only while a claim is there.

use coord::coord_core::backoff;
use coord::coord_core::session::{LeasedEntry, Placed};
use coord::handle::Leased as _;
use coord::store::{Compare, Op, Range, Txn, TxnReply};
use coord::{Error, ErrorKind, Outcome, Result, Revision};

use super::Shared;

const CLAIM: &str = "mq.claim";

/// Runs a transaction that compares that the claim is there, and leaves it there. It is sent again
/// for as long as the store does not answer and the claim is held: sent twice it does no more.
///
/// # Errors
///
/// `LeaseLost` where the claim was lost; `Conflict` where only something else is not as it was
/// seen; those of the store.
pub(super) async fn under(
    shared: &Shared,
    entry: &LeasedEntry,
    build: &(dyn Fn(Compare) -> Txn + Send + Sync),
) -> Result<TxnReply> {
    let (mut doubt, mut backoff) = (Outcome::NotApplied, backoff());
    loop {
        let Some(own) = entry.modified().filter(|_| entry.state().is_held()) else {
            return Err(lost().with_outcome(doubt));
        };
        let txn = build(Compare::Modified(entry.key().clone(), own))
            .otherwise(Op::Range(Range::key(entry.key().clone())));
        match shared.client.store().txn(txn).await {
            Ok(reply) if reply.succeeded => return Ok(reply),
            Ok(reply) => return Err(refused(entry, &reply)?),
            Err(error) if error.is_transient() => {
                if error.outcome() == Outcome::Unknown {
                    doubt = Outcome::Unknown;
                }
                shared.client.home().sleep(backoff.pause()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// As [`under`], by a transaction that removes the claim. Gives the revision at which that was
/// done, where it is known.
pub(super) async fn end_under(
    shared: &Shared,
    entry: &LeasedEntry,
    build: &(dyn Fn(Compare) -> Txn + Send + Sync),
) -> Result<Option<Revision>> {
    let mut backoff = backoff();
    loop {
        let Some(own) = entry.modified().filter(|_| entry.state().is_held()) else { return Err(lost()) };
        let build = || {
            build(Compare::Modified(entry.key().clone(), own))
                .otherwise(Op::Range(Range::key(entry.key().clone())))
        };
        match entry.end_by(&build).await {
            Ok(Placed::Written(reply)) => return Ok(Some(reply.revision)),
            // The session was there, and nobody else removes its claim.
            Ok(Placed::Found(_)) => return Ok(None),
            Ok(Placed::Refused(reply)) => return Err(refused(entry, &reply)?),
            Err(error) if error.is_transient() => shared.client.home().sleep(backoff.pause()).await,
            Err(error) => return Err(error),
        }
    }
}

/// Which of the compares did not hold.
fn refused(entry: &LeasedEntry, reply: &TxnReply) -> Result<Error> {
    let found = reply.try_range(0)?.entries.first();
    Ok(match found {
        Some(found) if Some(found.modified) == entry.modified() => {
            Error::new(ErrorKind::Conflict, CLAIM, "the topic of dead letters was changed meanwhile")
        }
        _ => lost(),
    })
}

pub(super) fn lost() -> Error {
    Error::lease_lost(CLAIM, "the partition was lost: another process may have it, and its message")
}
