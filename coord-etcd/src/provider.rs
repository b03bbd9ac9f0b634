//! All contracts over etcd, for users.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{ConfigCenter, DistributedLock, InstanceIdAllocator, Provider, Result, ServiceRegistry};
use coord_recipes::layers::{Batched, Namespace, Observe, Retry};
use coord_recipes::{ProviderOptions, StoreProvider};

use crate::options::EtcdOptions;
use crate::store::EtcdStore;

/// All contracts over an etcd cluster.
///
/// Requests are repeated as the options' retry policy says, wherever that is safe (R2), kept under
/// the options' namespace (R5), and can be seen, as [`Observe`] describes, under the name `etcd`.
///
/// # Examples
///
/// ```no_run
/// # async fn connect() -> coord_api::Result<()> {
/// use coord_api::prelude::*;
/// use coord_etcd::{EtcdOptions, EtcdProvider};
///
/// let coord = EtcdProvider::connect(EtcdOptions::new(["etcd-1:2379", "etcd-2:2379", "etcd-3:2379"])).await?;
/// coord.config().set("app/greeting", "hello").await?;
/// # Ok(())
/// # }
/// ```
pub struct EtcdProvider {
    store: EtcdStore,
    contracts: Arc<StoreProvider>,
}

impl EtcdProvider {
    /// A provider over a cluster of which one member has answered (R3).
    ///
    /// # Errors
    ///
    /// As [`EtcdStore::connect`]; `InvalidArgument` for a namespace with a directory of the recipes
    /// in it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn connect(options: EtcdOptions) -> Result<Arc<Self>> {
        // Assembled first: a namespace that cannot be is refused before any I/O.
        let provider = EtcdProvider::connect_lazy(options.clone())?;
        provider.store.reach(&options).await?;
        Ok(provider)
    }

    /// A provider that connects when it is first used, and keeps trying (R3). No I/O but reading
    /// the files that the options name.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for options that [`EtcdOptions::validate`] refuses, and for a namespace
    /// with a directory of the recipes in it.
    pub fn connect_lazy(options: EtcdOptions) -> Result<Arc<Self>> {
        let store = EtcdStore::connect_lazy(&options)?;
        EtcdProvider::over(store, &options)
    }

    /// A provider over this client of a cluster, which it closes when it is closed. Of the options,
    /// it takes the name, the namespace and the retry policy.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a retry policy or a namespace that cannot be.
    pub fn over(store: EtcdStore, options: &EtcdOptions) -> Result<Arc<Self>> {
        let layered = layered(&store, options)?;
        let provider = ProviderOptions::default().with_name(&options.name).with_home(store.home().clone());
        let contracts = StoreProvider::new(layered, provider);
        Ok(Arc::new(EtcdProvider { store, contracts }))
    }

    /// The client of the cluster that the contracts use, without the layers around it.
    pub fn store(&self) -> &EtcdStore {
        &self.store
    }

    /// The client that the contracts are made over, for the primitives that are none: elections,
    /// semaphores, and those of one's own.
    pub fn core(&self) -> &coord_core::Client {
        self.contracts.core()
    }
}

/// A client of a cluster with the layers that its options ask for: what is sent at once, the
/// namespace, what is repeated, what is seen.
fn layered(store: &EtcdStore, options: &EtcdOptions) -> Result<Arc<dyn Store>> {
    let mut layered: Arc<dyn Store> = Arc::new(store.clone());
    if let Some(lanes) = options.batching {
        layered = Arc::new(Batched::new(layered).with_lanes(lanes).with_home(store.home().clone()));
    }
    if let Some(namespace) = &options.namespace {
        layered = Arc::new(Namespace::new(layered, namespace)?);
    }
    // Each attempt is bounded by the store itself, and so is a call of it as a whole.
    let mut retry = options.retry.clone();
    retry.attempt_timeout = None;
    // One home for all of it.
    let retried = Retry::over_bounded(layered, retry)?.with_home(store.home().clone());
    Ok(Arc::new(Observe::new(retried, "etcd")))
}

impl EtcdStore {
    /// A client of a cluster of which one member has answered, with the layers that a provider of
    /// these options has: for what is made over a [`Store`] and not over the contracts.
    ///
    /// # Errors
    ///
    /// As [`EtcdProvider::connect`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn connect_layered(options: &EtcdOptions) -> Result<Arc<dyn Store>> {
        let store = EtcdStore::connect_lazy(options)?;
        // A namespace that cannot be is refused before any I/O.
        let layered = layered(&store, options)?;
        store.reach(options).await?;
        Ok(layered)
    }

    /// As [`connect_layered`](Self::connect_layered), connected when it is first used. No I/O but
    /// reading the files that the options name.
    ///
    /// # Errors
    ///
    /// As [`EtcdProvider::connect_lazy`].
    pub fn connect_layered_lazy(options: &EtcdOptions) -> Result<Arc<dyn Store>> {
        layered(&EtcdStore::connect_lazy(options)?, options)
    }
}

#[async_trait]
impl Provider for EtcdProvider {
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

impl fmt::Debug for EtcdProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdProvider").field("store", &self.store).finish_non_exhaustive()
    }
}
