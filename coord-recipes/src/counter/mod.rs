//! Counters that all who know the name add to (R78).

mod batch;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, Range, Txn, TxnReply};
use coord_api::{Error, ErrorKind, LeaseId, Outcome, Result, Value, key};
use coord_core::{Client, SingleFlight, SweptMap, check_retention, gather, keys};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use batch::{ADDITIONS, Addition, Additions, Stored, TokenKey, parse, record, recorded, sums};

const ADD: &str = "counter.add";
const GET: &str = "counter.get";

/// How many leases of a retention are tried: each but the last was gone when it was used.
const TRIES: usize = 3;

/// A whole number that all who know its name add to, over any store. Cheap to clone; what callers
/// of one client add at the same time shares a write.
///
/// # Contract
///
/// - **R78** Each acknowledged addition counts once, and gives the value that it has made. One with
///   a token may be repeated after a doubt: it gets the value that was recorded.
///
/// # Examples
///
/// ```
/// use coord_recipes::Counter;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let client = coord_core::Client::new(store, "node-1", coord_core::Home::new("node-1"));
/// let unread = Counter::new(&client, "room/7/unread");
/// assert_eq!(unread.add(2).await?, 2);
/// let day = std::time::Duration::from_secs(24 * 3_600);
/// assert_eq!(unread.add_once("message-1", 1, day).await?, 3);
/// assert_eq!(unread.add_once("message-1", 1, day).await?, 3);
/// assert_eq!(unread.get().await?, 3);
/// # client.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct Counter {
    client: Client,
    name: Arc<str>,
    /// Its key, or what is wrong with the name.
    key: Result<Bytes>,
    slot: Arc<Slot>,
}

/// What all who use one counter over one client share.
#[derive(Debug, Default)]
struct Slot {
    waiting: Additions,
    sending: SingleFlight<()>,
    /// The counter, as it was seen last.
    seen: Mutex<Stored>,
}

/// The counters of one client that are in use.
#[derive(Debug, Default)]
struct Shared {
    slots: Mutex<SweptMap<Arc<str>, Weak<Slot>>>,
}

impl Counter {
    /// The counter of this name. No I/O; a bad name (R4) is the error of every call.
    pub fn new(client: &Client, name: &str) -> Self {
        let (key, name): (_, Arc<str>) = (key::check(ADD, name).map(keys::counter), name.into());
        let slot = client.shared(Shared::default).slots.lock().shared(Arc::clone(&name));
        Counter { client: client.clone(), key, slot, name }
    }

    fn key(&self, operation: &'static str) -> Result<&Bytes> {
        self.key.as_ref().map_err(|error| error.clone().in_operation(operation))
    }

    /// Adds `delta`, and gives the value that this makes.
    ///
    /// # Errors
    ///
    /// `Exhausted` where the value would not fit 64 bits, and then nothing is changed; `Codec`
    /// where others left something under the name that is no number; `InvalidArgument` for a bad
    /// name (R4), before any I/O; `Unavailable` or `Timeout`, outcome `Unknown` where it may have
    /// been added: only an addition with a [token](Self::add_once) may be repeated then. `Closed`,
    /// `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be added.
    pub async fn add(&self, delta: i64) -> Result<i64> {
        self.key(ADD)?;
        self.client.run_on(ADD, &self.name, Outcome::Unknown, self.queue(delta, None)).await
    }

    /// As [`add`](Self::add), once for each `token`: a repeat adds nothing, and gives the value
    /// that was recorded, for as long as that is kept: `retention`, and at most 1.25 times that and
    /// the store's lag (R60).
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add); an `Unknown` one may be repeated with its token. `InvalidArgument`
    /// for a bad token (R4) or retention, before any I/O, and where another amount was added under
    /// the token.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be added; a repeat tells.
    pub async fn add_once(&self, token: &str, delta: i64, retention: Duration) -> Result<i64> {
        self.key(ADD)?;
        let key = keys::counter_token(&self.name, key::check(ADD, token)?);
        check_retention(ADD, retention)?;
        let add = self.queue(delta, Some(TokenKey { key, retention }));
        self.client.run_on(ADD, &self.name, Outcome::Unknown, add).await
    }

    /// The value; zero where nobody has added anything. Linearizable.
    ///
    /// # Errors
    ///
    /// `Codec` where others left something under the name that is no number; `InvalidArgument` for
    /// a bad name (R4), before any I/O; `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get(&self) -> Result<i64> {
        let key = self.key(GET)?.clone();
        let read = async { Ok(stored(self.client.read(key).await?.as_ref())?.value) };
        self.client.run_on(GET, &self.name, Outcome::NotApplied, read).await
    }

    /// Has it added with whatever else waits.
    async fn queue(&self, delta: i64, token: Option<TokenKey>) -> Result<i64> {
        let (number, answer) = self.slot.waiting.add(delta, token);
        let mut queued = Queued { slot: &self.slot, number, answer };
        let key = self.key(ADD)?;
        loop {
            let send = self.slot.sending.run(self.client.home(), ADD, || {
                send_all(self.client.clone(), Arc::clone(&self.slot), key.clone())
            });
            tokio::select! {
                biased;
                answer = &mut queued.answer => {
                    return answer.unwrap_or_else(|_| {
                        let fault = "the additions ended by accident";
                        Err(Error::new(ErrorKind::Internal, ADD, fault).with_outcome(Outcome::Unknown))
                    });
                }
                // It may have ended just before this one was queued.
                sent = send => sent?,
            }
        }
    }
}

