//! The public type: one client of a store in memory.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply, round_ttl,
};
use coord_api::{Error, LeaseId, Result, Revision};
use coord_home::Home;

use crate::client::{StoreClient, unavailable};
use crate::engine::Engine;
use crate::shared::SharedStore;
use crate::watch::EngineWatch;

/// One client of an embedded store (S1 to S6).
///
/// Cloning it gives another handle of the same client; [`client`](Self::client) gives another
/// client, as another process would be. The client ends with [`close`](Store::close),
/// [`abandon`](Self::abandon) or its last handle.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// use coord_api::store::{Op, Range, Store, Txn};
/// use coord_memory::MemoryStore;
///
/// let store = MemoryStore::new();
/// store.txn(Txn::new().then(Op::put("greeting", "hello"))).await?;
///
/// let stranger = store.client();
/// let found = stranger.range(Range::key("greeting")).await?;
/// assert_eq!(found.entries[0].value, "hello".into());
///
/// stranger.close().await?;
/// assert!(stranger.range(Range::key("greeting")).await.is_err());
/// assert!(store.range(Range::key("greeting")).await.is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    handle: Arc<ClientHandle>,
}

impl MemoryStore {
    /// A new, empty, volatile store: it ends with its last handle.
    ///
    /// Needs no runtime: its one task, which expires leases, lives in a [`Home`] that such stores
    /// share, or in the runtime that calls where its clock is paused.
    pub fn new() -> Self {
        MemoryStore::new_in(Home::shared())
    }

    /// As [`new`](MemoryStore::new), in this [`Home`]: for tests that pause the clock after they
    /// began, [`Home::callers`].
    pub fn new_in(home: Home) -> Self {
        MemoryStore::of(SharedStore::volatile(home))
    }

    /// Where the store's work lives.
    pub fn home(&self) -> &Home {
        self.client_ref().shared.home()
    }

