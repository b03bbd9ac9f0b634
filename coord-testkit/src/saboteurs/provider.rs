//! A provider that breaks what its hooks break, and is as good as the one inside it in all else.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::store::Store;
use coord_api::watch::WatchStatusSender;
use coord_api::{
    ConfigCenter, ConfigEntry, ConfigEvent, DistributedLock, IdOptions, InstanceId, InstanceIdAllocator,
    LockGuard, LockOptions, Provider, RegisterOptions, Registration, Result, ServiceEvent, ServiceInstance,
    ServiceRegistry, Snapshot, Value, Version, Versioned, Watch, WatchStart, WatchState, WriteOptions,
};
use futures_util::{Stream, StreamExt, stream};

/// What a broken provider is made of: the good one, and the store under it.
#[derive(Clone, Debug)]
pub(super) struct Good {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) store: Arc<dyn Store>,
}

/// One hook for each call of a contract. A hook that is not written asks the good provider.
#[async_trait]
pub(super) trait BrokenProvider: Send + Sync + 'static {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<Versioned>> {
        good.provider.config().get_raw(key).await
    }

    /// A write on any conditions. One without fences and note goes through the two hooks below.
    async fn write(&self, good: &Good, key: &str, value: Value, options: WriteOptions) -> Result<Version> {
        match options.expected {
            _ if !options.fences.is_empty() || options.note.is_some() => {
                good.provider.config().write_with(key, value, options).await
            }
            None => self.set(good, key, value).await,
            Some(expected) => self.compare_and_set(good, key, value, expected).await,
        }
    }

    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        good.provider.config().set_raw(key, value).await
    }

    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        good.provider.config().compare_and_set_raw(key, value, expected).await
    }

    async fn delete(&self, good: &Good, key: &str) -> Result<bool> {
        good.provider.config().delete(key).await
    }

    async fn compare_and_delete(&self, good: &Good, key: &str, expected: Version) -> Result<bool> {
        good.provider.config().compare_and_delete(key, expected).await
    }

    async fn list(&self, good: &Good, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        good.provider.config().list_raw(prefix).await
    }

    /// Of a directory, where `prefix` says so.
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let config = good.provider.config();
        if prefix { config.watch_prefix_raw(key, start).await } else { config.watch_raw(key, start).await }
    }

    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        good.provider.lock().acquire_with(key, options).await
    }

    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        good.provider.registry().register_with(instance, options).await
    }

    /// One after the other by [`register`](Self::register), so that what breaks that breaks this as
    /// well.
    async fn register_all(
        &self,
        good: &Good,
        instances: Vec<ServiceInstance>,
        options: RegisterOptions,
    ) -> Result<Vec<Registration>> {
        ServiceInstance::validate_all("registry.register", &instances)?;
        let mut registrations = Vec::with_capacity(instances.len());
        for instance in instances {
            registrations.push(self.register(good, instance, options).await?);
        }
        Ok(registrations)
    }

    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        good.provider.registry().discover(service).await
    }

    async fn watch_service(&self, good: &Good, service: &str) -> Result<Watch<ServiceEvent>> {
        good.provider.registry().watch(service).await
    }

    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        good.provider.allocator().acquire_id_with(service, options).await
    }

    async fn close(&self, good: &Good) -> Result<()> {
        good.provider.close().await
    }
}

/// A broken contract, whichever of them.
struct Contract {
    good: Good,
    broken: Arc<dyn BrokenProvider>,
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contract").field("good", &self.good.provider).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ConfigCenter for Contract {
    async fn get_raw(&self, key: &str) -> Result<Option<Versioned>> {
        self.broken.get(&self.good, key).await
    }

    async fn write_with(&self, key: &str, value: Value, options: WriteOptions) -> Result<Version> {
        self.broken.write(&self.good, key, value, options).await
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        self.broken.delete(&self.good, key).await
    }

    async fn compare_and_delete(&self, key: &str, expected: Version) -> Result<bool> {
        self.broken.compare_and_delete(&self.good, key, expected).await
    }

    async fn list_raw(&self, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        self.broken.list(&self.good, prefix).await
    }

    async fn watch_raw(&self, key: &str, start: WatchStart) -> Result<Watch<ConfigEvent>> {
        self.broken.watch(&self.good, key, false, start).await
    }

    async fn watch_prefix_raw(&self, prefix: &str, start: WatchStart) -> Result<Watch<ConfigEvent>> {
        self.broken.watch(&self.good, prefix, true, start).await
    }
}

#[async_trait]
impl DistributedLock for Contract {
    async fn acquire_with(&self, key: &str, options: LockOptions) -> Result<LockGuard> {
        self.broken.acquire(&self.good, key, options).await
    }
}

#[async_trait]
impl ServiceRegistry for Contract {
    async fn register_with(
        &self,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        self.broken.register(&self.good, instance, options).await
    }

    async fn register_all(
        &self,
        instances: Vec<ServiceInstance>,
        options: RegisterOptions,
    ) -> Result<Vec<Registration>> {
        self.broken.register_all(&self.good, instances, options).await
    }

    async fn discover(&self, service: &str) -> Result<Snapshot<ServiceInstance>> {
        self.broken.discover(&self.good, service).await
    }

    async fn watch(&self, service: &str) -> Result<Watch<ServiceEvent>> {
        self.broken.watch_service(&self.good, service).await
    }
}

#[async_trait]
impl InstanceIdAllocator for Contract {
    async fn acquire_id_with(&self, service: &str, options: IdOptions) -> Result<InstanceId> {
        self.broken.acquire_id(&self.good, service, options).await
    }
}

/// A good provider inside a broken one.
#[derive(Debug)]
pub(super) struct WrappedProvider {
    all: Arc<Contract>,
    config: Arc<dyn ConfigCenter>,
    lock: Arc<dyn DistributedLock>,
    registry: Arc<dyn ServiceRegistry>,
    allocator: Arc<dyn InstanceIdAllocator>,
}

impl WrappedProvider {
    pub(super) fn new(good: Good, broken: Arc<dyn BrokenProvider>) -> Self {
        let all = Arc::new(Contract { good, broken });
        WrappedProvider {
            config: Arc::<Contract>::clone(&all),
            lock: Arc::<Contract>::clone(&all),
            registry: Arc::<Contract>::clone(&all),
            allocator: Arc::<Contract>::clone(&all),
            all,
        }
    }
}

#[async_trait]
impl Provider for WrappedProvider {
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
        self.all.broken.close(&self.all.good).await
    }
}

/// The same watch, with each item made into any number of others.
pub(super) fn mapped<E, F>(good: Watch<E>, mut map: F) -> Watch<E>
where
    E: Send + Unpin + 'static,
    F: FnMut(Result<E>) -> Vec<Result<E>> + Send + Unpin + 'static,
{
    let status = good.status();
    Watch::new(status, good.flat_map(move |item| stream::iter(map(item))))
}

/// A watch over a stream of one's own; it always says that it is live.
pub(super) fn streamed<E: 'static>(stream: impl Stream<Item = Result<E>> + Send + 'static) -> Watch<E> {
    let live = WatchStatusSender::new(WatchState::Live);
    Watch::new(
        live.status(),
        stream.inspect(move |_| {
            let _ = &live;
        }),
    )
}
