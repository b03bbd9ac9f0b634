//! The engine on Kafka, by librdkafka.
//!
//! A topic is a topic with as many partitions; a group is a group of consumers, of which each
//! process has one member for each topic that it subscribes to. So the brokers decide who has which
//! partition, and keep for each how far its group is.

mod blocking;
mod context;
mod error;
mod lane;
mod ledger;
mod member;
mod names;
mod producer;
mod record;
mod settings;
mod slot;
mod topics;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use coord::{Coord, Error, ErrorKind, Outcome, Result};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Lane, Place};
use crate::message::Outgoing;
use crate::name::partition_of;
use crate::{MqConfig, PUBLISH};
use blocking::on_thread;
use lane::KafkaLane;
use member::{Member, Membership};
use producer::Producer;
use topics::Topics;

pub use context::KafkaContext;
pub(crate) use settings::check;

const GROUP: &str = "mq.group";
const PROBE: &str = "mq.probe";

/// How long the brokers may take to answer when they are asked whether they are there.
const PROBE_WITHIN: Duration = Duration::from_secs(3);

/// The pause before a message is sent again that the brokers did not take.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How long what was accepted may take to be sent, at the end.
const FLUSH_WITHIN: Duration = Duration::from_secs(4);

/// The native client that publishes.
pub(crate) type NativeProducer = producer::Native;

/// A native client that is kept for one use.
pub(crate) struct Kept(Arc<blocking::DropOnThread<NativeProducer>>);

impl Kept {
    pub(crate) fn get(&self) -> &NativeProducer {
        &self.0
    }
}

/// The engine on the brokers.
pub(crate) struct KafkaEngine {
    shared: Arc<Shared>,
}

struct Shared {
    /// What this client was made from.
    from: MqConfig,
    /// What is in use.
    config: Arc<ArcSwap<MqConfig>>,
    context: KafkaContext,
    producer: Producer,
    topics: Topics,
    /// The members of groups; `None` once it is closed.
    members: Mutex<Option<Vec<Arc<Member>>>>,
}

impl KafkaEngine {
    /// Made from a configuration, and then led by the one in use. Groups are made under locks of
    /// `coord`. No I/O.
    ///
    /// # Errors
    ///
    /// What librdkafka does not take.
    pub(crate) fn new(coord: &Coord, from: &MqConfig, config: Arc<ArcSwap<MqConfig>>) -> Result<Self> {
        let context = KafkaContext::default();
        let shared = Shared {
            producer: Producer::new(settings::producer(from), &context)?,
            topics: Topics::new(coord, from, Arc::clone(&config), &context),
            from: from.clone(),
            config,
            context,
            members: Mutex::new(Some(Vec::new())),
        };
        Ok(KafkaEngine { shared: Arc::new(shared) })
    }
}

impl Shared {
    async fn partitions(&self, operation: &'static str, topic: &str) -> Result<u16> {
        self.topics.partitions(operation, topic, &self.producer).await
    }

    /// The member of a group, with one lane more; it joins where there is none.
    ///
    /// # Errors
    ///
    /// Those of the brokers; `Closed`.
    async fn member(&self, topic: &str, group: &str) -> Result<Arc<Member>> {
        let partitions = self.partitions(GROUP, topic).await?;
        let mut members = self.members.lock();
        let Some(members) = members.as_mut() else { return Err(Error::closed(GROUP)) };
        members.retain(|member| !member.is_over());
        if let Some(member) = members.iter().find(|member| member.is_of(topic, group) && member.attach()) {
            return Ok(Arc::clone(member));
        }
        let member = Member::join(Membership {
            topic: topic.to_owned(),
            group: group.to_owned(),
            name: names::topic(&self.from.space, topic),
            partitions,
            settings: settings::consumer(&self.from, &names::group(&self.from.space, topic, group)),
            context: self.context.clone(),
            commit_interval: self.from.kafka.commit_interval(),
            patience: settings::session(&self.from),
        })?;
        member.attach();
        members.push(Arc::clone(&member));
        Ok(member)
    }

