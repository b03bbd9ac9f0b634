//! What every handle has, and the kinds of handles that there are: what the kit asks of each kind,
//! it asks once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::handle::Leased;
use coord_api::prelude::*;
use coord_api::{
    ErrorKind, IdOptions, InstanceId, LockGuard, LockMode, LockOptions, Provider, RegisterOptions,
    Registration, Result, ServiceInstance, Takeover, Wait,
};
use tokio::time::{Instant, sleep};

use crate::harness::Client;
use crate::layout;

/// What a handle of the five contracts does beside what every handle does; of those that do not do
/// it, nothing.
#[async_trait]
pub(crate) trait Handle: Leased {
    /// Replaces what is registered. Only registrations do.
    async fn update(&self, instance: ServiceInstance) -> Result<()> {
        let _ = instance;
        Ok(())
    }

    /// Who else may hold it. Only locks are shared.
    fn mode(&self) -> LockMode {
        LockMode::Exclusive
    }

    /// Lets readers in. Only locks do.
    async fn downgrade(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Handle for LockGuard {
    fn mode(&self) -> LockMode {
        self.mode()
    }

    async fn downgrade(&self) -> Result<()> {
        self.downgrade().await
    }
}

#[async_trait]
impl Handle for InstanceId {}

#[async_trait]
impl Handle for Registration {
    async fn update(&self, instance: ServiceInstance) -> Result<()> {
        self.update(instance).await
    }
}

/// Whether a handle holds what it was given for.
pub(crate) trait IsHeld: Leased {
    fn is_held(&self) -> bool {
        self.state().is_held()
    }
}

impl<T: Leased + ?Sized> IsHeld for T {}

/// A kind of handle. It stands for a place that one owner has at a time.
///
/// What holds for every handle is asked of each kind by the same [cases](crate::handle_cases). The
/// author of a primitive says here how a place of it is had, and lists the cases under rules of his
/// own, as [`list_cases!`](crate::list_cases) has it: `a_dropped_one_is_free =>
/// handle_cases::is_free_once_dropped::<MyKind>`.
pub trait Kind: 'static {
    /// The handle.
    type Handle: Leased;

    /// What is found when another one has the place.
    const TAKEN: ErrorKind;

    /// What handles are had from: a provider, or what stands for it.
    type Source: Clone + Send + Sync + 'static;

    /// What a client of the store has handles from. Whoever holds it keeps the client.
    fn source(client: &Client) -> Self::Source;

    /// The contracts over the same store.
    fn provider(source: &Self::Source) -> &Arc<dyn Provider>;

    /// Closes what handles are had from, and gives back what is held.
    fn close(source: Self::Source) -> impl Future<Output = Result<()>> + Send;

    /// The prefix of the keys under which the place's entries lie, and no others.
    fn entries(place: &str) -> String;

    /// Has something else, on the same lease as what is had with this TTL. It does not heal.
    fn beside(source: Self::Source, ttl: Duration) -> impl Future<Output = Result<Box<dyn Leased>>> + Send;

    /// Has a place, or waits for it.
    fn acquire(
        source: Self::Source,
        place: &'static str,
        ttl: Duration,
        wait: Wait,
    ) -> impl Future<Output = Result<Self::Handle>> + Send;
}

/// Locks: the place is a key.
#[derive(Debug)]
pub struct Locks;

impl Kind for Locks {
    type Handle = LockGuard;

    const TAKEN: ErrorKind = ErrorKind::Conflict;

    type Source = Arc<dyn Provider>;

    fn source(client: &Client) -> Self::Source {
        Arc::clone(&client.provider)
    }

    fn provider(source: &Self::Source) -> &Arc<dyn Provider> {
        source
    }

    async fn close(source: Self::Source) -> Result<()> {
        source.close().await
    }

    fn entries(place: &str) -> String {
        layout::lock_queue(place)
    }

    async fn beside(source: Self::Source, ttl: Duration) -> Result<Box<dyn Leased>> {
        Ok(Box::new(source.lock().acquire("beside", ttl).await?))
    }

    async fn acquire(
        provider: Arc<dyn Provider>,
        place: &'static str,
        ttl: Duration,
        wait: Wait,
    ) -> Result<LockGuard> {
        provider.lock().acquire_with(place, LockOptions::default().with_ttl(ttl).with_wait(wait)).await
    }
}

/// Instance ids: the place is the only id of a service.
#[derive(Debug)]
pub struct Ids;

impl Kind for Ids {
    type Handle = InstanceId;

    const TAKEN: ErrorKind = ErrorKind::Exhausted;

    type Source = Arc<dyn Provider>;

    fn source(client: &Client) -> Self::Source {
        Arc::clone(&client.provider)
    }

    fn provider(source: &Self::Source) -> &Arc<dyn Provider> {
        source
    }

    async fn close(source: Self::Source) -> Result<()> {
        source.close().await
    }

    fn entries(place: &str) -> String {
        layout::id(place, 1)
    }

    async fn beside(source: Self::Source, ttl: Duration) -> Result<Box<dyn Leased>> {
        Ok(Box::new(source.lock().acquire("beside", ttl).await?))
    }

    async fn acquire(
        provider: Arc<dyn Provider>,
        place: &'static str,
        ttl: Duration,
        wait: Wait,
    ) -> Result<InstanceId> {
        let options = IdOptions::default().with_range(1..=1).with_ttl(ttl).with_wait(wait);
        provider.allocator().acquire_id_with(place, options).await
    }
}

/// Registrations: the place is an id of the service `s`, which is not taken over.
#[derive(Debug)]
pub struct Registrations;

/// How often a registration is tried again: nothing waits for one.
const AGAIN: Duration = Duration::from_millis(20);

impl Kind for Registrations {
    type Handle = Registration;

    const TAKEN: ErrorKind = ErrorKind::Conflict;

    type Source = Arc<dyn Provider>;

    fn source(client: &Client) -> Self::Source {
        Arc::clone(&client.provider)
    }

    fn provider(source: &Self::Source) -> &Arc<dyn Provider> {
        source
    }

    async fn close(source: Self::Source) -> Result<()> {
        source.close().await
    }

    fn entries(place: &str) -> String {
        layout::service("s", place)
    }

    async fn beside(source: Self::Source, ttl: Duration) -> Result<Box<dyn Leased>> {
        Ok(Box::new(source.lock().acquire("beside", ttl).await?))
    }

    async fn acquire(
        provider: Arc<dyn Provider>,
        place: &'static str,
        ttl: Duration,
        wait: Wait,
    ) -> Result<Registration> {
        let start = Instant::now();
        let options = RegisterOptions::default().with_ttl(ttl).with_takeover(Takeover::Exclusive);
        loop {
            let registered = provider
                .registry()
                .register_with(ServiceInstance::new("s", place, "localhost", 80), options)
                .await;
            let taken = registered.as_ref().is_err_and(|error| error.kind() == Self::TAKEN);
            let waits = match wait {
                Wait::Never => false,
                Wait::For(limit) => start.elapsed() < limit,
                _ => true,
            };
            if !taken || !waits {
                return registered;
            }
            sleep(AGAIN).await;
        }
    }
}
