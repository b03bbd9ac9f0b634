//! Requests to the server, and what its answers mean.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::{RequestError, RequestErrorKind};
use bytes::Bytes;
use coord::{Error, ErrorKind, Outcome, Result};
use serde::Deserialize;

use super::names;
use crate::config::MqConfig;
use crate::name::is_dead;

/// The stream of a topic that is not there yet.
pub(super) fn stream_config(config: &MqConfig, topic: &str) -> StreamConfig {
    let partitions = if is_dead(topic) { 1 } else { config.partitions };
    let retention = Duration::from_secs(config.nats.retention_hours.saturating_mul(3_600));
    let max_bytes = match config.nats.max_bytes {
        0 => -1,
        bytes => i64::try_from(bytes).unwrap_or(i64::MAX),
    };
    StreamConfig {
        name: names::stream(&config.space, topic),
        subjects: (0..partitions).map(|partition| names::subject(&config.space, topic, partition)).collect(),
        retention: RetentionPolicy::Limits,
        // What is stored stays; what has no room is refused.
        discard: DiscardPolicy::New,
        max_age: retention,
        max_bytes,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        storage: StorageType::File,
        num_replicas: config.nats.replicas,
        duplicate_window: config.dedup().min(retention),
        ..StreamConfig::default()
    }
}

/// The consumer of a partition for a group: one message at a time, whoever fetches it.
pub(super) fn consumer_config(config: &MqConfig, topic: &str, group: &str, partition: u16) -> pull::Config {
    pull::Config {
        durable_name: Some(names::consumer(group, partition)),
        // What was given up waits for whoever comes first to look at it.
        deliver_policy: if is_dead(topic) { DeliverPolicy::All } else { DeliverPolicy::New },
        ack_policy: AckPolicy::Explicit,
        ack_wait: config.ack_wait(),
        max_deliver: -1,
        max_ack_pending: 1,
        filter_subject: names::subject(&config.space, topic, partition),
        ..pull::Config::default()
    }
}

/// The answer to a message that was published, or to another request, as far as it matters.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    duplicate: bool,
    error: Option<ReplyError>,
}

#[derive(Debug, Deserialize)]
struct ReplyError {
    code: usize,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Whether the message that was published is new, as the server says.
///
/// # Errors
///
/// What the server says.
pub(super) fn read_answer(operation: &'static str, payload: &Bytes) -> Result<bool> {
    let answer: Answer = serde_json::from_slice(payload).map_err(|error| {
        Error::json(operation, "the answer of JetStream", &error).with_outcome(Outcome::Unknown)
    })?;
    let Some(error) = answer.error else { return Ok(!answer.duplicate) };
    let kind = kind_of(error.code, error.err_code, &error.description);
    Err(Error::new(kind, operation, format!("JetStream says: {} ({})", error.description, error.err_code)))
}

/// What an error means that JetStream answers with.
fn kind_of(code: usize, err_code: u64, description: &str) -> ErrorKind {
    match (code, err_code) {
        // 10023, 10028, 10047: the server has no resources, memory or storage left. 10026, 10027:
        // there are as many consumers or streams as may be. 10077: `max_bytes` is reached. 10122:
        // `max_messages_per_subject`.
        (_, 10_023 | 10_026 | 10_027 | 10_028 | 10_047 | 10_077 | 10_122) => ErrorKind::Exhausted,
        (401 | 403, _) => ErrorKind::PermissionDenied,
        (400, _) => ErrorKind::InvalidArgument,
        _ if description.contains("exceeded") => ErrorKind::Exhausted,
        // Also while the server reads its accounts anew: JetStream is not enabled then.
        _ => ErrorKind::Unavailable,
    }
}

/// What became of a request that has no answer.
pub(super) fn request_failed(operation: &'static str, error: RequestError) -> Error {
    let (kind, outcome, why) = match error.kind() {
        // Nobody has got it.
        RequestErrorKind::NoResponders => {
            (ErrorKind::Unavailable, Outcome::NotApplied, "no such topic, or no JetStream")
        }
        RequestErrorKind::InvalidSubject => (ErrorKind::InvalidArgument, Outcome::NotApplied, "the subject"),
        RequestErrorKind::MaxPayloadExceeded => (
            ErrorKind::InvalidArgument,
            Outcome::NotApplied,
            "it is larger than the server takes (max_payload)",
        ),
        RequestErrorKind::TimedOut => (ErrorKind::Timeout, Outcome::Unknown, "no answer in time"),
        _ => (ErrorKind::Unavailable, Outcome::Unknown, "the connection was lost"),
    };
    Error::new(kind, operation, why).with_outcome(outcome).with_source(error)
}

/// A stream was not made.
pub(super) fn stream_failed(operation: &'static str, error: CreateStreamError) -> Error {
    let (kind, why) = match error.kind() {
        CreateStreamErrorKind::JetStreamUnavailable => (ErrorKind::Unavailable, "JetStream is not there"),
        CreateStreamErrorKind::TimedOut => (ErrorKind::Timeout, "no answer in time"),
        CreateStreamErrorKind::JetStream(error) => {
            let description = error.to_string();
            (kind_of(error.code(), error.error_code().0, &description), "JetStream does not make the topic")
        }
        _ => (ErrorKind::Unavailable, "the topic was not made"),
    };
    Error::new(kind, operation, why).with_source(error)
}

/// A stream was not found; `None` where it is not there.
pub(super) fn no_stream(operation: &'static str, error: GetStreamError) -> Option<Error> {
    let kind = match error.kind() {
        // 10059: there is no such stream.
        GetStreamErrorKind::JetStream(error) if error.error_code().0 == 10_059 => return None,
        GetStreamErrorKind::JetStream(error) if error.code() == 404 => return None,
        _ => ErrorKind::Unavailable,
    };
    Some(Error::new(kind, operation, "the topic was not read").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let read = |json: &'static str| read_answer("t", &Bytes::from_static(json.as_bytes()));
        assert!(read(r#"{"stream":"a","seq":1}"#).unwrap());
        assert!(!read(r#"{"stream":"a","seq":1,"duplicate":true}"#).unwrap());
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"a","seq":0}"#;
        assert_eq!(read(full).unwrap_err().kind(), ErrorKind::Exhausted);
        let away = r#"{"error":{"code":503,"err_code":10008,"description":"jetstream system temporarily unavailable"}}"#;
        assert_eq!(read(away).unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(read("x").unwrap_err().kind(), ErrorKind::Codec);
        let off =
            r#"{"error":{"code":503,"err_code":10039,"description":"JetStream not enabled for account"}}"#;
        assert_eq!(read(off).unwrap_err().kind(), ErrorKind::Unavailable, "it may be in a moment");
        let many =
            r#"{"error":{"code":400,"err_code":10027,"description":"maximum number of streams reached"}}"#;
        assert_eq!(read(many).unwrap_err().kind(), ErrorKind::Exhausted);
    }

    #[test]
    fn dead_letters_have_one_partition_and_wait_for_the_first_group() {
        let config = MqConfig::default();
        assert_eq!(stream_config(&config, "a").subjects.len(), 8);
        assert_eq!(stream_config(&config, "a.dead").subjects, ["mq.main.a.dead.0"]);
        let policy = |topic| consumer_config(&config, topic, "g", 0).deliver_policy;
        assert_eq!((policy("a"), policy("a.dead")), (DeliverPolicy::New, DeliverPolicy::All));
    }
}
