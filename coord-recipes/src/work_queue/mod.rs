//! Queues of work: items that each are done by one of many, once somebody acknowledges them (R79 to
//! R81).

mod claim;
mod claimer;
mod follower;
mod line;
mod push;

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Op, Span, Txn, round_ttl};
use coord_api::{Error, Outcome, Result, Value, Wait, key};
use coord_core::keys::{self, QueuePart};
use coord_core::{Client, SweptMap, check_retention};
use parking_lot::Mutex;

use claimer::Claimer;
use follower::Follower;
use line::Line;
use push::Receipts;

pub use claim::Claim;

/// What a claim is called in logs and metrics.
const CONTRACT: &str = "queue";

const PUSH: &str = "queue.push";
const CLAIM: &str = "queue.claim";
const STATE: &str = "queue.state";
const DEAD: &str = "queue.dead";
const REDRIVE: &str = "queue.redrive";
const DISCARD: &str = "queue.discard";

/// The largest item, in bytes.
pub const MAX_ITEM_BYTES: usize = 1_000_000;

/// The name of an item, which no other item has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId(Arc<str>);

impl ItemId {
    fn new(id: impl Into<Arc<str>>) -> Self {
        ItemId(id.into())
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads what was written of one.
///
/// # Errors
///
/// `InvalidArgument` for what is no segment of a key (R4).
impl FromStr for ItemId {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self> {
        key::check_segment("queue.item", id)?;
        Ok(ItemId::new(id))
    }
}

/// How to claim an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimOptions {
    /// How long an item stays with a claimer that died: the TTL of its lease, rounded up to whole
    /// seconds (R7). 30 s by default.
    pub ttl: Duration,
    /// How long to wait for an item.
    pub wait: Wait,
    /// How often an item is delivered at most, crashes and retries counted; one that was is put
    /// aside as [dead](Queue::dead). As often as it takes by default.
    pub max_deliveries: Option<u32>,
}

impl Default for ClaimOptions {
    fn default() -> Self {
        ClaimOptions { ttl: Duration::from_secs(30), wait: Wait::Forever, max_deliveries: None }
    }
}

impl ClaimOptions {
    /// Sets the TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long to wait.
    #[must_use]
    pub fn with_wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Sets how often an item is delivered at most.
    #[must_use]
    pub fn with_max_deliveries(mut self, max: u32) -> Self {
        self.max_deliveries = Some(max);
        self
    }

    fn check(&self) -> Result<()> {
        if self.max_deliveries == Some(0) {
            return Err(Error::invalid_argument(CLAIM, "no delivery at all; allow at least one"));
        }
        round_ttl(CLAIM, self.ttl).map(drop)
    }
}

/// An item that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadItem {
    /// Its name.
    pub id: ItemId,
    /// What is in it.
    pub value: Value,
    /// How often it was delivered.
    pub deliveries: u32,
}

/// How a queue stands, at one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueState {
    /// The items, without those that were put aside.
    pub items: usize,
    /// How many of them are claimed, or not to be had before a delay is over.
    pub claimed: usize,
    /// How many claimers wait.
    pub waiting: usize,
}

/// A queue of work among all who know its name, over any store. Cheap to clone; clones, and other
/// queues of this name over the same client, share what they know of it.
///
/// An item is delivered at least once: again where its claimer has crashed, or lost its lease,
/// before it acknowledged. Who must not do it twice looks at the claim's
/// [fence](Claim::fence) or [token](Claim::fencing_token), or does it through
/// [`Once`](crate::Once).
///
/// The first claim begins to follow the queue: its items, without what is in them, its claims and
/// who waits. It goes on for as long as a queue of this name and client is there, so keep it for as
/// long as you claim.
///
/// # Contract
///
/// - **R79** Items are taken in the order in which they were pushed. A push is there once, also
///   where its answer was lost.
/// - **R80** An item is claimed by one at a time. A crash frees it within the TTL and the store's
///   lag. Who waits is served in order; an item costs three requests, and one more where its
///   claimer waited. Of an [ordered](Self::ordered) queue one item is had at a time, the oldest.
/// - **R81** An item is gone once its claim [acknowledges](Claim::ack) it, and free again once the
///   claim is dropped, released or lost; after a [retry](Claim::retry) it is free when the time is
///   over. One that was delivered too often is [dead](Self::dead), and can be
///   [brought back](Self::redrive).
///
/// # Examples
///
/// ```
/// use coord_recipes::{ClaimOptions, Queue};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let client = coord_core::Client::new(store, "node-1", coord_core::Home::new("node-1"));
/// let mails = Queue::new(&client, "mails");
/// mails.push("to ann").await?;
/// if let Some(claim) = mails.claim(ClaimOptions::default()).await? {
///     assert_eq!(claim.value().as_ref(), b"to ann");
///     claim.ack().await?;
/// }
/// assert_eq!(mails.state().await?.items, 0);
/// # client.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct Queue {
    client: Client,
    name: Arc<str>,
    /// Its directory, or what is wrong with the name.
    directory: Result<Bytes>,
    is_ordered: bool,
    shared: Arc<Shared>,
    slot: Arc<Slot>,
}