    /// Opens the durable store in the directory `path`, making it where there is none.
    ///
    /// - **S6** What was acknowledged is there again. Revisions and lease numbers go on rising.
    ///   Leases resume with their full TTL.
    /// - History starts empty: older reads and watches get `Compacted`.
    /// - The store lives in memory as a whole; opening reads all of it, and blocks the thread
    ///   meanwhile: in async code use [`open_async`](Self::open_async).
    /// - It does not wait for a directory that is open elsewhere. Only if this process has closed
    ///   it less than half a second ago, it waits for the few milliseconds that the database's
    ///   threads take to end.
    ///
    /// One process opens a directory once; several clients of it are made with
    /// [`client`](Self::client). The directory is let go when the last client ends.
    ///
    /// # Errors
    ///
    /// `Unavailable` when the directory is already open, here or in another process, or cannot be
    /// read; `PermissionDenied`; `Exhausted` when the disk is full; `Internal` when what it holds
    /// is damaged or not a store: the message says what to do.
    #[cfg(feature = "sled")]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        Ok(MemoryStore::of(open(path.as_ref(), crate::storage::sled::OpenPatience::Own)?.into_shared()))
    }

    /// As [`open`](Self::open), without blocking the thread: the directory is read on a thread for
    /// blocking work. A directory that is open elsewhere, perhaps in a process that is about to
    /// end, is waited for as well, for half a second.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. What was begun goes on to its end, and the directory is let go of then.
    #[cfg(feature = "sled")]
    pub async fn open_async(path: impl AsRef<std::path::Path>) -> Result<Self> {
        use coord_api::store::Effect;
        use coord_core::backend::blocking;

        use crate::storage::sled::OpenPatience;

        let path = path.as_ref().to_owned();
        let opening = move || open(&path, OpenPatience::Anyone);
        let opened = blocking(&Home::shared(), "store.open", Effect::Read, opening).await?;
        Ok(MemoryStore::of(opened.into_shared()))
    }

    pub(crate) fn of(shared: Arc<SharedStore>) -> Self {
        MemoryStore { handle: Arc::new(ClientHandle(Arc::new(StoreClient::new(shared)))) }
    }

    /// A further client of the same store, independent of this one: closing or abandoning either
    /// leaves the other alone.
    ///
    /// A closed client can be asked too. Only a durable store whose last client ended has let go of
    /// its directory: a further client of it is closed from the start.
    #[must_use]
    pub fn client(&self) -> MemoryStore {
        MemoryStore::of(Arc::clone(&self.client_ref().shared))
    }

    /// Ends this client as a crash would: nothing is revoked, and every pending and later call and
    /// stream of it ends with `Closed`.
    ///
    /// A write that was pending may have been applied. The leases of the client run out by
    /// themselves.
    pub fn abandon(&self) {
        self.client_ref().close();
    }

    /// Cuts this client off from its store, as an outage of the network would; other clients go on.
    /// For tests of an outage.
    ///
    /// Calls are `Unavailable` from now on and change nothing; one that waits for the disk is, with
    /// an outcome that is `Unknown` if it writes. Streams end with `Unavailable`, also those that
    /// are first polled after [`reconnect`](Self::reconnect). No lease is renewed, so that they run
    /// out. Closing says `Unavailable` and closes all the same. A client that is cut off already,
    /// or closed, stays as it is.
    pub fn disconnect(&self) {
        self.client_ref().disconnect();
    }

    /// Ends what [`disconnect`](Self::disconnect) began. A client that is not cut off stays as it
    /// is.
    pub fn reconnect(&self) {
        self.client_ref().reconnect();
    }

    /// Forgets the history up to revision `through`, or up to the present one where that is later:
    /// older reads and watches get `Compacted` (S4).
    ///
    /// # Errors
    ///
    /// `Closed`; on a durable store also whatever made it stop.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn compact(&self, through: Revision) -> Result<()> {
        let client = self.client_ref();
        client.check("store.compact")?;
        // Waits first until everything is durable whose history goes: a watcher may not have seen
        // it yet.
        let (head, seen) = client.shared.read(|state| state.engine.revision());
        client.seen("store.compact", seen).await?;
        client.shared.write(|state| state.engine.compact(through.min(head)));
        Ok(())
    }

    /// The engine's own revision, durable or not.
    #[cfg(test)]
    pub(crate) fn applied_revision(&self) -> Revision {
        self.client_ref().shared.peek(|state| state.engine.revision())
    }

    fn client_ref(&self) -> &Arc<StoreClient> {
        &self.handle.0
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = self.client_ref();
        f.debug_struct("MemoryStore")
            .field("client", &client.id)
            .field("store", &client.shared)
            .finish_non_exhaustive()
    }
}

/// What the handles of one client share: with the last one the client ends.
struct ClientHandle(Arc<StoreClient>);

