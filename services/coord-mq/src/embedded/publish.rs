//! Storing messages.

use std::collections::HashMap;

use coord::coord_core::backoff;
use coord::store::{MAX_TXN_BYTES, Op, Range, Txn};
use coord::{Error, ErrorKind, Outcome, Result};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::record::encode;
use super::topics::Topic;
use super::{Shared, record};
use crate::PUBLISH;
use crate::message::Outgoing;
use crate::name::{is_dead, partition_of};

/// What a transaction holds besides the messages, at most, in bytes: keys and ids.
const KEYS: usize = 32_768;

/// What became of one try.
enum Tried {
    Stored,
    /// It was stored before.
    Known,
    /// The topic is another one than was thought.
    Outdated,
}

impl Shared {
    /// # Errors
    ///
    /// As [`Engine::publish`](crate::engine::Engine::publish).
    pub(super) async fn publish(&self, name: &str, message: &Outgoing, deadline: Instant) -> Result<bool> {
        self.ready(PUBLISH)?;
        let (mut doubt, mut backoff) = (Outcome::NotApplied, backoff());
        let mut last: Option<Error> = None;
        loop {
            match timeout_at(deadline, self.try_publish(name, message)).await {
                Ok(Ok(Tried::Stored)) => return Ok(true),
                // By this very call, where an answer was lost.
                Ok(Ok(Tried::Known)) => return Ok(doubt == Outcome::Unknown),
                Ok(Ok(Tried::Outdated)) => continue,
                Ok(Err(error)) => {
                    if error.outcome() == Outcome::Unknown {
                        doubt = Outcome::Unknown;
                    }
                    if !error.is_transient() {
                        return Err(error.in_operation(PUBLISH).with_outcome(doubt).about(name));
                    }
                    last = Some(error);
                }
                // What was sent may be applied yet.
                Err(_) => doubt = Outcome::Unknown,
            }
            // The id makes a repeat harmless.
            if timeout_at(deadline, self.client.home().sleep(backoff.pause())).await.is_err() {
                let late = Error::new(ErrorKind::Timeout, PUBLISH, "the store did not answer in time");
                let late = late.with_outcome(doubt).about(name);
                return Err(match last {
                    Some(error) => late.with_source(error),
                    None => late,
                });
            }
        }
    }

    async fn try_publish(&self, name: &str, message: &Outgoing) -> Result<Tried> {
        let topic = self.topics.known(PUBLISH, name).await?;
        // Nobody gets it, if that is still so.
        let topic = match topic.record.groups.is_empty() {
            true => self.topics.read(PUBLISH, name).await?,
            false => topic,
        };
        let config = self.config.load_full();
        if topic.record.partitions == 0 {
            self.topics.make(PUBLISH, &topic, name, config.partitions).await?;
            return Ok(Tried::Outdated);
        }
        if topic.record.groups.is_empty() {
            return Ok(Tried::Stored);
        }
        let groups = topic.record.groups.len();
        if message.bytes().saturating_add(KEYS / 32).saturating_mul(groups) > MAX_TXN_BYTES - KEYS {
            return Err(Error::invalid_argument(
                PUBLISH,
                format!(
                    "{} bytes for each of {groups} groups, which is more than a transaction holds",
                    message.bytes()
                ),
            ));
        }
        self.check_backlog(name, &topic, config.max_backlog).await?;
        let lease = self.client.retention_lease(PUBLISH, config.dedup()).await?;
        let partition = partition_of(message.routing(), topic.record.partitions);
        let id = topic.directory.id(&message.id);
        let value = encode(message);
        let store = Txn::new()
            .when(topic.unchanged())
            .when(coord::store::Compare::Absent(id.clone()))
            .then(Op::put_leased(id.clone(), record::REMEMBERED, lease))
            .then(Op::put(topic.directory.bell(partition), ""))
            .otherwise(Op::Range(Range::key(id)));
        let store = topic.queues().fold(store, |store, queue| {
            store.then(Op::put(topic.directory.message(queue, partition, &message.id), value.clone()))
        });
        match self.client.store().txn(store).await {
            Ok(reply) if reply.succeeded => Ok(Tried::Stored),
            Ok(reply) if !reply.try_range(0)?.entries.is_empty() => Ok(Tried::Known),
            Ok(_) => {
                self.topics.forget(name);
                Ok(Tried::Outdated)
            }
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                self.client.retention_lease_gone(lease);
                Ok(Tried::Outdated)
            }
            Err(error) => Err(error),
        }
    }

    /// Looks now and then whether too much waits for some group.
    ///
    /// # Errors
    ///
    /// `Exhausted`, until it is less.
    async fn check_backlog(&self, name: &str, topic: &Topic, most: usize) -> Result<()> {
        // Nobody removes dead letters but people.
        if is_dead(name) || !self.backlogs.is_due(name, most) {
            return Ok(());
        }
        for (group, queue) in &topic.record.groups {
            let keys = Range::new(topic.directory.queue(queue)).with_keys_only().with_limit(most);
            if self.client.list_range(keys).await?.entries.len() >= most {
                let why = format!(
                    "{most} messages wait for the group {group}, as many as max_backlog allows; handle \
                     them, or remove the group"
                );
                return Err(Error::new(ErrorKind::Exhausted, PUBLISH, why));
            }
        }
        self.backlogs.fits(name);
        Ok(())
    }
}

/// How many messages were published to each topic since its backlog was looked at.
#[derive(Debug, Default)]
pub(super) struct Backlogs {
    since: Mutex<HashMap<String, usize>>,
}

impl Backlogs {
    /// Whether it is time to look: at first, after each tenth of what may wait, and for as long as
    /// there is too much.
    fn is_due(&self, topic: &str, most: usize) -> bool {
        let mut since = self.since.lock();
        match since.get_mut(topic) {
            Some(count) => {
                *count += 1;
                *count > most / 10
            }
            None => true,
        }
    }

    fn fits(&self, topic: &str) {
        let mut since = self.since.lock();
        if since.len() >= 4_096 {
            since.clear();
        }
        since.insert(topic.to_owned(), 0);
    }
}
