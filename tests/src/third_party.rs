//! A store in memory, small and plain: what someone writes who has read the guide and nothing else
//! of coord's code.
//!
//! All data lies behind one lock. Time passes whenever somebody looks: what has expired by then is
//! deleted first, so there is no task to own.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Batch, Change, Effect, Entry, Order, Range, RangeReply, StoreStatus};
use coord_api::{Error, LeaseId, Result, Revision, Value};
use coord_core::backend::{
    Database, DatabaseStore, DatabaseTxn, LeaseClock, LeaseRecord, Page, PageRequest, TxnState, end_lease,
};
use coord_core::layers::Bounded;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// So many revisions of history are kept at most. Whoever falls further behind is told `Compacted`.
const HISTORY: usize = 20_000;

/// How long a call may take. None takes any time; the layer above closes what is open, and checks.
const LIMIT: Duration = Duration::from_secs(5);

type Keys = BTreeMap<Bytes, Entry>;

/// What all clients share.
pub struct Server {
    state: Mutex<State>,
    /// Told after everything that a watch may be waiting for.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    id: String,
    revision: Revision,
    keys: Keys,
    /// Every revision after `compacted`, the oldest first.
    history: Vec<Batch>,
    /// The state at revision `compacted`, from which history tells every later one.
    base: Keys,
    compacted: Revision,
    leases: BTreeMap<LeaseId, LeaseRecord>,
    /// When they end.
    clock: LeaseClock,
    last_lease: u64,
}

impl Default for Server {
    fn default() -> Self {
        let id = format!("third-party-{:016x}", RandomState::new().hash_one("an identity"));
        let state = Mutex::new(State { id, ..State::default() });
        Server { state, changed: watch::Sender::new(()) }
    }
}

impl Server {
    /// A further client.
    pub fn client(self: &Arc<Self>) -> Bounded<DatabaseStore<Client>> {
        Bounded::new(DatabaseStore::new(Client(Arc::clone(self))), LIMIT)
    }

    /// Forgets the history up to and including `through`.
    pub fn compact(&self, through: Revision) {
        self.lock().compact(through);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state as of now.
    fn state(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        let over = state.clock.over(Instant::now());
        for (id, renewal) in &over {
            state.transact(|txn| end_lease(txn, *id, Some(*renewal)))?;
        }
        if !over.is_empty() {
            self.changed.send_replace(());
        }
        Ok(state)
    }
}

impl State {
    /// Nothing fails once it has changed something: there is nothing to undo.
    fn transact<T>(&mut self, work: impl FnOnce(&mut Changing<'_>) -> Result<T>) -> Result<T> {
        let mut changing = Changing { state: self, changes: Vec::new() };
        let answer = work(&mut changing)?;
        let changes = changing.changes;
        self.commit(changes);
        Ok(answer)
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

    /// The keys as they were at a revision of which history tells.
    fn keys_at(&self, revision: Revision) -> Keys {
        let mut keys = self.base.clone();
        self.history
            .iter()
            .take_while(|batch| batch.revision <= revision)
            .for_each(|batch| apply(&mut keys, batch.clone()));
        keys
    }
}

/// A transaction under way: the state, and what was changed so far.
pub struct Changing<'a> {
    state: &'a mut State,
    changes: Vec<Change>,
}

impl TxnState for Changing<'_> {
    type Error = Error;

    fn revision(&mut self) -> Result<Revision> {
        Ok(if self.changes.is_empty() { self.state.revision } else { self.state.revision.next() })
    }

    fn read(&mut self, range: &Range) -> Result<RangeReply> {
        let present = self.revision()?;
        let revision = range.revision(present, self.state.compacted)?;
        Ok(match revision == present {
            true => select(&self.state.keys, revision, range),
            false => select(&self.state.keys_at(revision), revision, range),
        })
    }

    fn lives(&mut self, lease: LeaseId) -> Result<bool> {
        Ok(self.state.leases.contains_key(&lease))
    }

