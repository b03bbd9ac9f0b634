//! What the message queue is configured with.

mod kafka;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::name::is_group;
pub use kafka::{KafkaConfig, SaslMechanism, SecurityProtocol};

/// The configuration of a message queue: the JSON of the component, by default `mq`.
///
/// What each field is, in which unit, and what it takes to change it, stands in the table of the
/// [crate's page](crate#configuration).
///
/// ```
/// # use coord_mq::MqConfig;
/// let config: MqConfig = serde_json::from_str(r#"{"concurrency": 4, "retries": 2}"#).unwrap();
/// config.check().unwrap();
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqConfig {
    /// What carries the messages. Default: `embedded`.
    pub engine: EngineKind,
    /// What comes before the names of topics, so that several systems can share a store or a
    /// server: a word of at most 64 letters, digits, `-` and `_`. Default: `main`.
    pub space: String,
    /// How many partitions a topic has that is made from now on, 1 to 256; one that is there keeps
    /// what it has. Default: 8.
    pub partitions: u16,
    /// How long to publish may take, in milliseconds, 10 to 600,000. Default: 5,000.
    pub publish_timeout_ms: u64,
    /// The largest payload, in bytes, at most 1,000,000. Default: 262,144.
    pub max_message_bytes: usize,
    /// How many messages a subscription handles at a time, in this process, 1 to 1,024; no more of
    /// them are fetched. Default: 8.
    pub concurrency: usize,
    /// How often a message is delivered again before it is a dead letter, at most 1,000. Default:
    /// 5.
    pub retries: u32,
    /// After what time without a sign of life of its handler's process a message is delivered
    /// again, in milliseconds, 1,000 to 3,600,000. Default: 30,000.
    pub ack_wait_ms: u64,
    /// How long the ids of messages are remembered, in milliseconds, 1,000 to 86,400,000. Default:
    /// 120,000.
    pub dedup_ms: u64,
    /// How many messages may wait for a group, of a topic in the embedded engine, before more are
    /// refused, 1 to 1,000,000. Default: 10,000.
    pub max_backlog: usize,
    /// The server of the engine `nats`.
    pub nats: NatsConfig,
    /// The brokers of the engine `kafka`.
    pub kafka: KafkaConfig,
}

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EngineKind {
    /// The store of coord: no server besides it, for messages by the hundred a second.
    Embedded,
    /// NATS JetStream. Needs the feature `nats`.
    Nats,
    /// Kafka. Needs the feature `kafka`.
    Kafka,
}

/// Where NATS is, and how topics are kept there.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NatsConfig {
    /// The servers, `nats://host:port` or `tls://host:port`, with commas between. Default:
    /// `nats://127.0.0.1:4222`.
    pub url: String,
    /// Who we are. Default: nobody.
    pub user: String,
    /// The password of the user. Default: none.
    pub password: SecretString,
    /// A token, instead of user and password. Default: none.
    pub token: SecretString,
    /// A file of the certificates, as PEM, that servers are trusted by, besides those of the
    /// system. Default: none.
    pub ca_file: String,
    /// How many servers keep each topic, 1 to 5; of topics that are made from now on. Default: 1.
    pub replicas: usize,
    /// How long a topic keeps a message at most, in hours, 1 to 87,600; of topics that are made
    /// from now on. Default: 168, a week.
    pub retention_hours: u64,
    /// How many bytes a topic keeps, before more messages are refused; as many as there is room for
    /// where it is 0; of topics that are made from now on. Default: 0.
    pub max_bytes: u64,
}

impl Default for MqConfig {
    fn default() -> Self {
        MqConfig {
            engine: EngineKind::Embedded,
            space: "main".to_owned(),
            partitions: 8,
            publish_timeout_ms: 5_000,
            max_message_bytes: 262_144,
            concurrency: 8,
            retries: 5,
            ack_wait_ms: 30_000,
            dedup_ms: 120_000,
            max_backlog: 10_000,
            nats: NatsConfig::default(),
            kafka: KafkaConfig::default(),
        }
    }
}

