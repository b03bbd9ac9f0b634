//! The store that all its clients share: the engine and the watchers under one lock, the clock, and
//! what follows a commit.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::{Error, Result, Revision};
use coord_home::Home;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::engine::{Engine, HistoryWindow, LeaseChange};
use crate::expiry::Expiry;
use crate::journal::Journal;
use crate::storage::{Mutation, Storage, new_store_id};
use crate::watchers::{Watcher, Watchers, wake};

/// The longest sleep of who expires leases; tokio's timers do not reach as far as leases do.
const LONGEST_SLEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The history that a store keeps: 16,384 changes and 64 MiB at most.
pub(crate) const WINDOW: HistoryWindow = HistoryWindow { changes: 16_384, bytes: 64 * 1024 * 1024 };

pub(crate) struct SharedStore {
    state: RwLock<StoreState>,
    epoch: Instant,
    home: Home,
    expiry: Arc<Expiry>,
    journal: Option<Arc<Journal>>,
    clients: Mutex<usize>,
    next_client: AtomicU64,
    me: Weak<SharedStore>,
    pub(crate) store_id: String,
    pub(crate) version: &'static str,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct StoreState {
    pub(crate) engine: Engine,
    pub(crate) watchers: Watchers,
}

/// What an operation saw or made, and so what must be durable before it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeenCommit {
    number: u64,
    /// Whether the operation itself changed the store.
    pub(crate) wrote: bool,
}

impl SharedStore {
    pub(crate) fn volatile(home: Home) -> Arc<Self> {
        SharedStore::new(
            home,
            Engine::new(WINDOW),
            None,
            new_store_id(),
            concat!("coord-memory ", env!("CARGO_PKG_VERSION"), " (volatile)"),
        )
    }

    /// A store, which keeps its commits in `storage` where there is one.
    pub(crate) fn new(
        home: Home,
        engine: Engine,
        storage: Option<Arc<dyn Storage>>,
        store_id: String,
        version: &'static str,
    ) -> Arc<Self> {
        let (journals_home, revision) = (home.clone(), engine.revision());
        let journal = |storage, me: &Weak<SharedStore>| {
            let me = Weak::clone(me);
            let failed = move || me.upgrade().iter().for_each(|shared| shared.wake_all());
            Arc::new(Journal::new(journals_home, storage, revision, failed))
        };
        Arc::new_cyclic(|me| SharedStore {
            journal: storage.map(|storage| journal(storage, me)),
            state: RwLock::new(StoreState { engine, watchers: Watchers::default() }),
            epoch: home.now(),
            home,
            expiry: Arc::default(),
            clients: Mutex::new(0),
            next_client: AtomicU64::new(0),
            me: Weak::clone(me),
            store_id,
            version,
        })
    }

    /// Counts a client in and names it. `None` once a durable store lost its last client, and with
    /// that let go of its directory.
    pub(crate) fn enter(&self) -> Option<u64> {
        let mut clients = self.clients.lock();
        if self.is_released() {
            return None;
        }
        *clients += 1;
        Some(self.next_client.fetch_add(1, Ordering::Relaxed))
    }

    /// Counts a client out and ends what it waits for. It must already know that it is closed.
    pub(crate) fn leave(&self, client: u64) {
        let watchers = self.state.read().watchers.of_client(client);
        wake(watchers);
        let mut clients = self.clients.lock();
        *clients = clients.saturating_sub(1);
        if let Some(journal) = &self.journal {
            if *clients == 0 {
                journal.release();
            } else {
                journal.tick();
            }
        }
    }

    /// Makes everything look again that a client waits for.
    pub(crate) fn disturb(&self, client: u64) {
        let watchers = self.state.read().watchers.of_client(client);
        wake(watchers);
        if let Some(journal) = &self.journal {
            journal.tick();
        }
    }

    /// Whether answers may have to wait for the disk.
    pub(crate) fn is_durable(&self) -> bool {
        self.journal.is_some()
    }

