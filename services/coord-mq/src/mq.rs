//! The message queue of a service.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord::{Coord, Error, ErrorKind, Result};
use coord_service::live::{Live, LiveOptions};
use coord_service::shutdown::Phase;
use coord_service::{Component, LiveComponent, Scope, Setting};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::delivery::Handler;
use crate::message::Message;
use crate::name::{check_group, check_topic};
use crate::reload::{Engines, InUse, check};
use crate::subscription::Subscription;
use crate::work::{Ground, Subscriptions, Work};
use crate::{PUBLISH, SUBSCRIBE, count};

const GROUP: &str = "mq.group";

/// How long the last messages may take to be sent, at the end.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

/// The message queue of a service, configured by its [`MqConfig`](crate::MqConfig). Cheap to clone;
/// all clones are one.
///
/// It is made by [`open`](Self::open) and [`App::add`](coord_service::App::add). It ends with the
/// service: subscriptions finish what they have in hand, then what was accepted is sent, then the
/// client is closed (K10).
#[derive(Clone)]
pub struct Mq {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    live: Arc<Live<Engines>>,
    in_use: InUse,
    scope: Scope,
    /// What is being published.
    publishing: TaskTracker,
    subscriptions: Arc<Subscriptions>,
}

/// What became of a message that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// It is stored.
    Stored,
    /// A message with its id had been stored before: it is not stored again.
    Known,
}

impl Mq {
    /// A message queue that is configured by `setting`, to be started by
    /// [`App::add`](coord_service::App::add). The embedded engine keeps its messages in the store
    /// of `coord`.
    pub fn open(setting: Setting, coord: &Coord) -> MqComponent {
        MqComponent { setting, coord: coord.clone(), options: LiveOptions::default(), required: true }
    }

    /// Publishes a message: when this returns, the message is stored for each group of the topic. A
    /// topic that is not there is made.
    ///
    /// The context of the present trace goes along, unless the message has a `traceparent` of its
    /// own (K4). A message that is published twice under one id is stored once, while the id is
    /// remembered (`dedup_ms`).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad topic, and for what [`Message`] says that it may not be, before
    /// any I/O. At its own deadline (`publish_timeout_ms`) at the latest (K7): `Timeout` or
    /// `Unavailable`, outcome `Unknown` where it may be stored, so that it is to be published again
    /// under the same id; outcome `NotApplied` where it is not. `Exhausted` where there is no room;
    /// `Unauthenticated`, `PermissionDenied`; `Closed` after the end.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be stored.
    pub async fn publish(&self, topic: &str, message: Message) -> Result<Publication> {
        check_topic(PUBLISH, topic)?;
        let config = self.shared.in_use.config.load_full();
        let message = message.outgoing(config.max_message_bytes)?;
        let begun = Instant::now();
        let publish = async {
            let engine = self.shared.live.current().map_err(|error| error.in_operation(PUBLISH))?;
            engine.publish(topic, &message, begun + config.publish_timeout()).await
        };
        let stored = self.shared.publishing.track_future(publish).await;
        count::published(topic, stored.as_ref().copied(), begun.elapsed());
        match stored? {
            true => Ok(Publication::Stored),
            false => Ok(Publication::Known),
        }
    }

    /// Has each message that is published to `topic` from now on, or waits for the group already,
    /// handled by one of those who subscribe in `group`: in order in each partition, and at least
    /// once (K5). The group is made where there is none.
    ///
    /// It returns when the group is there, or after `publish_timeout_ms` where the broker does not
    /// answer: then the subscription goes on trying, and says so on the health board;
    /// [`Subscription::ready`] waits for it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad topic or group, before any I/O; `Closed` when the service ends.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing is subscribed to; the group may have been made.
    pub async fn subscribe(&self, topic: &str, group: &str, handler: impl Handler) -> Result<Subscription> {
        check_topic(SUBSCRIBE, topic)?;
        check_group(SUBSCRIBE, group)?;
        let Shared { name, live, in_use, scope, .. } = &*self.shared;
        let ground = Ground { name, live, in_use, scope };
        let work = Arc::new(Work::new(&ground, topic, group, Arc::new(handler)));
        self.shared.subscriptions.remember(&work)?;
        let subscription = Subscription::start(work);
        let within = self.shared.in_use.config.load().publish_timeout();
        let _ = timeout(within, subscription.ready()).await;
        Ok(subscription)
    }

    /// Makes a group where there is none, without handling its messages: each that is published
    /// from then on waits for it. Idempotent.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad topic or group, before any I/O; `Timeout`, `Unavailable` and
    /// others of the broker; `Exhausted` where the topic has too many groups; `Closed`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the group may have been made.
    pub async fn make_group(&self, topic: &str, group: &str) -> Result<()> {
        check_topic(GROUP, topic)?;
        check_group(GROUP, group)?;
        let engine = self.shared.live.current()?;
        self.in_time(engine.make_group(topic, group)).await.map(drop)
    }

