//! The way in: one provider gives all contracts over one store.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::allocator::InstanceIdAllocator;
use crate::config::ConfigCenter;
use crate::error::Result;
use crate::lock::DistributedLock;
use crate::registry::ServiceRegistry;

/// All contracts over one store: what a service is written against.
///
/// # Contract
///
/// - **R8** Closing is idempotent and leaves nothing held. Later calls are `Closed`, without I/O;
///   pending ones and streams end with `Closed` within 5 s.
/// - **R9** A provider and its handles may be dropped anywhere, also outside a runtime.
#[async_trait]
pub trait Provider: Debug + Send + Sync + 'static {
    /// The config centre.
    fn config(&self) -> &Arc<dyn ConfigCenter>;

    /// The locks.
    fn lock(&self) -> &Arc<dyn DistributedLock>;

    /// The service registry.
    fn registry(&self) -> &Arc<dyn ServiceRegistry>;

    /// The instance ids.
    fn allocator(&self) -> &Arc<dyn InstanceIdAllocator>;

    /// Closes the provider (R8): refuses new work, stops healing, ends pending work, revokes the
    /// leases. Everything that it held is free when this returns `Ok`, and every handle's `lost()`
    /// has fired.
    ///
    /// # Errors
    ///
    /// `Unavailable`, within 5 s, when the store could not be reached; the provider is closed all
    /// the same, and what it held expires with its leases.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the provider is closed. A dropped call may leave leases to expire by
    /// themselves; calling again finishes the work.
    async fn close(&self) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: Provider + ?Sized> Provider for Arc<P> {
    fn config(&self) -> &Arc<dyn ConfigCenter> {
        (**self).config()
    }

    fn lock(&self) -> &Arc<dyn DistributedLock> {
        (**self).lock()
    }

    fn registry(&self) -> &Arc<dyn ServiceRegistry> {
        (**self).registry()
    }

    fn allocator(&self) -> &Arc<dyn InstanceIdAllocator> {
        (**self).allocator()
    }

    async fn close(&self) -> Result<()> {
        (**self).close().await
    }
}
