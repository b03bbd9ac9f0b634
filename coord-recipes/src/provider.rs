//! All contracts over one store, put together.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{ConfigCenter, DistributedLock, Error, ErrorKind, InstanceIdAllocator, Loss, Outcome, Provider, Result, ServiceRegistry};

use coord_home::Home;

use crate::allocator::Allocators;
use crate::config::Config;
use crate::core::Core;
use crate::lock::Locks;
use crate::registry::Registry;

/// How long closing waits for the store (R8).
const CLOSE_WITHIN: Duration = Duration::from_millis(4_500);

/// How a provider presents itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProviderOptions {
    /// A name for people who look into the store: the value of its locks, ids and sessions. `coord` by default.
    pub name: String,
    /// Where background work lives: [`Home::new`] by default, a thread of the provider's own, or the caller's runtime where its clock is paused.
    pub home: Home,
}

impl Default for ProviderOptions {
    fn default() -> Self {
        ProviderOptions { name: "coord".to_owned(), home: Home::new("coord") }
    }
}

impl ProviderOptions {
    /// Sets the name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
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
/// It owns its store: closing the provider closes the store's client. Wrap the store in [layers](crate::layers) first where a namespace,
/// retries or metrics are wanted.
///
/// Background tasks (renewals, watches, healing) live in the provider's [`Home`], by default a thread of its own, whose timers they use: so they outlive the
/// runtime that made the first call, and neither starve with it nor need it. A caller's future is polled where the caller polls it. Tasks end with what they
/// serve: a session with its last handle, a watch with its last watcher, everything with [`close`](Provider::close). Where one ends by accident, because a runtime that was given
/// as home is dropped, or by a panic of the store, whoever waits for it is told, or starts it again.
///
/// In the child of a fork the provider is closed and its handles are over; the parent notices nothing.
///
/// # Dropping
///
/// A provider that is dropped without being closed keeps its handles alive: they go on being renewed until they are dropped too (R9). What nothing holds any
/// more is revoked at once.
#[derive(Debug)]
pub struct StoreProvider {
    core: Arc<Core>,
    config: Arc<dyn ConfigCenter>,
    lock: Arc<dyn DistributedLock>,
    registry: Arc<dyn ServiceRegistry>,
    registrations: Arc<Registry>,
    allocator: Arc<dyn InstanceIdAllocator>,
}

impl StoreProvider {
    /// The contracts over `store`. No I/O; may be called outside of a runtime.
    pub fn new(store: Arc<dyn Store>, options: ProviderOptions) -> Arc<Self> {
        let core = Core::new(store, options.name, options.home);
        let registrations = Arc::new(Registry::new(Arc::clone(&core)));
        Arc::new(StoreProvider {
            config: Arc::new(Config::new(Arc::clone(&core))),
            lock: Arc::new(Locks::new(Arc::clone(&core))),
            registry: Arc::clone(&registrations) as Arc<dyn ServiceRegistry>,
            registrations,
            allocator: Arc::new(Allocators::new(Arc::clone(&core))),
            core,
        })
    }

    /// Revokes every lease that may be alive, all at once.
    async fn revoke_all(&self) -> Result<()> {
        let revocations = self.core.alive_leases().into_iter().map(|lease| self.core.revoke(lease));
        futures_util::future::join_all(revocations).await.into_iter().collect()
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
        const OPERATION: &str = "provider.close";
        // The child of a fork has nothing to give back, and nothing to say on its parent's connections.
        if self.core.home.is_left_behind() {
            return Ok(());
        }
        self.core.begin_close();
        // Told first: nobody may believe to hold what is about to be free.
        self.registrations.close();
        self.core.sessions.lose_all(Loss::Closed);
        let revoked = match self.core.home.timeout(CLOSE_WITHIN, self.revoke_all()).await {
            Ok(Ok(())) => Ok(()),
            // The store's client is closed: by an earlier close, or because it is gone. What it held ends with its leases.
            Ok(Err(error)) if error.kind() == ErrorKind::Closed => Ok(()),
            Ok(Err(error)) => {
                Err(Error::new(ErrorKind::Unavailable, OPERATION, "what was held could not be revoked, and expires").with_source(error))
            }
            Err(_) => Err(Error::new(ErrorKind::Unavailable, OPERATION, "the store did not answer; what was held expires")),
        };
        if revoked.is_ok() {
            self.core.alive_leases().into_iter().for_each(|lease| self.core.forget(lease));
            self.core.store.close().await.map_err(|error| error.in_operation(OPERATION))?;
        }
        revoked.map_err(|error| error.with_outcome(Outcome::Unknown))
    }
}

impl Drop for StoreProvider {
    fn drop(&mut self) {
        // Its tasks are another process's.
        if self.core.home.is_left_behind() {
            return;
        }
        self.core.abandoned.cancel();
    }
}
