//! What every handle has, and the kinds of handles that there are: what the kit asks of each kind,
//! it asks once.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::{
    ErrorKind, FencingToken, HandleState, IdOptions, InstanceId, LockGuard, LockOptions, Lost, Provider,
    RegisterOptions, Registration, Result, ServiceInstance, Takeover, Wait,
};
use tokio::time::{Instant, sleep};

use crate::layout;

/// What a handle tells, and its release, whatever it stands for.
#[async_trait]
pub(crate) trait Handle: Debug + Send + Sync + 'static {
    fn fencing_token(&self) -> FencingToken;

    fn state(&self) -> HandleState;

    fn ttl(&self) -> Duration;

    fn lost(&self) -> Lost;

    async fn release(&self) -> Result<()>;

    /// Replaces what is registered. Only registrations do.
    async fn update(&self, instance: ServiceInstance) -> Result<()> {
        let _ = instance;
        Ok(())
    }

    fn is_held(&self) -> bool {
        self.state().is_held()
    }
}

macro_rules! handle {
    ($handle:ident, $token:ident, $release:ident $(, $update:ident)?) => {
        #[async_trait]
        impl Handle for $handle {
            fn fencing_token(&self) -> FencingToken {
                self.$token()
            }

            fn state(&self) -> HandleState {
                self.state()
            }

            fn ttl(&self) -> Duration {
                self.ttl()
            }

            fn lost(&self) -> Lost {
                self.lost()
            }

            async fn release(&self) -> Result<()> {
                self.$release().await
            }

            $(async fn update(&self, instance: ServiceInstance) -> Result<()> {
                self.$update(instance).await
            })?
        }
    };
}

handle!(LockGuard, fencing_token, unlock);
handle!(InstanceId, generation, release);
handle!(Registration, fencing_token, unregister, update);

/// A kind of handle. It stands for a place that one owner has at a time.
pub(crate) trait Kind: 'static {
    type Handle: Handle;

    /// What is found when another one has the place.
    const TAKEN: ErrorKind;

    /// The prefix of the keys under which the place's entries lie, and no others.
    fn entries(place: &str) -> String;

    /// Has a place, or waits for it.
    fn acquire(
        provider: Arc<dyn Provider>,
        place: &'static str,
        ttl: Duration,
        wait: Wait,
    ) -> impl Future<Output = Result<Self::Handle>> + Send;
}

/// Locks: the place is a key.
pub(crate) struct Locks;

impl Kind for Locks {
    type Handle = LockGuard;

    const TAKEN: ErrorKind = ErrorKind::Conflict;

    fn entries(place: &str) -> String {
        layout::lock_queue(place)
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
pub(crate) struct Ids;

impl Kind for Ids {
    type Handle = InstanceId;

    const TAKEN: ErrorKind = ErrorKind::Exhausted;

    fn entries(place: &str) -> String {
        layout::id(place, 1)
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
pub(crate) struct Registrations;

/// How often a registration is tried again: nothing waits for one.
const AGAIN: Duration = Duration::from_millis(20);

impl Kind for Registrations {
    type Handle = Registration;

    const TAKEN: ErrorKind = ErrorKind::Conflict;

    fn entries(place: &str) -> String {
        layout::service("s", place)
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
