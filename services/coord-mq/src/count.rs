//! What is counted (K11): the table on the crate's page says what each name means.

use std::time::Duration;

use coord::{Error, Outcome};
use coord_service::metrics;

const PUBLISHED: &str = "mq_published_total";
const PUBLISH_SECONDS: &str = "mq_publish_duration_seconds";
const HANDLED: &str = "mq_handled_total";
const HANDLE_SECONDS: &str = "mq_handle_duration_seconds";
const REDELIVERED: &str = "mq_redelivered_total";
#[cfg(any(feature = "nats", feature = "kafka"))]
const LAG: &str = "mq_lag_messages";
const UNSETTLED: &str = "mq_unsettled_total";

/// What became of a message that was to be published.
pub(crate) fn published(topic: &str, result: Result<bool, &Error>, took: Duration) {
    let result = match result {
        Ok(true) => "stored",
        Ok(false) => "known",
        Err(error) if error.outcome() == Outcome::Unknown => "unknown",
        Err(_) => "failed",
    };
    metrics::inc(PUBLISHED, &[("topic", topic), ("result", result)]);
    metrics::histogram(PUBLISH_SECONDS, took.as_secs_f64(), &[("topic", topic)]);
}

/// How many messages wait behind the one that was delivered.
#[cfg(any(feature = "nats", feature = "kafka"))]
pub(crate) fn lag(topic: &str, group: &str, partition: u16, pending: u64) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    let pending = pending as f64;
    let partition = partition.to_string();
    metrics::gauge(LAG, pending, &[("topic", topic), ("group", group), ("partition", &partition)]);
}

/// A message was delivered once more.
pub(crate) fn redelivered(topic: &str, group: &str) {
    metrics::inc(REDELIVERED, &[("topic", topic), ("group", group)]);
}

/// What was said of a message, and stored.
pub(crate) fn handled(topic: &str, group: &str, verdict: &'static str, took: Duration) {
    metrics::inc(HANDLED, &[("topic", topic), ("group", group), ("verdict", verdict)]);
    metrics::histogram(HANDLE_SECONDS, took.as_secs_f64(), &[("topic", topic), ("group", group)]);
}

/// What was said of a message could not be stored, so that it is delivered again.
pub(crate) fn unsettled(topic: &str, group: &str) {
    metrics::inc(UNSETTLED, &[("topic", topic), ("group", group)]);
}
