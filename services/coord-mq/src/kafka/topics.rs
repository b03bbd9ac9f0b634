//! The topics of the brokers, and the groups of each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use coord::prelude::*;
use coord::{Coord, Error, ErrorKind, LockOptions, Result, Wait};
use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::{Instant, sleep, timeout_at};

use super::blocking::{DropOnThread, on_thread};
use super::context::KafkaContext;
use super::ledger::Position;
use super::producer::Producer;
use super::{error, names, settings};
use crate::MqConfig;
use crate::name::is_dead;

const GROUP: &str = "mq.group";

/// How long a request about topics and groups may take.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// How soon it is asked again for a topic that is being made.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How many topics are remembered.
const MAX_KNOWN: usize = 4_096;

/// How long the lock of a group that is being made outlives whoever makes it.
const LOCK_TTL: Duration = Duration::from_secs(30);

/// Clients that must never be ended.
static ABANDONED: Mutex<Vec<Admin>> = Mutex::new(Vec::new());

/// How many of them there may be.
const MAX_ABANDONED: usize = 8;

type Admin = DropOnThread<AdminClient<KafkaContext>>;
type Asker = BaseConsumer<KafkaContext>;

pub(super) struct Topics {
    coord: Coord,
    /// What this client was made from.
    from: MqConfig,
    /// What is in use.
    config: Arc<ArcSwap<MqConfig>>,
    context: KafkaContext,
    /// How many partitions each topic has.
    known: Mutex<HashMap<String, u16>>,
    /// One at a time asks for a topic that is not known.
    asking: tokio::sync::Mutex<()>,
}