impl Default for NatsConfig {
    fn default() -> Self {
        NatsConfig {
            url: "nats://127.0.0.1:4222".to_owned(),
            user: String::new(),
            password: SecretString::default(),
            token: SecretString::default(),
            ca_file: String::new(),
            replicas: 1,
            retention_hours: 168,
            max_bytes: 0,
        }
    }
}

impl MqConfig {
    /// Whether every field has a value that it can have.
    ///
    /// # Errors
    ///
    /// The text names the field and what it may be, without secrets.
    pub fn check(&self) -> Result<(), String> {
        if !is_group(&self.space) {
            return Err("space: a word of A-Z, a-z, 0-9, - and _, in at most 64 bytes".to_owned());
        }
        within("partitions", self.partitions.into(), 1, 256)?;
        within("publish_timeout_ms", self.publish_timeout_ms, 10, 600_000)?;
        within("max_message_bytes", self.max_message_bytes as u64, 1, 1_000_000)?;
        within("concurrency", self.concurrency as u64, 1, 1_024)?;
        within("retries", self.retries.into(), 0, 1_000)?;
        within("ack_wait_ms", self.ack_wait_ms, 1_000, 3_600_000)?;
        within("dedup_ms", self.dedup_ms, 1_000, 86_400_000)?;
        within("max_backlog", self.max_backlog as u64, 1, 1_000_000)?;
        match self.engine {
            EngineKind::Embedded => Ok(()),
            EngineKind::Nats if cfg!(feature = "nats") => self.nats.check(),
            EngineKind::Kafka if cfg!(feature = "kafka") => self.kafka.check(),
            EngineKind::Nats => Err("engine: this program was built without the feature `nats`".to_owned()),
            EngineKind::Kafka => Err("engine: this program was built without the feature `kafka`".to_owned()),
        }
    }

    pub(crate) fn publish_timeout(&self) -> Duration {
        Duration::from_millis(self.publish_timeout_ms)
    }

    pub(crate) fn ack_wait(&self) -> Duration {
        Duration::from_millis(self.ack_wait_ms)
    }

    pub(crate) fn dedup(&self) -> Duration {
        Duration::from_millis(self.dedup_ms)
    }

    /// Whether the client of the one serves as that of the other.
    pub(crate) fn has_client_of(&self, other: &Self) -> bool {
        let connection = match self.engine {
            EngineKind::Embedded => true,
            EngineKind::Nats => self.nats.is_same(&other.nats),
            // The client holds what it is to send no longer than that.
            EngineKind::Kafka => {
                self.publish_timeout_ms == other.publish_timeout_ms && self.kafka.is_same(&other.kafka)
            }
        };
        (self.ack_wait_ms, self.dedup_ms) == (other.ack_wait_ms, other.dedup_ms) && connection
    }
}

