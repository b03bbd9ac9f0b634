//! A handle that breaks what its hooks break, and is as good as the one inside it in all else.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::handle::Leased;
use coord_api::registry::LeasedRegistration;
use coord_api::store::{Entry, Range, Store};
use coord_api::{
    Error, Fence, FencingToken, HandleState, IdOptions, InstanceId, LockGuard, LockHandle, LockMode,
    LockOptions, Loss, Lost, RegisterOptions, Registration, Result, ServiceInstance,
};
use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::provider::{BrokenProvider, Good};
use crate::handle::Handle;
use crate::layout;

/// A good handle, whatever it stands for. A clone keeps it.
pub(super) type Kept = Arc<dyn Handle>;

type Hook<T> = Box<dyn Fn(&Kept) -> T + Send + Sync>;

type Answer = BoxFuture<'static, Result<()>>;

type UpdateHook = Box<dyn Fn(&Kept, ServiceInstance) -> Answer + Send + Sync>;

/// What a broken handle does in another way than the good one inside it: one hook for each thing
/// that a handle does. What has none is asked of the good handle.
#[derive(Default)]
pub(super) struct Hooks {
    token: Option<Hook<FencingToken>>,
    state: Option<Hook<HandleState>>,
    ttl: Option<Hook<Duration>>,
    lost: Option<Hook<Lost>>,
    release: Option<Hook<Answer>>,
    update: Option<UpdateHook>,
    mode: Option<Hook<LockMode>>,
    downgrade: Option<Hook<Answer>>,
    dropped: Option<Hook<()>>,
}

/// As good as what is inside, until hooks are added.
pub(super) fn hooks() -> Hooks {
    Hooks::default()
}

impl Hooks {
    pub(super) fn token(self, hook: impl Fn(&Kept) -> FencingToken + Send + Sync + 'static) -> Self {
        Hooks { token: Some(Box::new(hook)), ..self }
    }

    pub(super) fn state(self, hook: impl Fn(&Kept) -> HandleState + Send + Sync + 'static) -> Self {
        Hooks { state: Some(Box::new(hook)), ..self }
    }

    pub(super) fn ttl(self, hook: impl Fn(&Kept) -> Duration + Send + Sync + 'static) -> Self {
        Hooks { ttl: Some(Box::new(hook)), ..self }
    }

    pub(super) fn lost<F: Future<Output = Loss> + Send + 'static>(
        self,
        hook: impl Fn(&Kept) -> F + Send + Sync + 'static,
    ) -> Self {
        Hooks { lost: Some(Box::new(move |good| Lost::new(hook(good)))), ..self }
    }

    pub(super) fn release<F: Future<Output = Result<()>> + Send + 'static>(
        self,
        hook: impl Fn(Kept) -> F + Send + Sync + 'static,
    ) -> Self {
        Hooks { release: Some(Box::new(move |good| Box::pin(hook(Arc::clone(good))))), ..self }
    }

    pub(super) fn update<F: Future<Output = Result<()>> + Send + 'static>(
        self,
        hook: impl Fn(Kept, ServiceInstance) -> F + Send + Sync + 'static,
    ) -> Self {
        Hooks {
            update: Some(Box::new(move |good, instance| Box::pin(hook(Arc::clone(good), instance)))),
            ..self
        }
    }

    pub(super) fn mode(self, hook: impl Fn(&Kept) -> LockMode + Send + Sync + 'static) -> Self {
        Hooks { mode: Some(Box::new(hook)), ..self }
    }

    pub(super) fn downgrade<F: Future<Output = Result<()>> + Send + 'static>(
        self,
        hook: impl Fn(Kept) -> F + Send + Sync + 'static,
    ) -> Self {
        Hooks { downgrade: Some(Box::new(move |good| Box::pin(hook(Arc::clone(good))))), ..self }
    }

    /// The handle is dropped. The good one is, too, unless a clone of it is kept.
    pub(super) fn dropped(self, hook: impl Fn(&Kept) + Send + Sync + 'static) -> Self {
        Hooks { dropped: Some(Box::new(hook)), ..self }
    }
}

// What several saboteurs do.

/// Edits what is said of a release.
pub(super) fn says_of_release(edit: fn(Result<()>) -> Result<()>) -> Hooks {
    hooks().release(move |good| async move { edit(good.release().await) })
}

/// Says at once that it is released, and does it later.
pub(super) fn releases_later() -> Hooks {
    hooks().release(|good| async move {
        tokio::spawn(async move {
            sleep(Duration::from_millis(5)).await;
            good.release().await
        });
        Ok(())
    })
}

/// Fails each release but the first.
pub(super) fn fails_again(operation: &'static str) -> Hooks {
    let released = AtomicBool::new(false);
    hooks().release(move |good| {
        let again = released.swap(true, Ordering::SeqCst);
        async move {
            if again { Err(Error::lease_lost(operation, "it is gone already")) } else { good.release().await }
        }
    })
}

/// Releases what it holds, and revokes the lease that it shares with others.
pub(super) fn revokes_all(good: &Good) -> Hooks {
    let store = Arc::clone(&good.store);
    hooks().release(move |good| {
        let store = Arc::clone(&store);
        async move {
            let entry = entry_of(&*store, good.fencing_token()).await?;
            good.release().await?;
            match entry.and_then(|entry| entry.lease) {
                Some(lease) => store.revoke_lease(lease).await,
                None => Ok(()),
            }
        }
    })
}

/// Is never released, and never forgotten, when it is dropped.
pub(super) fn keep_for_ever(good: &Kept) {
    let good = Arc::clone(good);
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { good.lost().await });
    }
}

