//! What a database is configured with: the document of its component.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// The most connections that a pool may have.
const MOST_CONNECTIONS: u32 = 10_000;

/// The longest that may be waited for a connection, so that a server that does not answer is found
/// out before a shutdown is over.
const LONGEST_ACQUIRE_MS: u64 = 30_000;

/// An hour. What takes longer is no call.
const LONGEST_MS: u64 = 3_600_000;

/// The configuration of a database. Every field has a default; an unknown one is refused.
///
/// ```
/// # use coord_db::DbConfig;
/// let config: DbConfig = serde_json::from_str(r#"{
///     "url": "postgres://im@127.0.0.1:5432/im?sslmode=verify-full",
///     "password": "correct horse battery staple",
///     "max_connections": 20
/// }"#).unwrap();
/// config.check().unwrap();
/// assert!(!format!("{config:?}").contains("horse"), "secrets are not shown");
/// ```
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DbConfig {
    /// Where the database is: `sqlite::memory:`, `sqlite:path/to/file`,
    /// `postgres://user@host:port/database` or `mysql://user@host:port/database`, with the
    /// parameters that sqlx takes. It may hold a password, so it is never shown. For SQLite the
    /// default is memory; the others have none.
    pub url: SecretString,
    /// The password, which counts before one in the URL. Default: none.
    pub password: Option<SecretString>,
    /// How many connections there are at most. Default: 10.
    pub max_connections: u32,
    /// How many connections are opened before the pool is used, and kept. Default: 1.
    pub min_connections: u32,
    /// How long a call waits for a connection, in milliseconds. Default: 3,000.
    pub acquire_timeout_ms: u64,
    /// How long each call of [`Db`](crate::Db) may take: to begin, the body of a transaction, to
    /// commit. In milliseconds. Default: 10,000.
    pub timeout_ms: u64,
    /// How long the server works on one statement before it gives up, in milliseconds; with SQLite,
    /// how long a statement waits for another connection's lock. Default: 5,000.
    pub statement_timeout_ms: u64,
    /// Statements that take longer are logged, without values, in milliseconds. Default: 500.
    pub slow_ms: u64,
    /// How long a connection may be idle before it is closed, in milliseconds. Default: 600,000.
    pub idle_timeout_ms: u64,
    /// How long a connection is used before another one takes its place, in milliseconds. Default:
    /// 1,800,000.
    pub max_lifetime_ms: u64,
}

impl Default for DbConfig {
    fn default() -> Self {
        DbConfig {
            url: SecretString::default(),
            password: None,
            max_connections: 10,
            min_connections: 1,
            acquire_timeout_ms: 3_000,
            timeout_ms: 10_000,
            statement_timeout_ms: 5_000,
            slow_ms: 500,
            idle_timeout_ms: 600_000,
            max_lifetime_ms: 1_800_000,
        }
    }
}

impl DbConfig {
    /// Whether each number is one that can be used. Whether the URL is one for the database that it
    /// is given to is seen by [`Db::open`](crate::Db::open).
    ///
    /// # Errors
    ///
    /// Which field is wrong, and what it may be.
    pub fn check(&self) -> Result<(), String> {
        let connections = 1..=MOST_CONNECTIONS;
        if !connections.contains(&self.max_connections) {
            return Err(format!(
                "max_connections is {}, and must be 1 to {MOST_CONNECTIONS}",
                self.max_connections
            ));
        }
        if self.min_connections > self.max_connections {
            return Err(format!(
                "min_connections is {}, and must not be more than max_connections, which is {}",
                self.min_connections, self.max_connections
            ));
        }
        let times = [
            ("acquire_timeout_ms", self.acquire_timeout_ms, LONGEST_ACQUIRE_MS),
            ("timeout_ms", self.timeout_ms, LONGEST_MS),
            ("statement_timeout_ms", self.statement_timeout_ms, LONGEST_MS),
            ("slow_ms", self.slow_ms, LONGEST_MS),
            ("idle_timeout_ms", self.idle_timeout_ms, 24 * LONGEST_MS),
            ("max_lifetime_ms", self.max_lifetime_ms, 24 * LONGEST_MS),
        ];
        for (field, value, most) in times {
            if !(1..=most).contains(&value) {
                return Err(format!("{field} is {value}, and must be 1 to {most}"));
            }
        }
        Ok(())
    }

    /// Whether a pool of `other` serves this configuration as well: all is equal but what can be
    /// told to a pool.
    pub(crate) fn has_pool_of(&self, other: &DbConfig) -> bool {
        let secrets = |config: &DbConfig| {
            let password = config.password.as_ref().map(|password| password.expose_secret().to_owned());
            (config.url.expose_secret().to_owned(), password)
        };
        let numbers = |config: &DbConfig| {
            (
                (config.max_connections, config.min_connections, config.acquire_timeout_ms),
                (config.statement_timeout_ms, config.slow_ms),
                (config.idle_timeout_ms, config.max_lifetime_ms),
            )
        };
        secrets(self) == secrets(other) && numbers(self) == numbers(other)
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        Duration::from_millis(self.acquire_timeout_ms)
    }

    pub(crate) fn statement_timeout(&self) -> Duration {
        Duration::from_millis(self.statement_timeout_ms)
    }

    pub(crate) fn slow(&self) -> Duration {
        Duration::from_millis(self.slow_ms)
    }
}

impl fmt::Debug for DbConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DbConfig")
            .field("url", &self.url)
            .field("password", &self.password)
            .field("max_connections", &self.max_connections)
            .field("min_connections", &self.min_connections)
            .field("acquire_timeout_ms", &self.acquire_timeout_ms)
            .field("timeout_ms", &self.timeout_ms)
            .field("statement_timeout_ms", &self.statement_timeout_ms)
            .field("slow_ms", &self.slow_ms)
            .field("idle_timeout_ms", &self.idle_timeout_ms)
            .field("max_lifetime_ms", &self.max_lifetime_ms)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn each_wrong_number_is_named_with_what_it_may_be() {
        let wrong = |change: fn(&mut DbConfig)| {
            let mut config = DbConfig::default();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert!(wrong(|c| c.max_connections = 0).starts_with("max_connections is 0"));
        assert!(wrong(|c| c.min_connections = 11).starts_with("min_connections is 11"));
        assert!(wrong(|c| c.acquire_timeout_ms = 30_001).contains("1 to 30000"));
        assert!(wrong(|c| c.timeout_ms = 0).starts_with("timeout_ms"));
        assert!(wrong(|c| c.slow_ms = u64::MAX).starts_with("slow_ms"));
        DbConfig::default().check().unwrap();
    }

    #[test]
    fn only_what_can_be_told_leaves_the_pool() {
        let config = DbConfig::default();
        assert!(config.has_pool_of(&DbConfig { timeout_ms: 7, ..config.clone() }));
        assert!(!config.has_pool_of(&DbConfig { password: Some("x".into()), ..config.clone() }));
        assert!(!config.has_pool_of(&DbConfig { slow_ms: 7, ..config.clone() }));
    }
}