/// What all queues of one name and client share: how they follow it, once one of them claims.
type Slot = Mutex<Option<Arc<Follower>>>;

/// A queue of one client: its name, and whether it is ordered.
type Named = (Arc<str>, bool);

/// What all queues of one client share.
#[derive(Debug, Default)]
struct Shared {
    /// Those of all queues: one that is made for a single push has its receipt cleared away all the
    /// same.
    receipts: Receipts,
    /// The queues that are in use.
    slots: Mutex<SweptMap<Named, Weak<Slot>>>,
}

impl Queue {
    /// The queue of this name, of which each claimer may have an item. No I/O; a bad name (R4) is
    /// the error of every call.
    pub fn new(client: &Client, name: &str) -> Self {
        Self::make(client, name, false)
    }

    /// The ordered queue of this name, of which one item is had at a time, in all: while the oldest
    /// is claimed or delayed, nobody has another one. It is another queue than the one that
    /// [`new`](Self::new) has under this name. No I/O.
    pub fn ordered(client: &Client, name: &str) -> Self {
        Self::make(client, name, true)
    }

    fn make(client: &Client, name: &str, is_ordered: bool) -> Self {
        client.telemetry().declare(&[CONTRACT]);
        let directory = key::check(PUSH, name).map(|name| keys::queue(name, is_ordered));
        let name: Arc<str> = name.into();
        let shared = client.shared(Shared::default);
        let slot = shared.slots.lock().shared((Arc::clone(&name), is_ordered));
        Queue { client: client.clone(), name, directory, is_ordered, shared, slot }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn directory(&self, operation: &'static str) -> Result<&Bytes> {
        self.directory.as_ref().map_err(|error| error.clone().in_operation(operation))
    }

    /// Appends an item: one request (R79). The first push of a client pays for a session as well.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad name (R4), and for more than [`MAX_ITEM_BYTES`], before any I/O;
    /// `Unavailable` or `Timeout`, outcome `Unknown` where it may be there: a repeat would be
    /// another item. `Closed`, `Exhausted`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be there.
    pub async fn push(&self, value: impl Into<Value>) -> Result<ItemId> {
        self.push_with(value.into(), None).await
    }

    /// As [`push`](Self::push), an item that nobody has before `delay` is over: in whole seconds,
    /// for at most 1.25 times that and the store's lag (R60, R81). It keeps its place in the order
    /// meanwhile, so that in an [ordered](Self::ordered) queue those behind it wait as well.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push); `InvalidArgument` for no delay and for more than 7,200,000,000 s,
    /// before any I/O.
    ///
    /// # Cancel safety
    ///
    /// As [`push`](Self::push).
    pub async fn push_after(&self, delay: Duration, value: impl Into<Value>) -> Result<ItemId> {
        self.push_with(value.into(), Some(delay)).await
    }

    async fn push_with(&self, value: Value, delay: Option<Duration>) -> Result<ItemId> {
        let queue = self.directory(PUSH)?;
        if value.len() > MAX_ITEM_BYTES {
            return Err(Error::invalid_argument(
                PUSH,
                format!("an item of {} bytes; it may have {MAX_ITEM_BYTES}", value.len()),
            )
            .about(&self.name));
        }
        delay.map_or(Ok(()), |delay| check_retention(PUSH, delay))?;
        let push = Box::pin(push::push(&self.client, queue, &self.shared.receipts, &value, delay));
        self.client.run_on(PUSH, &self.name, Outcome::Unknown, push).await
    }

    /// Claims the oldest item that is free, or waits for one; `None` where there is none within the
    /// time that the options give (R80). What comes with [`Wait::Never`] is what the store has when
    /// it is asked.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad name (R4), a bad TTL (R7) or no delivery at all, before any I/O;
    /// `Timeout` where the store does not answer within the time; `Codec` where others removed what
    /// was in the item, which is free again then; `Unavailable`, `Closed`, `Exhausted`,
    /// `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it has claimed nothing (R29). It has lost its place among those who
    /// wait.
    pub async fn claim(&self, options: ClaimOptions) -> Result<Option<Claim>> {
        let directory = self.directory(CLAIM)?;
        options.check().map_err(|error| error.about(&self.name))?;
        let claimer = Claimer { queue: self, directory, options };
        let claim = Box::pin(claimer.claim());
        self.client.run_on(CLAIM, &self.name, Outcome::NotApplied, claim).await
    }

    /// The view of this client, which the first claim makes.
    fn follower(&self) -> Result<Arc<Follower>> {
        let queue = self.directory(CLAIM)?;
        let mut follower = self.slot.lock();
        if let Some(follower) = follower.as_ref().filter(|follower| !follower.is_over()) {
            return Ok(Arc::clone(follower));
        }
        let started = Follower::start(&self.client, CLAIM, queue, self.is_ordered)?;
        Ok(Arc::clone(follower.insert(started)))
    }

    /// How many items there are, and how many claimers wait, at one revision. Linearizable; it
    /// reads the queue without what is in the items.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad name (R4), before any I/O; `Unavailable`, `Timeout`, `Closed`,
    /// `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn state(&self) -> Result<QueueState> {
        let queue = self.directory(STATE)?;
        let read = async {
            let line = self.read_line(queue).await?;
            let (items, claimed) = line.counts();
            Ok(QueueState { items, claimed, waiting: line.waiting() })
        };
        self.client.run_on(STATE, &self.name, Outcome::NotApplied, read).await
    }

