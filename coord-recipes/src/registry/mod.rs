//! Registration and discovery over a store (R34 to R39).

mod entry;
mod keeper;
mod record;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{Span, round_ttl};
use coord_api::{
    Outcome, RegisterOptions, Registration, Result, ServiceEvent, ServiceInstance, ServiceRegistry, Snapshot, Watch, WatchStart, key,
};
use futures_util::future::try_join_all;
use parking_lot::Mutex;

use crate::core::Core;
use crate::keys;
use crate::sweep::SweptMap;
use keeper::{Handle, Keeper, Mailbox};
use watch::ServiceWatch;

/// The service registry over a store.
#[derive(Debug)]
pub(crate) struct Registry {
    core: Arc<Core>,
    /// What this provider registered: bounded by the registrations that are alive.
    keepers: Mutex<SweptMap<Bytes, Mailbox>>,
}

impl Registry {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Registry { core, keepers: Mutex::default() }
    }

    /// Ends every registration (R8).
    pub(crate) fn close(&self) {
        self.keepers.lock().values().for_each(Mailbox::close);
    }

    /// The mailbox of whoever keeps `key` registered for this provider, starting one where nobody does.
    fn keeper(&self, key: &Bytes, name: &str) -> Result<Mailbox> {
        let mut keepers = self.keepers.lock();
        if let Some(keeper) = keepers.get(key).filter(|keeper| keeper.is_open()) {
            return Ok(keeper.clone());
        }
        let mailbox = Keeper::start(Arc::clone(&self.core), key.clone(), name.to_owned())?;
        keepers.insert(key.clone(), mailbox.clone(), Mailbox::is_open);
        Ok(mailbox)
    }

    async fn register(&self, instance: &ServiceInstance, name: &str, ttl: Duration, options: RegisterOptions) -> Result<Handle> {
        let key = keys::instance(&instance.name, &instance.id);
        let content = record::encode("registry.register", instance)?;
        loop {
            // A keeper that is just ending takes no more orders; the next one starts where it left off.
            let keeper = self.keeper(&key, name)?;
            if let Some(answer) = keeper.register(content.clone(), ttl, options).await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl ServiceRegistry for Registry {
    async fn register_with(&self, instance: ServiceInstance, options: RegisterOptions) -> Result<Registration> {
        const OPERATION: &str = "registry.register";
        instance.validate(OPERATION)?;
        let ttl = round_ttl(OPERATION, options.ttl)?;
        self.core.ready(OPERATION)?;
        // Boxed, here and elsewhere, because a future that is handed on is stored twice.
        let name = format!("{}/{}", instance.name, instance.id);
        let register = Box::pin(self.register(&instance, &name, ttl, options));
        let handle = self.core.run_on(OPERATION, &name, Outcome::Unknown, register).await?;
        Ok(Registration::new(instance.name.clone(), instance.id.clone(), handle.of(&self.core, instance)))
    }

    async fn register_all(&self, instances: Vec<ServiceInstance>, options: RegisterOptions) -> Result<Vec<Registration>> {
        ServiceInstance::validate_all("registry.register", &instances)?;
        // Each has its keeper; their writes meet in the session.
        try_join_all(instances.into_iter().map(|instance| self.register_with(instance, options))).await
    }

    async fn discover(&self, service: &str) -> Result<Snapshot<ServiceInstance>> {
        const OPERATION: &str = "registry.discover";
        let directory = keys::service(key::check_segment(OPERATION, service)?);
        let reply = self.core.run_on(OPERATION, service, Outcome::NotApplied, self.core.list(Span::Prefix(directory.clone()))).await?;
        Ok(record::snapshot(&directory, reply.revision, &reply.entries))
    }

    async fn watch(&self, service: &str) -> Result<Watch<ServiceEvent>> {
        const OPERATION: &str = "registry.watch";
        let directory = keys::service(key::check_segment(OPERATION, service)?);
        let subscribe = Box::pin(self.core.hub.subscribe(&self.core, Span::Prefix(directory.clone()), WatchStart::Snapshot));
        let subscription = self.core.run_on(OPERATION, service, Outcome::NotApplied, subscribe).await?;
        Ok(Watch::new(ServiceWatch::new(directory, subscription)))
    }
}