impl NatsConfig {
    fn check(&self) -> Result<(), String> {
        for url in self.servers() {
            let rest = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"));
            // It is not shown: what is wrong with it may be that a password is in it.
            let Some(host) = rest else {
                return Err("nats.url: it must be nats://host:port or tls://host:port".to_owned());
            };
            if host.contains('@') {
                return Err("nats.url: user and password belong into the fields nats.user and nats.password"
                    .to_owned());
            }
            let host = host.trim_end_matches('/');
            if host.is_empty() || host.contains(['/', '?', '#']) || host.contains(char::is_whitespace) {
                return Err("nats.url: it must be nats://host:port or tls://host:port".to_owned());
            }
        }
        let has = |secret: &SecretString| !secret.expose_secret().is_empty();
        if has(&self.token) && !self.user.is_empty() {
            return Err("nats.token: there is a user as well; give one of them".to_owned());
        }
        if has(&self.password) && self.user.is_empty() {
            return Err("nats.password: there is no user".to_owned());
        }
        within("nats.replicas", self.replicas as u64, 1, 5)?;
        within("nats.retention_hours", self.retention_hours, 1, 87_600)?;
        within("nats.max_bytes", self.max_bytes, 0, 1 << 50)
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &str> {
        self.url.split(',').map(str::trim)
    }

    fn is_same(&self, other: &Self) -> bool {
        let plain = |of: &Self| {
            (
                of.url.clone(),
                of.user.clone(),
                of.ca_file.clone(),
                of.replicas,
                of.retention_hours,
                of.max_bytes,
            )
        };
        plain(self) == plain(other)
            && self.password.expose_secret() == other.password.expose_secret()
            && self.token.expose_secret() == other.token.expose_secret()
    }
}

fn within(field: &str, is: u64, least: u64, most: u64) -> Result<(), String> {
    match (least..=most).contains(&is) {
        true => Ok(()),
        false => Err(format!("{field}: it must be {least} to {most}, and is {is}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(json: &str) -> String {
        match serde_json::from_str::<MqConfig>(json) {
            Err(error) => error.to_string(),
            Ok(config) => config.check().err().unwrap_or_default(),
        }
    }

    #[test]
    fn each_field_has_its_bounds() {
        MqConfig::default().check().unwrap();
        for (json, field) in [
            (r#"{"space": "a.b"}"#, "space: "),
            (r#"{"partitions": 0}"#, "partitions: it must be 1 to 256, and is 0"),
            (r#"{"publish_timeout_ms": 9}"#, "publish_timeout_ms: "),
            (r#"{"max_message_bytes": 1000001}"#, "max_message_bytes: "),
            (r#"{"concurrency": 0}"#, "concurrency: "),
            (r#"{"retries": 1001}"#, "retries: "),
            (r#"{"ack_wait_ms": 999}"#, "ack_wait_ms: "),
            (r#"{"dedup_ms": 999}"#, "dedup_ms: "),
            (r#"{"max_backlog": 0}"#, "max_backlog: "),
            (r#"{"engine": "carrier pigeons"}"#, "unknown variant `carrier pigeons`"),
            (r#"{"concurrent": 1}"#, "unknown field `concurrent`"),
        ] {
            assert!(wrong(json).contains(field), "{json}: {}", wrong(json));
        }
    }

    #[cfg(not(feature = "kafka"))]
    #[test]
    fn kafka_is_refused_where_it_was_not_built_in() {
        assert!(wrong(r#"{"engine": "kafka"}"#).contains("without the feature `kafka`"));
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn what_kafka_needs_is_looked_at() {
        let kafka = |fields: &str| wrong(&format!(r#"{{"engine": "kafka", "kafka": {{{fields}}}}}"#));
        assert_eq!(kafka(""), "");
        assert!(kafka(r#""brokers": "localhost""#).contains("kafka.brokers"));
        assert!(kafka(r#""broker": "localhost:1""#).contains("unknown field `broker`"));
        let timeout =
            |ms: u64| MqConfig { engine: EngineKind::Kafka, publish_timeout_ms: ms, ..MqConfig::default() };
        assert!(timeout(1_000).has_client_of(&timeout(1_000)));
        assert!(!timeout(1_000).has_client_of(&timeout(2_000)));
    }

    #[cfg(not(feature = "nats"))]
    #[test]
    fn an_engine_that_was_not_built_in_is_refused() {
        assert!(wrong(r#"{"engine": "nats"}"#).contains("without the feature"));
    }

    #[cfg(feature = "nats")]
    #[test]
    fn what_nats_needs_is_looked_at() {
        let nats = |fields: &str| wrong(&format!(r#"{{"engine": "nats", "nats": {{{fields}}}}}"#));
        assert_eq!(nats(""), "");
        assert_eq!(nats(r#""url": "nats://127.0.0.1:4222, tls://localhost""#), "");
        for url in ["", "127.0.0.1:4222", "http://localhost", "nats://", "nats://a b", "nats://a/b"] {
            assert!(nats(&format!(r#""url": "{url}""#)).contains("nats.url"), "{url}");
        }
        let secret = nats(r#""url": "nats://ann:hunter2@localhost""#);
        assert!(secret.contains("nats.password") && !secret.contains("hunter2"), "{secret}");
        assert!(nats(r#""password": "hunter2""#).contains("nats.password: there is no user"));
        assert!(nats(r#""user": "ann", "token": "hunter2""#).contains("nats.token"));
        assert!(nats(r#""replicas": 6"#).contains("nats.replicas"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let config: MqConfig =
            serde_json::from_str(r#"{"nats": {"user": "ann", "password": "hunter2", "token": "hunter3"}}"#)
                .unwrap();
        assert!(!format!("{config:?}").contains("hunter"));
    }
}
