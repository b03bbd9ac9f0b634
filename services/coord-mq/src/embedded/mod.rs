//! The engine that needs no server besides the store of coord.
//!
//! A message is written once for each group, in one transaction with the id that is remembered, so
//! that each group gets it or none does, and a repeat is seen. A partition of a group is claimed by
//! one process at a time, under its session; whoever has the claim reads the oldest message, and
//! removes it by a transaction that compares the claim. So nothing is acknowledged by one who lost
//! it.

mod bells;
mod keys;
mod lane;
mod publish;
mod record;
mod topics;
mod under;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use coord::coord_core::Client;
use coord::{Coord, Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::MqConfig;
use crate::engine::{Engine, Lane, Place};
use crate::message::Outgoing;
use bells::Bells;
use lane::EmbeddedLane;
use publish::Backlogs;
use topics::{Topic, Topics};

/// What a claim is called in logs and metrics of coord.
const CONTRACT: &str = "mq";

/// The engine over a store.
pub(crate) struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    topics: Topics,
    backlogs: Backlogs,
    /// The watch of each topic on which somebody waits.
    bells: Mutex<HashMap<String, Weak<Bells>>>,
    config: Arc<ArcSwap<MqConfig>>,
    ack_wait: Duration,
    closed: CancellationToken,
}

impl Embedded {
    /// Over this store, made from a configuration, and then led by the one in use.
    pub(crate) fn new(coord: &Coord, from: &MqConfig, config: Arc<ArcSwap<MqConfig>>) -> Self {
        let client = coord.core().clone();
        client.telemetry().declare(&[CONTRACT]);
        let shared = Shared {
            topics: Topics::new(client.clone(), from.space.clone()),
            client,
            backlogs: Backlogs::default(),
            bells: Mutex::default(),
            config,
            ack_wait: from.ack_wait(),
            closed: CancellationToken::new(),
        };
        Embedded { shared: Arc::new(shared) }
    }
}

impl Shared {
    /// # Errors
    ///
    /// `Closed` once it is.
    fn ready(&self, operation: &'static str) -> Result<()> {
        match self.closed.is_cancelled() {
            true => Err(Error::closed(operation)),
            false => Ok(()),
        }
    }

    /// The watch of a topic.
    fn bells(&self, topic: &Topic, name: &str) -> Result<Arc<Bells>> {
        let mut all = self.bells.lock();
        if let Some(bells) = all.get(name).and_then(Weak::upgrade).filter(|bells| !bells.is_over()) {
            return Ok(bells);
        }
        let bells = Bells::start(&self.client, topic.directory.clone())?;
        all.retain(|_, bells| bells.strong_count() > 0);
        all.insert(name.to_owned(), Arc::downgrade(&bells));
        Ok(bells)
    }
}

#[async_trait]
impl Engine for Embedded {
    async fn publish(&self, topic: &str, message: &Outgoing, deadline: Instant) -> Result<bool> {
        self.shared.publish(topic, message, deadline).await
    }

    async fn make_group(&self, topic: &str, group: &str) -> Result<u16> {
        self.shared.ready("mq.group")?;
        let partitions = self.shared.config.load().partitions;
        Ok(self.shared.topics.make_group(topic, group, partitions).await?.0)
    }

    async fn remove_group(&self, topic: &str, group: &str) -> Result<bool> {
        self.shared.ready("mq.group")?;
        self.shared.topics.remove_group(topic, group).await
    }

    fn lane(&self, place: Place, stop: CancellationToken) -> Box<dyn Lane> {
        Box::new(EmbeddedLane::new(Arc::clone(&self.shared), place, stop))
    }

    async fn probe(&self) -> Result<()> {
        let within = Instant::now() + Duration::from_secs(3);
        match timeout_at(within, self.shared.client.store().status()).await {
            Ok(status) => status.map(drop),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "mq.probe", "the store does not answer")),
        }
    }

    async fn flush(&self) -> Result<()> {
        // What is published is stored.
        Ok(())
    }

    async fn close(&self) {
        self.shared.closed.cancel();
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("topics", &self.shared.topics).finish_non_exhaustive()
    }
}