/// Numbers of one's own, from 1.
pub(super) fn counts_from_one() -> impl Fn() -> Hooks + Send + Sync {
    let granted = AtomicU64::new(0);
    move || {
        let token = FencingToken::new(granted.fetch_add(1, Ordering::SeqCst) + 1);
        hooks().token(move |_| token)
    }
}

struct WrappedHandle {
    good: Kept,
    hooks: Hooks,
}

impl fmt::Debug for WrappedHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappedHandle").field("good", &self.good).finish_non_exhaustive()
    }
}

impl Drop for WrappedHandle {
    fn drop(&mut self) {
        if let Some(hook) = &self.hooks.dropped {
            hook(&self.good);
        }
    }
}

#[async_trait]
impl Leased for WrappedHandle {
    fn fencing_token(&self) -> FencingToken {
        self.hooks.token.as_ref().map_or_else(|| self.good.fencing_token(), |hook| hook(&self.good))
    }

    fn fence(&self) -> Fence {
        self.good.fence()
    }

    fn state(&self) -> HandleState {
        self.hooks.state.as_ref().map_or_else(|| self.good.state(), |hook| hook(&self.good))
    }

    fn ttl(&self) -> Duration {
        self.hooks.ttl.as_ref().map_or_else(|| self.good.ttl(), |hook| hook(&self.good))
    }

    fn lost(&self) -> Lost {
        self.hooks.lost.as_ref().map_or_else(|| self.good.lost(), |hook| hook(&self.good))
    }

    async fn release(&self) -> Result<()> {
        match &self.hooks.release {
            Some(hook) => hook(&self.good).await,
            None => self.good.release().await,
        }
    }
}

#[async_trait]
impl LeasedRegistration for WrappedHandle {
    async fn update(&self, instance: ServiceInstance) -> Result<()> {
        match &self.hooks.update {
            Some(hook) => hook(&self.good, instance).await,
            None => self.good.update(instance).await,
        }
    }
}

#[async_trait]
impl LockHandle for WrappedHandle {
    fn mode(&self) -> LockMode {
        self.hooks.mode.as_ref().map_or_else(|| self.good.mode(), |hook| hook(&self.good))
    }

    async fn downgrade(&self) -> Result<()> {
        match &self.hooks.downgrade {
            Some(hook) => hook(&self.good).await,
            None => self.good.downgrade().await,
        }
    }
}

/// A guard over a good one.
pub(super) fn guard(good: LockGuard, hooks: Hooks) -> LockGuard {
    let key = good.key().to_owned();
    guard_over(&key, Arc::new(good), hooks)
}

/// A guard over a good one that others may have, too.
pub(super) fn guard_over(key: &str, good: Kept, hooks: Hooks) -> LockGuard {
    LockGuard::new(key, WrappedHandle { good, hooks })
}

/// An id over a good one, with any number.
pub(super) fn id(good: InstanceId, number: u32, hooks: Hooks) -> InstanceId {
    let service = good.service().to_owned();
    id_over(&service, number, Arc::new(good), hooks)
}

/// An id over a good one that others may have, too.
pub(super) fn id_over(service: &str, number: u32, good: Kept, hooks: Hooks) -> InstanceId {
    InstanceId::new(service, number, WrappedHandle { good, hooks })
}

/// A registration over a good one.
pub(super) fn registration(good: Registration, hooks: Hooks) -> Registration {
    let (service, id) = (good.service().to_owned(), good.id().to_owned());
    registration_over(&service, &id, Arc::new(good), hooks)
}

/// A registration over a good one that others may have, too.
pub(super) fn registration_over(service: &str, id: &str, good: Kept, hooks: Hooks) -> Registration {
    Registration::new(service, id, WrappedHandle { good, hooks })
}

/// Breaks the guards of locks, each with what the function makes for it.
pub(super) struct Guards<F>(pub(super) F);

#[async_trait]
impl<F: Fn(&Good, &LockGuard) -> Hooks + Send + Sync + 'static> BrokenProvider for Guards<F> {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let inner = good.provider.lock().acquire_with(key, options).await?;
        let broken = (self.0)(good, &inner);
        Ok(guard(inner, broken))
    }
}

/// Breaks instance ids.
pub(super) struct Ids<F>(pub(super) F);

#[async_trait]
impl<F: Fn(&Good, &InstanceId) -> Hooks + Send + Sync + 'static> BrokenProvider for Ids<F> {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let inner = good.provider.allocator().acquire_id_with(service, options).await?;
        let (number, broken) = (inner.id(), (self.0)(good, &inner));
        Ok(id(inner, number, broken))
    }
}

/// Breaks registrations.
pub(super) struct Registrations<F>(pub(super) F);

#[async_trait]
impl<F: Fn(&Good, &Registration) -> Hooks + Send + Sync + 'static> BrokenProvider for Registrations<F> {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let inner = good.provider.registry().register_with(instance, options).await?;
        let broken = (self.0)(good, &inner);
        Ok(registration(inner, broken))
    }
}

/// Breaks the handles of every kind.
pub(super) struct Handles<F>(pub(super) F);

#[async_trait]
impl<F: Fn(&Good) -> Hooks + Send + Sync + 'static> BrokenProvider for Handles<F> {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let inner = good.provider.lock().acquire_with(key, options).await?;
        Ok(guard(inner, (self.0)(good)))
    }

    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let inner = good.provider.registry().register_with(instance, options).await?;
        Ok(registration(inner, (self.0)(good)))
    }

    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let inner = good.provider.allocator().acquire_id_with(service, options).await?;
        let number = inner.id();
        Ok(id(inner, number, (self.0)(good)))
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