impl Topics {
    pub(super) fn new(
        coord: &Coord,
        from: &MqConfig,
        config: Arc<ArcSwap<MqConfig>>,
        context: &KafkaContext,
    ) -> Self {
        Topics {
            coord: coord.clone(),
            from: from.clone(),
            config,
            context: context.clone(),
            known: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// A topic that is known to be there, if any is.
    pub(super) fn any(&self) -> Option<String> {
        let known = self.known.lock();
        known.keys().next().map(|topic| names::topic(&self.from.space, topic))
    }

    /// The topic may be another one than it was.
    pub(super) fn forget(&self, topic: &str) {
        self.known.lock().remove(topic);
    }

    /// How many partitions a topic has, which is made where it is not there.
    ///
    /// # Errors
    ///
    /// Those of the brokers; nothing was published.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the topic may have been made.
    pub(super) async fn partitions(
        &self,
        operation: &'static str,
        topic: &str,
        producer: &Producer,
    ) -> Result<u16> {
        let known = || self.known.lock().get(topic).copied();
        if let Some(partitions) = known() {
            return Ok(partitions);
        }
        let _alone = self.asking.lock().await;
        if let Some(partitions) = known() {
            return Ok(partitions);
        }
        let name = names::topic(&self.from.space, topic);
        let found = match self.look(operation, name.clone()).await.map_err(|error| error.about(topic))? {
            Some(found) => found,
            None => {
                self.make(operation, topic, &name).await?;
                self.made(operation, producer, &name).await.map_err(|error| error.about(topic))?
            }
        };
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(topic.to_owned(), found);
        Ok(found)
    }

    /// How many partitions a topic has, if it is there.
    async fn look(&self, operation: &'static str, name: String) -> Result<Option<u16>> {
        // A client that publishes would have the brokers make it, with as many as they like.
        let asker = settings::admin(&self.from).create_with_context::<_, Asker>(self.context.clone());
        let asker = asker.map(DropOnThread::new).map_err(|error| error::failed(operation, error))?;
        let looked = on_thread(operation, move || {
            let answer = asker.fetch_metadata(Some(&name), ASK_WITHIN);
            // Whether the brokers refuse us is heard by the way.
            while asker.poll(Duration::ZERO).is_some() {}
            partitions_of(operation, answer)
        });
        self.answered(operation, looked.await)
    }

    /// How many partitions a topic has that was made.
    async fn made(&self, operation: &'static str, producer: &Producer, name: &str) -> Result<u16> {
        let deadline = Instant::now() + ASK_WITHIN;
        loop {
            let (client, name) = (producer.client(operation)?, name.to_owned());
            let asked = on_thread(operation, move || {
                partitions_of(operation, client.fetch_metadata(Some(&name), ASK_WITHIN))
            });
            match self.answered(operation, asked.await)? {
                Some(found) => return Ok(found),
                // The brokers tell each other.
                None if Instant::now() + AGAIN_AFTER < deadline => sleep(AGAIN_AFTER).await,
                None => {
                    return Err(Error::new(ErrorKind::Unavailable, operation, "the topic is not there yet"));
                }
            }
        }
    }

    /// An answer of the brokers, or why they refuse us.
    fn answered<T>(&self, operation: &'static str, answer: Result<T>) -> Result<T> {
        match answer {
            Ok(answer) => {
                self.context.let_in();
                Ok(answer)
            }
            Err(error) => Err(self.context.refusal(operation).unwrap_or(error)),
        }
    }

    /// Makes a topic, unless it is there.
    async fn make(&self, operation: &'static str, topic: &str, name: &str) -> Result<()> {
        let partitions = if is_dead(topic) { 1 } else { self.config.load().partitions };
        let replicas = match self.from.kafka.replicas {
            0 => -1,
            replicas => i32::from(replicas),
        };
        let retention = self.from.kafka.retention_hours.saturating_mul(3_600_000).to_string();
        let new = NewTopic::new(name, partitions.into(), TopicReplication::Fixed(replicas));
        let new = new.set("cleanup.policy", "delete").set("retention.ms", &retention);
        let admin = self.admin(operation)?;
        let made = admin.create_topics([&new], &options());
        let made = match timeout_at(Instant::now() + ASK_WITHIN, made).await {
            Ok(Ok(made)) => made.into_iter().next().unwrap_or_else(|| Ok(name.to_owned())),
            Ok(Err(error)) => return self.unmade(operation, topic, &error),
            Err(_) => {
                let late = Error::new(ErrorKind::Timeout, operation, "Kafka does not answer").about(topic);
                return Err(self.context.refusal(operation).unwrap_or(late));
            }
        };
        match made {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => Ok(()),
            Err((_, code)) => self.unmade(operation, topic, &KafkaError::AdminOp(code)),
        }
    }

    /// A topic was not made. Where we may not make any, it may be there all the same.
    fn unmade(&self, operation: &'static str, topic: &str, error: &KafkaError) -> Result<()> {
        use Code::{ClusterAuthorizationFailed, TopicAuthorizationFailed, UnsupportedFeature};
        match error.rdkafka_error_code() {
            Some(TopicAuthorizationFailed | ClusterAuthorizationFailed | UnsupportedFeature) => {
                tracing::debug!(topic, %error, "the topic is not made by us");
                Ok(())
            }
            _ => {
                let error = error::failed(operation, error.clone()).about(topic);
                Err(self.context.refusal(operation).unwrap_or(error))
            }
        }
    }

    fn admin(&self, operation: &'static str) -> Result<Admin> {
        let admin = settings::admin(&self.from).create_with_context(self.context.clone());
        admin.map(DropOnThread::new).map_err(|error| error::failed(operation, error))
    }

    /// Makes a group where there is none: stores its place in each partition where it has none.
    ///
    /// Kafka stores what comes last, so that of two who make a group at once the later one would
    /// have it pass by what came in between. So one at a time does, by a lock in the store of
    /// coord; it is not asked for where the group is there.
    ///
    /// # Errors
    ///
    /// Those of the brokers, and of the store.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the group may have been made.
    pub(super) async fn make_group(&self, topic: &str, group: &str, partitions: u16) -> Result<()> {
        let name = names::topic(&self.from.space, topic);
        let group = names::group(&self.from.space, topic, group);
        let from_start = is_dead(topic);
        let places = Places { name, group: group.clone(), partitions };
        let asker = self.asker(&group)?;
        if self.ask_places(&asker, &places, |asker, places| Ok(places.missing(asker)?.is_empty())).await? {
            return Ok(());
        }
        let options = LockOptions::default().with_ttl(LOCK_TTL).with_wait(Wait::For(ASK_WITHIN));
        let guard = self.coord.lock().acquire_with(&format!("mq-kafka/{group}"), options).await?;
        let stored = self.ask_places(&asker, &places, move |asker, places| places.store(asker, from_start));
        let stored = stored.await;
        guard.unlock().await?;
        stored
    }

    /// Asks about the places of a group.
    async fn ask_places<T: Send + 'static>(
        &self,
        asker: &Arc<DropOnThread<Asker>>,
        places: &Places,
        ask: impl FnOnce(&Asker, &Places) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (asker, places) = (Arc::clone(asker), places.clone());
        let answer = on_thread(GROUP, move || ask(&asker, &places)).await;
        answer.map_err(|error| self.context.refusal(GROUP).unwrap_or(error))
    }

    /// Who can ask for a group without being a member of it.
    fn asker(&self, group: &str) -> Result<Arc<DropOnThread<Asker>>> {
        let mut settings = settings::consumer(&self.from, group);
        settings.remove("statistics.interval.ms");
        let asker = settings.create_with_context(self.context.clone());
        asker.map(|asker| Arc::new(DropOnThread::new(asker))).map_err(|error| error::failed(GROUP, error))
    }

    /// Removes a group. Says whether there was one.
    ///
    /// # Errors
    ///
    /// `Conflict` while somebody subscribes in it; those of the brokers.
    pub(super) async fn remove_group(&self, topic: &str, group: &str) -> Result<bool> {
        use Code::{GroupAuthorizationFailed, NonEmptyGroup};
        let name = names::group(&self.from.space, topic, group);
        if ABANDONED.lock().len() >= MAX_ABANDONED {
            let why = "the brokers have refused it too often";
            return Err(Error::new(ErrorKind::Exhausted, GROUP, why).about(group));
        }
        let admin = self.admin(GROUP)?;
        let asked = [name.as_str()];
        let options = options();
        let removal = admin.delete_groups(&asked, &options);
        let removed = timeout_at(Instant::now() + ASK_WITHIN, removal).await;
        let Ok(removed) = removed else {
            return Err(Error::new(ErrorKind::Timeout, GROUP, "Kafka does not answer").about(group));
        };
        let removed = removed.map(|removed| removed.into_iter().next());
        let error = match removed {
            Ok(None | Some(Ok(_))) => return Ok(true),
            Ok(Some(Err((_, Code::GroupIdNotFound)))) => return Ok(false),
            Ok(Some(Err((_, code)))) => KafkaError::AdminOp(code),
            Err(error) => error,
        };
        if !matches!(error.rdkafka_error_code(), Some(GroupAuthorizationFailed | NonEmptyGroup)) {
            // librdkafka 2.12 aborts the process when a client is ended that has asked for this
            // where the brokers do not know how to do it.
            ABANDONED.lock().push(admin);
        }
        Err(error::failed(GROUP, error).about(group))
    }
}

/// How many partitions the brokers say that a topic has; `None` where it is not there.
fn partitions_of(
    operation: &'static str,
    answer: std::result::Result<Metadata, KafkaError>,
) -> Result<Option<u16>> {
    let answer = answer.map_err(|error| error::failed(operation, error))?;
    let Some(topic) = answer.topics().first() else { return Ok(None) };
    match topic.error().map(Code::from) {
        None => Ok(u16::try_from(topic.partitions().len()).ok().filter(|found| *found > 0)),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::LeaderNotAvailable) => Ok(None),
        Some(code) => Err(error::failed(operation, KafkaError::MetadataFetch(code))),
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK_WITHIN)).operation_timeout(Some(ASK_WITHIN))
}

