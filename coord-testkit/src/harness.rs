//! What a backend's author fills in.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{LeaseId, Provider, Revision};
use futures_util::future::BoxFuture;

use crate::wrap::Link;

/// One fresh, empty store, and what the kit must be able to do to it. Every case gets a harness of
/// its own.
///
/// # Faults
///
/// Most faults need nothing of a harness: the kit wraps the stores of its clients and cuts, hangs,
/// slows, loses and holds back what passes between them and their providers
/// ([`Faulty`](crate::wrap::Faulty)). The hooks that do need something have defaults, and real ones
/// may take their place: a [`Network`] for each client ([`Client::with_network`]),
/// [`expire_lease`](Self::expire_lease), [`reopen`](Self::reopen), and faults of the servers that
/// only the harness knows ([`server_faults`](Self::server_faults)). What a harness does not provide
/// is *not run*, and is never taken for passed.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// A further client of the store, as independent of the others as another process would be.
    async fn client(&self) -> Client;

    /// The backend's provider over `store`, which is one of the harness's own stores inside a
    /// wrapper of the kit's: one that counts requests, or loses answers.
    ///
    /// A store that may be out of reach at this moment is no reason to fail: the provider connects
    /// lazily (R3).
    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider>;

    /// As [`assemble`](Self::assemble), with everything of the provider's under a namespace (R5).
    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider>;

    /// Forgets the history up to and including `through`.
    async fn compact(&self, through: Revision);

    /// Kills the store's process, as `kill -9` would, and opens its data again. Earlier clients are
    /// dead; later ones are clients of the reopened store.
    ///
    /// Only a persistent store can; say so in the macro: `conformance!(persistent, …)`.
    async fn reopen(&self) -> Reopened {
        Reopened::Volatile
    }

    /// A harness of another store, fresh and empty, that has nothing to do with this one (S1). By
    /// default there is none; [`conformance!`](crate::conformance) sees to it by itself, with the
    /// expression that made this one.
    async fn another(&self) -> Option<Arc<dyn Harness>> {
        None
    }

    /// Ends a lease before its time, behind its owner's back. By default another client revokes it.
    async fn expire_lease(&self, lease: LeaseId) -> Hook {
        match self.client().await.store.revoke_lease(lease).await {
            Ok(()) => Hook::Done,
            Err(_) => Hook::NotProvided("no other client could revoke the lease"),
        }
    }

    /// Faults of the servers that this harness can make, by name: `leader killed`. None by default.
    /// The histories draw from them.
    fn server_faults(&self) -> &'static [&'static str] {
        &[]
    }

    /// Begins one of the [`server_faults`](Self::server_faults). It ends when the answer is
    /// dropped; `None` when it could not be made.
    async fn server_fault(&self, _name: &'static str) -> Option<Box<dyn Send>> {
        None
    }

    /// Which clock the store lives by.
    fn time(&self) -> Time;

    /// How late an expiry may be noticed (R7). With a leader election among its causes, its
    /// longest.
    fn lag(&self) -> Duration;

    /// Whether calls of one client that come at once may share a transaction, and so its revision
    /// (R82). By default each has a transaction of its own.
    fn batches(&self) -> bool {
        false
    }

    /// The TTL that the cases ask for where any would do: short where time is real. Whole seconds,
    /// at least 1 s, and granted as asked for.
    fn ttl(&self) -> Duration {
        self.time().usual_ttl()
    }
}

/// Makes the harness of a fresh, empty store.
type Make = fn() -> BoxFuture<'static, Arc<dyn Harness>>;

/// A harness that `make` has made, and can make others like it.
struct Repeatable {
    harness: Arc<dyn Harness>,
    make: Make,
}

