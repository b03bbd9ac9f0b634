//! The engine on NATS JetStream.
//!
//! A topic is a stream, with a subject for each partition; a group has a durable pull consumer for
//! each of them, which has one message out at a time. So the server keeps the order, whoever
//! fetches, counts the deliveries, and delivers again what nobody has acknowledged.

mod api;
mod connect;
mod lane;
mod names;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, Context};
use async_nats::{HeaderMap, Request};
use async_trait::async_trait;
use coord::{Error, ErrorKind, Outcome, Result};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::MqConfig;
use crate::PUBLISH;
use crate::engine::{Engine, Lane, Place};
use crate::message::Outgoing;
use crate::name::partition_of;
use connect::Connection;
use lane::NatsLane;

const GROUP: &str = "mq.group";
const PROBE: &str = "mq.probe";

/// Where JetStream tells of itself.
const INFO: &str = "$JS.API.INFO";

/// How long a request about topics and groups may take.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// How many topics are remembered.
const MAX_KNOWN: usize = 4_096;

/// The pause before a message is sent again that nobody has got.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The header of a message's key.
const KEY: &str = "mq-key";
/// The header of a message's id, by which the server knows it again.
const ID: &str = "Nats-Msg-Id";

/// The engine on a server.
pub(crate) struct NatsEngine {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Connection,
    jetstream: Context,
    /// What this client was made from.
    from: MqConfig,
    /// What is in use.
    config: Arc<ArcSwap<MqConfig>>,
    /// How many partitions each topic has.
    topics: Mutex<HashMap<String, u16>>,
}

impl NatsEngine {
    /// Connects, made from a configuration, and then led by the one in use.
    ///
    /// # Errors
    ///
    /// As [`Connection::open`].
    pub(crate) async fn connect(from: &MqConfig, config: Arc<ArcSwap<MqConfig>>) -> Result<Self> {
        let connection = Connection::open(&from.nats).await?;
        let jetstream = jetstream::ContextBuilder::new().timeout(ASK_WITHIN).build(connection.client.clone());
        let topics = Mutex::default();
        let shared = Shared { connection, jetstream, from: from.clone(), config, topics };
        Ok(NatsEngine { shared: Arc::new(shared) })
    }
}

impl Shared {
    /// How many partitions a topic has, which is made where it is not there.
    ///
    /// # Errors
    ///
    /// Those of the server; nothing was published.
    async fn partitions(&self, operation: &'static str, topic: &str) -> Result<u16> {
        let known = self.topics.lock().get(topic).copied();
        if let Some(partitions) = known {
            return Ok(partitions);
        }
        let name = names::stream(&self.from.space, topic);
        let found = match self.jetstream.get_stream(&name).await {
            Ok(stream) => stream.cached_info().config.subjects.len(),
            Err(error) => match api::no_stream(operation, error) {
                Some(error) => return Err(error.about(topic)),
                None => self.make(operation, topic).await?,
            },
        };
        let partitions = u16::try_from(found).ok().filter(|partitions| *partitions > 0);
        let partitions = partitions.ok_or_else(|| {
            Error::new(ErrorKind::Codec, operation, "the stream of the topic was not made by coord-mq")
                .about(topic)
        })?;
        let mut topics = self.topics.lock();
        if topics.len() >= MAX_KNOWN {
            topics.clear();
        }
        topics.insert(topic.to_owned(), partitions);
        Ok(partitions)
    }

    /// Makes the stream of a topic, unless another one did meanwhile, with another number of
    /// partitions perhaps.
    async fn make(&self, operation: &'static str, topic: &str) -> Result<usize> {
        let config = api::stream_config(
            &MqConfig { partitions: self.config.load().partitions, ..self.from.clone() },
            topic,
        );
        let (name, partitions) = (config.name.clone(), config.subjects.len());
        match self.jetstream.create_stream(config).await {
            Ok(_) => Ok(partitions),
            Err(error) => match self.jetstream.get_stream(&name).await {
                Ok(stream) => Ok(stream.cached_info().config.subjects.len()),
                Err(_) => Err(api::stream_failed(operation, error).about(topic)),
            },
        }
    }

