//! Appending items.

use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Op, Txn};
use coord_api::{ErrorKind, LeaseId, Outcome, Result, Value};
use coord_core::keys::{self, QueuePart};
use coord_core::session::{Fenced, SessionRef};
use coord_core::{Client, backoff};
use parking_lot::Mutex;

use super::{ItemId, PUSH};

/// The TTL of the session under which items are pushed: that of claims by default, so that both are
/// on one.
const TTL: Duration = Duration::from_secs(30);

/// How many receipts one push clears away.
const CLEARED: usize = 32;

/// How often a push is begun anew whose session, or whose lease of a delay, was gone before it was
/// written.
const TRIES: usize = 5;

/// Receipts that nobody needs any more, because the push has its answer, or was given up. The next
/// push takes them along: each leaves one and clears away several, so that there are no more of
/// them than pushes at a time.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    unneeded: Mutex<Vec<Bytes>>,
}

/// Receipts that are unneeded once this is dropped, however the push ends.
struct Clearing<'a> {
    receipts: &'a Receipts,
    keys: Vec<Bytes>,
}

impl Receipts {
    fn take(&self) -> Clearing<'_> {
        let mut unneeded = self.unneeded.lock();
        let left = unneeded.len().saturating_sub(CLEARED);
        Clearing { receipts: self, keys: unneeded.split_off(left) }
    }
}

impl Drop for Clearing<'_> {
    fn drop(&mut self) {
        self.receipts.unneeded.lock().append(&mut self.keys);
    }
}

/// Appends an item, which nobody has before the delay is over.
///
/// # Errors
///
/// As [`Queue::push`](super::Queue::push).
///
/// # Cancel safety
///
/// Dropped, it may or may not be there.
pub(super) async fn push(
    client: &Client,
    queue: &Bytes,
    receipts: &Receipts,
    value: &Value,
    delay: Option<Duration>,
) -> Result<ItemId> {
    let mut backoff = backoff();
    let mut tries = 1;
    loop {
        let session = client.enter(PUSH, TTL).await?;
        let lease = match delay {
            Some(delay) => Some(client.retention_lease(PUSH, delay).await?),
            None => None,
        };
        match push_once(queue, receipts, &session, value, lease).await {
            // Its session, or the lease of the delay, was gone before anything was written.
            Err(error)
                if error.kind() == ErrorKind::LeaseLost
                    && error.outcome() == Outcome::NotApplied
                    && tries < TRIES =>
            {
                tries += 1;
                lease.into_iter().for_each(|lease| client.retention_lease_gone(lease));
                client.home().sleep(backoff.pause()).await;
            }
            answer => return answer,
        }
    }
}

async fn push_once(
    queue: &Bytes,
    receipts: &Receipts,
    session: &SessionRef,
    value: &Value,
    delay: Option<LeaseId>,
) -> Result<ItemId> {
    let id = keys::queue_name(session.lease(), session.nonce());
    let key = |part| keys::queue_part(queue, part, &id);
    let receipt = key(QueuePart::Receipt);
    let mut clearing = receipts.take();
    let cleared = clearing.keys.clone();
    // Its own as well: whoever is not there any more to look at it needs it no more.
    clearing.keys.push(receipt.clone());
    let build = || {
        let mut push = Txn::new()
            .then(Op::put(key(QueuePart::Item), "0"))
            .then(Op::put(key(QueuePart::Value), value.clone()))
            .then(Op::put_leased(receipt.clone(), Value::default(), session.lease()));
        if let Some(lease) = delay {
            push = push.then(Op::put_leased(key(QueuePart::Claim), Value::default(), lease));
        }
        cleared.iter().fold(push, |push, receipt| push.then(Op::delete(receipt.clone())))
    };
    loop {
        match session.write(&build).await {
            Ok(Fenced::Written(_)) => break,
            // It compares nothing but the session's fence.
            Ok(Fenced::Refused(_)) => {}
            // The item may have been taken since; its receipt is there as long as the session is.
            Ok(Fenced::Settled) => match session.look(&receipt).await {
                Ok(Some(_)) => break,
                // It was not made, and never will be.
                Ok(None) => {}
                Err(error) => return Err(error.with_outcome(Outcome::Unknown)),
            },
            Err(error) => return Err(error),
        }
    }
    clearing.keys = vec![receipt];
    Ok(ItemId::new(id))
}
