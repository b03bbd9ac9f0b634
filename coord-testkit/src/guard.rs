//! A harness whose own panics are told for what they are: what its author wrote went down, and no
//! rule was broken. The case ends at once then, wherever it happened.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{LeaseId, Provider, Revision};
use futures_util::FutureExt;

use crate::failure::{message, panics_here};
use crate::harness::{Client, Harness, Hook, Network, NotRun, Reopened, Time};
use crate::progress::Progress;
use crate::wrap::Link;

/// A harness inside a guard.
pub(crate) struct Guarded {
    inner: Arc<dyn Harness>,
    guard: Guard,
}

impl Guarded {
    pub(crate) fn new(inner: Arc<dyn Harness>, progress: Progress) -> Self {
        Guarded { inner, guard: Guard(progress) }
    }
}

/// Where a panic is told.
#[derive(Clone)]
struct Guard(Progress);

impl Guard {
    async fn over<T>(&self, part: &str, work: impl Future<Output = T>) -> T {
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| self.tell(part, panic))
    }

    fn over_call<T>(&self, part: &str, work: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| self.tell(part, panic))
    }

    fn tell(&self, part: &str, panic: Box<dyn Any + Send>) -> ! {
        if !panic.is::<NotRun>() {
            let own = message(&*panic);
            let told = panics_here().into_iter().rfind(|text| text.starts_with(&own)).unwrap_or(own);
            self.0.end(format!("the harness panicked in `{part}`, and nothing is said of the store: {told}"));
        }
        resume_unwind(panic)
    }
}

/// The network of a client inside a guard.
struct GuardedNetwork(Arc<dyn Network>, Guard);

#[async_trait]
impl Network for GuardedNetwork {
    async fn set(&self, link: Link) {
        self.1.over("network", self.0.set(link)).await;
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Harness for Guarded {
    async fn client(&self) -> Client {
        let client = self.guard.over("client", self.inner.client()).await;
        let (guard, network) = (self.guard.clone(), self.guard.clone());
        client.guarded(
            |crash| Box::new(move || Box::pin(async move { guard.over("crash", crash()).await })),
            |inner| Arc::new(GuardedNetwork(inner, network)),
        )
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        self.guard.over_call("provider", || self.inner.assemble(store))
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        self.guard.over_call("namespace", || self.inner.namespaced(store, namespace))
    }

    async fn compact(&self, through: Revision) {
        self.guard.over("compact", self.inner.compact(through)).await;
    }

    async fn reopen(&self) -> Reopened {
        self.guard.over("reopen", self.inner.reopen()).await
    }

    async fn another(&self) -> Option<Arc<dyn Harness>> {
        let another = self.guard.over("another", self.inner.another()).await?;
        Some(Arc::new(Guarded { inner: another, guard: self.guard.clone() }))
    }

    async fn expire_lease(&self, lease: LeaseId) -> Hook {
        self.guard.over("expire_lease", self.inner.expire_lease(lease)).await
    }

    fn server_faults(&self) -> &'static [&'static str] {
        self.inner.server_faults()
    }

    async fn server_fault(&self, name: &'static str) -> Option<Box<dyn Send>> {
        self.guard.over("server_fault", self.inner.server_fault(name)).await
    }

    fn time(&self) -> Time {
        self.inner.time()
    }

    fn lag(&self) -> Duration {
        self.inner.lag()
    }

    fn batches(&self) -> bool {
        self.inner.batches()
    }

    fn ttl(&self) -> Duration {
        self.inner.ttl()
    }
}
