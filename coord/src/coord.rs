//! Everything over one client of a store, in one handle.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::{
    ConfigCenter, DistributedLock, InstanceIdAllocator, LockOptions, Provider, Result, ServiceRegistry,
};
use coord_recipes::inspect::Inspect;
use coord_recipes::{
    Barrier, Counter, Election, Gray, GrayConfig, GrayIdentity, History, LockSet, Once, Periodic, Queue,
    Semaphore, VersionsInUse, acquire_all,
};

/// A client of a store, and all that coord makes over it: the five contracts, as a [`Provider`],
/// and the primitives. Cheap to clone; all clones are one client.
///
/// Where only a provider is wanted, `Arc::new(coord)` is one, or [`provider`](Self::provider).
///
/// # Examples
///
/// ```
/// use coord::CampaignOptions;
/// use coord::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord::Result<()> {
/// let coord = coord::open("memory://").await?;
/// coord.config().set("greeting", "hello").await?;
/// let leadership = coord.election("jobs").campaign("me", CampaignOptions::default()).await?;
/// assert!(leadership.is_held());
/// coord.close().await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Coord {
    core: coord_core::Client,
    provider: Arc<dyn Provider>,
    #[cfg(feature = "etcd")]
    etcd: Option<coord_etcd::EtcdStore>,
}

impl Coord {
    /// A provider that was made by hand, and the client that it is made over: for options that no
    /// URL has, or to disconnect a store in memory.
    ///
    /// # Examples
    ///
    #[cfg_attr(feature = "memory", doc = "```")]
    #[cfg_attr(not(feature = "memory"), doc = "```ignore")]
    /// use coord::prelude::*;
    /// use coord::{Coord, ErrorKind};
    /// use coord::memory::MemoryProvider;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let memory = MemoryProvider::new();
    /// let coord = Coord::new(memory.core().clone(), memory.clone());
    /// memory.disconnect();
    /// assert_eq!(coord.config().get_raw("a").await.unwrap_err().kind(), ErrorKind::Unavailable);
    /// # }
    /// ```
    pub fn new(core: coord_core::Client, provider: Arc<dyn Provider>) -> Self {
        Coord {
            core,
            provider,
            #[cfg(feature = "etcd")]
            etcd: None,
        }
    }

    #[cfg(feature = "etcd")]
    pub(crate) fn of_etcd(provider: Arc<coord_etcd::EtcdProvider>) -> Self {
        let etcd = Some(provider.store().clone());
        Coord { core: provider.core().clone(), provider, etcd }
    }

    /// The client of the cluster, where that is what the URL named: for what only etcd has, as
    /// [its report of itself](coord_etcd::EtcdStore::report). `None` for other stores, and for a
    /// provider that was made by hand.
    #[cfg(feature = "etcd")]
    pub fn etcd(&self) -> Option<&coord_etcd::EtcdStore> {
        self.etcd.as_ref()
    }

    /// The five contracts.
    pub fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    /// What primitives of one's own are made over.
    pub fn core(&self) -> &coord_core::Client {
        &self.core
    }

    /// The barrier of this name (R61, R62). No I/O.
    pub fn barrier(&self, name: &str) -> Barrier {
        Barrier::new(&self.core, name)
    }

    /// The counter of this name (R78). No I/O.
    pub fn counter(&self, name: &str) -> Counter {
        Counter::new(&self.core, name)
    }

    /// Acquires all of these locks, or none (R33a): [`acquire_all`].
    ///
    /// # Errors
    ///
    /// As [`acquire_all`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it holds none of them (R29).
    pub async fn acquire_all<K: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = K>,
        options: LockOptions,
    ) -> Result<LockSet> {
        acquire_all(self.lock(), names, options).await
    }

    /// The election of this name (R51 to R54). No I/O.
    pub fn election(&self, name: &str) -> Election {
        Election::new(&self.core, name)
    }

    /// Releases of configuration to some of the instances (R73 to R75). No I/O.
    pub fn gray(&self) -> Gray {
        Gray::new(&self.core)
    }

    /// The config centre as this instance sees it: with what is released to it (R73). No I/O.
    ///
    /// # Errors
    ///
    /// As [`GrayConfig::new`].
    pub fn gray_config(&self, instance: GrayIdentity) -> Result<GrayConfig> {
        GrayConfig::new(&self.core, instance)
    }

    /// A look at what stands in the store, for those who operate it. No I/O.
    pub fn inspect(&self) -> Inspect {
        Inspect::new(&self.core)
    }

    /// What was published under the keys of the config centre (R71, R72). No I/O.
    pub fn history(&self) -> History {
        History::new(&self.core)
    }

    /// Tells those who operate this service which versions of its documents it has in use, for as
    /// long as what it returns is kept (R86). No I/O.
    ///
    /// # Errors
    ///
    /// As [`VersionsInUse::new`].
    pub fn versions_in_use(&self) -> Result<VersionsInUse> {
        VersionsInUse::new(&self.core)
    }

    /// What is done once, by its key (R56 to R60). No I/O.
    pub fn once(&self) -> Once {
        Once::new(&self.core)
    }

    /// The job of this name, once in `every`, over all instances (R77). No I/O.
    pub fn periodic(&self, name: &str, every: Duration) -> Periodic {
        Periodic::new(&self.core, name, every)
    }

    /// The ordered queue of work of this name, of which one item is had at a time (R79 to R81). No
    /// I/O.
    pub fn ordered_queue(&self, name: &str) -> Queue {
        Queue::ordered(&self.core, name)
    }

    /// The queue of work of this name (R79 to R81). No I/O.
    pub fn queue(&self, name: &str) -> Queue {
        Queue::new(&self.core, name)
    }

    /// The page for operators over this store, for a web server of one's own. No I/O.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use coord::ui::UiOptions;
    ///
    /// # async fn serve(coord: coord::Coord) -> std::io::Result<()> {
    /// // At http://127.0.0.1:8080/coord
    /// let app = axum::Router::new().nest("/coord", coord.ui(UiOptions::default()).router());
    /// axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8080").await?, app).await
    /// # }
    /// ```
    #[cfg(feature = "ui")]
    pub fn ui(&self, options: coord_ui::UiOptions) -> coord_ui::Ui {
        coord_ui::Ui::new(&self.core, Arc::clone(self.provider.config()), options)
    }

    /// The semaphore of this name (R48 to R50). No I/O.
    pub fn semaphore(&self, name: &str) -> Semaphore {
        Semaphore::new(&self.core, name)
    }
}

#[async_trait]
impl Provider for Coord {
    fn config(&self) -> &Arc<dyn ConfigCenter> {
        self.provider.config()
    }

    fn lock(&self) -> &Arc<dyn DistributedLock> {
        self.provider.lock()
    }

    fn registry(&self) -> &Arc<dyn ServiceRegistry> {
        self.provider.registry()
    }

    fn allocator(&self) -> &Arc<dyn InstanceIdAllocator> {
        self.provider.allocator()
    }

    async fn close(&self) -> Result<()> {
        self.provider.close().await
    }
}
