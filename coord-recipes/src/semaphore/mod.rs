//! Semaphores: a number of permits that all who know the name share (R48 to R50).

mod permit;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, Range, Span, Txn, TxnReply, round_ttl};
use coord_api::{Error, ErrorKind, Outcome, Result, Revision, Value, Wait, key};
use coord_core::session::{LeasedEntry, SessionRef};
use coord_core::telemetry::Subject;
use coord_core::{Client, Limit, SweptMap, keys};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::queue::{Item, Join, Queues, Reading, Wanted, Weight, too_heavy};

pub use permit::Permit;

/// What a permit is called in logs and metrics.
const CONTRACT: &str = "semaphore";

const ACQUIRE: &str = "semaphore.acquire";
const RESIZE: &str = "semaphore.resize";

/// The most permits that a semaphore can have: who joins its queue reads that many entries at most,
/// and one more.
pub const MAX_PERMITS: u32 = 1_024;

/// How many permits a semaphore has, as one of its users sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PermitLimit {
    /// So many where nobody has said yet; what is stored where somebody has. Another number in the
    /// store is told once, at WARN.
    First(u32),
    /// So many, or an error.
    Exactly(u32),
}

impl PermitLimit {
    fn number(self) -> u32 {
        match self {
            PermitLimit::First(limit) | PermitLimit::Exactly(limit) => limit,
        }
    }
}

/// How to acquire permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PermitOptions {
    /// How many permits there are in all.
    pub limit: PermitLimit,
    /// How long permits outlive a holder that died: the TTL of their lease, rounded up to whole
    /// seconds (R7). 30 s by default.
    pub ttl: Duration,
    /// How long to wait in the queue.
    pub wait: Wait,
}

impl PermitOptions {
    /// Waits as long as it takes, for a TTL of 30 s.
    pub fn new(limit: PermitLimit) -> Self {
        PermitOptions { limit, ttl: Duration::from_secs(30), wait: Wait::Forever }
    }

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

/// A semaphore among all who know its name, over any store. Cheap to clone; clones share what they
/// know of the limit, which makes an acquire one request.
///
/// # Contract
///
/// - **R48** Permits are granted at a revision at which the weights up to and with the entry are
///   within the limit that is stored, whatever each client believes it to be. A lowered limit takes
///   nothing back.
/// - **R49** First come, first served: someone who wants many is not overtaken by those who want
///   few. Who waits for more than a lowered limit gets InvalidArgument.
/// - **R50** What holds for a lock holds for permits: R27, R29 to R33.
///
/// # Examples
///
/// ```
/// use coord_recipes::{PermitLimit, PermitOptions, Semaphore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let client = coord_core::Client::new(store, "node-1", coord_core::Home::new("node-1"));
/// let exports = Semaphore::new(&client, "exports");
/// let options = PermitOptions::new(PermitLimit::First(4));
/// let (one, two) = (exports.acquire(3, options).await?, exports.acquire(1, options).await?);
/// assert!(exports.acquire(1, options.with_wait(coord_api::Wait::Never)).await.is_err());
/// one.release().await?;
/// two.release().await?;
/// exports.remove().await?;
/// # client.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    client: Client,
    name: Arc<str>,
    /// Its directory, or what is wrong with the name.
    directory: Result<Bytes>,
    shared: Arc<Shared>,
    /// The limit, as any semaphore of this name and client has seen it last.
    seen: Arc<Seen>,
}

/// What all semaphores of one client share.
#[derive(Debug)]
struct Shared {
    queues: Queues,
    seen: Mutex<SweptMap<Arc<str>, Weak<Seen>>>,
}

impl Shared {
    fn new() -> Self {
        Shared { queues: Queues::new(READING), seen: Mutex::default() }
    }
}

/// The limit as it was seen last; `None` before it was.
type Seen = Mutex<Option<StoredLimit>>;

/// The limit in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StoredLimit {
    permits: u32,
    modified: Revision,
}

impl Semaphore {
    /// The semaphore of this name. No I/O; a bad name (R4) is the error of every call.
    pub fn new(client: &Client, name: &str) -> Self {
        let shared = client.shared(Shared::new);
        client.telemetry().declare(&[CONTRACT]);
        let (directory, name) = (key::check(ACQUIRE, name).map(keys::semaphore), Arc::from(name));
        let seen = shared.seen.lock().shared(Arc::clone(&name));
        Semaphore { client: client.clone(), directory, seen, shared, name }
    }

    fn directory(&self, operation: &'static str) -> Result<&Bytes> {
        self.directory.as_ref().map_err(|error| error.clone().in_operation(operation))
    }