/// Where a group is in the partitions of its topic.
#[derive(Clone)]
struct Places {
    name: String,
    group: String,
    partitions: u16,
}

impl Places {
    /// The partitions in which the group has no place. Blocks.
    fn missing(&self, asker: &Asker) -> Result<Vec<i32>> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition(&self.name, partition.into());
        }
        let failed = |error| error::failed(GROUP, error).about(&self.group);
        let found = asker.committed_offsets(list, ASK_WITHIN).map_err(failed)?;
        let mut missing = Vec::new();
        for place in found.elements() {
            place.error().map_err(failed)?;
            if !matches!(place.offset(), Offset::Offset(_)) {
                missing.push(place.partition());
            }
        }
        Ok(missing)
    }

    /// Stores where the group is to begin in the partitions in which it has no place: at their end,
    /// or at their beginning. Blocks.
    fn store(&self, asker: &Asker, from_start: bool) -> Result<()> {
        let failed = |error| error::failed(GROUP, error).about(&self.group);
        let missing = self.missing(asker)?;
        if missing.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for partition in missing {
            let (low, high) = asker.fetch_watermarks(&self.name, partition, ASK_WITHIN).map_err(failed)?;
            let position = Position::at(if from_start { low } else { high });
            let mut place = list.add_partition(&self.name, partition);
            place.set_offset(Offset::Offset(position.offset)).map_err(failed)?;
            place.set_metadata(position.text());
        }
        asker.commit(&list, CommitMode::Sync).map_err(failed)
    }
}