impl Drop for ClientHandle {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A store that was read from its directory. It has no clock and no home yet.
#[cfg(feature = "sled")]
struct OpenedStore {
    engine: Engine,
    storage: crate::storage::sled::SledStorage,
    store_id: String,
}

#[cfg(feature = "sled")]
impl OpenedStore {
    fn into_shared(self) -> Arc<SharedStore> {
        let version = concat!("coord-memory ", env!("CARGO_PKG_VERSION"), " (sled 0.34)");
        SharedStore::new(Home::shared(), self.engine, Some(Arc::new(self.storage)), self.store_id, version)
    }
}

#[cfg(feature = "sled")]
fn open(path: &std::path::Path, patience: crate::storage::sled::OpenPatience) -> Result<OpenedStore> {
    use crate::storage::sled::{SledStorage, damaged};

    let (storage, contents) = SledStorage::open(path, patience)?;
    let mut engine =
        Engine::at(contents.counters.revision, contents.counters.next_lease, crate::shared::WINDOW);
    contents.leases.into_iter().for_each(|lease| engine.restore_lease(lease));
    for (key, stored) in contents.keys {
        if !engine.restore_key(key, stored) {
            return Err(damaged(path, "its entries do not fit each other"));
        }
    }
    Ok(OpenedStore { engine, storage, store_id: contents.store_id })
}

#[async_trait]
impl Store for MemoryStore {
    /// A revision that the store has not reached yet is `Compacted`, like one that is gone.
    async fn range(&self, range: Range) -> Result<RangeReply> {
        const OPERATION: &str = "store.range";
        range.validate()?;
        let client = self.client_ref();
        client.check(OPERATION)?;
        let (reply, seen) = client.shared.read(|state| read(&state.engine, range));
        if client.shared.is_durable() {
            // Boxed here and below: a future that never waits for a disk is not made as large as
            // one that does.
            Box::pin(client.seen(OPERATION, seen)).await?;
        }
        reply
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        const OPERATION: &str = "store.txn";
        txn.validate()?;
        let client = self.client_ref();
        client.check(OPERATION)?;
        if client.shared.is_durable() {
            Box::pin(client.room(OPERATION)).await?;
        }
        let (reply, seen) = client.shared.write(|state| state.engine.txn(txn));
        if client.shared.is_durable() {
            Box::pin(client.seen(OPERATION, seen)).await?;
        }
        reply
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        const OPERATION: &str = "store.watch";
        span.validate(OPERATION)?;
        let client = self.client_ref();
        let connection = client.connection();
        client.check(OPERATION)?;
        let (armed, seen) = client.shared.write(|state| {
            let head = state.engine.revision();
            let oldest = state.engine.oldest();
            if after.is_some_and(|after| after < oldest) {
                return Err(Error::compacted(OPERATION, Some(oldest)));
            }
            let watcher = state.watchers.add(client.id, span, after, head);
            Ok((after.map_or(head, |after| after.min(head)), watcher))
        });
        // From here on dropping the stream, also by dropping this future, ends the watch.
        let armed = armed.map(|(armed, watcher)| {
            StoreWatch::new(armed, EngineWatch::new(Arc::clone(client), connection, watcher))
        });
        client.seen(OPERATION, seen).await?;
        armed
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        const OPERATION: &str = "store.grant_lease";
        let ttl = round_ttl(OPERATION, ttl)?;
        let client = self.client_ref();
        client.check(OPERATION)?;
        client.room(OPERATION).await?;
        let now = client.shared.now();
        let (lease, seen) = client.shared.write(|state| state.engine.grant(now, ttl));
        client.seen(OPERATION, seen).await?;
        Ok(lease)
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        const OPERATION: &str = "store.keep_alive";
        let client = self.client_ref();
        client.check(OPERATION)?;
        let now = client.shared.now();
        let (ttl, seen) = client.shared.write(|state| state.engine.keep_alive(now, id));
        if let Some(ttl) = ttl {
            // Nothing of it is written: a reopened store gives every lease its full TTL anyway.
            return Ok(ttl);
        }
        client.seen(OPERATION, seen).await?;
        Err(Error::lease_lost(OPERATION, "the lease is gone"))
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        const OPERATION: &str = "store.lease";
        let client = self.client_ref();
        client.check(OPERATION)?;
        let now = client.shared.now();
        let (info, seen) = client.shared.read(|state| state.engine.lease(now, id));
        client.seen(OPERATION, seen).await?;
        Ok(info)
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        const OPERATION: &str = "store.revoke_lease";
        let client = self.client_ref();
        client.check(OPERATION)?;
        client.room(OPERATION).await?;
        let ((), seen) = client.shared.write(|state| state.engine.revoke(id));
        client.seen(OPERATION, seen).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        let client = self.client_ref();
        client.check("store.status")?;
        Ok(StoreStatus {
            store_id: client.shared.store_id.clone(),
            version: client.shared.version.to_owned(),
        })
    }

    /// Never fails, but for a client that is cut off: that is closed and told `Unavailable`. The
    /// last client of a durable store lets go of its directory.
    async fn close(&self) -> Result<()> {
        let client = self.client_ref();
        let cut_off = !client.is_closed() && client.is_cut_off();
        client.close();
        if cut_off { Err(unavailable("store.close")) } else { Ok(()) }
    }
}

/// Reads a range. The present state of one key, which is asked for most often, is looked up
/// directly.
fn read(engine: &Engine, range: Range) -> Result<RangeReply> {
    let Range {
        span: Span::Key(key), after_key: None, at: None, max_created: None, keys_only: false, ..
    } = range
    else {
        return engine.range(&range);
    };
    let entries = engine.get(&key).map(|stored| vec![stored.to_entry(key)]).unwrap_or_default();
    Ok(RangeReply { revision: engine.revision(), entries, more: false })
}
