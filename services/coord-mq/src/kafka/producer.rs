//! The client that publishes.

use std::sync::Arc;
use std::time::Duration;

use coord::{Error, ErrorKind, Outcome, Result};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use tokio::time::{Instant, sleep, timeout_at};

use super::blocking::{DropOnThread, on_thread};
use super::context::KafkaContext;
use super::{error, record};
use crate::PUBLISH;
use crate::message::Outgoing;

/// The pause before it is looked again whether there is room for a message.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// The native client.
pub(super) type Native = FutureProducer<KafkaContext>;

/// The client that publishes: another one takes its place where librdkafka says that it can never
/// work again.
pub(super) struct Producer {
    settings: ClientConfig,
    context: KafkaContext,
    /// `None` once it is closed.
    current: Mutex<Option<Arc<DropOnThread<Native>>>>,
}

impl Producer {
    /// # Errors
    ///
    /// What librdkafka does not take. No I/O.
    pub(super) fn new(settings: ClientConfig, context: &KafkaContext) -> Result<Self> {
        let producer = Producer { settings, context: context.clone(), current: Mutex::default() };
        let native = producer.make()?;
        *producer.current.lock() = Some(native);
        Ok(producer)
    }

    fn make(&self) -> Result<Arc<DropOnThread<Native>>> {
        let native = self.settings.create_with_context(self.context.clone());
        native
            .map(|native| Arc::new(DropOnThread::new(native)))
            .map_err(|error| error::failed(PUBLISH, error))
    }

    /// The native client.
    ///
    /// # Errors
    ///
    /// `Closed`.
    pub(super) fn native(&self, operation: &'static str) -> Result<Arc<DropOnThread<Native>>> {
        self.current.lock().clone().ok_or_else(|| Error::closed(operation))
    }

    /// What can be asked about topics.
    ///
    /// # Errors
    ///
    /// `Closed`.
    pub(super) fn client(&self, operation: &'static str) -> Result<Asking> {
        self.native(operation).map(Asking)
    }

    /// Another client takes the place of one that can never work again.
    fn replace(&self, broken: &Arc<DropOnThread<Native>>) -> Result<()> {
        let new = self.make()?;
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, broken)) {
            tracing::warn!("the producer of librdkafka is broken, and is made anew");
            *current = Some(new);
        }
        Ok(())
    }

    /// Stores a record: all replicas that are in sync have it then.
    ///
    /// # Errors
    ///
    /// At the deadline at the latest; outcome `Unknown` where it may be stored.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may be stored.
    pub(super) async fn send(
        &self,
        topic: &str,
        partition: u16,
        message: &Outgoing,
        deadline: Instant,
    ) -> Result<()> {
        loop {
            let native = self.native(PUBLISH)?;
            let failed = match enqueue(&native, topic, partition, message) {
                Ok(delivery) => return delivered(delivery, deadline).await,
                Err(error) => error,
            };
            match failed.rdkafka_error_code() {
                Some(Code::QueueFull) => {
                    if timeout_at(deadline, sleep(AGAIN_AFTER)).await.is_err() {
                        return Err(error::failed(PUBLISH, failed));
                    }
                }
                Some(Code::Fatal) if Instant::now() < deadline => self.replace(&native)?,
                // It was not taken: nothing of it was sent.
                _ => return Err(error::failed(PUBLISH, failed).with_outcome(Outcome::NotApplied)),
            }
        }
    }

    /// Sends what waits to be sent.
    ///
    /// # Errors
    ///
    /// Some of it may not have been sent.
    pub(super) async fn flush(&self, within: Duration) -> Result<()> {
        let Ok(native) = self.native("mq.flush") else { return Ok(()) };
        on_thread("mq.flush", move || native.flush(within).map_err(|error| error::failed("mq.flush", error)))
            .await
    }

    /// Ends it. What is called later fails.
    pub(super) fn close(&self) {
        let native = self.current.lock().take();
        drop(native);
    }
}

/// A client that is asked about topics.
pub(super) struct Asking(Arc<DropOnThread<Native>>);

impl std::ops::Deref for Asking {
    type Target = Client<rdkafka::producer::future_producer::FutureProducerContext<KafkaContext>>;

    fn deref(&self) -> &Self::Target {
        self.0.client()
    }
}

/// Hands a record to librdkafka. Does not block.
fn enqueue(
    native: &Native,
    topic: &str,
    partition: u16,
    message: &Outgoing,
) -> std::result::Result<DeliveryFuture, KafkaError> {
    let record = FutureRecord::<str, [u8]>::to(topic).partition(partition.into());
    let record = record.payload(&message.payload).headers(record::headers(message));
    let record = match &message.key {
        Some(key) => record.key(key),
        None => record,
    };
    native.send_result(record).map_err(|(error, _)| error)
}

/// What became of a record.
async fn delivered(delivery: DeliveryFuture, deadline: Instant) -> Result<()> {
    match timeout_at(deadline, delivery).await {
        Ok(Ok(Ok(_))) => Ok(()),
        Ok(Ok(Err((error, _)))) => Err(error::failed(PUBLISH, error)),
        Ok(Err(_)) => Err(Error::closed(PUBLISH).with_outcome(Outcome::Unknown)),
        Err(_) => Err(Error::new(ErrorKind::Timeout, PUBLISH, "Kafka did not answer in time")
            .with_outcome(Outcome::Unknown)),
    }
}
