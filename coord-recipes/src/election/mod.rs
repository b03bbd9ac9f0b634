//! Leader election: of many candidates one leads, and everyone can see who (R51 to R54).

mod leadership;
mod observe;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, Order, Range, Span, Txn, TxnReply, round_ttl};
use coord_api::{
    Error, ErrorKind, FencingToken, Outcome, Result, Revision, Value, Wait, Watch, WatchStart, key,
    run_while_held,
};
use coord_core::session::{LeasedEntry, SessionRef};
use coord_core::telemetry::Subject;
use coord_core::{Client, Limit, keys};
use futures_util::future::BoxFuture;
use std::sync::Arc;

use crate::queue::{ALL, Item, Join, Queues, Reading, Wanted};

pub use leadership::Leadership;
pub use observe::LeaderEvent;

/// What a leadership is called in logs and metrics.
const CONTRACT: &str = "election";

const CAMPAIGN: &str = "election.campaign";

/// Entries that are read at once where the oldest one is looked for: one, but for what others left
/// in the directory.
const PAGE: usize = 8;

/// How to run for leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CampaignOptions {
    /// How long the leadership outlives a leader that died: the TTL of its lease, rounded up to
    /// whole seconds (R7). 30 s by default.
    pub ttl: Duration,
    /// How long to wait for it.
    pub wait: Wait,
}

impl Default for CampaignOptions {
    fn default() -> Self {
        CampaignOptions { ttl: Duration::from_secs(30), wait: Wait::Forever }
    }
}

impl CampaignOptions {
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
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// What it said last: when it ran, or by [`Leadership::proclaim`].
    pub value: Value,
    /// The number of its leadership, greater than all earlier ones of the election.
    pub token: FencingToken,
    /// The revision at which it said so.
    pub version: Revision,
}

/// An election among all who know its name, over any store. Cheap to make and to clone.
///
/// # Contract
///
/// - **R51** One leader in store order, in the order in which they began to run; each leadership
///   has a token greater than all earlier ones. What holds for a lock's guard holds for a
///   [`Leadership`] (R25 to R33). A candidate whose lease died runs anew.
/// - **R52** [`Leadership::proclaim`] replaces what the leader says in place, and only while it
///   leads.
/// - **R53** A resignation that the store did not answer is repeated until it did, or the lease is
///   over (R9). [`lead`](Self::lead) gives the leadership up only after its work has ended.
/// - **R54** [`observe`](Self::observe) tells the leader, or that there is none, and then every
///   change in order. [`leader`](Self::leader) is linearizable.
///
/// # Examples
///
/// ```
/// use coord_recipes::{CampaignOptions, Election};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let client = coord_core::Client::new(store, "node-1", coord_core::Home::new("node-1"));
/// let election = Election::new(&client, "jobs");
/// let leadership = election.campaign("node-1", CampaignOptions::default()).await?;
/// assert_eq!(election.leader().await?.unwrap().value, "node-1".into());
/// leadership.resign().await?;
/// assert!(election.leader().await?.is_none());
/// # client.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct Election {
    client: Client,
    /// What its leaderships are called in logs and metrics.
    contract: &'static str,
    name: Arc<str>,
    /// The queue of the candidates, or what is wrong with the name.
    queue: Result<Bytes>,
    shared: Arc<Shared>,
}

/// What all elections of one client share.
#[derive(Debug)]
struct Shared {
    queues: Queues,
}

impl Election {
    /// The election of this name. No I/O; a bad name (R4) is the error of every call.
    pub fn new(client: &Client, name: &str) -> Self {
        let queue = key::check(CAMPAIGN, name).map(keys::election);
        Election::over(client, CONTRACT, name, queue)
    }

    /// An election that is part of something else, with a queue of its own.
    pub(crate) fn over(client: &Client, contract: &'static str, name: &str, queue: Result<Bytes>) -> Self {
        let shared = client.shared(|| Shared { queues: Queues::new(READING) });
        client.telemetry().declare(&[contract]);
        Election { client: client.clone(), contract, name: name.into(), queue, shared }
    }

    fn queue(&self, operation: &'static str) -> Result<&Bytes> {
        self.queue.as_ref().map_err(|error| error.clone().in_operation(operation))
    }