/// An addition that waits. Given up, it is taken back where it was not sent.
struct Queued<'a> {
    slot: &'a Slot,
    number: u64,
    answer: oneshot::Receiver<Result<i64>>,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.slot.waiting.take_back(self.number);
    }
}

/// A counter, as it was read.
fn stored(entry: Option<&Entry>) -> Result<Stored> {
    let Some(entry) = entry else { return Ok(Stored::default()) };
    match parse(&entry.value) {
        Some(value) => Ok(Stored { value, modified: Some(entry.modified) }),
        None => Err(Error::new(ErrorKind::Codec, ADD, "what stands there is no counter")),
    }
}

/// Sends what waits, batch by batch, until nothing does. At home, so that no caller that goes away
/// or stands still holds up the others.
async fn send_all(client: Client, slot: Arc<Slot>, key: Bytes) -> Result<()> {
    loop {
        gather(ADDITIONS, || slot.waiting.len()).await;
        let mut batch = slot.waiting.take();
        if batch.is_empty() {
            return Ok(());
        }
        if let Err(error) = send(&client, &slot, &key, &mut batch).await {
            for addition in batch {
                let _ = addition.answer.send(Err(error.clone()));
            }
        }
    }
}

/// Sends a batch, and tells those of it that have their answer. Those that are left have the error.
async fn send(client: &Client, slot: &Slot, key: &Bytes, batch: &mut Vec<Addition>) -> Result<()> {
    let mut tries = 0;
    while !batch.is_empty() {
        let seen = *slot.seen.lock();
        let sums = sums(seen.value, batch.iter().map(|addition| addition.delta));
        let mut records: Vec<(TokenKey, Value, LeaseId)> = Vec::new();
        for (addition, sum) in batch.iter().zip(&sums) {
            if let (Some(token), Ok(value)) = (&addition.token, sum) {
                let lease = client.retention_lease(ADD, token.retention).await?;
                records.push((token.clone(), record(addition.delta, *value), lease));
            }
        }
        let txn = write(key, seen, sums.iter().rev().find_map(|sum| sum.as_ref().ok()), batch, &records);
        let reply = match client.store().txn(txn).await {
            Err(error) if error.kind() == ErrorKind::LeaseLost && tries < TRIES => {
                tries += 1;
                records.iter().for_each(|(_, _, lease)| client.retention_lease_gone(*lease));
                continue;
            }
            reply => reply?,
        };
        if reply.succeeded {
            if let Some(value) = sums.iter().rev().find_map(|sum| sum.as_ref().ok()) {
                *slot.seen.lock() = Stored { value: *value, modified: Some(reply.revision) };
            }
            for (addition, sum) in batch.drain(..).zip(sums) {
                let _ = addition.answer.send(sum);
            }
        } else {
            *slot.seen.lock() = stored(reply.try_range(0)?.entries.first())?;
            answer_repeats(batch, &reply);
        }
    }
    Ok(())
}

/// The transaction of a batch, where the counter is as it was `seen`. Where nothing of it fits, it
/// only makes sure of that.
fn write(
    key: &Bytes,
    seen: Stored,
    value: Option<&i64>,
    batch: &[Addition],
    records: &[(TokenKey, Value, LeaseId)],
) -> Txn {
    let as_seen = match seen.modified {
        Some(modified) => Compare::Modified(key.clone(), modified),
        None => Compare::Absent(key.clone()),
    };
    let mut txn = Txn::new().when(as_seen).otherwise(Op::Range(Range::key(key.clone())));
    for token in batch.iter().filter_map(|addition| addition.token.as_ref()) {
        let look = Op::Range(Range::key(token.key.clone()));
        txn = txn.when(Compare::Absent(token.key.clone())).otherwise(look);
    }
    if let Some(value) = value {
        txn = txn.then(Op::put(key.clone(), value.to_string()));
    }
    for (token, record, lease) in records {
        txn = txn.then(Op::put_leased(token.key.clone(), record.clone(), *lease));
    }
    txn
}

/// Tells those of a refused batch what was recorded under their tokens, and takes them out of it.
fn answer_repeats(batch: &mut Vec<Addition>, refused: &TxnReply) {
    let mut index = 0;
    let mut left = Vec::with_capacity(batch.len());
    for addition in batch.drain(..) {
        let found = match &addition.token {
            Some(_) => {
                index += 1;
                refused.try_range(index).map(|range| range.entries.first())
            }
            None => Ok(None),
        };
        match found {
            Ok(Some(found)) => {
                let answer = recorded(&found.value, addition.delta);
                let _ = addition.answer.send(answer);
            }
            Ok(None) => left.push(addition),
            Err(error) => {
                let _ = addition.answer.send(Err(error));
            }
        }
    }
    *batch = left;
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("name", &self.name).finish_non_exhaustive()
    }
}