/// The harness of [`conformance!`](crate::conformance): `make` makes others like it.
#[doc(hidden)]
pub fn repeatable(harness: Arc<dyn Harness>, make: Make) -> Arc<dyn Harness> {
    Arc::new(Repeatable { harness, make })
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Harness for Repeatable {
    async fn client(&self) -> Client {
        self.harness.client().await
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        self.harness.assemble(store)
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        self.harness.namespaced(store, namespace)
    }

    async fn compact(&self, through: Revision) {
        self.harness.compact(through).await;
    }

    async fn reopen(&self) -> Reopened {
        self.harness.reopen().await
    }

    async fn another(&self) -> Option<Arc<dyn Harness>> {
        Some((self.make)().await)
    }

    async fn expire_lease(&self, lease: LeaseId) -> Hook {
        self.harness.expire_lease(lease).await
    }

    fn server_faults(&self) -> &'static [&'static str] {
        self.harness.server_faults()
    }

    async fn server_fault(&self, name: &'static str) -> Option<Box<dyn Send>> {
        self.harness.server_fault(name).await
    }

    fn time(&self) -> Time {
        self.harness.time()
    }

    fn lag(&self) -> Duration {
        self.harness.lag()
    }

    fn batches(&self) -> bool {
        self.harness.batches()
    }

    fn ttl(&self) -> Duration {
        self.harness.ttl()
    }
}

/// Which clock a store lives by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Time {
    /// `tokio::time`, so that the kit may pause it: hours pass in microseconds, and the same way
    /// each time.
    Virtual,
    /// Real time.
    Real,
}

impl Time {
    /// [`Harness::ttl`], where the harness says nothing else.
    pub(crate) fn usual_ttl(self) -> Duration {
        match self {
            Time::Virtual => Duration::from_secs(10),
            Time::Real => Duration::from_secs(2),
        }
    }
}

/// What a hook of a [`Harness`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// What it was asked for.
    Done,
    /// Nothing, and why: what needs it is not run.
    NotProvided(&'static str),
}

/// What a case fails with that cannot run on this harness: it did not pass, and it did not find
/// anything broken.
pub(crate) struct NotRun(pub(crate) &'static str);

/// The way between one client and its store, where a harness can disturb it for real: by a proxy,
/// or by stopping a process.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Makes the link work, fail at once, or swallow everything.
    async fn set(&self, link: Link);
}

/// What [`Harness::reopen`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reopened {
    /// The store runs again, on the data of before.
    Done,
    /// Nothing: the store keeps its data in memory alone.
    Volatile,
}

/// How a client dies.
pub(crate) type Crash = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send + Sync>;

/// A client of a store: what one process holds.
pub struct Client {
    /// The store, as this client sees it.
    pub store: Arc<dyn Store>,
    /// The provider over it.
    pub provider: Arc<dyn Provider>,
    crash: Crash,
    pub(crate) network: Option<Arc<dyn Network>>,
    /// Kept so that a provider that a wrapped one replaced does not end the client when it is
    /// dropped.
    replaced: Option<Arc<dyn Provider>>,
}

impl Client {
    /// A client. `crash` makes it die as a killed process does: it revokes nothing, and all that it
    /// does or waits for ends with `Closed`.
    pub fn new<F>(
        store: Arc<dyn Store>,
        provider: Arc<dyn Provider>,
        crash: impl FnOnce() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Client { store, provider, crash: Box::new(move || Box::pin(crash())), network: None, replaced: None }
    }

    /// Says how the way between this client and its store can be disturbed for real. Without it the
    /// kit disturbs it between the store and the provider.
    #[must_use]
    pub fn with_network(mut self, network: impl Network) -> Self {
        self.network = Some(Arc::new(network));
        self
    }

    /// The same client over a wrapped store.
    pub(crate) fn rewrapped(self, store: Arc<dyn Store>, provider: Arc<dyn Provider>) -> Self {
        Client { store, provider, crash: self.crash, network: self.network, replaced: Some(self.provider) }
    }

    /// The same client, whose store and provider hold the ones of before inside them.
    pub(crate) fn inside(self, store: Arc<dyn Store>, provider: Arc<dyn Provider>) -> Self {
        Client { store, provider, ..self }
    }

    /// The same client, with what its harness gave it inside guards.
    pub(crate) fn guarded(
        self,
        crash: impl FnOnce(Crash) -> Crash,
        network: impl FnOnce(Arc<dyn Network>) -> Arc<dyn Network>,
    ) -> Self {
        Client { crash: crash(self.crash), network: self.network.map(network), ..self }
    }

    /// Dies without revoking anything.
    pub async fn crash(self) {
        (self.crash)().await;
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("store", &self.store)
            .field("provider", &self.provider)
            .field("rewrapped", &self.replaced.is_some())
            .finish_non_exhaustive()
    }
}
