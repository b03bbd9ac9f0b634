//! What carries messages: the one trait that each engine implements. What is the same for all is
//! made of it: verdicts, dead letters, concurrency, the end.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use coord::Result;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::Delivery;
use crate::message::Outgoing;

/// A broker, or what is as good as one.
#[async_trait]
pub(crate) trait Engine: fmt::Debug + Send + Sync + 'static {
    /// Stores a message, once while its id is remembered. Says whether it is new.
    ///
    /// # Errors
    ///
    /// At the deadline at the latest; outcome `Unknown` where it may be stored.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may be stored.
    async fn publish(&self, topic: &str, message: &Outgoing, deadline: Instant) -> Result<bool>;

    /// Makes a group where there is none, which gets each message that is published from then on,
    /// and says how many partitions the topic has. Idempotent.
    async fn make_group(&self, topic: &str, group: &str) -> Result<u16>;

    /// Removes a group, and what waits for it. Says whether there was one.
    async fn remove_group(&self, topic: &str, group: &str) -> Result<bool>;

    /// The messages of one partition for a group, which is there. `stop` is cancelled when no more
    /// of them are wanted. No I/O.
    fn lane(&self, place: Place, stop: CancellationToken) -> Box<dyn Lane>;

    /// Whether it works.
    async fn probe(&self) -> Result<()>;

    /// Sends what it has accepted.
    async fn flush(&self) -> Result<()>;

    /// Ends it. What is called later fails.
    async fn close(&self);

    /// The native client.
    #[cfg(feature = "nats")]
    fn nats(&self) -> Option<&async_nats::Client> {
        None
    }

    /// What keeps the native client of Kafka that publishes: a `Kept` of that engine.
    #[cfg(feature = "kafka")]
    fn kafka(&self) -> Option<std::sync::Arc<dyn std::any::Any + Send + Sync>> {
        None
    }
}

/// Which messages a lane gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) partition: u16,
}

/// The messages of one partition for one group, one at a time, in order: whoever has one has it
/// alone, in all processes.
#[async_trait]
pub(crate) trait Lane: Send {
    /// Waits until there may be a message. It is asked without a place among those that are
    /// handled.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn ready(&mut self) -> Result<()>;

    /// Takes the next message; `None` where none has come within `wait`, or it is stopped.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropped, a message may be had by nobody for a while.
    async fn next(&mut self, wait: Duration) -> Result<Option<Delivery>>;

    /// Says that the message that was taken is still being handled. It is called three times in the
    /// time after which the message would be delivered again.
    async fn progress(&mut self) -> Result<()>;

    /// Settles the message that was taken.
    ///
    /// # Errors
    ///
    /// The message is, or may be, delivered again.
    async fn settle(&mut self, how: Settled<'_>) -> Result<()>;

    /// Gives back what is not settled, and ends it.
    async fn close(&mut self);
}

/// What becomes of a message.
#[derive(Clone, Copy)]
pub(crate) enum Settled<'a> {
    /// It is acknowledged.
    Done,
    /// It comes again after this time, and nothing else of its partition before that.
    Again(Duration),
    /// It is stored as this dead letter, and then acknowledged.
    Dead(&'a Outgoing),
}