    fn write(&mut self, key: Bytes, value: Option<Value>, lease: Option<LeaseId>) -> Result<bool> {
        let modified = self.state.revision.next();
        let old = self.state.keys.remove(&key);
        if let Some(value) = value {
            let created = old.as_ref().map_or(modified, |old| old.created);
            let entry = Entry { key: key.clone(), value, created, modified, lease };
            self.changes.push(Change::Put(entry.clone()));
            self.state.keys.insert(key, entry);
        } else if old.is_some() {
            self.changes.push(Change::Delete { key });
        }
        Ok(old.is_some())
    }
}

impl DatabaseTxn for Changing<'_> {
    fn page(&mut self, request: &PageRequest) -> Result<Page> {
        let State { history, compacted, revision: present, .. } = &*self.state;
        let first = history.partition_point(|batch| batch.revision <= request.after);
        let after = history.iter().skip(first).take_while(|batch| batch.revision <= request.through);
        let changes = after
            .flat_map(|batch| batch.changes.iter().map(|change| (batch.revision, change)))
            .filter(|(_, change)| request.span.contains(change.key()))
            .take(request.limit)
            .map(|(revision, change)| (revision, change.clone()));
        Ok(Page { compacted: *compacted, present: *present, changes: changes.collect() })
    }

    fn create_lease(&mut self, ttl: Duration) -> Result<LeaseId> {
        self.state.last_lease += 1;
        let id = LeaseId::new(self.state.last_lease);
        self.state.leases.insert(id, LeaseRecord { ttl, renewal: 0 });
        self.state.clock.see(id, ttl, 0, Instant::now());
        Ok(id)
    }

    fn lease(&mut self, id: LeaseId) -> Result<Option<LeaseRecord>> {
        Ok(self.state.leases.get(&id).copied())
    }

    fn renew_lease(&mut self, id: LeaseId) -> Result<()> {
        if let Some(LeaseRecord { ttl, renewal }) = self.state.leases.get_mut(&id) {
            *renewal += 1;
            self.state.clock.see(id, *ttl, *renewal, Instant::now());
        }
        Ok(())
    }

    fn remove_lease(&mut self, id: LeaseId) -> Result<()> {
        self.state.leases.remove(&id);
        self.state.clock.forget(id);
        Ok(())
    }

    fn keys_of(&mut self, id: LeaseId) -> Result<Vec<Bytes>> {
        let entries = self.state.keys.values().filter(|entry| entry.lease == Some(id));
        Ok(entries.map(|entry| entry.key.clone()).collect())
    }

    fn clock(&mut self) -> &mut LeaseClock {
        &mut self.state.clock
    }

    fn status(&mut self) -> Result<StoreStatus> {
        Ok(StoreStatus { store_id: self.state.id.clone(), version: "third party 2".to_owned() })
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

/// What `range` finds in `keys`, which are the state at `revision`.
fn select(keys: &Keys, revision: Revision, range: &Range) -> RangeReply {
    let from = keys.range((Bound::Included(range.start()), Bound::Unbounded)).map(|(_, entry)| entry);
    let inside = from.take_while(|entry| range.span.contains(&entry.key));
    let mut entries: Vec<Entry> = inside.filter(|entry| range.finds(entry)).cloned().collect();
    match range.order {
        Order::Key => {}
        Order::OldestFirst => entries.sort_by_key(|entry| entry.created),
        Order::NewestFirst => entries.sort_by_key(|entry| std::cmp::Reverse(entry.created)),
    }
    RangeReply::of(range, revision, entries)
}

/// One client of a server, as one process would hold it.
#[derive(Clone)]
pub struct Client(Arc<Server>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Database for Client {
    type Txn<'a> = Changing<'a>;

    async fn transact<T: Send + 'static>(
        &self,
        _operation: &'static str,
        effect: Effect,
        work: impl FnOnce(&mut Changing<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let answer = self.0.state()?.transact(work)?;
        if effect != Effect::Read {
            // Also for a lease: it may end before all others, and a watch sleeps until one does.
            self.0.changed.send_replace(());
        }
        Ok(answer)
    }

    async fn changed(&self, seen: Revision) -> Result<()> {
        let mut changed = self.0.changed.subscribe();
        let next_end = {
            let state = self.0.state()?;
            if state.revision > seen {
                return Ok(());
            }
            state.clock.next()
        };
        let expiry = async {
            match next_end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = changed.changed() => {}
            () = expiry => {}
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