    pub(crate) fn is_released(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.is_released())
    }

    /// Where the store's work lives, and whose clock its leases go by.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// The time since the store's epoch, on its home's clock.
    pub(crate) fn now(&self) -> Duration {
        self.home.now().saturating_duration_since(self.epoch)
    }

    /// Reads, after whatever has expired by now is gone.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&StoreState) -> T) -> (T, SeenCommit) {
        let mut state = self.state.read();
        if let Some(expiry) = state.engine.next_expiry() {
            // Not under the lock: a runtime that is ending drops the task at once, and that looks
            // at the watchers.
            drop(state);
            self.ensure_expiry();
            if expiry <= self.now() {
                self.write(|_| ());
            }
            state = self.state.read();
        }
        (read(&state), SeenCommit { number: self.queued(), wrote: false })
    }

    /// Reads as it stands.
    pub(crate) fn peek<T>(&self, read: impl FnOnce(&StoreState) -> T) -> T {
        read(&self.state.read())
    }

    /// Writes, after whatever has expired by now is gone, and sees to what follows a write: the
    /// journal, the watchers, the history's window.
    pub(crate) fn write<T>(&self, write: impl FnOnce(&mut StoreState) -> T) -> (T, SeenCommit) {
        let mut woken = Vec::new();
        let mut granted = false;
        let (result, seen, leases) = {
            let mut state = self.state.write();
            if state.engine.next_expiry().is_some() {
                let before = state.engine.revision();
                state.engine.expire(self.now());
                self.publish(&mut state, before, &mut woken, &mut granted);
            }
            let before = state.engine.revision();
            let result = write(&mut state);
            let wrote = self.publish(&mut state, before, &mut woken, &mut granted);
            (result, SeenCommit { number: self.queued(), wrote }, state.engine.next_expiry().is_some())
        };
        if leases {
            self.ensure_expiry();
        }
        if granted {
            self.expiry.poke();
        }
        wake(woken);
        (result, seen)
    }

    /// Waits until what an operation saw is durable. Volatile stores never wait.
    ///
    /// # Errors
    ///
    /// The failure of the storage; `Closed` when `closed` says so.
    pub(crate) async fn durable(&self, seen: SeenCommit, closed: impl Fn() -> bool) -> Result<()> {
        match &self.journal {
            Some(journal) => journal.durable(seen.number, closed).await,
            None => Ok(()),
        }
    }

    /// Waits until the disk is not too far behind for another write.
    ///
    /// # Errors
    ///
    /// As [`durable`](Self::durable).
    pub(crate) async fn room(&self, closed: impl Fn() -> bool) -> Result<()> {
        match &self.journal {
            Some(journal) => journal.room(closed).await,
            None => Ok(()),
        }
    }

    /// Writes to the disk what nobody waits for.
    fn start_flush(&self) {
        if let Some(journal) = &self.journal {
            journal.start_flush();
        }
    }

    /// The newest revision that watchers may see.
    pub(crate) fn visible(&self) -> Option<Revision> {
        self.journal.as_ref().map(|journal| journal.visible())
    }

    /// Why the store does not work any more, if so.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.journal.as_ref()?.failure()
    }

    /// Sees to it that somebody expires leases while there are any.
    pub(crate) fn keep_expiring(&self) {
        if self.state.read().engine.next_expiry().is_some() {
            self.ensure_expiry();
        }
    }

    /// Sees to it that somebody expires leases.
    fn ensure_expiry(&self) {
        let look = || {
            let me = Weak::clone(&self.me);
            // A store that let go of its directory has nothing left to expire.
            move || me.upgrade().filter(|shared| !shared.is_released()).map(|shared| shared.expire())
        };
        let ended = || {
            let me = Weak::clone(&self.me);
            // The watchers, which may live in another runtime, start the task anew there.
            move || me.upgrade().iter().for_each(|shared| shared.wake_all())
        };
        self.expiry.ensure(&self.home, look, ended);
    }

    /// Ends what has expired. When there will be more to do, if it is known.
    fn expire(&self) -> Option<Instant> {
        let (next, _) = self.write(|state| state.engine.next_expiry());
        self.start_flush();
        next.and_then(|next| self.epoch.checked_add(next.min(self.now() + LONGEST_SLEEP)))
    }

    /// Forgets a watcher.
    pub(crate) fn unwatch(&self, watcher: &Watcher) {
        self.state.write().watchers.remove(watcher);
    }

    /// Makes every watcher look again.
    fn wake_all(&self) {
        let watchers: Vec<_> = self.state.read().watchers.all().map(Arc::clone).collect();
        wake(watchers);
    }

    /// What follows a write. Says whether it changed anything.
    fn publish(
        &self,
        state: &mut StoreState,
        before: Revision,
        woken: &mut Vec<Arc<Watcher>>,
        granted: &mut bool,
    ) -> bool {
        let StoreState { engine, watchers } = state;
        let first = woken.len();
        let mut changed = engine.revision() != before;
        if changed {
            for record in engine.changes_since(before) {
                watchers.note(&record.key, record.revision, |watcher| woken.push(Arc::clone(watcher)));
            }
        }
        let mut leases = Vec::new();
        for change in engine.take_lease_changes() {
            changed = true;
            *granted |= matches!(change, LeaseChange::Granted(_));
            if self.journal.is_some() {
                leases.push(Mutation::Lease(change));
            }
        }
        if changed {
            if let Some(journal) = &self.journal {
                let keys = engine.changes_since(before).map(Mutation::from);
                journal.queue(keys.chain(leases), engine.counters(), woken.split_off(first));
            }
            engine.trim();
        }
        changed
    }

    fn queued(&self) -> u64 {
        self.journal.as_ref().map_or(0, |journal| journal.queued())
    }
}

impl Drop for SharedStore {
    fn drop(&mut self) {
        // So that the task sees that it is over.
        self.expiry.poke();
    }
}

impl fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("store_id", &self.store_id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
