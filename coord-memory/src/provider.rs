//! All contracts over the embedded store, for users and for their tests.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use coord_api::{
    ConfigCenter, DistributedLock, InstanceIdAllocator, Provider, Result, Revision, ServiceRegistry,
};
use coord_recipes::layers::Observe;
use coord_recipes::{ProviderOptions, StoreProvider};

use crate::store::MemoryStore;

/// All contracts over an embedded store.
///
/// Each provider is one client of its store; [`client`](Self::client) makes a further one, as
/// another process would be. Its requests can be seen, as [`Observe`] describes, under the name
/// `memory`.
///
/// # Examples
///
/// Two services that compete for a lock, in virtual time:
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> coord_api::Result<()> {
/// use std::time::Duration;
///
/// use coord_api::ErrorKind;
/// use coord_api::prelude::*;
/// use coord_memory::MemoryProvider;
///
/// let ttl = Duration::from_secs(30);
/// let one = MemoryProvider::new();
/// let two = one.client();
///
/// let guard = one.lock().acquire("reports/daily", ttl).await?;
/// let held = two.lock().try_acquire("reports/daily", ttl).await;
/// assert_eq!(held.unwrap_err().kind(), ErrorKind::Conflict);
///
/// // One crashes. Its lease expires, which takes no real time here, and the other is next.
/// one.abandon();
/// let next = two.lock().acquire("reports/daily", ttl).await?;
/// assert!(next.fencing_token() > guard.fencing_token());
/// # Ok(())
/// # }
/// ```
pub struct MemoryProvider {
    store: MemoryStore,
    contracts: Arc<StoreProvider>,
}

impl MemoryProvider {
    /// A provider over a new, empty, volatile store. See [`MemoryStore::new`].
    pub fn new() -> Arc<Self> {
        MemoryProvider::over(MemoryStore::new())
    }

    /// A provider over the durable store in the directory `path`. See [`MemoryStore::open`].
    ///
    /// # Errors
    ///
    /// As [`MemoryStore::open`].
    #[cfg(feature = "sled")]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Arc<Self>> {
        Ok(MemoryProvider::over(MemoryStore::open(path)?))
    }

    /// As [`open`](Self::open), without blocking the thread. See [`MemoryStore::open_async`].
    ///
    /// # Errors
    ///
    /// As [`MemoryStore::open`].
    ///
    /// # Cancel safety
    ///
    /// As [`MemoryStore::open_async`].
    #[cfg(feature = "sled")]
    pub async fn open_async(path: impl AsRef<std::path::Path>) -> Result<Arc<Self>> {
        Ok(MemoryProvider::over(MemoryStore::open_async(path).await?))
    }

    /// A provider over this client of a store, which it closes when it is closed.
    pub fn over(store: MemoryStore) -> Arc<Self> {
        let options = ProviderOptions::default().with_home(store.home().clone());
        let contracts = StoreProvider::new(Arc::new(Observe::new(store.clone(), "memory")), options);
        Arc::new(MemoryProvider { store, contracts })
    }

    /// A further provider over the same store, independent of this one. See
    /// [`MemoryStore::client`].
    #[must_use]
    pub fn client(&self) -> Arc<Self> {
        MemoryProvider::over(self.store.client())
    }

    /// Ends this provider as a crash would: nothing is released, and what it held runs out with its
    /// leases. See [`MemoryStore::abandon`].
    pub fn abandon(&self) {
        self.store.abandon();
    }

    /// Cuts this provider off from its store, as an outage of the network would; other clients go
    /// on. See [`MemoryStore::disconnect`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> coord_api::Result<()> {
    /// use std::time::Duration;
    ///
    /// use coord_api::prelude::*;
    /// use coord_memory::MemoryProvider;
    ///
    /// let coord = MemoryProvider::new();
    /// let guard = coord.lock().acquire("reports/daily", Duration::from_secs(30)).await?;
    ///
    /// coord.disconnect();
    /// assert!(coord.config().get_raw("a").await.is_err());
    /// guard.lost().await;
    /// assert!(!guard.is_held());
    ///
    /// coord.reconnect();
    /// coord.lock().acquire("reports/daily", Duration::from_secs(30)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn disconnect(&self) {
        self.store.disconnect();
    }

    /// Ends what [`disconnect`](Self::disconnect) began.
    pub fn reconnect(&self) {
        self.store.reconnect();
    }

    /// The client of the store that the contracts use.
    pub fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// The client that the contracts are made over, for the primitives that are none: elections,
    /// semaphores, and those of one's own.
    pub fn core(&self) -> &coord_core::Client {
        self.contracts.core()
    }

    /// Forgets the history up to revision `through`. See [`MemoryStore::compact`].
    ///
    /// # Errors
    ///
    /// As [`MemoryStore::compact`].
    pub async fn compact(&self, through: Revision) -> Result<()> {
        self.store.compact(through).await
    }
}

#[async_trait]
impl Provider for MemoryProvider {
    fn config(&self) -> &Arc<dyn ConfigCenter> {
        self.contracts.config()
    }

    fn lock(&self) -> &Arc<dyn DistributedLock> {
        self.contracts.lock()
    }

    fn registry(&self) -> &Arc<dyn ServiceRegistry> {
        self.contracts.registry()
    }

    fn allocator(&self) -> &Arc<dyn InstanceIdAllocator> {
        self.contracts.allocator()
    }

    async fn close(&self) -> Result<()> {
        self.contracts.close().await
    }
}

impl fmt::Debug for MemoryProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryProvider").field("store", &self.store).finish_non_exhaustive()
    }
}
