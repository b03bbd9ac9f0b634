//! Follows a service in a registry (R40).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord_api::{
    Error, ErrorKind, Result, ServiceChange, ServiceEvent, ServiceInstance, ServiceRegistry, Watch,
    WatchState,
};
use coord_home::BackoffPolicy;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::endpoint::Endpoint;
use crate::error::no_home;
use crate::pool::EndpointPool;
use crate::state::{DiscoveryState, Skipped};

pub(crate) const OPERATION: &str = "grpc.discover";

/// How often the age of the set is shown while it grows.
const TICK: Duration = Duration::from_millis(500);

/// How long opening a watch may take before it is tried anew: a registry that never answers must
/// not stop the trying.
const ATTEMPT: Duration = Duration::from_secs(10);

/// The pauses before a failed read is tried again.
const PAUSES: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(2));

/// How many records that cannot be read are remembered, beyond those of a full set.
const MOST_INVALID: usize = 1_000;

/// The channel's end of a follower.
#[derive(Debug)]
pub(crate) struct RegistryDiscovery {
    service: String,
    watch: Arc<Mutex<WatchState>>,
    _task: AbortOnDropHandle<()>,
}

impl RegistryDiscovery {
    /// Follows a service of a registry, and keeps the pool's endpoints the same as its instances.
    ///
    /// # Errors
    ///
    /// There is no home for the task.
    pub(crate) fn start<R: ServiceRegistry + ?Sized>(
        registry: Arc<R>,
        service: &str,
        pool: &Arc<EndpointPool>,
    ) -> Result<Self> {
        let watch = Arc::new(Mutex::new(WatchState::Suspended));
        let follower = RegistryFollower {
            registry,
            service: service.to_owned(),
            pool: Arc::clone(pool),
            watch: Arc::clone(&watch),
            instances: BTreeMap::new(),
            invalid: BTreeMap::new(),
        };
        let task = pool.home.spawn(follower.run()).map_err(no_home)?;
        Ok(RegistryDiscovery { service: service.to_owned(), watch, _task: AbortOnDropHandle::new(task) })
    }

    pub(crate) fn state(&self, failure: Option<Error>) -> DiscoveryState {
        DiscoveryState { service: self.service.clone(), watch: *self.watch.lock(), failure }
    }
}

/// Follows the instances of a service.
struct RegistryFollower<R: ?Sized> {
    registry: Arc<R>,
    service: String,
    pool: Arc<EndpointPool>,
    watch: Arc<Mutex<WatchState>>,
    instances: BTreeMap<String, ServiceInstance>,
    /// Records that cannot be read, by their key.
    invalid: BTreeMap<Vec<u8>, Error>,
}

/// Speaks for a follower that was dropped: the runtime that it lived in is gone, or the channel.
struct DiscoveryEnd {
    watch: Arc<Mutex<WatchState>>,
    pool: Arc<EndpointPool>,
    by_itself: bool,
}

impl Drop for DiscoveryEnd {
    fn drop(&mut self) {
        if !self.by_itself {
            *self.watch.lock() = WatchState::Ended;
            self.pool.set_current(false);
            self.pool.abandon(None);
        }
    }
}

impl<R: ServiceRegistry + ?Sized> RegistryFollower<R> {
    /// Runs until it is dropped.
    async fn run(self) {
        let pool = Arc::clone(&self.pool);
        tokio::join!(self.follow_all(), pool.show_age(TICK));
    }

    async fn follow_all(mut self) {
        let mut end =
            DiscoveryEnd { watch: Arc::clone(&self.watch), pool: Arc::clone(&self.pool), by_itself: false };
        let mut backoff = self.pool.options.backoff(PAUSES, 0);
        loop {
            let error = match timeout(ATTEMPT, self.registry.watch(&self.service)).await {
                Ok(Ok(watch)) => {
                    backoff.reset();
                    self.follow(watch).await
                }
                Ok(Err(error)) => error,
                Err(_) => Error::new(ErrorKind::Timeout, OPERATION, "the registry did not answer in time"),
            };
            let closed = error.kind() == ErrorKind::Closed;
            *self.watch.lock() = if closed { WatchState::Ended } else { WatchState::Suspended };
            let (service, kind, why) = (self.service.clone(), error.kind().as_str(), error.to_string());
            coord_home::event!(
                WARN,
                service,
                kind,
                why,
                "registry out of reach; the last endpoints stay in use"
            );
            self.pool.set_current(false);
            self.pool.unread(error);
            if closed {
                end.by_itself = true;
                return;
            }
            sleep(backoff.pause()).await;
        }
    }

    /// Follows a watch to its end, and says why it ended.
    async fn follow(&mut self, mut watch: Watch<ServiceEvent>) -> Error {
        let status = watch.status();
        let mut state = status.state();
        let mut read = false;
        loop {
            *self.watch.lock() = state;
            self.pool.set_current(read && state == WatchState::Live);
            let event = tokio::select! {
                biased;
                event = watch.next() => event,
                changed = status.changed_from(state) => {
                    state = changed;
                    continue;
                }
            };
            match event {
                Some(Ok(event)) => {
                    state = status.state();
                    if self.take(event) {
                        read = true;
                        self.apply();
                    }
                }
                Some(Err(error)) => return error,
                None => return Error::new(ErrorKind::Unavailable, OPERATION, "the watch ended"),
            }
            // Changes that come faster than they are taken must not keep the thread from other
            // tasks.
            tokio::task::consume_budget().await;
        }
    }

    /// Takes an event; whether the set is now that of one revision.
    fn take(&mut self, event: ServiceEvent) -> bool {
        match event {
            ServiceEvent::Resync(snapshot) => {
                self.invalid =
                    snapshot.invalid.into_iter().map(|record| (record.key.to_vec(), record.error)).collect();
                self.instances =
                    snapshot.items.into_iter().map(|instance| (instance.id.clone(), instance)).collect();
                true
            }
            ServiceEvent::Change { change, last, .. } => {
                match change {
                    ServiceChange::Added(instance) | ServiceChange::Updated(instance) => {
                        self.invalid.remove(instance.id.as_bytes());
                        self.instances.insert(instance.id.clone(), instance);
                    }
                    ServiceChange::Removed(instance) => drop(self.instances.remove(&instance.id)),
                    ServiceChange::Invalid(record) => {
                        self.invalid.insert(record.key.to_vec(), record.error);
                        // Nothing tells when one of them is deleted, until the next full set.
                        while self.invalid.len() > MOST_INVALID {
                            self.invalid.pop_first();
                        }
                    }
                    _ => {
                        let service = self.service.clone();
                        coord_home::event!(
                            WARN,
                            service,
                            "a change of a kind that this version does not know"
                        );
                    }
                }
                last
            }
        }
    }

    fn apply(&self) {
        let mut wanted = Vec::with_capacity(self.instances.len());
        let unreadable = self.invalid.iter().map(|(key, error)| Skipped {
            id: String::from_utf8_lossy(key).into_owned(),
            error: error.clone(),
        });
        let mut skipped: Vec<Skipped> = unreadable.collect();
        for (id, instance) in &self.instances {
            match Endpoint::new(&instance.address, instance.port) {
                Ok(endpoint) => wanted.push((id.clone(), endpoint)),
                Err(error) => skipped.push(Skipped { id: id.clone(), error }),
            }
        }
        self.pool.replace(wanted, skipped);
    }
}
