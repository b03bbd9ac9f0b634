//! A subscription: who handles the messages of a topic for a group.

use std::fmt;
use std::sync::Arc;

use coord::Error;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::SUBSCRIBE;
use crate::lane::Worker;
use crate::work::{Over, SubscriptionStatus, Work, retry};

/// A handler at work on the messages of a topic for a group; its owner keeps this.
///
/// Dropped, or [stopped](Self::stop), it takes no more messages, finishes those that it has in
/// hand, and stores what was said of them; the service's end does the same (K10).
pub struct Subscription {
    work: Arc<Work>,
}

impl Subscription {
    pub(crate) fn start(work: Arc<Work>) -> Self {
        tokio::spawn(supervise(Arc::clone(&work)));
        Subscription { work }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.work.topic
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.work.group
    }

    /// How it is.
    pub fn status(&self) -> SubscriptionStatus {
        self.work.status.borrow().clone()
    }

    /// Waits until the group is there, or the subscription is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&self) -> SubscriptionStatus {
        self.wait_for(|status| status.ready).await
    }

    /// Waits until `wanted` holds of the status, or the subscription is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&SubscriptionStatus) -> bool) -> SubscriptionStatus {
        let mut status = self.work.status.subscribe();
        match status.wait_for(|status| status.over || wanted(status)).await {
            Ok(status) => status.clone(),
            // The sender is in what this holds.
            Err(_) => SubscriptionStatus { over: true, ..SubscriptionStatus::default() },
        }
    }

    /// Takes no more messages, and waits until those in hand are handled and settled. Idempotent.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has begun to stop it; call again to wait for the end.
    pub async fn stop(&self) {
        self.work.stop.cancel();
        self.work.over().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.work.stop.cancel();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.work.topic)
            .field("group", &self.work.group)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Makes the group, and has each of its partitions worked on.
async fn supervise(work: Arc<Work>) {
    let over = Over(Arc::clone(&work));
    let Some(Some(partitions)) = work.stop.run_until_cancelled(make_group(&work)).await else { return };
    work.made();
    let mut workers = JoinSet::new();
    for partition in 0..partitions {
        workers.spawn(Worker::new(Arc::clone(&work), partition, partitions).run());
    }
    while let Some(ended) = workers.join_next().await {
        if ended.is_err() {
            tracing::error!(topic = work.topic, group = work.group, "a subscription ended by accident");
            work.stop.cancel();
        }
    }
    drop(over);
}

/// Makes the group; it is tried for as long as it takes. `None` where the queue is closed.
async fn make_group(work: &Work) -> Option<u16> {
    let mut backoff = retry();
    loop {
        let live = &work.live;
        let within = work.in_use.config.load().publish_timeout();
        let made = async {
            let engine = live.current()?;
            match tokio::time::timeout(within, engine.make_group(&work.topic, &work.group)).await {
                Ok(made) => made,
                Err(_) => Err(Error::new(coord::ErrorKind::Timeout, SUBSCRIBE, "the broker does not answer")),
            }
        };
        match made.await {
            Ok(partitions) => return Some(partitions),
            Err(error) => {
                if live.status().over {
                    return None;
                }
                work.failed(None, &error);
            }
        }
        let generation = live.status().generation;
        tokio::select! {
            () = sleep(backoff.pause()) => {}
            _ = live.wait_for(|status| status.generation != generation) => {}
        }
    }
}
