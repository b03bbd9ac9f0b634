//! Service registration and discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::address;
use crate::error::{Error, Result};
use crate::fence::Fence;
use crate::handle::{HandleState, Leased, Lost};
use crate::key;
use crate::types::{FencingToken, Revision};
use crate::watch::{Invalid, Snapshot, Watch};

/// One running instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceInstance {
    /// The instance's id, unique in its service (R34). One segment of a key (R4).
    pub id: String,
    /// The service's name. One segment of a key (R4).
    pub name: String,
    /// The host name or IP address under which clients reach it, and nothing else: no scheme, no
    /// port, no brackets. See [`address::check`].
    pub address: String,
    /// The port, never zero.
    pub port: u16,
    /// Whatever else clients should know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl ServiceInstance {
    /// An instance without metadata.
    pub fn new(
        name: impl Into<String>,
        id: impl Into<String>,
        address: impl Into<String>,
        port: u16,
    ) -> Self {
        ServiceInstance {
            id: id.into(),
            name: name.into(),
            address: address.into(),
            port,
            metadata: BTreeMap::new(),
        }
    }

    /// Adds a piece of metadata.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Checks what every backend checks before any I/O (R4).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a name or id that is not one good segment, an address under which
    /// nobody can be reached ([`address::check`]), port zero. It names the instance: `service/id`.
    pub fn validate(&self, operation: &'static str) -> Result<()> {
        self.check(operation).map_err(|error| error.about(&self.path()))
    }

    fn check(&self, operation: &'static str) -> Result<()> {
        key::check_segment(operation, &self.name)?;
        key::check_segment(operation, &self.id)?;
        address::check(operation, &self.address)?;
        if self.port == 0 {
            return Err(Error::invalid_argument(operation, "port zero"));
        }
        Ok(())
    }

    /// Checks each of them, and that no two are the same one.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` as [`validate`](Self::validate), and for two with one name and id.
    pub fn validate_all(operation: &'static str, instances: &[ServiceInstance]) -> Result<()> {
        let mut known = BTreeSet::new();
        for instance in instances {
            instance.validate(operation)?;
            if !known.insert((&instance.name, &instance.id)) {
                return Err(Error::invalid_argument(operation, "one instance twice").about(&instance.path()));
            }
        }
        Ok(())
    }

    fn path(&self) -> String {
        format!("{}/{}", self.name, self.id)
    }
}

/// What to do where a live foreign owner holds the id already (R34).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Takeover {
    /// Take its place; the old handle ends as superseded. What a restarted process needs.
    #[default]
    Replace,
    /// Leave it alone: `Conflict`.
    Exclusive,
}

/// How to register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisterOptions {
    /// How long the entry outlives an owner that died: the TTL of its lease, rounded up to whole
    /// seconds (R7, R36). 30 s by default.
    pub ttl: Duration,
    /// What to do where a live foreign owner holds the id.
    pub takeover: Takeover,
}

impl Default for RegisterOptions {
    fn default() -> Self {
        RegisterOptions { ttl: Duration::from_secs(30), takeover: Takeover::Replace }
    }
}

impl RegisterOptions {
    /// Sets the TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets what to do where a live foreign owner holds the id.
    #[must_use]
    pub fn with_takeover(mut self, takeover: Takeover) -> Self {
        self.takeover = takeover;
        self
    }
}

/// A change among a service's instances (R39).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ServiceChange {
    /// An instance came.
    Added(ServiceInstance),
    /// An instance changed; its new content.
    Updated(ServiceInstance),
    /// An instance went; its last content, from the watcher's own state.
    Removed(ServiceInstance),
    /// A record came that does not decode (R21). If an instance stood under its id, a `Removed`
    /// came before.
    Invalid(Invalid),
}

/// An item of a service watch (R39).
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceEvent {
    /// A change.
    Change {
        /// What changed.
        change: ServiceChange,
        /// The revision of the change.
        revision: Revision,
        /// Whether it is the last change of its revision (R18).
        last: bool,
    },
    /// The full set: the first item, and again where history was lost (R19). What is not in it is
    /// gone.
    Resync(Snapshot<ServiceInstance>),
}

