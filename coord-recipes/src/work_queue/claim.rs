//! An item that somebody has.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coord_api::handle::Leased as _;
use coord_api::store::{Compare, Op, Txn};
use coord_api::{Error, Fence, FencingToken, HandleState, LeaseId, Lost, Outcome, Result, Value};
use coord_core::keys::{self, QueuePart};
use coord_core::session::{LeasedEntry, Placed};
use coord_core::{Client, check_retention};

use super::ItemId;
use crate::retained::{end_by_retained, end_while_held};

const ACK: &str = "queue.ack";
const RETRY: &str = "queue.retry";

/// An item that its holder has alone, until it acknowledges it, gives it back, or loses it.
///
/// Dropped, the item is free at once, at its old place (R9, R81): acknowledge what is done.
#[must_use = "dropping a claim gives the item back"]
pub struct Claim {
    client: Client,
    name: Arc<str>,
    queue: Bytes,
    id: ItemId,
    value: Value,
    deliveries: u32,
    entry: LeasedEntry,
    is_acknowledged: AtomicBool,
}

impl Claim {
    pub(super) fn new(
        client: Client,
        name: Arc<str>,
        queue: Bytes,
        id: ItemId,
        (value, deliveries): (Value, u32),
        entry: LeasedEntry,
    ) -> Self {
        let is_acknowledged = AtomicBool::new(false);
        Claim { client, name, queue, id, value, deliveries, entry, is_acknowledged }
    }

    /// The name of the item.
    pub fn id(&self) -> &ItemId {
        &self.id
    }

    /// What is in the item.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// How often the item was delivered, this time counted: more than once where an earlier claim
    /// was lost, given back or tried again.
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// The number of this claim: greater than that of each earlier one of its item. What must not
    /// be done by one that was lost is given it, and refuses a smaller one.
    pub fn fencing_token(&self) -> FencingToken {
        self.entry.fencing_token()
    }

    /// Ties a write to the same store to this claim: it is applied only while nobody else can have
    /// the item, by the word of the store (R55). Give it to
    /// [`WriteOptions::with_fence`](coord_api::WriteOptions::with_fence).
    pub fn fence(&self) -> Fence {
        self.entry.fence()
    }

    /// Whether nobody else can have the item at this moment, by this machine's clock (R32). Once
    /// `false`, `false` for ever.
    pub fn is_held(&self) -> bool {
        self.entry.state().is_held()
    }

    /// What it stands for at this moment.
    pub fn state(&self) -> HandleState {
        self.entry.state()
    }

    /// The time left to the local deadline, zero when not held. Renewal moves it on.
    pub fn ttl(&self) -> Duration {
        self.entry.ttl()
    }

    /// Resolves once another one may have the item, whatever the reason (R32).
    pub fn lost(&self) -> Lost {
        self.entry.lost()
    }

    /// Gives the item back: whoever is next has it at once (R81).
    ///
    /// # Errors
    ///
    /// `LeaseLost` when it had been lost before. `Unavailable` or `Timeout`, outcome `Unknown`,
    /// when the store did not answer: the release is repeated until it is acknowledged or the lease
    /// has expired (R9).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the release to the client.
    pub async fn release(&self) -> Result<()> {
        self.entry.release().await
    }

    /// Removes the item: it is done (R81). One request; where the store does not answer, it goes on
    /// trying for as long as the claim is held. Acknowledged already, it is `Ok` without I/O.
    ///
    /// # Errors
    ///
    /// `LeaseLost` where the claim was lost or given back meanwhile, so that another one may have
    /// the item; `Unavailable` or `Timeout`, outcome `Unknown`; `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the item may be removed; the claim is held until it is dropped, too.
    pub async fn ack(&self) -> Result<()> {
        if self.is_acknowledged.load(Ordering::Acquire) {
            return Ok(());
        }
        let parts = [QueuePart::Claim, QueuePart::Item, QueuePart::Value];
        let ack = async {
            let Some(own) = self.entry.modified().filter(|_| self.is_held()) else { return Err(lost(ACK)) };
            let build = || {
                let key = |part| keys::queue_part(&self.queue, part, self.id.as_str());
                let compare = Compare::Modified(self.entry.key().clone(), own);
                parts.iter().fold(Txn::new().when(compare), |txn, part| txn.then(Op::delete(key(*part))))
            };
            let ended = end_while_held(&self.client, &self.entry, || self.entry.end_by(&build)).await;
            match ended? {
                Placed::Written(_) => Ok(()),
                // The session was there, and nobody else removes its claim.
                Placed::Found(_) => Ok(()),
                Placed::Refused(_) => Err(lost(ACK)),
            }
        };
        self.client.run_on(ACK, &self.name, Outcome::Unknown, ack).await?;
        self.is_acknowledged.store(true, Ordering::Release);
        Ok(())
    }

    /// Gives the item back, for nobody to have it before `delay` is over: in whole seconds, for at
    /// most 1.25 times that and the store's lag (R60, R81). It keeps its place in the order. With
    /// no delay it is [released](Self::release). One request, as [`ack`](Self::ack).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for more than 7,200,000,000 s, before any I/O; else as
    /// [`ack`](Self::ack).
    ///
    /// # Cancel safety
    ///
    /// Dropped, the item may be given back already; the claim is held until it is dropped, too.
    pub async fn retry(&self, delay: Duration) -> Result<()> {
        if delay.is_zero() {
            return self.release().await;
        }
        check_retention(RETRY, delay).map_err(|error| error.about(&self.name))?;
        let retry = async {
            let Some(own) = self.entry.modified().filter(|_| self.is_held()) else { return Err(lost(RETRY)) };
            let build = |lease: LeaseId| {
                let key = self.entry.key().clone();
                Txn::new().when(Compare::Modified(key.clone(), own)).then(Op::put_leased(
                    key,
                    Value::default(),
                    lease,
                ))
            };
            let end = || end_by_retained(&self.client, RETRY, &self.entry, delay, &build);
            match end_while_held(&self.client, &self.entry, end).await? {
                Placed::Written(_) => Ok(()),
                // The session was there, and nobody else touches its claim.
                Placed::Found(_) => Ok(()),
                Placed::Refused(_) => Err(lost(RETRY)),
            }
        };
        self.client.run_on(RETRY, &self.name, Outcome::Unknown, retry).await
    }
}

fn lost(operation: &'static str) -> Error {
    Error::lease_lost(operation, "the claim was lost, or given back")
}

crate::handle::leased_by_entry!(Claim);

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("queue", &self.name)
            .field("id", &self.id)
            .field("deliveries", &self.deliveries)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
