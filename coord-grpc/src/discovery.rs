//! Follows a service in a registry (R40).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord_api::{Error, ErrorKind, Result, ServiceChange, ServiceEvent, ServiceInstance, ServiceRegistry, Watch, WatchState, key};
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::Backoff;
use crate::channel::{Channel, homeless};
use crate::endpoint::Endpoint;
use crate::options::ChannelOptions;
use crate::pool::Pool;
use crate::state::{DiscoveryState, Skipped};

const OPERATION: &str = "grpc.discover";

/// How exactly the age of the set is known.
const TICK: Duration = Duration::from_millis(500);

/// How long opening a watch may take before it is tried anew: a registry that never answers must not stop the trying.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A failed read is tried again after at most this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How many records that cannot be read are remembered, beyond those of a full set.
const MOST_INVALID: usize = 1_000;

/// Channels from any registry.
pub trait RegistryChannelExt {
    /// A channel to the instances of a service, with the default [`ChannelOptions`].
    ///
    /// # Errors
    ///
    /// Those of [`channel_with`](Self::channel_with).
    fn channel(&self, service: &str) -> Result<Channel> {
        self.channel_with(service, ChannelOptions::default())
    }

    /// A channel to the instances of a service, which follows the registry (R40):
    ///
    /// - A change among the instances reaches the channel within a second; endpoints that stay keep their connections.
    /// - Only a set that the registry says is empty empties the channel. While the registry is out of reach the last set stays in use, and
    ///   [`ChannelState::age`](crate::ChannelState::age) says how old it is; it stays in use also after the provider is closed.
    /// - A first read that fails is tried again, for as long as it takes.
    /// - Without an endpoint calls fail at once with `Unavailable`, or wait until their deadline if asked to ([`Readiness`](crate::Readiness)).
    /// - An instance whose address is none, or is another's, is skipped; [`ChannelState::skipped`](crate::ChannelState::skipped) says why.
    ///
    /// The call itself does no I/O. The channel keeps the registry alive, and owns the task that follows it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad name of a service (R4); and those of [`Channel::fixed`].
    fn channel_with(&self, service: &str, options: ChannelOptions) -> Result<Channel>;
}

impl<R: ServiceRegistry + ?Sized> RegistryChannelExt for Arc<R> {
    fn channel_with(&self, service: &str, options: ChannelOptions) -> Result<Channel> {
        key::check_segment(OPERATION, service)?;
        let mut options = options;
        options.name.get_or_insert_with(|| service.to_owned());
        Channel::with(options, |pool| {
            let watch = Arc::new(Mutex::new(WatchState::Suspended));
            let follower = Follower {
                registry: Arc::clone(self),
                service: service.to_owned(),
                pool: Arc::clone(pool),
                watch: Arc::clone(&watch),
                instances: BTreeMap::new(),
                invalid: BTreeMap::new(),
            };
            let task = pool.home.spawn(follower.run()).map_err(homeless)?;
            Ok(Some(Discovery { service: service.to_owned(), watch, _task: AbortOnDropHandle::new(task) }))
        })
    }
}

/// The channel's end of a follower.
#[derive(Debug)]
pub(crate) struct Discovery {
    service: String,
    watch: Arc<Mutex<WatchState>>,
    _task: AbortOnDropHandle<()>,
}

impl Discovery {
    pub(crate) fn state(&self, failure: Option<Error>) -> DiscoveryState {
        DiscoveryState { service: self.service.clone(), watch: *self.watch.lock(), failure }
    }
}

/// Follows the instances of a service.
struct Follower<R: ?Sized> {
    registry: Arc<R>,
    service: String,
    pool: Arc<Pool>,
    watch: Arc<Mutex<WatchState>>,
    instances: BTreeMap<String, ServiceInstance>,
    /// Records that cannot be read, by their key.
    invalid: BTreeMap<Vec<u8>, Error>,
}

/// Speaks for a follower that was dropped: the runtime that it lived in is gone, or the channel.
struct End {
    watch: Arc<Mutex<WatchState>>,
    pool: Arc<Pool>,
    by_itself: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.by_itself {
            *self.watch.lock() = WatchState::Ended;
            self.pool.abandoned(None);
        }
    }
}

impl<R: ServiceRegistry + ?Sized> Follower<R> {
    /// Runs until it is dropped.
    async fn run(self) {
        let pool = Arc::clone(&self.pool);
        tokio::join!(self.follow_all(), pool.show_age(TICK));
    }

    async fn follow_all(mut self) {
        let mut end = End { watch: Arc::clone(&self.watch), pool: Arc::clone(&self.pool), by_itself: false };
        let mut backoff = Backoff::new(Duration::from_millis(50), LONGEST_PAUSE, self.pool.options.jitter_seed);
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
            coord_home::event!(WARN, service, kind, why, "registry out of reach; the last endpoints stay in use");
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
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read = false;
        loop {
            let event = tokio::select! {
                biased;
                event = watch.next() => event,
                _ = tick.tick() => {
                    let state = watch.state();
                    *self.watch.lock() = state;
                    if read && state == WatchState::Live {
                        self.pool.confirm();
                    }
                    continue;
                }
            };
            match event {
                Some(Ok(event)) => {
                    *self.watch.lock() = watch.state();
                    if self.take(event) {
                        read = true;
                        self.apply();
                    }
                }
                Some(Err(error)) => return error,
                None => return Error::new(ErrorKind::Unavailable, OPERATION, "the watch ended"),
            }
            // Changes that come faster than they are taken must not keep the thread from other tasks.
            tokio::task::consume_budget().await;
        }
    }

    /// Takes an event; whether the set is now that of one revision.
    fn take(&mut self, event: ServiceEvent) -> bool {
        match event {
            ServiceEvent::Resync(snapshot) => {
                self.invalid = snapshot.invalid.into_iter().map(|record| (record.key.to_vec(), record.error)).collect();
                self.instances = snapshot.items.into_iter().map(|instance| (instance.id.clone(), instance)).collect();
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
                        coord_home::event!(WARN, service, "a change of a kind that this version does not know");
                    }
                }
                last
            }
        }
    }

    fn apply(&self) {
        let mut wanted = Vec::with_capacity(self.instances.len());
        let unreadable =
            self.invalid.iter().map(|(key, error)| Skipped { id: String::from_utf8_lossy(key).into_owned(), error: error.clone() });
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