/// Registration and discovery of service instances.
///
/// # Contract
///
/// - **R34** The same owner again replaces in place; a live foreign owner is taken over, or is
///   `Conflict` where [`Takeover::Exclusive`] is asked for. Ids are unique per service only.
/// - **R35** Discovery is one snapshot, sorted by id; what does not decode is kept apart.
/// - **R36** An entry is there while its owner lives, and gone by granted TTL + lag after a crash.
/// - **R37** A registration that was lost comes back by itself.
/// - **R39** A watch starts with the full set.
#[async_trait]
pub trait ServiceRegistry: Debug + Send + Sync + 'static {
    /// Registers an instance; after `Ok` every client's next [`discover`](Self::discover) sees it
    /// (R34).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4, R7) before any I/O; `Conflict` for a live foreign owner where
    /// [`Takeover::Exclusive`] is asked for; `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves no registration behind.
    async fn register_with(
        &self,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration>;

    /// Registers many instances at once: all of them, or, where one fails, none (R34). The
    /// registrations are in the order of the instances.
    ///
    /// Backends on the recipes send them together, a hundred to a request.
    ///
    /// # Errors
    ///
    /// Those of [`register_with`](Self::register_with), of the first instance that fails: those
    /// that were registered already are removed again, in the background. `InvalidArgument` also
    /// for two instances with one name and id, before any I/O.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves no registration behind.
    async fn register_all(
        &self,
        instances: Vec<ServiceInstance>,
        options: RegisterOptions,
    ) -> Result<Vec<Registration>>;

    /// The live instances of a service, sorted by id (R35). An unknown service has none.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4); `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn discover(&self, service: &str) -> Result<Snapshot<ServiceInstance>>;

    /// Watches the instances of a service; the first item is the full set (R39).
    ///
    /// # Errors
    ///
    /// Those of [`discover`](Self::discover). Once it returned, transient faults are retried inside
    /// (R20).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the call leaves nothing behind.
    async fn watch(&self, service: &str) -> Result<Watch<ServiceEvent>>;
}

/// The usual way to register.
pub trait ServiceRegistryExt: ServiceRegistry {
    /// Registers an instance with the default [`RegisterOptions`].
    ///
    /// # Errors
    ///
    /// Those of [`ServiceRegistry::register_with`].
    fn register(&self, instance: ServiceInstance) -> impl Future<Output = Result<Registration>> + Send {
        async move { self.register_with(instance, RegisterOptions::default()).await }
    }
}

impl<R: ServiceRegistry + ?Sized> ServiceRegistryExt for R {}

/// What a backend provides behind [`Registration`].
#[async_trait]
pub trait LeasedRegistration: Leased {
    /// Replaces the registered content in place.
    ///
    /// # Errors
    ///
    /// As [`Registration::update`].
    async fn update(&self, instance: ServiceInstance) -> Result<()>;
}

/// A registration that is kept alive, and healed, until it is unregistered, dropped or superseded
/// (R36 to R38).
#[derive(Debug)]
#[must_use = "dropping a registration ends it"]
pub struct Registration {
    service: String,
    id: String,
    inner: Box<dyn LeasedRegistration>,
}

crate::handle::leased_by_inner!(Registration);

impl Registration {
    /// Wraps a backend's handle for the instance `id` of `service`.
    pub fn new(service: impl Into<String>, id: impl Into<String>, inner: impl LeasedRegistration) -> Self {
        Registration { service: service.into(), id: id.into(), inner: Box::new(inner) }
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The instance's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Orders the owners of this id. It may rise while the registration heals (R37).
    pub fn fencing_token(&self) -> FencingToken {
        self.inner.fencing_token()
    }

    /// Ties a write to the same store to this registration: it is applied only while this is held,
    /// by the word of the store (R55). Give it to
    /// [`WriteOptions::with_fence`](crate::WriteOptions::with_fence). One from before a loss that
    /// was healed fails.
    pub fn fence(&self) -> Fence {
        self.inner.fence()
    }

    /// Registered, lost and being brought back, or over (R37).
    pub fn state(&self) -> HandleState {
        self.inner.state()
    }

    /// The time left to the local deadline, zero when not registered.
    pub fn ttl(&self) -> Duration {
        self.inner.ttl()
    }

    /// Resolves once the registration is over for good: superseded, closed, unregistered or
    /// dropped. A loss that is being healed does not fire it (R37).
    pub fn lost(&self) -> Lost {
        self.inner.lost()
    }

    /// Replaces the registered content in place, in one update (R34). Healing brings back the
    /// latest content (R37).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an instance of another name or id, or one that does not
    /// [validate](ServiceInstance::validate); `LeaseLost` when the registration is over;
    /// `Unavailable` or `Timeout`, outcome `Unknown`: the content is then written as soon as the
    /// store answers.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call is still carried out.
    pub async fn update(&self, instance: ServiceInstance) -> Result<()> {
        self.inner.update(instance).await
    }

    /// Ends the registration. Once it returned `Ok` the entry never reappears from this handle
    /// (R38). Idempotent.
    ///
    /// # Errors
    ///
    /// `Unavailable` or `Timeout`, outcome `Unknown`, when the store did not answer: the handle is
    /// over all the same, and the provider repeats the removal until it is acknowledged or the
    /// lease has expired (R9).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the removal to the provider.
    pub async fn unregister(&self) -> Result<()> {
        self.inner.release().await
    }
}
