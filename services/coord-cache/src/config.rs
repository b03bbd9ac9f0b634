//! What a cache is configured with.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

#[cfg(feature = "redis")]
use crate::address::connection_info;

/// The longest time to live: 366 days.
pub const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3_600);

/// The largest value that may be allowed: 64 MiB.
pub const MAX_VALUE_BYTES: u64 = 64 * 1024 * 1024;

/// The longest key, without the prefix, and the longest prefix, in bytes.
pub const MAX_KEY_BYTES: usize = 1_024;

/// The longest time that a call or a load may be given.
const MAX_TIMEOUT_MS: u64 = 600_000;

/// The longest time to connect: to connect and to ask have 10 s together.
const MAX_CONNECT_MS: u64 = 5_000;

/// The least and the greatest capacity of the embedded engine, in bytes.
const CAPACITY: std::ops::RangeInclusive<u64> = 1_024..=(1 << 46);

/// Where the entries of a cache are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// In this process, each process for itself.
    Memory,
    /// On a Redis, shared by all who use it.
    Redis,
}

/// What a cache is configured with: the document of the component, `{env}/{service}/cache` as a
/// rule. Every field may be left out.
///
/// | field | unit, bounds | default | a change |
/// |---|---|---|---|
/// | `engine` | `memory`, `redis` | `memory` | restart |
/// | `prefix` | of keys on Redis, at most 1,024 bytes | where the document lies, and `:` | restart |
/// | `timeout_ms` | ms, 1 to 600,000 | 250 | in place |
/// | `default_ttl_ms` | ms, 1 to 366 days | 600,000 (10 min) | in place |
/// | `load_timeout_ms` | ms, 1 to 600,000 | 30,000 | in place |
/// | `max_value_bytes` | bytes, 1 to 64 MiB | 1,048,576 | in place |
/// | `memory.capacity_bytes` | bytes, 1,024 to 64 TiB | 67,108,864 (64 MiB) | rebuilt and swapped |
/// | `redis.url` | `redis://[user[:password]@]host[:port][/db]`, `unix://path` | `redis://127.0.0.1` | rebuilt and swapped |
/// | `redis.username`, `redis.password` | before those in the URL | none | rebuilt and swapped |
/// | `redis.connect_timeout_ms` | ms, 1 to 5,000 | 1,000 | in place |
///
/// An engine that no document has chosen yet is no choice: the first document that names one is
/// brought into use without a restart, so that a service that started while its config centre was
/// away ([`OnUnreachable::Defaults`](coord_service::OnUnreachable::Defaults)) gets its Redis.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CacheConfig {
    /// Where the entries are. `None` is [`Engine::Memory`], until one is chosen.
    pub engine: Option<Engine>,
    /// What the keys on Redis begin with. `None` is where the document lies, and a colon:
    /// `dev/gateway/cache:`.
    pub prefix: Option<String>,
    /// How long a call may take, in milliseconds (K7).
    pub timeout_ms: u64,
    /// How long an entry lives that is set without a time of its own, in milliseconds.
    pub default_ttl_ms: u64,
    /// How long a load may take, and how long others wait for it, in milliseconds.
    pub load_timeout_ms: u64,
    /// The largest value, encoded, in bytes.
    pub max_value_bytes: u64,
    /// What concerns the embedded engine.
    pub memory: MemoryConfig,
    /// What concerns Redis.
    pub redis: RedisConfig,
}

/// What concerns the embedded engine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// How much is kept: keys, values, and [`ENTRY_BYTES`](crate::ENTRY_BYTES) for each entry.
    pub capacity_bytes: u64,
}

/// What concerns Redis.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RedisConfig {
    /// Where it is. It may hold a password, so it is never shown.
    pub url: SecretString,
    /// Who we are, instead of whom the URL says.
    pub username: Option<String>,
    /// Our password, instead of that in the URL.
    pub password: Option<SecretString>,
    /// How long it may take to connect, in milliseconds.
    pub connect_timeout_ms: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        CacheConfig {
            engine: None,
            prefix: None,
            timeout_ms: 250,
            default_ttl_ms: 600_000,
            load_timeout_ms: 30_000,
            max_value_bytes: 1_048_576,
            memory: MemoryConfig::default(),
            redis: RedisConfig::default(),
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        MemoryConfig { capacity_bytes: 64 * 1024 * 1024 }
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        RedisConfig {
            url: SecretString::from("redis://127.0.0.1"),
            username: None,
            password: None,
            connect_timeout_ms: 1_000,
        }
    }
}

