//! All contracts over one store, put together.

use std::sync::Arc;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{ConfigCenter, DistributedLock, InstanceIdAllocator, Provider, Result, ServiceRegistry};

use coord_core::{Client, Home};

use crate::config::Config;
use crate::ids::Allocators;
use crate::lock::Locks;
use crate::registry::Registry;
use crate::{ids, lock, registry};

/// How a provider presents itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProviderOptions {
    /// A name for people who look into the store: the value of its locks, ids and sessions. `coord`
    /// by default.
    pub name: String,
    /// Where background work lives: [`Home::new`] by default, a thread of the provider's own, or
    /// the caller's runtime where its clock is paused.
    pub home: Home,
    /// Whether what it loses is written down in the store, for those who operate it (R84): so it is
    /// by default.
    pub write_losses: bool,
}

impl Default for ProviderOptions {
    fn default() -> Self {
        ProviderOptions { name: "coord".to_owned(), home: Home::new("coord"), write_losses: true }
    }
}

impl ProviderOptions {
    /// Sets the name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets whether what it loses is written down in the store (R84).
    #[must_use]
    pub fn with_write_losses(mut self, on: bool) -> Self {
        self.write_losses = on;
        self
    }

    /// Sets where background work lives.
    #[must_use]
    pub fn with_home(mut self, home: Home) -> Self {
        self.home = home;
        self
    }
}

/// The five contracts over any [`Store`].
///
/// It owns its store: closing the provider closes the store's client. Wrap the store in
/// [layers](crate::layers) first where a namespace, retries or metrics are wanted.
///
/// Background tasks (renewals, watches, healing) live in the provider's [`Home`], by default a
/// thread of its own, whose timers they use: so they outlive the runtime that made the first call,
/// and neither starve with it nor need it. A caller's future is polled where the caller polls it.
/// Tasks end with what they serve: a session with its last handle, a watch with its last watcher,
/// everything with [`close`](Provider::close). Where one ends by accident, because a runtime that
/// was given as home is dropped, or by a panic of the store, whoever waits for it is told, or
/// starts it again.
///
/// In the child of a fork the provider is closed and its handles are over; the parent notices
/// nothing.
///
/// # Dropping
///
/// A provider that is dropped without being closed keeps its handles alive: they go on being
/// renewed until they are dropped too (R9). What nothing holds any more is revoked at once.
#[derive(Debug)]
pub struct StoreProvider {
    client: Client,
    config: Arc<dyn ConfigCenter>,
    lock: Arc<dyn DistributedLock>,
    registry: Arc<dyn ServiceRegistry>,
    registrations: Arc<Registry>,
    allocator: Arc<dyn InstanceIdAllocator>,
}

impl StoreProvider {
    /// The contracts over `store`. No I/O; may be called outside of a runtime.
    pub fn new(store: Arc<dyn Store>, options: ProviderOptions) -> Arc<Self> {
        let client = Client::new(store, options.name, options.home);
        client.write_losses(options.write_losses);
        client.telemetry().declare(&[lock::CONTRACT, ids::CONTRACT, registry::CONTRACT]);
        let registrations = Arc::new(Registry::new(client.clone()));
        Arc::new(StoreProvider {
            config: Arc::new(Config::new(client.clone())),
            lock: Arc::new(Locks::new(client.clone())),
            registry: Arc::clone(&registrations) as Arc<dyn ServiceRegistry>,
            registrations,
            allocator: Arc::new(Allocators::new(client.clone())),
            client,
        })
    }

    /// The client that the contracts are made over, for the primitives that are none:
    /// [`Election`](crate::Election), [`Semaphore`](crate::Semaphore), and those of one's own. What
    /// they hold is given back when this provider is closed.
    pub fn core(&self) -> &Client {
        &self.client
    }
}

#[async_trait]
impl Provider for StoreProvider {
    fn config(&self) -> &Arc<dyn ConfigCenter> {
        &self.config
    }

    fn lock(&self) -> &Arc<dyn DistributedLock> {
        &self.lock
    }

    fn registry(&self) -> &Arc<dyn ServiceRegistry> {
        &self.registry
    }

    fn allocator(&self) -> &Arc<dyn InstanceIdAllocator> {
        &self.allocator
    }

    async fn close(&self) -> Result<()> {
        if self.client.home().is_left_behind() {
            return Ok(());
        }
        self.client.begin_close();
        // Told first: nobody may believe to hold what is about to be free.
        self.registrations.close();
        self.client.close().await
    }
}

impl Drop for StoreProvider {
    fn drop(&mut self) {
        self.client.abandon();
    }
}
