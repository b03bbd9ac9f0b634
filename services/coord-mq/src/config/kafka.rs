//! What the engine `kafka` is configured with.

use std::collections::BTreeMap;
use std::fmt;
#[cfg(feature = "kafka")]
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::within;

/// Where Kafka is, how to be let in, and how topics are kept there.
///
/// What each field is stands in the table of the [crate's page](crate#configuration).
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KafkaConfig {
    /// Some of the brokers, `host:port`, with commas between; the others are learnt from them.
    /// Default: `127.0.0.1:9092`.
    pub brokers: String,
    /// What this program is called in the logs and the quotas of the brokers: at most 128 letters,
    /// digits, `.`, `-` and `_`. Default: `coord-mq`.
    pub client_id: String,
    /// How the brokers are spoken to. Default: `plaintext`.
    pub security_protocol: SecurityProtocol,
    /// How the password is shown to the brokers. Default: `PLAIN`.
    pub sasl_mechanism: SaslMechanism,
    /// Who we are, for the protocols of SASL. Default: nobody.
    pub user: String,
    /// The password of the user. Default: none.
    pub password: SecretString,
    /// A file of the certificates, as PEM, that brokers are trusted by, instead of those of the
    /// system. Default: none.
    pub ca_file: String,
    /// A file of the certificate, as PEM, by which the brokers know us. Default: none.
    pub certificate_file: String,
    /// A file of the key of that certificate, as PEM. Default: none.
    pub key_file: String,
    /// The password of that key. Default: none.
    pub key_password: SecretString,
    /// How many brokers keep each topic, at most 100, or 0 for what the brokers have as their
    /// default; of topics that are made from now on. Default: 0.
    pub replicas: u16,
    /// How long a topic keeps a message, in hours, 1 to 87,600; of topics that are made from now
    /// on. Default: 168, a week.
    pub retention_hours: u64,
    /// How long the verdict on a message that was handled may wait to be stored together with
    /// others, in milliseconds, at most 60,000; none does where it is 0. What waits is handled
    /// again when the process dies. Default: 100.
    pub commit_interval_ms: u64,
    /// Other properties of librdkafka, by their names there. Those that this crate sets, and those
    /// that hold secrets, are refused. Default: none.
    pub properties: BTreeMap<String, String>,
}

/// How brokers are spoken to: Kafka's `security.protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SecurityProtocol {
    /// Neither TLS nor passwords.
    Plaintext,
    /// TLS.
    Ssl,
    /// Passwords, without TLS.
    SaslPlaintext,
    /// Passwords and TLS.
    SaslSsl,
}

/// How a password is shown to a broker: Kafka's `sasl.mechanism`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum SaslMechanism {
    /// As it is.
    #[serde(rename = "PLAIN")]
    Plain,
    /// By a proof that it is known, with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// By a proof that it is known, with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

/// What this crate sets itself, so that its promises hold.
const OWN: &[&str] = &[
    "acks",
    "api.version.request",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "log.queue",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.poll.interval.ms",
    "message.max.bytes",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "plugin.library.paths",
    "request.required.acks",
    "retries",
    "security.protocol",
    "session.timeout.ms",
    "statistics.interval.ms",
    "transactional.id",
];

impl SecurityProtocol {
    /// As Kafka calls it.
    #[cfg(feature = "kafka")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            SecurityProtocol::Plaintext => "plaintext",
            SecurityProtocol::Ssl => "ssl",
            SecurityProtocol::SaslPlaintext => "sasl_plaintext",
            SecurityProtocol::SaslSsl => "sasl_ssl",
        }
    }

    /// Whether it is TLS.
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl)
    }

    /// Whether it asks for a password.
    pub(crate) fn is_sasl(self) -> bool {
        matches!(self, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl)
    }
}

impl SaslMechanism {
    /// As Kafka calls it.
    #[cfg(feature = "kafka")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        KafkaConfig {
            brokers: "127.0.0.1:9092".to_owned(),
            client_id: "coord-mq".to_owned(),
            security_protocol: SecurityProtocol::Plaintext,
            sasl_mechanism: SaslMechanism::Plain,
            user: String::new(),
            password: SecretString::default(),
            ca_file: String::new(),
            certificate_file: String::new(),
            key_file: String::new(),
            key_password: SecretString::default(),
            replicas: 0,
            retention_hours: 168,
            commit_interval_ms: 100,
            properties: BTreeMap::new(),
        }
    }
}