    /// Acquires `weight` permits at once.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a weight of zero, a limit of zero or over [`MAX_PERMITS`], a weight
    /// over the limit, a bad name or TTL, before any I/O; for another limit than the
    /// [exact](PermitLimit::Exactly) one, and a weight over the one that is stored. `Conflict`
    /// where [`Wait::Never`] finds too few of them free; `Timeout` when [`Wait::For`] ran out, and
    /// then no queue entry stays; `Codec` where the stored limit is no number; `Unavailable`,
    /// `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the call leaves no permit and no ghost waiter (R29). The place in the
    /// queue is lost.
    pub async fn acquire(&self, weight: u32, options: PermitOptions) -> Result<Permit> {
        let directory = self.directory(ACQUIRE)?;
        check_limit(ACQUIRE, options.limit.number())?;
        check_weight(weight, options.limit)?;
        round_ttl(ACQUIRE, options.ttl)?;
        let mut wish = Wish { semaphore: self, directory, weight, limit: options.limit, seen: None };
        let wanted = Wanted { operation: ACQUIRE, directory, ttl: options.ttl };
        let acquire: BoxFuture<'_, _> = Box::pin(async {
            wish.begin().await?;
            let queues = &self.shared.queues;
            match options.wait {
                Wait::Never => queues.try_acquire(&self.client, wanted, &mut wish).await,
                wait => {
                    let limit = Limit::of(self.client.home(), wait);
                    queues.acquire(&self.client, wanted, limit, &mut wish).await
                }
            }
        });
        let entry = self.client.run_on(ACQUIRE, &self.name, Outcome::NotApplied, acquire).await?;
        entry.held();
        Ok(Permit::new(Arc::clone(&self.name), weight, entry))
    }

    /// Sets how many permits there are. More of them let waiters in; fewer take nothing back from
    /// those who hold (R48).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for zero or more than [`MAX_PERMITS`], before any I/O; `Unavailable` or
    /// `Timeout`, outcome `Unknown`; `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not have been set.
    pub async fn resize(&self, permits: u32) -> Result<()> {
        let limit = keys::semaphore_limit(self.directory(RESIZE)?);
        check_limit(RESIZE, permits)?;
        let put = Txn::new().then(Op::put(limit, permits.to_string()));
        let resize = self.client.store().txn(put);
        let reply = self.client.run_on(RESIZE, &self.name, Outcome::Unknown, resize).await?;
        self.saw(StoredLimit { permits, modified: reply.revision });
        Ok(())
    }

    /// Removes the semaphore, if nobody holds or waits for permits.
    ///
    /// # Errors
    ///
    /// `Conflict` where somebody does; those of [`resize`](Self::resize).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not have been removed.
    pub async fn remove(&self) -> Result<()> {
        const OPERATION: &str = "semaphore.remove";
        let directory = self.directory(OPERATION)?;
        let remove = Txn::new()
            .when(Compare::RangeAbsent(Span::prefix(keys::semaphore_queue(directory))))
            .then(Op::delete(keys::semaphore_limit(directory)));
        let remove = self.client.store().txn(remove);
        match self.client.run_on(OPERATION, &self.name, Outcome::Unknown, remove).await? {
            reply if reply.succeeded => Ok(()),
            _ => Err(Error::new(ErrorKind::Conflict, OPERATION, "somebody holds or waits for permits")
                .about(&self.name)),
        }
    }

    /// Remembers the limit, unless a newer one is known.
    fn saw(&self, limit: StoredLimit) {
        let mut seen = self.seen.lock();
        if seen.is_none_or(|seen| seen.modified < limit.modified) {
            *seen = Some(limit);
        }
    }
}

fn check_limit(operation: &'static str, limit: u32) -> Result<()> {
    if (1..=MAX_PERMITS).contains(&limit) {
        return Ok(());
    }
    Err(Error::invalid_argument(operation, format!("a limit of {limit}; it must be 1 to {MAX_PERMITS}")))
}

/// A weight that can be had, as far as the caller's own limit tells.
fn check_weight(weight: u32, limit: PermitLimit) -> Result<()> {
    match limit {
        _ if weight == 0 => Err(Error::invalid_argument(ACQUIRE, "a weight of zero; ask for one at least")),
        _ if weight > MAX_PERMITS => Err(too_heavy(ACQUIRE, weight.into())),
        PermitLimit::Exactly(limit) if weight > limit => Err(too_heavy(ACQUIRE, weight.into())),
        // What is stored may be more, and decides.
        _ => Ok(()),
    }
}

/// How a semaphore is read.
pub(crate) const READING: Reading = Reading { item, capacity: 0 };

/// What lies in a semaphore's directory.
fn item(directory: &[u8], entry: &Entry) -> Item {
    if let Some(weight) = keys::semaphore_weight(directory, &entry.key) {
        return Item::Entry(Weight::from(weight));
    }
    match entry.key.strip_prefix(directory) {
        Some(b"limit") => parse_limit(&entry.value).map_or(Item::Other, |limit| Item::Capacity(limit.into())),
        _ => Item::Other,
    }
}

fn parse_limit(value: &Value) -> Option<u32> {
    let limit = std::str::from_utf8(value).ok()?.parse().ok()?;
    (1..=MAX_PERMITS).contains(&limit).then_some(limit)
}

