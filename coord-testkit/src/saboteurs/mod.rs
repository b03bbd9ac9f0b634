//! Broken backends: the kit is tested with them, and each must fail it at the rule that it breaks.
//!
//! A [`Saboteur`] is a small wrapper round the stores and providers of any good [`Harness`], so
//! that an author can see what the kit would say of a backend that breaks just that. It breaks one
//! of three places: the store itself; the client between the contracts and their store, where the
//! kit's own faults are seen; or the contracts, as a backend may that implements them by itself.
//! [`harmless`] ones do what the contract allows, and must pass everything.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{LeaseId, Provider, Revision};
use futures_util::future::BoxFuture;

use crate::harness::{Client, Harness, Hook, Reopened, Time};

mod config;
mod deadline;
mod errors;
mod fences;
mod general;
mod handle;
mod harmless;
mod idle;
mod ids;
mod lock;
mod options;
mod provider;
mod registry;
mod session;
mod stale;
mod store;
mod stores;
mod told;
mod values;
mod watch;

use provider::{BrokenProvider, Good, WrappedProvider};
use store::{BrokenStore, Wrapped};

/// A backend that breaks one thing.
#[derive(Clone, Copy)]
pub struct Saboteur {
    /// What it is called.
    pub id: &'static str,
    /// What it does wrong, in the words of the list that it comes from.
    pub breaks: &'static str,
    /// The rules at which the kit must fail it, each with a case of its own, in lower case: `r12`.
    pub rules: &'static [&'static str],
    /// Whether it shows only when the store is opened again.
    pub persistent: bool,
    make: fn() -> Sabotage,
}

impl Saboteur {
    const fn new(
        id: &'static str,
        breaks: &'static str,
        rules: &'static [&'static str],
        make: fn() -> Sabotage,
    ) -> Self {
        Saboteur { id, breaks, rules, persistent: false, make }
    }

    const fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// The harness of the broken backend, over that of a good one.
    pub fn over(&self, good: Arc<dyn Harness>) -> Arc<dyn Harness> {
        Arc::new(Sabotaged { good, sabotage: (self.make)(), make: self.make })
    }
}

impl fmt::Debug for Saboteur {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saboteur")
            .field("id", &self.id)
            .field("breaks", &self.breaks)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// Every saboteur, by the parts of the contract.
pub fn saboteurs() -> impl Iterator<Item = &'static Saboteur> {
    let plain = [
        general::SABOTEURS,
        config::SABOTEURS,
        session::SABOTEURS,
        registry::SABOTEURS,
        ids::SABOTEURS,
        errors::SABOTEURS,
        fences::SABOTEURS,
        deadline::SABOTEURS,
        told::SABOTEURS,
        options::SABOTEURS,
        idle::SABOTEURS,
        stale::SABOTEURS,
        values::SABOTEURS,
    ];
    plain.into_iter().chain(watch::SABOTEURS).chain(lock::SABOTEURS).chain(stores::SABOTEURS).flatten()
}

/// Backends that are odd and break nothing.
pub fn harmless() -> impl Iterator<Item = &'static Saboteur> {
    harmless::HARMLESS.iter()
}

/// What makes the wrappers of one backend. Each is made anew for each client; what clients share is
/// captured.
#[derive(Default)]
struct Sabotage {
    store: Option<Wrap>,
    client: Option<Box<dyn Fn() -> Arc<dyn BrokenStore> + Send + Sync>>,
    provider: Option<Box<dyn Fn() -> Arc<dyn BrokenProvider> + Send + Sync>>,
    reopened: Option<Reopening>,
    /// How long it takes to make a client.
    connects: Duration,
    /// How much later than the good one it may notice an expiry.
    lag: Duration,
    /// Which revision of the good store is meant.
    compacts: Option<fn(Revision) -> Revision>,
}

type Wrap = Box<dyn Fn(Arc<dyn Store>) -> Arc<dyn Store> + Send + Sync>;

type Reopening = Box<dyn Fn(Arc<dyn Store>) -> BoxFuture<'static, ()> + Send + Sync>;

impl Sabotage {
    /// Wraps the store.
    fn wrapping(wrap: impl Fn(Arc<dyn Store>) -> Arc<dyn Store> + Send + Sync + 'static) -> Self {
        Sabotage { store: Some(Box::new(wrap)), ..Sabotage::default() }
    }