impl PartialEq for RedisConfig {
    /// Whether both name the same server, the same user and the same password.
    fn eq(&self, other: &Self) -> bool {
        let password = |config: &Self| config.password.as_ref().map(|it| it.expose_secret().to_owned());
        self.url.expose_secret() == other.url.expose_secret()
            && self.username == other.username
            && password(self) == password(other)
    }
}

impl CacheConfig {
    /// The engine that is used.
    pub fn engine(&self) -> Engine {
        self.engine.unwrap_or(Engine::Memory)
    }

    /// Whether every field has a value that it can have.
    ///
    /// # Errors
    ///
    /// The field, and what it must be. No secret is in it.
    pub fn check(&self) -> Result<(), String> {
        let most_ttl = u64::try_from(MAX_TTL.as_millis()).unwrap_or(u64::MAX);
        for (field, value, most) in [
            ("timeout_ms", self.timeout_ms, MAX_TIMEOUT_MS),
            ("load_timeout_ms", self.load_timeout_ms, MAX_TIMEOUT_MS),
            ("redis.connect_timeout_ms", self.redis.connect_timeout_ms, MAX_CONNECT_MS),
            ("default_ttl_ms", self.default_ttl_ms, most_ttl),
            ("max_value_bytes", self.max_value_bytes, MAX_VALUE_BYTES),
        ] {
            if value == 0 || value > most {
                return Err(format!("{field}: it must be 1 to {most}, and is {value}"));
            }
        }
        let capacity = self.memory.capacity_bytes;
        if !CAPACITY.contains(&capacity) {
            let (least, most) = (CAPACITY.start(), CAPACITY.end());
            return Err(format!("memory.capacity_bytes: it must be {least} to {most}, and is {capacity}"));
        }
        if self.prefix.as_ref().is_some_and(|prefix| prefix.len() > MAX_KEY_BYTES) {
            return Err(format!("prefix: it must be at most {MAX_KEY_BYTES} bytes long"));
        }
        match self.engine() {
            Engine::Memory => Ok(()),
            #[cfg(feature = "redis")]
            Engine::Redis => {
                let RedisConfig { url, username, password, .. } = &self.redis;
                connection_info(url, username.as_deref(), password.as_ref()).map(drop)
            }
            #[cfg(not(feature = "redis"))]
            Engine::Redis => Err("engine: this program was built without the feature `redis`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> CacheConfig {
        serde_json::from_str(text).unwrap()
    }

    fn fault(text: &str) -> String {
        parse(text).check().unwrap_err()
    }

    #[test]
    fn nothing_is_a_document() {
        let config = parse("{}");
        assert_eq!((config.engine(), config.memory.capacity_bytes), (Engine::Memory, 64 << 20));
        config.check().unwrap();
        parse(r#"{"engine": "memory", "memory": {"capacity_bytes": 1024}}"#).check().unwrap();
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (text, field) in [
            (r#"{"timeout_ms": 0}"#, "timeout_ms"),
            (r#"{"load_timeout_ms": 600001}"#, "load_timeout_ms"),
            (r#"{"default_ttl_ms": 31622400001}"#, "default_ttl_ms"),
            (r#"{"max_value_bytes": 67108865}"#, "max_value_bytes"),
            (r#"{"memory": {"capacity_bytes": 1}}"#, "memory.capacity_bytes"),
            (r#"{"redis": {"connect_timeout_ms": 5001}}"#, "redis.connect_timeout_ms"),
        ] {
            assert!(fault(text).starts_with(field), "{}", fault(text));
        }
        assert!(fault(&format!(r#"{{"prefix": "{}"}}"#, "x".repeat(1_025))).starts_with("prefix"));
        for text in [r#"{"engin": "redis"}"#, r#"{"redis": {"uri": ""}}"#, r#"{"engine": "memcached"}"#] {
            assert!(serde_json::from_str::<CacheConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let config = parse(r#"{"redis": {"url": "redis://u:hunter2@h", "password": "hunter3"}}"#);
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter"), "{shown}");
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_wrong_url_is_refused_without_being_shown() {
        for url in ["hunter2", "http://u:hunter2@h", "redis://u:hunter2@h:x", "rediss://u:hunter2@h", ""] {
            let fault = fault(&format!(r#"{{"engine": "redis", "redis": {{"url": "{url}"}}}}"#));
            assert!(fault.starts_with("redis.url") && !fault.contains("hunter2"), "{fault}");
        }
        parse(r#"{"engine": "redis", "redis": {"url": "redis://u:p@127.0.0.1:6379/3"}}"#).check().unwrap();
        parse(r#"{"engine": "redis"}"#).check().unwrap();
    }

    #[cfg(not(feature = "redis"))]
    #[test]
    fn without_redis_the_engine_is_refused() {
        assert!(fault(r#"{"engine": "redis"}"#).starts_with("engine"));
    }
}
