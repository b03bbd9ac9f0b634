//! A handle that breaks what its hooks break, and is as good as the one inside it in all else.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::handle::Leased;
use coord_api::registry::LeasedRegistration;
use coord_api::store::{Entry, Range, Store};
use coord_api::{
    FencingToken, HandleState, IdOptions, InstanceId, LockGuard, LockOptions, Loss, Lost, RegisterOptions, Registration, Result,
    ServiceInstance,
};

use super::provider::{BrokenProvider, Good};
use crate::layout;

/// A good handle, whatever it stands for.
#[derive(Debug)]
pub(super) enum Kept {
    Guard(LockGuard),
    Id(InstanceId),
    Registration(Registration),
}

impl Kept {
    pub(super) fn fencing_token(&self) -> FencingToken {
        match self {
            Kept::Guard(good) => good.fencing_token(),
            Kept::Id(good) => good.generation(),
            Kept::Registration(good) => good.fencing_token(),
        }
    }

    pub(super) fn state(&self) -> HandleState {
        match self {
            Kept::Guard(good) => good.state(),
            Kept::Id(good) => good.state(),
            Kept::Registration(good) => good.state(),
        }
    }

    pub(super) fn ttl(&self) -> Duration {
        match self {
            Kept::Guard(good) => good.ttl(),
            Kept::Id(good) => good.ttl(),
            Kept::Registration(good) => good.ttl(),
        }
    }

    pub(super) fn lost(&self) -> Lost {
        match self {
            Kept::Guard(good) => good.lost(),
            Kept::Id(good) => good.lost(),
            Kept::Registration(good) => good.lost(),
        }
    }

    pub(super) async fn release(&self) -> Result<()> {
        match self {
            Kept::Guard(good) => good.unlock().await,
            Kept::Id(good) => good.release().await,
            Kept::Registration(good) => good.unregister().await,
        }
    }

    pub(super) async fn update(&self, instance: ServiceInstance) -> Result<()> {
        match self {
            Kept::Registration(good) => good.update(instance).await,
            Kept::Guard(_) | Kept::Id(_) => Ok(()),
        }
    }
}

/// One hook for each thing that a handle does. A hook that is not written asks the good handle.
#[async_trait]
pub(super) trait BrokenHandle: Send + Sync + 'static {
    fn fencing_token(&self, good: &Arc<Kept>) -> FencingToken {
        good.fencing_token()
    }

    fn state(&self, good: &Arc<Kept>) -> HandleState {
        good.state()
    }

    fn ttl(&self, good: &Arc<Kept>) -> Duration {
        good.ttl()
    }

    fn lost(&self, good: &Arc<Kept>) -> Lost {
        good.lost()
    }

    async fn release(&self, good: &Arc<Kept>) -> Result<()> {
        good.release().await
    }

    async fn update(&self, good: &Arc<Kept>, instance: ServiceInstance) -> Result<()> {
        good.update(instance).await
    }

    /// The handle is dropped. The good one is, too, unless a clone of it is kept.
    fn dropped(&self, good: &Arc<Kept>) {
        let _ = good;
    }
}

struct WrappedHandle<B: BrokenHandle> {
    good: Arc<Kept>,
    broken: B,
}

impl<B: BrokenHandle> fmt::Debug for WrappedHandle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappedHandle").field("good", &self.good).finish_non_exhaustive()
    }
}

impl<B: BrokenHandle> Drop for WrappedHandle<B> {
    fn drop(&mut self) {
        self.broken.dropped(&self.good);
    }
}

#[async_trait]
impl<B: BrokenHandle> Leased for WrappedHandle<B> {
    fn fencing_token(&self) -> FencingToken {
        self.broken.fencing_token(&self.good)
    }

    fn state(&self) -> HandleState {
        self.broken.state(&self.good)
    }

    fn ttl(&self) -> Duration {
        self.broken.ttl(&self.good)
    }

    fn lost(&self) -> Lost {
        self.broken.lost(&self.good)
    }

    async fn release(&self) -> Result<()> {
        self.broken.release(&self.good).await
    }
}

#[async_trait]
impl<B: BrokenHandle> LeasedRegistration for WrappedHandle<B> {
    async fn update(&self, instance: ServiceInstance) -> Result<()> {
        self.broken.update(&self.good, instance).await
    }
}

/// A guard over a good one.
pub(super) fn guard(good: LockGuard, broken: impl BrokenHandle) -> LockGuard {
    let key = good.key().to_owned();
    guard_over(&key, Arc::new(Kept::Guard(good)), broken)
}