    /// Stores a message.
    ///
    /// # Errors
    ///
    /// As [`Engine::publish`].
    async fn publish(&self, topic: &str, message: &Outgoing, deadline: Instant) -> Result<()> {
        let name = names::topic(&self.from.space, topic);
        let mut last = None::<Error>;
        let late = |last: Option<Error>| {
            let late = Error::new(ErrorKind::Timeout, PUBLISH, "Kafka did not answer in time");
            let late = late.with_outcome(Outcome::NotApplied).about(topic);
            last.map_or(late.clone(), |error| late.with_source(error))
        };
        loop {
            let partitions = match timeout_at(deadline, self.partitions(PUBLISH, topic)).await {
                Ok(partitions) => partitions,
                Err(_) => return Err(late(last)),
            };
            let failed = match partitions {
                // Nothing of it was sent.
                Err(error) => error.with_outcome(Outcome::NotApplied),
                Ok(partitions) => {
                    let partition = partition_of(message.routing(), partitions);
                    match self.producer.send(&name, partition, message, deadline).await {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
            };
            // What may be stored is not sent again: nobody would know it for the same message.
            if failed.outcome() == Outcome::Unknown || !failed.is_transient() {
                return Err(failed.about(topic));
            }
            // It may be that the topic is another one.
            self.topics.forget(topic);
            last = Some(failed);
            if timeout_at(deadline, sleep(AGAIN_AFTER)).await.is_err() {
                return Err(late(last));
            }
        }
    }
}

#[async_trait]
impl Engine for KafkaEngine {
    async fn publish(&self, topic: &str, message: &Outgoing, deadline: Instant) -> Result<bool> {
        // The brokers do not know ids: whatever they store is new.
        self.shared.publish(topic, message, deadline).await.map(|()| true)
    }

    async fn make_group(&self, topic: &str, group: &str) -> Result<u16> {
        let partitions = self.shared.partitions(GROUP, topic).await?;
        self.shared.topics.make_group(topic, group, partitions).await?;
        Ok(partitions)
    }

    async fn remove_group(&self, topic: &str, group: &str) -> Result<bool> {
        self.shared.topics.remove_group(topic, group).await
    }

    fn lane(&self, place: Place, stop: CancellationToken) -> Box<dyn Lane> {
        Box::new(KafkaLane::new(Arc::clone(&self.shared), place, stop))
    }

    async fn probe(&self) -> Result<()> {
        let client = self.shared.producer.client(PROBE)?;
        // Of one topic where there is one: the brokers may have very many.
        let topic = self.shared.topics.any();
        let asked = on_thread(PROBE, move || {
            let answer = client.fetch_metadata(topic.as_deref(), PROBE_WITHIN);
            answer.map(drop).map_err(|error| error::failed(PROBE, error).with_outcome(Outcome::NotApplied))
        });
        match asked.await {
            Ok(()) => {
                self.shared.context.let_in();
                Ok(())
            }
            Err(error) => Err(self.shared.context.refusal(PROBE).unwrap_or(error)),
        }
    }

    async fn flush(&self) -> Result<()> {
        self.shared.producer.flush(FLUSH_WITHIN).await
    }

    async fn close(&self) {
        let members = self.shared.members.lock().take().unwrap_or_default();
        members.iter().for_each(|member| member.end());
        for member in members {
            member.over().await;
        }
        let _ = self.shared.producer.flush(FLUSH_WITHIN).await;
        self.shared.producer.close();
    }

    fn kafka(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        let native = self.shared.producer.native("mq.kafka").ok()?;
        Some(Arc::new(Kept(native)))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Where it was not closed: what is in hand is settled by nobody, and members leave.
        self.members.lock().iter().flatten().for_each(|member| member.end());
    }
}

impl fmt::Debug for KafkaEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaEngine").field("config", &self.shared.from).finish_non_exhaustive()
    }
}
