//! A store in memory, small and plain: what someone writes who has read the guide and nothing else
//! of coord's code.
//!
//! All data lies behind one lock. Time passes whenever somebody looks: what has expired by then is
//! deleted first, so there is no task to own.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{
    Batch, Change, Compare, Entry, Lease, LeaseInfo, Op, OpReply, Order, Range, RangeReply, Span, Store,
    StoreEvent, StoreStatus, StoreWatch, Txn, TxnReply, round_ttl,
};
use coord_api::{Error, LeaseId, Result, Revision, Value};
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// So many revisions of history are kept at most. Whoever falls further behind is told `Compacted`.
const HISTORY: usize = 20_000;

type Keys = BTreeMap<Bytes, Entry>;

/// What all clients share.
pub struct Server {
    id: String,
    state: Mutex<State>,
    /// Told after everything that a watch may be waiting for.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    keys: Keys,
    /// Every revision after `compacted`, the oldest first.
    history: Vec<Batch>,
    /// The state at revision `compacted`, from which history tells every later one.
    base: Keys,
    compacted: Revision,
    leases: BTreeMap<LeaseId, Held>,
    last_lease: u64,
}

/// A lease that lives.
struct Held {
    ttl: Duration,
    ends: Instant,
}

impl Default for Server {
    fn default() -> Self {
        let id = format!("third-party-{:016x}", RandomState::new().hash_one("an identity"));
        Server { id, state: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Server {
    /// A further client.
    pub fn client(self: &Arc<Self>) -> Client {
        Client { server: Arc::clone(self), closed: Arc::new(AtomicBool::new(false)) }
    }

    /// Forgets the history up to and including `through`.
    pub fn compact(&self, through: Revision) {
        self.state().compact(through);
        self.changed.send_replace(());
    }

    /// The state as of now.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.expire(Instant::now()) {
            self.changed.send_replace(());
        }
        state
    }
}

impl State {
    /// Deletes what has expired, each lease in a revision of its own. Says whether anything had.
    fn expire(&mut self, now: Instant) -> bool {
        let mut expired: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, held)| held.ends <= now)
            .map(|(id, held)| (held.ends, *id))
            .collect();
        expired.sort_unstable();
        expired.iter().for_each(|(_, id)| self.end(*id));
        !expired.is_empty()
    }

    /// Ends a lease, and deletes its keys in one revision.
    fn end(&mut self, id: LeaseId) {
        self.leases.remove(&id);
        let keys = self.keys_of(id);
        keys.iter().for_each(|key| _ = self.keys.remove(key));
        self.commit(keys.into_iter().map(|key| Change::Delete { key }).collect());
    }

    fn keys_of(&self, id: LeaseId) -> Vec<Bytes> {
        self.keys.values().filter(|entry| entry.lease == Some(id)).map(|entry| entry.key.clone()).collect()
    }

    /// Gives changes that were made their revision. No changes, no revision.
    fn commit(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.revision = self.revision.next();
        self.history.push(Batch { revision: self.revision, changes });
        if let (Some(middle), true) = (self.history.get(HISTORY / 2), self.history.len() > HISTORY) {
            self.compact(middle.revision);
        }
    }

    fn compact(&mut self, through: Revision) {
        let forgotten = self.history.partition_point(|batch| batch.revision <= through);
        for batch in self.history.drain(..forgotten) {
            self.compacted = batch.revision;
            apply(&mut self.base, batch);
        }
    }

    fn read(&self, range: &Range) -> Result<RangeReply> {
        let at = range.at.unwrap_or(self.revision);
        if at == self.revision {
            return Ok(select(&self.keys, at, range));
        }
        if at < self.compacted || at > self.revision {
            return Err(Error::compacted("store.range", Some(self.compacted)));
        }
        let mut keys = self.base.clone();
        self.history
            .iter()
            .take_while(|batch| batch.revision <= at)
            .for_each(|batch| apply(&mut keys, batch.clone()));
        Ok(select(&keys, at, range))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let is = |key: &Bytes, test: &dyn Fn(&Entry) -> bool| self.keys.get(key).is_some_and(test);
        match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::Present(key) => self.keys.contains_key(key),
            Compare::Modified(key, revision) => is(key, &|entry| entry.modified == *revision),
            Compare::Created(key, revision) => is(key, &|entry| entry.created == *revision),
            Compare::Lease(key, lease) => is(key, &|entry| entry.lease == Some(*lease)),
            Compare::RangeAbsent(span) => inside(&self.keys, span).next().is_none(),
        }
    }

    fn run(&mut self, txn: Txn) -> Result<TxnReply> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { txn.then } else { txn.otherwise };
        let lost =
            |op: &Op| matches!(op, Op::Put { lease: Some(lease), .. } if !self.leases.contains_key(lease));
        if ops.iter().any(lost) {
            return Err(Error::lease_lost("store.txn", "a put under a lease that is gone"));
        }
        // The revision of its changes, should it make any.
        let next = self.revision.next();
        let mut changes = Vec::new();
        let mut replies = Vec::new();
        for op in ops {
            replies.push(match op {
                Op::Put { key, value, lease } => {
                    let created = self.keys.get(&key).map_or(next, |old| old.created);
                    let entry = Entry { key: key.clone(), value, created, modified: next, lease };
                    changes.push(Change::Put(entry.clone()));
                    self.keys.insert(key, entry);
                    OpReply::Put
                }
                Op::Delete { key } => {
                    let existed = self.keys.remove(&key).is_some();
                    if existed {
                        changes.push(Change::Delete { key });
                    }
                    OpReply::Delete { existed }
                }
                Op::Range(range) => OpReply::Range(select(
                    &self.keys,
                    if changes.is_empty() { self.revision } else { next },
                    &range,
                )),
            });
        }
        self.commit(changes);
        Ok(TxnReply { succeeded, revision: self.revision, replies })
    }

    /// What a watch that has seen everything up to `seen` is told next, if there is anything;
    /// `seen` moves on over what lies outside of its span.
    fn after(&self, seen: &mut Revision, span: &Span) -> Result<Option<Batch>> {
        if *seen < self.compacted {
            return Err(Error::compacted("store.watch", Some(self.compacted)));
        }
        let unseen = self.history.partition_point(|batch| batch.revision <= *seen);
        for batch in self.history.iter().skip(unseen) {
            *seen = batch.revision;
            let changes: Vec<_> =
                batch.changes.iter().filter(|change| span.contains(change.key())).cloned().collect();
            if !changes.is_empty() {
                return Ok(Some(Batch { revision: batch.revision, changes }));
            }
        }
        Ok(None)
    }
}

