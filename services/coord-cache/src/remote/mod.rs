//! The engine `redis`: entries on a server that several processes share.

mod dial;
mod error;
mod exact;
mod link;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord::Result;
use redis::aio::MultiplexedConnection;

use crate::config::RedisConfig;
use crate::tuning::Tuning;

use dial::Dialer;
use link::{Effect, Link};

#[derive(Debug)]
pub(crate) struct Redis {
    link: Link,
    prefix: String,
    tuning: Arc<Tuning>,
}

impl Redis {
    pub(crate) async fn open(config: &RedisConfig, prefix: String, tuning: Arc<Tuning>) -> Result<Self> {
        let dialer = Dialer::new(config)?;
        let link = Link::open(dialer, Arc::clone(&tuning)).await?;
        Ok(Redis { link, prefix, tuning })
    }

    pub(crate) async fn probe(&self) -> Result<()> {
        self.link.probe(self.tuning.connect_timeout()).await
    }

    pub(crate) fn close(&self) {
        self.link.close();
    }

    /// The native connection. It waits for an answer as long as a call of ours does.
    pub(crate) fn native(&self) -> Result<MultiplexedConnection> {
        let mut connection = self.link.connection("cache.redis")?;
        connection.set_response_timeout(self.tuning.timeout());
        Ok(connection)
    }

    fn key(&self, key: &str) -> String {
        let mut whole = String::with_capacity(self.prefix.len() + key.len());
        whole.push_str(&self.prefix);
        whole.push_str(key);
        whole
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let mut command = redis::cmd("GET");
        command.arg(self.key(key));
        let within = self.tuning.timeout();
        let value: Option<Vec<u8>> = self.link.query("cache.get", &command, within, Effect::Reads).await?;
        Ok(value.map(Bytes::from))
    }

    pub(crate) async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<()> {
        let mut command = redis::cmd("SET");
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        command.arg(self.key(key)).arg(value).arg("PX").arg(ttl);
        self.link.query("cache.set", &command, self.tuning.timeout(), Effect::Writes).await
    }

    pub(crate) async fn del(&self, key: &str) -> Result<bool> {
        let mut command = redis::cmd("DEL");
        command.arg(self.key(key));
        self.link.query("cache.del", &command, self.tuning.timeout(), Effect::Writes).await
    }
}