/// Permits that someone wants.
struct Wish<'a> {
    semaphore: &'a Semaphore,
    directory: &'a Bytes,
    weight: u32,
    limit: PermitLimit,
    /// The limit under which the entry is written; `None` where none is stored, as far as is known.
    seen: Option<StoredLimit>,
}

impl Join for Wish<'_> {
    fn entry(&self, session: SessionRef) -> LeasedEntry {
        let key = keys::semaphore_entry(self.directory, session.lease(), session.nonce(), self.weight);
        LeasedEntry::new(session, key, Subject::new(CONTRACT, &*self.semaphore.name))
    }

    fn join(&self, entry: &LeasedEntry) -> Txn {
        let key = keys::semaphore_limit(self.directory);
        let as_seen = match self.seen {
            Some(seen) => Compare::Modified(key.clone(), seen.modified),
            None => Compare::Absent(key.clone()),
        };
        let owner = self.semaphore.client.owner().value();
        // Where there are more than can have their turn at once, this one, the youngest, has to
        // wait; no more of them are looked at.
        let others = Range::prefix(keys::semaphore_queue(self.directory))
            .with_limit(self.permits().saturating_add(1))
            .with_keys_only();
        let txn = Txn::new()
            .when(as_seen)
            .when(Compare::Absent(entry.key().clone()))
            .then(Op::put_leased(entry.key().clone(), owner, entry.session().lease()))
            .then(Op::Range(others))
            .otherwise(Op::Range(Range::key(key.clone())));
        match self.seen {
            Some(_) => txn,
            None => txn.then(Op::put(key, self.permits().to_string())),
        }
    }

    fn has_turn(&self, _: &LeasedEntry, reply: &TxnReply) -> Result<bool> {
        let found = reply.try_range(1)?;
        if self.seen.is_none() {
            let permits = self.limit.number();
            self.semaphore.saw(StoredLimit { permits, modified: reply.revision });
        }
        let weight = |entry: &Entry| keys::semaphore_weight(self.directory, &entry.key).unwrap_or_default();
        let weights = found.entries.iter().map(|entry| u64::from(weight(entry)));
        Ok(found.entries.len() <= self.permits() && weights.sum::<u64>() <= self.permits() as u64)
    }

    fn refused(&mut self, reply: &TxnReply) -> Result<()> {
        self.look(reply.try_range(0)?.entries.first())
    }
}

impl Wish<'_> {
    /// Begins with the limit that was seen last. Where that stands against the wish it may be out
    /// of date, and where there is none the wish may be more than there will be: then the store is
    /// asked.
    async fn begin(&mut self) -> Result<()> {
        let seen = *self.semaphore.seen.lock();
        let fits = |seen: &StoredLimit| match self.limit {
            PermitLimit::Exactly(limit) => seen.permits == limit,
            PermitLimit::First(_) => self.weight <= seen.permits,
        };
        self.seen = seen.filter(fits);
        if self.seen.is_none() && (seen.is_some() || self.weight > self.limit.number()) {
            let stored = self.semaphore.client.read(keys::semaphore_limit(self.directory)).await?;
            self.look(stored.as_ref())?;
        }
        Ok(())
    }

    /// The limit is this, or there is none.
    fn look(&mut self, stored: Option<&Entry>) -> Result<()> {
        let Some(entry) = stored else {
            self.seen = None;
            if self.weight > self.limit.number() {
                return Err(too_heavy(ACQUIRE, self.weight.into()));
            }
            return Ok(());
        };
        let Some(permits) = parse_limit(&entry.value) else {
            let fault = "the stored limit is no number of permits; set it with resize";
            return Err(Error::new(ErrorKind::Codec, ACQUIRE, fault));
        };
        let is_news = self.semaphore.seen.lock().is_none();
        let stored = StoredLimit { permits, modified: entry.modified };
        self.semaphore.saw(stored);
        self.seen = Some(stored);
        match self.limit {
            PermitLimit::Exactly(limit) if limit != permits => {
                let fault = format!(
                    "the semaphore has {permits} permits, not {limit}; resize it, or take what is stored"
                );
                return Err(Error::invalid_argument(ACQUIRE, fault));
            }
            PermitLimit::First(limit) if limit != permits && is_news => self.tell_other_limit(permits),
            _ => {}
        }
        if self.weight > permits {
            return Err(too_heavy(ACQUIRE, self.weight.into()));
        }
        Ok(())
    }

    /// How many permits there are, where the entry is written.
    fn permits(&self) -> usize {
        let permits = self.seen.map_or(self.limit.number(), |seen| seen.permits);
        usize::try_from(permits).unwrap_or(usize::MAX)
    }

    /// The operator should know that what the program says is not what holds.
    fn tell_other_limit(&self, stored: u32) {
        let (provider, key, asked) =
            (self.semaphore.client.name().to_owned(), self.semaphore.name.to_string(), self.limit.number());
        coord_home::event!(
            WARN,
            provider,
            contract = CONTRACT,
            key,
            asked,
            stored,
            "another limit is stored, and holds"
        );
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("name", &self.name).finish_non_exhaustive()
    }
}