/// Makes the changes of one revision.
fn apply(keys: &mut Keys, batch: Batch) {
    for change in batch.changes {
        match change {
            Change::Put(entry) => _ = keys.insert(entry.key.clone(), entry),
            Change::Delete { key } => _ = keys.remove(&key),
        }
    }
}

/// The entries of a span, in byte order.
fn inside<'a>(keys: &'a Keys, span: &'a Span) -> impl Iterator<Item = &'a Entry> {
    let from = (Bound::Included(span.start()), Bound::Unbounded);
    keys.range::<[u8], _>(from).map(|(_, entry)| entry).take_while(|entry| span.contains(&entry.key))
}

/// What `range` finds in `keys`, which are the state at `revision`.
fn select(keys: &Keys, revision: Revision, range: &Range) -> RangeReply {
    let wanted = |entry: &&Entry| {
        range.after_key.as_ref().is_none_or(|key| entry.key > *key)
            && range.max_created.is_none_or(|revision| entry.created <= revision)
    };
    let mut entries: Vec<Entry> = inside(keys, &range.span).filter(wanted).cloned().collect();
    match range.order {
        Order::Key => {}
        Order::OldestFirst => entries.sort_by_key(|entry| entry.created),
        Order::NewestFirst => entries.sort_by_key(|entry| std::cmp::Reverse(entry.created)),
    }
    let limit = range.limit.unwrap_or(usize::MAX);
    let more = entries.len() > limit;
    entries.truncate(limit);
    if range.keys_only {
        entries.iter_mut().for_each(|entry| entry.value = Value::new());
    }
    RangeReply { revision, entries, more }
}