    /// Removes a group that nobody needs any more, with what waits for it. Says whether there was
    /// one. Subscriptions of it are to be stopped before.
    ///
    /// # Errors
    ///
    /// As [`make_group`](Self::make_group).
    ///
    /// # Cancel safety
    ///
    /// Dropped, the group may be removed, or a part of what waits for it; call again.
    pub async fn remove_group(&self, topic: &str, group: &str) -> Result<bool> {
        check_topic(GROUP, topic)?;
        check_group(GROUP, group)?;
        let engine = self.shared.live.current()?;
        self.in_time(engine.remove_group(topic, group)).await
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let within = self.shared.in_use.config.load().publish_timeout();
        match timeout(within, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(ErrorKind::Timeout, GROUP, "no answer in time")
                .with_outcome(coord::Outcome::Unknown)),
        }
    }

    /// How the client of the engine is.
    pub fn status(&self) -> coord_service::live::LiveStatus {
        self.shared.live.status()
    }

    /// Waits until `wanted` holds of the [status](Self::status), or it is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait_for(
        &self,
        wanted: impl FnMut(&coord_service::live::LiveStatus) -> bool + Send,
    ) -> coord_service::live::LiveStatus {
        self.shared.live.wait_for(wanted).await
    }

    /// The native client of NATS, for one use: take it anew for each, since it is replaced when the
    /// configuration changes, and then ended.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` where another engine is in use; `Unavailable` while there is no client
    /// yet; `Closed`.
    #[cfg(feature = "nats")]
    #[cfg_attr(docsrs, doc(cfg(feature = "nats")))]
    pub fn nats(&self) -> Result<Nats> {
        let current = self.shared.live.current()?;
        match current.nats() {
            Some(_) => Ok(Nats(current)),
            None => Err(Error::invalid_argument("mq.nats", "the engine is another one")),
        }
    }
}

/// The native client of NATS, for one use: [`Mq::nats`].
#[cfg(feature = "nats")]
#[cfg_attr(docsrs, doc(cfg(feature = "nats")))]
pub struct Nats(coord_service::live::Current<Box<dyn crate::engine::Engine>>);

#[cfg(feature = "nats")]
impl std::ops::Deref for Nats {
    type Target = async_nats::Client;

    #[expect(clippy::expect_used, reason = "`Mq::nats` is the only way to make one, and looks")]
    fn deref(&self) -> &async_nats::Client {
        self.0.nats().expect("the engine is NATS")
    }
}

#[cfg(feature = "nats")]
impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").finish_non_exhaustive()
    }
}

#[cfg(feature = "kafka")]
impl Mq {
    /// The native client of Kafka that publishes, for one use: take it anew for each, since it is
    /// replaced when the configuration changes, and then ended.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` where another engine is in use; `Unavailable` while there is no client
    /// yet; `Closed`.
    #[cfg_attr(docsrs, doc(cfg(feature = "kafka")))]
    pub fn kafka(&self) -> Result<Kafka> {
        let current = self.shared.live.current()?;
        match current.kafka().and_then(|native| native.downcast().ok()) {
            Some(native) => Ok(Kafka { native, _current: current }),
            None => Err(Error::invalid_argument("mq.kafka", "the engine is another one")),
        }
    }
}

/// The native client of Kafka that publishes, for one use: [`Mq::kafka`].
#[cfg(feature = "kafka")]
#[cfg_attr(docsrs, doc(cfg(feature = "kafka")))]
pub struct Kafka {
    native: Arc<crate::kafka::Kept>,
    /// Kept, so that it is not ended meanwhile.
    _current: coord_service::live::Current<Box<dyn crate::engine::Engine>>,
}

#[cfg(feature = "kafka")]
impl std::ops::Deref for Kafka {
    type Target = rdkafka::producer::FutureProducer<crate::KafkaContext>;

    fn deref(&self) -> &Self::Target {
        self.native.get()
    }
}

#[cfg(feature = "kafka")]
impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka").finish_non_exhaustive()
    }
}

impl fmt::Debug for Mq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mq").field("name", &self.shared.name).field("live", &self.shared.live).finish()
    }
}

/// A message queue that is not started yet: [`Mq::open`].
#[derive(Debug)]
pub struct MqComponent {
    setting: Setting,
    coord: Coord,
    options: LiveOptions,
    required: bool,
}

impl MqComponent {
    /// Sets how the client behaves.
    #[must_use]
    pub fn with_options(mut self, options: LiveOptions) -> Self {
        self.options = options;
        self
    }

    /// The service can do without it: where it is down, the service is degraded.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }
}

#[async_trait]
impl Component for MqComponent {
    type Handle = Mq;

    async fn start(self, scope: Scope) -> Result<Mq> {
        let MqComponent { setting, coord, options, required } = self;
        let (name, in_use) = (setting.component().to_owned(), InUse::new());
        let engines = Engines { coord, in_use: in_use.clone() };
        let live = LiveComponent::new(setting, engines).with_options(options).with_check(check);
        let live = if required { live } else { live.optional() };
        let live = live.start(scope.clone()).await?;
        let (publishing, subscriptions) = (TaskTracker::new(), Arc::new(Subscriptions::new()));
        // What is done at the end holds what it needs, and not the shutdown itself.
        let ending = Arc::clone(&subscriptions);
        scope.shutdown().on(Phase::Subscriptions, &name, async move { ending.end().await });
        let flush = flush(name.clone(), Arc::clone(&live), publishing.clone());
        scope.shutdown().on(Phase::Producers, &name, flush);
        let shared = Arc::new(Shared { name, live, in_use, scope, publishing, subscriptions });
        Ok(Mq { shared })
    }
}

/// Waits for what is being published, and sends what was accepted.
async fn flush(name: String, live: Arc<Live<Engines>>, publishing: TaskTracker) {
    publishing.close();
    publishing.wait().await;
    let Ok(engine) = live.current() else { return };
    if !matches!(timeout(FLUSH_WITHIN, engine.flush()).await, Ok(Ok(()))) {
        tracing::warn!(component = name, "what was accepted may not have been sent");
    }
}