impl KafkaConfig {
    /// As [`MqConfig::check`](super::MqConfig::check).
    pub(super) fn check(&self) -> Result<(), String> {
        for broker in self.brokers.split(',').map(str::trim) {
            let (host, port) = broker.rsplit_once(':').unwrap_or_default();
            // It is not shown: what is wrong with it may be that a password is in it.
            if host.is_empty() || host.contains(['/', '@']) || port.parse::<u16>().is_err() {
                return Err("kafka.brokers: it must be host:port, with commas between".to_owned());
            }
        }
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !(1..=128).contains(&self.client_id.len()) || !self.client_id.bytes().all(is_word) {
            return Err("kafka.client_id: A-Z, a-z, 0-9, ., - and _, in at most 128 bytes".to_owned());
        }
        self.check_security()?;
        within("kafka.replicas", self.replicas.into(), 0, 100)?;
        within("kafka.retention_hours", self.retention_hours, 1, 87_600)?;
        within("kafka.commit_interval_ms", self.commit_interval_ms, 0, 60_000)?;
        self.properties.keys().try_for_each(|name| check_property(name))
    }

    fn check_security(&self) -> Result<(), String> {
        let protocol = self.security_protocol;
        let refuse = |field: &str, why: &str| Err(format!("kafka.{field}: {why}"));
        let has = |secret: &SecretString| !secret.expose_secret().is_empty();
        if protocol.is_sasl() {
            if self.user.is_empty() {
                return refuse("user", "kafka.security_protocol asks for one");
            }
            if !has(&self.password) {
                return refuse("password", "there is a user without one");
            }
        } else if !self.user.is_empty() || has(&self.password) {
            let field = if self.user.is_empty() { "password" } else { "user" };
            return refuse(field, "kafka.security_protocol has none; it is to be sasl_ssl or sasl_plaintext");
        }
        let files = [
            ("ca_file", &self.ca_file),
            ("certificate_file", &self.certificate_file),
            ("key_file", &self.key_file),
        ];
        if let Some((field, _)) = files.iter().find(|(_, file)| !protocol.is_tls() && !file.is_empty()) {
            return refuse(field, "kafka.security_protocol has none; it is to be ssl or sasl_ssl");
        }
        if self.certificate_file.is_empty() != self.key_file.is_empty() {
            let field = if self.key_file.is_empty() { "key_file" } else { "certificate_file" };
            return refuse(field, "a certificate and its key come together");
        }
        if has(&self.key_password) && self.key_file.is_empty() {
            return refuse("key_password", "there is no kafka.key_file");
        }
        Ok(())
    }

    #[cfg(feature = "kafka")]
    pub(crate) fn commit_interval(&self) -> Duration {
        Duration::from_millis(self.commit_interval_ms)
    }

    /// Whether the client of the one serves as that of the other.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        // Everything that there is: a field that is added later does not compile without its place
        // here.
        let plain = |of: &Self| {
            let KafkaConfig {
                brokers,
                client_id,
                security_protocol,
                sasl_mechanism,
                user,
                password,
                ca_file,
                certificate_file,
                key_file,
                key_password,
                replicas,
                retention_hours,
                commit_interval_ms,
                properties,
            } = of.clone();
            let secrets = [password, key_password].map(|secret| secret.expose_secret().to_owned());
            let names = [brokers, client_id, user, ca_file, certificate_file, key_file];
            let numbers = (replicas, retention_hours, commit_interval_ms);
            ((security_protocol, sasl_mechanism), secrets, names, numbers, properties)
        };
        plain(self) == plain(other)
    }
}

/// Whether a property of librdkafka may be set by its name.
fn check_property(name: &str) -> Result<(), String> {
    let has_field = match name {
        "sasl.mechanism" | "sasl.mechanisms" => Some("sasl_mechanism"),
        "sasl.username" => Some("user"),
        "sasl.password" => Some("password"),
        "ssl.ca.location" | "ssl.ca.pem" => Some("ca_file"),
        "ssl.certificate.location" | "ssl.certificate.pem" => Some("certificate_file"),
        "ssl.key.location" | "ssl.key.pem" => Some("key_file"),
        "ssl.key.password" => Some("key_password"),
        _ => None,
    };
    if let Some(field) = has_field {
        return Err(format!("kafka.properties: `{name}` has a field of its own, kafka.{field}"));
    }
    let is_secret = ["sasl.", "password", "secret", ".pem"].iter().any(|part| name.contains(part));
    if OWN.contains(&name) || is_secret {
        return Err(format!("kafka.properties: `{name}` cannot be set here"));
    }
    Ok(())
}