    /// The line as the store has it.
    async fn read_line(&self, queue: &Bytes) -> Result<Line> {
        let found = self.client.list(Span::prefix(keys::queue_line(queue))).await?;
        let mut line = Line::new(queue.clone(), self.is_ordered);
        line.replace(&found.entries);
        Ok(line)
    }

    /// The items that were put aside, the oldest ones first, at most `limit` of them: each was
    /// delivered as often as a claimer allowed. One request each, and one more.
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn dead(&self, limit: usize) -> Result<Vec<DeadItem>> {
        let queue = self.directory(DEAD)?;
        let read = async {
            let found = self.client.list(Span::prefix(keys::queue_parts(queue, QueuePart::Dead))).await?;
            let mut found = found.entries;
            found.sort_by_key(|entry| entry.created);
            let mut dead = Vec::new();
            for entry in found {
                let Some(id) = keys::name_in_queue(queue, QueuePart::Dead, &entry.key) else { continue };
                if dead.len() == limit {
                    break;
                }
                // One that was brought back or discarded meanwhile is left out.
                let value = self.client.read(keys::queue_part(queue, QueuePart::Value, id)).await?;
                dead.extend(value.map(|value| DeadItem {
                    id: ItemId::new(id),
                    value: value.value,
                    deliveries: line::deliveries(&entry.value),
                }));
            }
            Ok(dead)
        };
        self.client.run_on(DEAD, &self.name, Outcome::NotApplied, read).await
    }

    /// Brings back an item that was put aside, as the newest one, as if it had never been
    /// delivered. Says whether there was one of this name.
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state); outcome `Unknown` where it may be back.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be back.
    pub async fn redrive(&self, id: &ItemId) -> Result<bool> {
        let item = keys::queue_part(self.directory(REDRIVE)?, QueuePart::Item, id.as_str());
        self.take_dead(REDRIVE, id, Op::put(item, "0")).await
    }

    /// Removes an item that was put aside. Says whether there was one of this name.
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state); outcome `Unknown` where it may be gone.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be gone.
    pub async fn discard(&self, id: &ItemId) -> Result<bool> {
        let value = keys::queue_part(self.directory(DISCARD)?, QueuePart::Value, id.as_str());
        self.take_dead(DISCARD, id, Op::delete(value)).await
    }

    /// Takes an item from those that were put aside, and does this with it.
    async fn take_dead(&self, operation: &'static str, id: &ItemId, and: Op) -> Result<bool> {
        let dead = keys::queue_part(self.directory(operation)?, QueuePart::Dead, id.as_str());
        let take = async {
            let Some(found) = self.client.read(dead.clone()).await? else { return Ok(false) };
            let take = Txn::new()
                .when(Compare::Modified(dead.clone(), found.modified))
                .then(Op::delete(dead))
                .then(and);
            Ok(self.client.store().txn(take).await?.succeeded)
        };
        self.client.run_on(operation, &self.name, Outcome::Unknown, take).await
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.name)
            .field("is_ordered", &self.is_ordered)
            .finish_non_exhaustive()
    }
}
