//! The configuration of librdkafka's clients.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use secrecy::ExposeSecret;

use crate::config::{KafkaConfig, MqConfig, SaslMechanism};

/// The shortest and the longest time after which brokers give up a silent member of a group, as
/// they are set up by default.
const SESSION: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(1_800));

/// What the clients of every kind are told. The first ones can be set otherwise, by
/// `kafka.properties`.
const ALL: &[(&str, &str)] = &[
    ("socket.connection.setup.timeout.ms", "5000"),
    ("socket.timeout.ms", "10000"),
    ("socket.keepalive.enable", "true"),
    ("socket.nagle.disable", "true"),
    // A broker that is back is not kept waiting: by default it would be for 10 s.
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "1000"),
    ("retry.backoff.ms", "50"),
    ("topic.metadata.refresh.interval.ms", "60000"),
];

/// What producers are told, and can be told otherwise.
const PRODUCER: &[(&str, &str)] = &[
    // Each waits for its answer: what comes meanwhile is sent together all the same.
    ("linger.ms", "0"),
    ("queue.buffering.max.messages", "10000"),
    ("queue.buffering.max.kbytes", "65536"),
];

/// What consumers are told, and can be told otherwise.
const CONSUMER: &[(&str, &str)] = &[
    // Of each partition, since each has a queue of its own.
    ("queued.min.messages", "1000"),
    ("queued.max.messages.kbytes", "1024"),
    ("fetch.message.max.bytes", "1048576"),
    // How soon it is looked whether a full queue has room again: by default after 1 s.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.error.backoff.ms", "100"),
    ("coordinator.query.interval.ms", "1000"),
];

fn base(config: &KafkaConfig) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings.set_log_level(RDKafkaLogLevel::Info);
    settings.extend(ALL.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let brokers: Vec<&str> = config.brokers.split(',').map(str::trim).collect();
    settings.set("bootstrap.servers", brokers.join(","));
    settings.set("client.id", &config.client_id);
    settings.set("security.protocol", config.security_protocol.name());
    if config.security_protocol.is_sasl() {
        settings.set("sasl.mechanism", config.sasl_mechanism.name());
        settings.set("sasl.username", &config.user);
        settings.set("sasl.password", config.password.expose_secret());
    }
    let files = [
        ("ssl.ca.location", &config.ca_file),
        ("ssl.certificate.location", &config.certificate_file),
        ("ssl.key.location", &config.key_file),
    ];
    for (name, file) in files.into_iter().filter(|(_, file)| !file.is_empty()) {
        settings.set(name, file);
    }
    if !config.key_password.expose_secret().is_empty() {
        settings.set("ssl.key.password", config.key_password.expose_secret());
    }
    settings
}

fn extend(settings: &mut ClientConfig, config: &KafkaConfig, defaults: &[(&str, &str)]) {
    for (name, value) in defaults {
        settings.set(*name, *value);
    }
    // Those that are set by this crate are refused with the document.
    settings.extend(config.properties.clone());
}

/// Of a client that asks about topics.
pub(super) fn admin(config: &MqConfig) -> ClientConfig {
    let mut settings = base(&config.kafka);
    extend(&mut settings, &config.kafka, &[]);
    settings
}

/// Of the client that publishes.
pub(super) fn producer(config: &MqConfig) -> ClientConfig {
    let mut settings = base(&config.kafka);
    extend(&mut settings, &config.kafka, PRODUCER);
    // All replicas that are in sync have it before it counts as stored; what is sent again inside
    // of a call is stored once, and in order.
    settings.set("enable.idempotence", "true");
    settings.set("message.timeout.ms", config.publish_timeout_ms.to_string());
    // Above the largest payload, with the headers around it, and at what brokers take by default.
    settings.set("message.max.bytes", "1048576");
    settings
}

/// Of a member of a group.
pub(super) fn consumer(config: &MqConfig, group: &str) -> ClientConfig {
    let session = session(config);
    let mut settings = base(&config.kafka);
    extend(&mut settings, &config.kafka, CONSUMER);
    settings.set("group.id", group);
    settings.set("enable.auto.commit", "false");
    settings.set("enable.auto.offset.store", "false");
    // What was removed before it was handled cannot be had; what is there is handled.
    settings.set("auto.offset.reset", "earliest");
    settings.set("session.timeout.ms", session.as_millis().to_string());
    settings.set("max.poll.interval.ms", (session * 2).max(Duration::from_secs(300)).as_millis().to_string());
    // Partitions that stay are worked on while others move.
    settings.set("partition.assignment.strategy", "cooperative-sticky");
    settings.set("statistics.interval.ms", "10000");
    settings
}