/// One client of a server, as one process would hold it.
#[derive(Clone)]
pub struct Client {
    server: Arc<Server>,
    closed: Arc<AtomicBool>,
}

impl Client {
    /// The state as of now, unless this client is closed.
    fn state(&self, operation: &'static str) -> Result<MutexGuard<'_, State>> {
        if self.closed.load(Ordering::Acquire) {
            Err(Error::closed(operation))
        } else {
            Ok(self.server.state())
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Client {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        range.validate()?;
        self.state("store.range")?.read(&range)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        let mut state = self.state("store.txn")?;
        let before = state.revision;
        let reply = state.run(txn)?;
        if reply.revision > before {
            self.server.changed.send_replace(());
        }
        Ok(reply)
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        span.validate("store.watch")?;
        let mut reader = Reader {
            client: self.clone(),
            changed: self.server.changed.subscribe(),
            span,
            seen: Revision::ZERO,
        };
        {
            let state = self.state("store.watch")?;
            // A store that is behind what its caller has seen says so by arming at its own
            // revision.
            reader.seen = after.unwrap_or(state.revision).min(state.revision);
            if reader.seen < state.compacted {
                return Err(Error::compacted("store.watch", Some(state.compacted)));
            }
        }
        let armed = reader.seen;
        // After its first error it ends.
        let items = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            let item = reader.next().await;
            let rest = item.is_ok().then_some(reader);
            Some((item, rest))
        });
        Ok(StoreWatch::new(armed, items))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        let ttl = round_ttl("store.grant_lease", ttl)?;
        let mut state = self.state("store.grant_lease")?;
        state.last_lease += 1;
        let id = LeaseId::new(state.last_lease);
        state.leases.insert(id, Held { ttl, ends: Instant::now() + ttl });
        // It may end before all others, and a watch sleeps until the next one ends.
        self.server.changed.send_replace(());
        Ok(Lease { id, ttl })
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        let mut state = self.state("store.keep_alive")?;
        let held = state
            .leases
            .get_mut(&id)
            .ok_or_else(|| Error::lease_lost("store.keep_alive", "the lease is gone"))?;
        held.ends = Instant::now() + held.ttl;
        Ok(held.ttl)
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let state = self.state("store.lease")?;
        let remaining = |held: &Held| held.ends.saturating_duration_since(Instant::now());
        Ok(state
            .leases
            .get(&id)
            .map(|held| LeaseInfo { remaining: remaining(held), keys: state.keys_of(id) }))
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.state("store.revoke_lease")?.end(id);
        self.server.changed.send_replace(());
        Ok(())
    }

    async fn status(&self) -> Result<StoreStatus> {
        drop(self.state("store.status")?);
        Ok(StoreStatus { store_id: self.server.id.clone(), version: "third party 1".to_owned() })
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        self.server.changed.send_replace(());
        Ok(())
    }
}

/// One watch: it holds its place in the history and none of the history itself.
struct Reader {
    client: Client,
    changed: watch::Receiver<()>,
    span: Span,
    seen: Revision,
}

impl Reader {
    async fn next(&mut self) -> Result<StoreEvent> {
        loop {
            // Before looking, so that a change after the look ends the wait.
            self.changed.mark_unchanged();
            let next_end = {
                let state = self.client.state("store.watch")?;
                if let Some(batch) = state.after(&mut self.seen, &self.span)? {
                    return Ok(StoreEvent::Batch(batch));
                }
                state.leases.values().map(|held| held.ends).min()
            };
            let expiry = async {
                match next_end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.changed.changed() => changed.map_err(|_| Error::closed("store.watch"))?,
                () = expiry => {}
            }
        }
    }
}