impl fmt::Debug for KafkaConfig {
    /// Without the values of properties, which may be anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("client_id", &self.client_id)
            .field("security_protocol", &self.security_protocol)
            .field("user", &self.user)
            .field("replicas", &self.replicas)
            .field("retention_hours", &self.retention_hours)
            .field("commit_interval_ms", &self.commit_interval_ms)
            .field("properties", &self.properties.keys())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> KafkaConfig {
        serde_json::from_str(&format!("{{{fields}}}")).unwrap()
    }

    fn wrong(fields: &str) -> String {
        read(fields).check().err().unwrap_or_default()
    }

    #[test]
    fn each_field_is_looked_at() {
        assert_eq!(wrong(""), "");
        assert_eq!(wrong(r#""brokers": "127.0.0.1:9092, [::1]:9092,localhost:9093""#), "");
        for brokers in ["", "localhost", "localhost:", ":9092", "kafka://localhost:9092", "a:b@c:1"] {
            let error = wrong(&format!(r#""brokers": "{brokers}""#));
            assert!(error.contains("kafka.brokers"), "{brokers}: {error}");
        }
        for (fields, field) in [
            (r#""client_id": """#, "kafka.client_id"),
            (r#""client_id": "a b""#, "kafka.client_id"),
            (r#""replicas": 101"#, "kafka.replicas"),
            (r#""retention_hours": 0"#, "kafka.retention_hours"),
            (r#""commit_interval_ms": 60001"#, "kafka.commit_interval_ms"),
        ] {
            assert!(wrong(fields).contains(field), "{fields}: {}", wrong(fields));
        }
    }

    #[test]
    fn security_is_whole_or_refused() {
        let sasl = r#""security_protocol": "sasl_ssl", "sasl_mechanism": "SCRAM-SHA-512""#;
        assert_eq!(wrong(&format!(r#"{sasl}, "user": "ann", "password": "hunter2""#)), "");
        let tls = r#""security_protocol": "ssl", "ca_file": "/ca""#;
        assert_eq!(wrong(&format!(r#"{tls}, "certificate_file": "/c", "key_file": "/k""#)), "");
        for (fields, field) in [
            (sasl.to_owned(), "kafka.user"),
            (format!(r#"{sasl}, "user": "ann""#), "kafka.password"),
            (r#""user": "ann", "password": "hunter2""#.to_owned(), "kafka.user"),
            (r#""password": "hunter2""#.to_owned(), "kafka.password"),
            (r#""ca_file": "/ca""#.to_owned(), "kafka.ca_file"),
            (format!(r#"{tls}, "certificate_file": "/c""#), "kafka.key_file"),
            (format!(r#"{tls}, "key_file": "/k""#), "kafka.certificate_file"),
            (format!(r#"{tls}, "key_password": "hunter2""#), "kafka.key_password"),
        ] {
            let error = wrong(&fields);
            assert!(error.contains(field) && !error.contains("hunter2"), "{fields}: {error}");
        }
    }

    #[test]
    fn properties_are_neither_ours_nor_secret() {
        assert_eq!(wrong(r#""properties": {"linger.ms": "5", "compression.codec": "lz4"}"#), "");
        for (name, why) in [
            ("sasl.password", "kafka.password"),
            ("ssl.key.pem", "kafka.key_file"),
            ("sasl.oauthbearer.client.secret", "cannot be set"),
            ("ssl.keystore.password", "cannot be set"),
            ("enable.auto.commit", "cannot be set"),
            ("group.id", "cannot be set"),
        ] {
            let error = wrong(&format!(r#""properties": {{"{name}": "hunter2"}}"#));
            assert!(error.contains(name) && error.contains(why) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn secrets_and_properties_are_not_shown() {
        let config = read(
            r#""user": "ann", "password": "hunter2", "key_password": "hunter3", "properties": {"x": "hunter4"}"#,
        );
        assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
    }

    #[test]
    fn whatever_is_changed_needs_another_client() {
        assert!(read(r#""password": "a""#).is_same(&read(r#""password": "a""#)));
        for fields in [r#""password": "b""#, r#""brokers": "b:1""#, r#""properties": {"linger.ms": "1"}"#] {
            assert!(!read(r#""password": "a""#).is_same(&read(fields)), "{fields}");
        }
    }
}