    /// Runs for leader, saying `value`, and waits until it leads (R51).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4, R6, R7) before any I/O; `Conflict` where [`Wait::Never`] finds
    /// another leader; `Timeout` when [`Wait::For`] ran out, and then it does not run any more;
    /// `Unavailable`, `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped at any await point, it does not run any more (R29).
    pub async fn campaign(&self, value: impl Into<Value>, options: CampaignOptions) -> Result<Leadership> {
        let value = value.into();
        let queue = self.queue(CAMPAIGN)?;
        key::check_value(CAMPAIGN, &value)?;
        round_ttl(CAMPAIGN, options.ttl)?;
        let wanted = Wanted { operation: CAMPAIGN, directory: queue, ttl: options.ttl };
        let mut candidate = Candidate { contract: self.contract, name: &self.name, queue, value };
        let queues = &self.shared.queues;
        let campaign: BoxFuture<'_, _> = match options.wait {
            Wait::Never => Box::pin(queues.try_acquire(&self.client, wanted, &mut candidate)),
            wait => {
                let limit = Limit::of(self.client.home(), wait);
                Box::pin(queues.acquire(&self.client, wanted, limit, &mut candidate))
            }
        };
        let entry = self.client.run_on(CAMPAIGN, &self.name, Outcome::NotApplied, campaign).await?;
        entry.held();
        Ok(Leadership::new(self.client.clone(), Arc::clone(&self.name), entry))
    }

    /// Runs for leader, does `work` once it leads, and resigns when the work has ended.
    ///
    /// The work is dropped at once when the leadership is lost, before this returns (R76); it has
    /// the leadership itself to look at, to hand its token on, and to proclaim with. Where this is
    /// dropped, or the work panics, the work ends first and the leadership after it (R53).
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the leadership was lost before the work was done; those of
    /// [`campaign`](Self::campaign). A resignation that the store did not answer is no error here:
    /// it is repeated (R9).
    ///
    /// # Cancel safety
    ///
    /// Dropped, the work is dropped at the point that it has reached, and the leadership given up.
    pub async fn lead<T>(
        &self,
        value: impl Into<Value>,
        options: CampaignOptions,
        work: impl AsyncFnOnce(&Leadership) -> T,
    ) -> Result<T> {
        let leadership = self.campaign(value, options).await?;
        let done = run_while_held(&leadership, work(&leadership)).await?;
        let _ = leadership.resign().await;
        Ok(done)
    }

    /// Who leads now; `None` while nobody does. Linearizable (R54).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4); `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        const OPERATION: &str = "election.leader";
        let queue = self.queue(OPERATION)?;
        self.client.run_on(OPERATION, &self.name, Outcome::NotApplied, self.first(queue)).await
    }

    async fn first(&self, queue: &Bytes) -> Result<Option<Leader>> {
        let oldest = Range::prefix(queue.clone()).with_order(Order::OldestFirst).with_limit(PAGE);
        let found = self.client.store().range(oldest).await?;
        let is_candidate = |entry: &&Entry| item(queue, entry) != Item::Other;
        match found.entries.iter().find(is_candidate) {
            Some(first) => Ok(Some(Leader::of(first))),
            None if found.entries.len() < PAGE => Ok(None),
            // What others left in the directory is older than the leader.
            None => {
                let all = self.client.list(Span::prefix(queue.clone())).await?;
                Ok(all.entries.iter().filter(is_candidate).min_by_key(|entry| entry.created).map(Leader::of))
            }
        }
    }

    /// Follows who leads: first the state as it is, then every change (R54). All who observe one
    /// election over one client share one watch on the store.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4); `Unavailable`, `Closed`, `Unauthenticated`, `PermissionDenied`. R16
    /// to R22 apply to the watch.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn observe(&self) -> Result<Watch<LeaderEvent>> {
        let queue = self.queue(observe::OPERATION)?.clone();
        let subscribe = Box::pin(self.client.subscribe(Span::prefix(queue.clone()), WatchStart::Snapshot));
        let subscription =
            self.client.run_on(observe::OPERATION, &self.name, Outcome::NotApplied, subscribe).await?;
        Ok(observe::watch(subscription, queue))
    }
}

impl Leader {
    fn of(entry: &Entry) -> Self {
        Leader {
            value: entry.value.clone(),
            token: FencingToken::new(entry.created.get()),
            version: entry.modified,
        }
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How the queue of an election is read.
pub(crate) const READING: Reading = Reading { item, capacity: ALL };

/// What an entry of an election's directory is.
fn item(queue: &[u8], entry: &Entry) -> Item {
    match keys::segment(queue, &entry.key) {
        Some(_) => Item::Entry(ALL),
        None => Item::Other,
    }
}

/// Someone who runs.
struct Candidate<'a> {
    contract: &'static str,
    name: &'a str,
    queue: &'a Bytes,
    value: Value,
}

impl Join for Candidate<'_> {
    fn entry(&self, session: SessionRef) -> LeasedEntry {
        let key = keys::election_entry(self.queue, session.lease(), session.nonce());
        LeasedEntry::new(session, key, Subject::new(self.contract, self.name))
    }

    fn join(&self, entry: &LeasedEntry) -> Txn {
        let others = Range::prefix(self.queue.clone()).with_limit(2).with_keys_only();
        Txn::new()
            .when(Compare::Absent(entry.key().clone()))
            .then(Op::put_leased(entry.key().clone(), self.value.clone(), entry.session().lease()))
            .then(Op::Range(others))
    }

    fn has_turn(&self, entry: &LeasedEntry, reply: &TxnReply) -> Result<bool> {
        Ok(reply.try_range(1)?.entries.iter().all(|other| other.key == *entry.key()))
    }

    fn refused(&mut self, _: &TxnReply) -> Result<()> {
        Err(Error::new(ErrorKind::Internal, CAMPAIGN, "another entry has this name"))
    }
}
