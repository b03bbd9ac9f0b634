//! Registration and discovery over a store (R34 to R39).

mod entry;
mod fate;
mod follower;
mod group;
mod keeper;
mod lifecycle;
mod record;
mod watch;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{Span, round_ttl};
use coord_api::{
    Outcome, RegisterOptions, Registration, Result, ServiceEvent, ServiceInstance, ServiceRegistry, Snapshot,
    Watch, WatchStart, key,
};
use futures_util::future::try_join_all;
use parking_lot::Mutex;

use coord_core::{Client, SweptMap, keys};
use group::Group;
use keeper::{Handle, Mailbox};
pub(crate) use record::decode;
use watch::WatchedInstances;

/// What a registration is called in logs and metrics.
pub(crate) const CONTRACT: &str = "registration";

/// Registrations, by state.
const REGISTRATIONS: &str = "coord_registrations";

/// As errors name it.
const UNREGISTER: &str = "registry.unregister";

/// The service registry over a store.
#[derive(Debug)]
pub(crate) struct Registry {
    client: Client,
    kept: Mutex<Kept>,
}

/// What this provider registered: bounded by the registrations that are alive.
#[derive(Debug, Default)]
struct Kept {
    /// By the key of the instance.
    keepers: SweptMap<Bytes, Mailbox>,
    /// By the directory of the service.
    groups: SweptMap<Bytes, Group>,
}

impl Registry {
    pub(crate) fn new(client: Client) -> Self {
        metrics::describe_gauge!(REGISTRATIONS, "Registrations, by state");
        Registry { client, kept: Mutex::default() }
    }

    /// Ends every registration (R8).
    pub(crate) fn close(&self) {
        self.kept.lock().keepers.values().for_each(Mailbox::close);
    }

    /// The mailbox of whoever keeps an instance registered for this provider, starting one where
    /// nobody does.
    fn keeper(&self, instance: &ServiceInstance, name: &str) -> Result<Mailbox> {
        let (key, directory) = (keys::instance(&instance.name, &instance.id), keys::service(&instance.name));
        let mut kept = self.kept.lock();
        if let Some(keeper) = kept.keepers.get(&key).filter(|keeper| keeper.is_open()) {
            return Ok(keeper.clone());
        }
        // A group that ends at this moment takes no more.
        let group = kept.groups.get(&directory).cloned();
        let mailbox = match group.and_then(|group| group.keep(key.clone(), name.to_owned())) {
            Some(mailbox) => mailbox,
            None => {
                let (group, mailbox) =
                    Group::start(&self.client, directory.clone(), key.clone(), name.to_owned())?;
                kept.groups.insert(directory, group, Group::is_open);
                mailbox
            }
        };
        kept.keepers.insert(key, mailbox.clone(), Mailbox::is_open);
        Ok(mailbox)
    }

    async fn register(
        &self,
        instance: &ServiceInstance,
        name: &str,
        ttl: Duration,
        options: RegisterOptions,
    ) -> Result<Handle> {
        let content = record::encode("registry.register", instance)?;
        loop {
            // A keeper that is just ending takes no more orders; the next one starts where it left
            // off.
            let keeper = self.keeper(instance, name)?;
            if let Some(answer) = keeper.register(content.clone(), ttl, options).await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl ServiceRegistry for Registry {
    async fn register_with(
        &self,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        const OPERATION: &str = "registry.register";
        instance.validate(OPERATION)?;
        let ttl = round_ttl(OPERATION, options.ttl)?;
        self.client.ready(OPERATION)?;
        // Boxed, here and elsewhere, because a future that is handed on is stored twice.
        let name = format!("{}/{}", instance.name, instance.id);
        let register = Box::pin(self.register(&instance, &name, ttl, options));
        let handle = self.client.run_on(OPERATION, &name, Outcome::Unknown, register).await?;
        Ok(Registration::new(instance.name.clone(), instance.id.clone(), handle.of(&self.client, instance)))
    }

    async fn register_all(
        &self,
        instances: Vec<ServiceInstance>,
        options: RegisterOptions,
    ) -> Result<Vec<Registration>> {
        ServiceInstance::validate_all("registry.register", &instances)?;
        // Each has its keeper; their writes meet in the session.
        try_join_all(instances.into_iter().map(|instance| self.register_with(instance, options))).await
    }

    async fn discover(&self, service: &str) -> Result<Snapshot<ServiceInstance>> {
        const OPERATION: &str = "registry.discover";
        let directory = keys::service(key::check_segment(OPERATION, service)?);
        let reply = self
            .client
            .run_on(
                OPERATION,
                service,
                Outcome::NotApplied,
                self.client.list(Span::Prefix(directory.clone())),
            )
            .await?;
        Ok(record::snapshot(&directory, reply.revision, &reply.entries))
    }

    async fn watch(&self, service: &str) -> Result<Watch<ServiceEvent>> {
        const OPERATION: &str = "registry.watch";
        let directory = keys::service(key::check_segment(OPERATION, service)?);
        let subscribe =
            Box::pin(self.client.subscribe(Span::Prefix(directory.clone()), WatchStart::Snapshot));
        let subscription = self.client.run_on(OPERATION, service, Outcome::NotApplied, subscribe).await?;
        let mut instances = WatchedInstances::new(directory);
        Ok(subscription.into_watch(OPERATION, move |delivery| instances.take(delivery)))
    }
}