    /// Breaks the store.
    fn store<B: BrokenStore>(make: impl Fn() -> B + Send + Sync + 'static) -> Self {
        Sabotage::wrapping(move |good| Arc::new(Wrapped { good, broken: Arc::new(make()) }))
    }

    /// Breaks the client between the contracts and their store.
    fn client<B: BrokenStore>(make: impl Fn() -> B + Send + Sync + 'static) -> Self {
        Sabotage { client: Some(Box::new(move || Arc::new(make()))), ..Sabotage::default() }
    }

    /// Breaks the contracts.
    fn provider<B: BrokenProvider>(make: impl Fn() -> B + Send + Sync + 'static) -> Self {
        Sabotage::default().and_provider(make)
    }

    /// Breaks the contracts, too.
    fn and_provider<B: BrokenProvider>(self, make: impl Fn() -> B + Send + Sync + 'static) -> Self {
        Sabotage { provider: Some(Box::new(move || Arc::new(make()))), ..self }
    }

    /// Does something to the store right after it was opened again.
    fn and_reopened<F: Future<Output = ()> + Send + 'static>(
        self,
        work: impl Fn(Arc<dyn Store>) -> F + Send + Sync + 'static,
    ) -> Self {
        Sabotage { reopened: Some(Box::new(move |store| Box::pin(work(store)))), ..self }
    }

    /// Notices expiries later, and says so.
    fn and_lag(self, lag: Duration) -> Self {
        Sabotage { lag, ..self }
    }

    /// Has revisions of its own.
    fn and_compacts(self, meant: fn(Revision) -> Revision) -> Self {
        Sabotage { compacts: Some(meant), ..self }
    }
}

/// The harness of a broken backend.
struct Sabotaged {
    good: Arc<dyn Harness>,
    sabotage: Sabotage,
    make: fn() -> Sabotage,
}

impl Sabotaged {
    fn over_store(
        &self,
        store: Arc<dyn Store>,
        make: impl FnOnce(&dyn Harness, Arc<dyn Store>) -> Arc<dyn Provider>,
    ) -> Arc<dyn Provider> {
        let under = match &self.sabotage.client {
            Some(broken) => Arc::new(Wrapped { good: Arc::clone(&store), broken: broken() }),
            None => Arc::clone(&store),
        };
        let provider = make(&*self.good, under);
        match &self.sabotage.provider {
            Some(broken) => Arc::new(WrappedProvider::new(Good { provider, store }, broken())),
            None => provider,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Harness for Sabotaged {
    async fn client(&self) -> Client {
        tokio::time::sleep(self.sabotage.connects).await;
        let client = self.good.client().await;
        let store = match &self.sabotage.store {
            Some(wrap) => wrap(Arc::clone(&client.store)),
            None => Arc::clone(&client.store),
        };
        let provider = self.assemble(Arc::clone(&store));
        client.rewrapped(store, provider)
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        self.over_store(store, |good, store| good.assemble(store))
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        self.over_store(store, |good, store| good.namespaced(store, namespace))
    }

    async fn compact(&self, through: Revision) {
        self.good.compact(self.sabotage.compacts.map_or(through, |meant| meant(through))).await;
    }

    async fn reopen(&self) -> Reopened {
        let reopened = self.good.reopen().await;
        if let Some(work) = &self.sabotage.reopened {
            work(self.good.client().await.store).await;
        }
        reopened
    }

    async fn another(&self) -> Option<Arc<dyn Harness>> {
        let good = self.good.another().await?;
        Some(Arc::new(Sabotaged { good, sabotage: (self.make)(), make: self.make }))
    }

    async fn expire_lease(&self, lease: LeaseId) -> Hook {
        self.good.expire_lease(lease).await
    }

    fn server_faults(&self) -> &'static [&'static str] {
        self.good.server_faults()
    }

    async fn server_fault(&self, name: &'static str) -> Option<Box<dyn Send>> {
        self.good.server_fault(name).await
    }

    fn time(&self) -> Time {
        self.good.time()
    }

    fn lag(&self) -> Duration {
        self.good.lag() + self.sabotage.lag
    }

    fn batches(&self) -> bool {
        self.good.batches()
    }

    fn ttl(&self) -> Duration {
        self.good.ttl()
    }
}

/// What clients of one broken backend share.
type Shared<T> = Arc<Mutex<T>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