/// After what time without a sign of life the brokers give the partitions of a member to others.
pub(super) fn session(config: &MqConfig) -> Duration {
    config.ack_wait().clamp(SESSION.0, SESSION.1)
}

/// Whether librdkafka, as it is built in, takes a configuration. No I/O.
///
/// # Errors
///
/// The text names the field, without values.
pub(crate) fn check(config: &MqConfig) -> Result<(), String> {
    for settings in [producer(config), consumer(config, "check")] {
        match settings.create_native_config() {
            Ok(_) => {}
            Err(error) => return Err(refused(&config.kafka, error)),
        }
    }
    Ok(())
}

/// Why librdkafka does not take a configuration. Its own text may hold the value, so it is not
/// shown.
fn refused(config: &KafkaConfig, error: KafkaError) -> String {
    let KafkaError::ClientConfig(result, _, name, _) = error else {
        return "kafka: librdkafka does not take it".to_owned();
    };
    let is_scram = config.sasl_mechanism != SaslMechanism::Plain;
    if name == "security.protocol" || name.starts_with("ssl.") && !config.properties.contains_key(&name) {
        return format!("kafka.security_protocol: {NO_OPENSSL}");
    }
    if name.starts_with("sasl.") && is_scram {
        return format!("kafka.sasl_mechanism: {NO_OPENSSL}");
    }
    match result {
        RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN => {
            format!("kafka.properties: librdkafka has no property `{name}`")
        }
        _ => format!("kafka.properties: librdkafka does not take this value of `{name}`"),
    }
}

/// What to do where TLS is asked for and not there.
const NO_OPENSSL: &str = "librdkafka was built without OpenSSL; \
    add the crate rdkafka with its feature `ssl` to the dependencies of the program";

#[cfg(test)]
mod tests {
    use super::*;

    fn kafka(fields: &str) -> MqConfig {
        serde_json::from_str(&format!(r#"{{"engine": "kafka", "kafka": {{{fields}}}}}"#)).unwrap()
    }

    fn wrong(fields: &str) -> String {
        let config = kafka(fields);
        config.check().unwrap();
        check(&config).err().unwrap_or_default()
    }

    #[test]
    fn librdkafka_takes_what_is_its_own() {
        assert_eq!(wrong(""), "");
        assert_eq!(wrong(r#""properties": {"compression.codec": "lz4", "fetch.min.bytes": "1"}"#), "");
        assert_eq!(wrong(r#""properties": {"compression.codec": "gzip"}"#), "", "zlib is built in");
    }

    #[test]
    fn what_librdkafka_does_not_take_is_named_without_its_value() {
        let unknown = wrong(r#""properties": {"linger.secs": "hunter2"}"#);
        assert_eq!(unknown, "kafka.properties: librdkafka has no property `linger.secs`");
        let invalid = wrong(r#""properties": {"linger.ms": "hunter2"}"#);
        assert_eq!(invalid, "kafka.properties: librdkafka does not take this value of `linger.ms`");
    }

    #[test]
    fn tls_is_there_or_it_is_said_what_to_do() {
        let sasl = r#""user": "ann", "password": "hunter2""#;
        assert_eq!(wrong(&format!(r#"{sasl}, "security_protocol": "sasl_plaintext""#)), "");
        // Where another crate of the same build asks for OpenSSL, it is there.
        let answer = wrong(r#""security_protocol": "ssl""#);
        assert!(answer.is_empty() || answer.contains("feature `ssl`"), "{answer}");
    }

    #[test]
    fn what_is_promised_stands_on_what_is_set() {
        let config = kafka(r#""commit_interval_ms": 0"#);
        let producer = producer(&config);
        assert_eq!(producer.get("enable.idempotence"), Some("true"));
        assert_eq!(producer.get("message.timeout.ms"), Some("5000"));
        let consumer = consumer(&config, "g");
        assert_eq!(consumer.get("session.timeout.ms"), Some("30000"));
        assert_eq!(consumer.get("max.poll.interval.ms"), Some("300000"));
        let short = MqConfig { ack_wait_ms: 1_000, ..MqConfig::default() };
        assert_eq!(session(&short), Duration::from_secs(6));
    }
}
