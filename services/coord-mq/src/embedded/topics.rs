//! The topics of a store, and the groups of each.

use std::collections::HashMap;
use std::sync::Arc;

use coord::coord_core::{Client, backoff};
use coord::store::{Compare, Op, Range, Span, Txn};
use coord::{Error, ErrorKind, Result, Revision};
use parking_lot::Mutex;

use super::keys::Directory;
use super::record::TopicRecord;
use crate::name::is_dead;

const GROUP: &str = "mq.group";

/// How many groups a topic has at most: a message is written once for each of them.
const MAX_GROUPS: usize = 32;

/// How many topics are remembered.
const MAX_KNOWN: usize = 4_096;

/// How many keys are removed by one transaction.
const REMOVED_AT_ONCE: usize = 100;

/// The queue of what was given up before anybody has asked for it: the first group of a topic of
/// dead letters takes it over. No group has this name.
const UNCLAIMED: &str = "~unclaimed";

/// A topic as it was seen.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) directory: Directory,
    pub(super) record: TopicRecord,
    /// The revision of the record; `None` where there is none.
    pub(super) modified: Option<Revision>,
}

impl Topic {
    /// Holds iff the topic is still as it was seen.
    pub(super) fn unchanged(&self) -> Compare {
        match self.modified {
            Some(modified) => Compare::Modified(self.directory.topic(), modified),
            None => Compare::Absent(self.directory.topic()),
        }
    }

    /// The queues that get what is published.
    pub(super) fn queues(&self) -> impl Iterator<Item = &str> {
        self.record.groups.values().map(String::as_str)
    }
}

/// The topics of a space.
#[derive(Debug)]
pub(super) struct Topics {
    client: Client,
    space: String,
    known: Mutex<HashMap<String, Arc<Topic>>>,
}

impl Topics {
    pub(super) fn new(client: Client, space: String) -> Self {
        Topics { client, space, known: Mutex::default() }
    }

    /// The topic as it was last seen, or as it is.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(super) async fn known(&self, operation: &'static str, name: &str) -> Result<Arc<Topic>> {
        let known = self.known.lock().get(name).cloned();
        match known {
            Some(topic) => Ok(topic),
            None => self.read(operation, name).await,
        }
    }

    /// The topic as it is. One that is not there has no partitions, but for topics of dead letters:
    /// what is stored in them waits for the first group.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(super) async fn read(&self, operation: &'static str, name: &str) -> Result<Arc<Topic>> {
        let directory = Directory::new(&self.space, name);
        let found = self.client.read(directory.topic()).await?;
        let (mut record, modified) = match found {
            Some(found) => (TopicRecord::decode(operation, &found.value)?, Some(found.modified)),
            None => (TopicRecord::default(), None),
        };
        if is_dead(name) {
            record.partitions = 1;
            if record.groups.is_empty() {
                record.groups.insert(UNCLAIMED.to_owned(), UNCLAIMED.to_owned());
            }
        }
        let topic = Arc::new(Topic { directory, record, modified });
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(name.to_owned(), Arc::clone(&topic));
        Ok(topic)
    }

    /// The topic is not as it was seen.
    pub(super) fn forget(&self, name: &str) {
        self.known.lock().remove(name);
    }

    /// Makes a topic that is not there.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(super) async fn make(
        &self,
        operation: &'static str,
        topic: &Topic,
        name: &str,
        partitions: u16,
    ) -> Result<()> {
        let record = TopicRecord { partitions, ..TopicRecord::default() };
        let made = self
            .client
            .store()
            .txn(Txn::new().when(topic.unchanged()).then(Op::put(topic.directory.topic(), record.encode())));
        self.forget(name);
        made.await.map(drop).map_err(|error| error.in_operation(operation))
    }

    /// Makes a group where there is none, and the topic with it. Gives its queue.
    ///
    /// # Errors
    ///
    /// `Exhausted` where the topic has too many; those of the store.
    pub(super) async fn make_group(&self, name: &str, group: &str, partitions: u16) -> Result<(u16, String)> {
        let mut backoff = backoff();
        loop {
            let topic = self.read(GROUP, name).await?;
            if let Some(queue) = topic.record.groups.get(group).filter(|_| topic.modified.is_some()) {
                return Ok((topic.record.partitions, queue.clone()));
            }
            let mut record = topic.record.clone();
            if record.partitions == 0 {
                record.partitions = partitions;
            }
            if record.groups.len() >= MAX_GROUPS {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    GROUP,
                    "the topic has 32 groups; remove one that nobody needs",
                )
                .about(name));
            }
            let queue = match record.groups.remove(UNCLAIMED) {
                Some(unclaimed) => unclaimed,
                None => format!("{group}-{:08x}", fastrand::u32(..)),
            };
            record.groups.insert(group.to_owned(), queue);
            if !self.replace(&topic, name, &record).await? {
                self.client.home().sleep(backoff.pause()).await;
            }
        }
    }

    /// Removes a group, and then what waits for it. Says whether there was one.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(super) async fn remove_group(&self, name: &str, group: &str) -> Result<bool> {
        let mut backoff = backoff();
        loop {
            let topic = self.read(GROUP, name).await?;
            let mut record = topic.record.clone();
            let Some(queue) = record.groups.remove(group).filter(|_| topic.modified.is_some()) else {
                return Ok(false);
            };
            if self.replace(&topic, name, &record).await? {
                self.remove(topic.directory.queue(&queue)).await?;
                self.remove(topic.directory.all_deliveries(&queue)).await?;
                return Ok(true);
            }
            self.client.home().sleep(backoff.pause()).await;
        }
    }

    /// Replaces the record of a topic that is as it was seen.
    async fn replace(&self, topic: &Topic, name: &str, record: &TopicRecord) -> Result<bool> {
        let replace =
            Txn::new().when(topic.unchanged()).then(Op::put(topic.directory.topic(), record.encode()));
        let replaced = self.client.store().txn(replace).await;
        self.forget(name);
        match replaced {
            Ok(reply) => Ok(reply.succeeded),
            Err(error) => Err(error.in_operation(GROUP).about(name)),
        }
    }

    async fn remove(&self, span: Span) -> Result<()> {
        loop {
            let some = Range::new(span.clone()).with_keys_only().with_limit(REMOVED_AT_ONCE);
            let found = self.client.store().range(some).await?.entries;
            if found.is_empty() {
                return Ok(());
            }
            let remove = found.into_iter().fold(Txn::new(), |txn, entry| txn.then(Op::delete(entry.key)));
            self.client.store().txn(remove).await?;
        }
    }
}
