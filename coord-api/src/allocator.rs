//! Instance ids: small numbers, each held by one process at a time.

use std::fmt::Debug;
use std::future::Future;
use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::fence::Fence;
use crate::handle::{HandleState, Leased, Lost};
use crate::lock::Wait;
use crate::types::FencingToken;

/// How to acquire an id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdOptions {
    /// The ids to choose from, both ends included. `1..=1023` by default.
    pub range: RangeInclusive<u32>,
    /// How long the id outlives a holder that died: the TTL of its lease, rounded up to whole
    /// seconds (R7). 30 s by default.
    pub ttl: Duration,
    /// How long to wait where none is free. Not at all by default.
    pub wait: Wait,
}

impl Default for IdOptions {
    fn default() -> Self {
        IdOptions { range: 1..=1023, ttl: Duration::from_secs(30), wait: Wait::Never }
    }
}

impl IdOptions {
    /// Sets the range. `0..=1023` is legal, as is any range that is not empty and whose end is at
    /// least 1.
    #[must_use]
    pub fn with_range(mut self, range: RangeInclusive<u32>) -> Self {
        self.range = range;
        self
    }

    /// Sets the TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long to wait.
    #[must_use]
    pub fn with_wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }
}

/// Hands out small ids (R41 to R44), for example for snowflake generators.
///
/// # Contract
///
/// - **R41** One after the other it gives the smallest free id; `N` at once that all succeed hold
///   exactly the `N` smallest. One service has one range per provider: another one is
///   `InvalidArgument`.
/// - **R42** None free is `Exhausted`; in the waiting variant a freed id goes to one contender.
/// - **R43** No two live handles share an id; each grant of an id has a larger generation.
#[async_trait]
pub trait InstanceIdAllocator: Debug + Send + Sync + 'static {
    /// Acquires the smallest free id of `service`, which is one segment of a key (R4).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4, R7, R41) before any I/O; `Exhausted` when none is free and
    /// [`Wait::Never`] is asked for; `Timeout` when [`Wait::For`] ran out; `LeaseLost`,
    /// `Unavailable`, `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaks no id.
    async fn acquire_id_with(&self, service: &str, options: IdOptions) -> Result<InstanceId>;
}

/// The usual ways to acquire an id.
pub trait InstanceIdAllocatorExt: InstanceIdAllocator {
    /// Acquires the smallest free id of `1..=max`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for `max` < 1, `Exhausted` when none is free; those of
    /// [`InstanceIdAllocator::acquire_id_with`].
    fn acquire_id(&self, service: &str, max: u32) -> impl Future<Output = Result<InstanceId>> + Send {
        async move { self.acquire_id_with(service, IdOptions::default().with_range(1..=max)).await }
    }

    /// Acquires the smallest free id of `1..=max`, waiting at most `timeout` for one.
    ///
    /// # Errors
    ///
    /// `Timeout` when it is over; those of [`InstanceIdAllocator::acquire_id_with`].
    fn acquire_id_timeout(
        &self,
        service: &str,
        max: u32,
        timeout: Duration,
    ) -> impl Future<Output = Result<InstanceId>> + Send {
        async move {
            self.acquire_id_with(
                service,
                IdOptions::default().with_range(1..=max).with_wait(Wait::For(timeout)),
            )
            .await
        }
    }
}

impl<A: InstanceIdAllocator + ?Sized> InstanceIdAllocatorExt for A {}

/// An id that is held, until it is released, dropped or lost.
#[derive(Debug)]
#[must_use = "dropping an id releases it"]
pub struct InstanceId {
    service: String,
    id: u32,
    inner: Box<dyn Leased>,
}

crate::handle::leased_by_inner!(InstanceId);

impl InstanceId {
    /// Wraps a backend's handle for `id` of `service`.
    pub fn new(service: impl Into<String>, id: u32, inner: impl Leased) -> Self {
        InstanceId { service: service.into(), id, inner: Box::new(inner) }
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Orders the grants of this id: larger with each (R43).
    pub fn generation(&self) -> FencingToken {
        self.inner.fencing_token()
    }

    /// Ties a write to the same store to this id: it is applied only while this is held, by the
    /// word of the store (R55). Give it to
    /// [`WriteOptions::with_fence`](crate::WriteOptions::with_fence).
    pub fn fence(&self) -> Fence {
        self.inner.fence()
    }

    /// Whether the id is held at this moment, by this machine's clock (R32). Once `false`, `false`
    /// for ever.
    pub fn is_held(&self) -> bool {
        self.inner.state().is_held()
    }

    /// What the handle stands for at this moment.
    pub fn state(&self) -> HandleState {
        self.inner.state()
    }

    /// The time left to the local deadline, zero when not held.
    pub fn ttl(&self) -> Duration {
        self.inner.ttl()
    }

    /// Resolves once the id is not held any more, whatever the reason (R43). Stop using it at once.
    pub fn lost(&self) -> Lost {
        self.inner.lost()
    }

    /// Gives the id back, at once (R44). Idempotent; it never frees a successor's id.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the id had been lost before; `Unavailable` or `Timeout`, outcome `Unknown`,
    /// when the store did not answer: the id is not held any more, and the provider repeats the
    /// release until it is acknowledged or the lease has expired (R9).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the release to the provider.
    pub async fn release(&self) -> Result<()> {
        self.inner.release().await
    }
}