/// A guard over a good one that others may have, too.
pub(super) fn guard_over(key: &str, good: Arc<Kept>, broken: impl BrokenHandle) -> LockGuard {
    LockGuard::new(key, WrappedHandle { good, broken })
}

/// An id over a good one, with any number.
pub(super) fn id(good: InstanceId, number: u32, broken: impl BrokenHandle) -> InstanceId {
    let service = good.service().to_owned();
    id_over(&service, number, Arc::new(Kept::Id(good)), broken)
}

/// An id over a good one that others may have, too.
pub(super) fn id_over(service: &str, number: u32, good: Arc<Kept>, broken: impl BrokenHandle) -> InstanceId {
    InstanceId::new(service, number, WrappedHandle { good, broken })
}

/// A registration over a good one.
pub(super) fn registration(good: Registration, broken: impl BrokenHandle) -> Registration {
    let (service, id) = (good.service().to_owned(), good.id().to_owned());
    registration_over(&service, &id, Arc::new(Kept::Registration(good)), broken)
}

/// A registration over a good one that others may have, too.
pub(super) fn registration_over(service: &str, id: &str, good: Arc<Kept>, broken: impl BrokenHandle) -> Registration {
    Registration::new(service, id, WrappedHandle { good, broken })
}

/// A handle that edits what the good one says. Each edit that is given breaks something.
#[derive(Clone, Copy, Default)]
pub(super) struct EditedHandle {
    pub(super) token: Option<fn(FencingToken) -> FencingToken>,
    pub(super) state: Option<fn(HandleState) -> HandleState>,
    pub(super) ttl: Option<fn(Duration) -> Duration>,
    pub(super) lost: Option<fn(Lost) -> Lost>,
    pub(super) released: Option<fn(Result<()>) -> Result<()>>,
}

#[async_trait]
impl BrokenHandle for EditedHandle {
    fn fencing_token(&self, good: &Arc<Kept>) -> FencingToken {
        self.token.map_or(good.fencing_token(), |edit| edit(good.fencing_token()))
    }

    fn state(&self, good: &Arc<Kept>) -> HandleState {
        self.state.map_or(good.state(), |edit| edit(good.state()))
    }

    fn ttl(&self, good: &Arc<Kept>) -> Duration {
        self.ttl.map_or(good.ttl(), |edit| edit(good.ttl()))
    }

    fn lost(&self, good: &Arc<Kept>) -> Lost {
        self.lost.map_or_else(|| good.lost(), |edit| edit(good.lost()))
    }

    async fn release(&self, good: &Arc<Kept>) -> Result<()> {
        let released = good.release().await;
        self.released.map_or(released.clone(), |edit| edit(released))
    }
}

/// Breaks the guards of locks, each with what the function makes for it.
pub(super) struct Guards<F>(pub(super) F);

#[async_trait]
impl<B: BrokenHandle, F: Fn(&Good, &LockGuard) -> B + Send + Sync + 'static> BrokenProvider for Guards<F> {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let inner = good.provider.lock().acquire_with(key, options).await?;
        let broken = (self.0)(good, &inner);
        Ok(guard(inner, broken))
    }
}

/// Breaks instance ids.
pub(super) struct Ids<F>(pub(super) F);

#[async_trait]
impl<B: BrokenHandle, F: Fn(&Good, &InstanceId) -> B + Send + Sync + 'static> BrokenProvider for Ids<F> {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let inner = good.provider.allocator().acquire_id_with(service, options).await?;
        let (number, broken) = (inner.id(), (self.0)(good, &inner));
        Ok(id(inner, number, broken))
    }
}

/// Breaks registrations.
pub(super) struct Registrations<F>(pub(super) F);

#[async_trait]
impl<B: BrokenHandle, F: Fn(&Good, &Registration) -> B + Send + Sync + 'static> BrokenProvider for Registrations<F> {
    async fn register(&self, good: &Good, instance: ServiceInstance, options: RegisterOptions) -> Result<Registration> {
        let inner = good.provider.registry().register_with(instance, options).await?;
        let broken = (self.0)(good, &inner);
        Ok(registration(inner, broken))
    }
}

/// Held for as long as it was not released, whatever happens.
pub(super) fn held_unless_released(state: HandleState) -> HandleState {
    if state == HandleState::Ended(Loss::Released) { state } else { HandleState::Held }
}

/// The queue entry of a lock, or the key of an id, by the number of its grant.
pub(super) async fn entry_of(store: &dyn Store, grant: FencingToken) -> Result<Option<Entry>> {
    for prefix in [layout::LOCKS, layout::IDS] {
        let entries = store.range(Range::prefix(prefix)).await?.entries;
        if let Some(entry) = entries.into_iter().find(|entry| entry.created.get() == grant.get()) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}