    /// The consumer of a partition, which is made where it is not there.
    async fn consumer(&self, place: &Place) -> Result<PullConsumer> {
        let Place { topic, group, partition } = place;
        let config = api::consumer_config(&self.from, topic, group, *partition);
        let stream = names::stream(&self.from.space, topic);
        self.jetstream.create_consumer_on_stream(config, stream).await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, GROUP, "the group has no consumer")
                .with_source(error)
                .about(topic)
        })
    }

    /// Stores a message.
    ///
    /// # Errors
    ///
    /// As [`Engine::publish`].
    async fn publish(&self, topic: &str, message: &Outgoing, deadline: Instant) -> Result<bool> {
        let (mut doubt, mut last) = (Outcome::NotApplied, None::<Error>);
        let late = |doubt, last: Option<Error>| {
            let late = Error::new(ErrorKind::Timeout, PUBLISH, "NATS did not answer in time");
            let late = late.with_outcome(doubt).about(topic);
            last.map_or(late.clone(), |error| late.with_source(error))
        };
        let mut connected = self.connection.connected.clone();
        loop {
            connected.mark_unchanged();
            let partitions = match timeout_at(deadline, self.partitions(PUBLISH, topic)).await {
                Ok(Ok(partitions)) => Ok(partitions),
                Ok(Err(error)) => Err(error),
                Err(_) => return Err(late(doubt, last)),
            };
            let failed = match partitions {
                Err(error) => error,
                Ok(partitions) => {
                    let subject =
                        names::subject(&self.from.space, topic, partition_of(message.routing(), partitions));
                    let request = Request::new()
                        .headers(headers(message))
                        .payload(message.payload.clone())
                        .timeout(None);
                    let answer = self.connection.client.send_request(subject, request);
                    tokio::select! {
                        answer = answer => match answer {
                            Ok(answer) => match api::read_answer(PUBLISH, &answer.payload) {
                                // By this very call, where an answer was lost.
                                Ok(new) => return Ok(new || doubt == Outcome::Unknown),
                                Err(error) => error,
                            },
                            Err(error) => api::request_failed(PUBLISH, error),
                        },
                        () = tokio::time::sleep_until(deadline) => return Err(late(Outcome::Unknown, last)),
                        // The answer went to the connection that is gone. The id makes a repeat
                        // harmless.
                        Ok(()) = connected.changed() => {
                            doubt = Outcome::Unknown;
                            continue;
                        }
                    }
                }
            };
            if failed.outcome() == Outcome::Unknown {
                doubt = Outcome::Unknown;
            }
            if !failed.is_transient() {
                return Err(failed.with_outcome(doubt).about(topic));
            }
            // It may be that the topic is gone.
            self.topics.lock().remove(topic);
            last = Some(failed);
            if timeout_at(deadline, tokio::time::sleep(AGAIN_AFTER)).await.is_err() {
                return Err(late(doubt, last));
            }
        }
    }
}

fn headers(message: &Outgoing) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // What they hold was checked.
    headers.insert(ID, message.id.as_str());
    if let Some(key) = &message.key {
        headers.insert(KEY, key.as_str());
    }
    for (name, value) in &message.headers {
        headers.append(name.as_str(), value.as_str());
    }
    headers
}

#[async_trait]
impl Engine for NatsEngine {
    async fn publish(&self, topic: &str, message: &Outgoing, deadline: Instant) -> Result<bool> {
        self.shared.publish(topic, message, deadline).await
    }

    async fn make_group(&self, topic: &str, group: &str) -> Result<u16> {
        let partitions = self.shared.partitions(GROUP, topic).await?;
        for partition in 0..partitions {
            self.shared
                .consumer(&Place { topic: topic.to_owned(), group: group.to_owned(), partition })
                .await?;
        }
        Ok(partitions)
    }

    async fn remove_group(&self, topic: &str, group: &str) -> Result<bool> {
        let stream = names::stream(&self.shared.from.space, topic);
        let found = match self.shared.jetstream.get_stream(&stream).await {
            Ok(stream) => stream,
            Err(error) => return api::no_stream(GROUP, error).map_or(Ok(false), Err),
        };
        let mut removed = false;
        for partition in 0..u16::try_from(found.cached_info().config.subjects.len()).unwrap_or(u16::MAX) {
            let name = names::consumer(group, partition);
            match found.delete_consumer(&name).await {
                Ok(status) => removed |= status.success,
                Err(error) => {
                    // Where it is not there, nothing is left to do.
                    if found.consumer_info(&name).await.is_ok() {
                        return Err(Error::new(ErrorKind::Unavailable, GROUP, "the group was not removed")
                            .with_source(error)
                            .with_outcome(Outcome::Unknown)
                            .about(group));
                    }
                }
            }
        }
        Ok(removed)
    }

    fn lane(&self, place: Place, stop: CancellationToken) -> Box<dyn Lane> {
        Box::new(NatsLane::new(Arc::clone(&self.shared), place, stop))
    }

    async fn probe(&self) -> Result<()> {
        // Whatever the server's version says of itself: that it answers is what counts.
        let request = Request::new().timeout(None);
        match timeout(ASK_WITHIN, self.shared.connection.client.send_request(INFO, request)).await {
            Ok(Ok(answer)) => api::read_answer(PROBE, &answer.payload).map(drop),
            Ok(Err(error)) => Err(api::request_failed(PROBE, error).with_outcome(Outcome::NotApplied)),
            Err(_) => Err(Error::new(ErrorKind::Timeout, PROBE, "NATS does not answer")),
        }
    }

    async fn flush(&self) -> Result<()> {
        let flushed = self.shared.connection.client.flush().await;
        flushed.map_err(|error| Error::new(ErrorKind::Unavailable, "mq.flush", "not sent").with_source(error))
    }

    async fn close(&self) {
        self.shared.connection.close().await;
    }

    fn nats(&self) -> Option<&async_nats::Client> {
        Some(&self.shared.connection.client)
    }
}

impl fmt::Debug for NatsEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsEngine").field("config", &self.shared.from).finish_non_exhaustive()
    }
}
