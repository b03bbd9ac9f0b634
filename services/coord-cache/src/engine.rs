//! The client of a cache, which one its configuration says, and how it is changed.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use coord::Result;
use coord_service::live::{Change, Reload};

use crate::config::{CacheConfig, Engine};
use crate::memory::{Memory, MemoryEntry};
use crate::meter::Meter;
#[cfg(feature = "redis")]
use crate::remote::Redis;
use crate::tuning::Tuning;

/// A client of a cache.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) engine: Inner,
    pub(crate) tuning: Arc<Tuning>,
}

#[derive(Debug)]
pub(crate) enum Inner {
    Memory(Arc<Memory>),
    #[cfg(feature = "redis")]
    Redis(Redis),
}

impl Client {
    pub(crate) async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<()> {
        match &self.engine {
            Inner::Memory(memory) => {
                memory.set(key, MemoryEntry::new(value, ttl));
                Ok(())
            }
            #[cfg(feature = "redis")]
            Inner::Redis(redis) => redis.set(key, &value, ttl).await,
        }
    }

    pub(crate) async fn del(&self, key: &str) -> Result<bool> {
        match &self.engine {
            Inner::Memory(memory) => Ok(memory.del(key)),
            #[cfg(feature = "redis")]
            Inner::Redis(redis) => redis.del(key).await,
        }
    }
}

/// The memory that is read, where the engine is memory: a shorter way to it than by the client, for
/// a read costs little more than that way. What is written to a memory is written to the one that
/// takes over from it, so that the newest one can be read before it is the client.
pub(crate) type Front = ArcSwapOption<Memory>;

/// Makes clients.
pub(crate) struct Engines {
    /// What keys on Redis begin with where the document does not say it.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "memory has no prefix"))]
    prefix: String,
    /// What calls go by while there is no client.
    absent: Arc<Tuning>,
    /// The memory in use, whose entries the next one gets.
    front: Arc<Front>,
    meter: Arc<Meter>,
}

impl Engines {
    pub(crate) fn new(prefix: String, absent: Arc<Tuning>, front: Arc<Front>, meter: Arc<Meter>) -> Self {
        Engines { prefix, absent, front, meter }
    }
}

#[async_trait]
impl Reload for Engines {
    type Config = CacheConfig;
    type Client = Client;

    fn plan(&self, old: &CacheConfig, new: &CacheConfig) -> Change {
        plan(old, new)
    }

    async fn build(&self, config: &CacheConfig) -> Result<Client> {
        self.absent.set(config);
        let tuning = Arc::new(Tuning::new(config));
        let engine = match config.engine() {
            #[cfg(feature = "redis")]
            Engine::Redis => {
                let prefix = config.prefix.clone().unwrap_or_else(|| self.prefix.clone());
                let redis = Redis::open(&config.redis, prefix, Arc::clone(&tuning)).await?;
                // From now on, what is read is the client's: still the memory, if it was one.
                self.front.store(None);
                Inner::Redis(redis)
            }
            // Without the feature, no other one passes the check.
            _ => {
                let memory = Arc::new(Memory::new(config.memory.capacity_bytes));
                if let Some(before) = self.front.load_full() {
                    let entries = before.hand_over(&memory).await;
                    tracing::info!(entries, "a cache of another capacity takes over");
                }
                self.front.store(Some(Arc::clone(&memory)));
                Inner::Memory(memory)
            }
        };
        Ok(Client { engine, tuning })
    }

    async fn probe(&self, client: &Client) -> Result<()> {
        match &client.engine {
            Inner::Memory(memory) => {
                let native = memory.native();
                // What is over goes, also where nobody calls.
                native.run_pending_tasks();
                self.meter.size(native.entry_count(), native.weighted_size());
                Ok(())
            }
            #[cfg(feature = "redis")]
            Inner::Redis(redis) => redis.probe().await,
        }
    }

    fn apply(&self, client: &Client, config: &CacheConfig) -> Result<()> {
        client.tuning.set(config);
        Ok(())
    }

    async fn retire(&self, client: &Client) {
        match &client.engine {
            // It goes with the last who uses it.
            Inner::Memory(memory) => {
                self.front.compare_and_swap(memory, None);
            }
            #[cfg(feature = "redis")]
            Inner::Redis(redis) => redis.close(),
        }
    }
}

fn plan(old: &CacheConfig, new: &CacheConfig) -> Change {
    if old.engine() != new.engine() {
        // One that nobody chose is no engine that has to stay.
        return if old.engine.is_none() { Change::Rebuild } else { Change::Restart("engine") };
    }
    let rebuilt = match new.engine() {
        Engine::Memory => old.memory != new.memory,
        Engine::Redis if old.prefix != new.prefix => return Change::Restart("prefix"),
        Engine::Redis => old.redis != new.redis,
    };
    // Once an engine was chosen, it stays.
    let same = old.engine == new.engine && Tuning::new(old).numbers() == Tuning::new(new).numbers();
    match (rebuilt, same) {
        (true, _) => Change::Rebuild,
        (false, true) => Change::Same,
        (false, false) => Change::InPlace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(old: &str, new: &str) -> Change {
        let parse = |text| serde_json::from_str::<CacheConfig>(text).unwrap();
        plan(&parse(old), &parse(new))
    }

    #[test]
    fn each_field_says_what_its_change_takes() {
        let (memory, redis) = (r#"{"engine": "memory"}"#, r#"{"engine": "redis"}"#);
        for (old, new, change) in [
            ("{}", "{}", Change::Same),
            ("{}", memory, Change::InPlace),
            ("{}", r#"{"timeout_ms": 3}"#, Change::InPlace),
            ("{}", r#"{"default_ttl_ms": 3, "redis": {"connect_timeout_ms": 4}}"#, Change::InPlace),
            ("{}", r#"{"timeout_ms": 3, "memory": {"capacity_bytes": 4096}}"#, Change::Rebuild),
            // What the other engine would go by is nothing to this one.
            ("{}", r#"{"prefix": "p", "redis": {"url": "redis://127.0.0.2"}}"#, Change::Same),
            (redis, r#"{"engine": "redis", "memory": {"capacity_bytes": 4096}}"#, Change::Same),
            (redis, r#"{"engine": "redis", "redis": {"url": "redis://127.0.0.2"}}"#, Change::Rebuild),
            (redis, r#"{"engine": "redis", "redis": {"password": "p"}}"#, Change::Rebuild),
            (redis, r#"{"engine": "redis", "redis": {"username": "u"}}"#, Change::Rebuild),
            (redis, r#"{"engine": "redis", "prefix": "p"}"#, Change::Restart("prefix")),
            (redis, memory, Change::Restart("engine")),
            (redis, "{}", Change::Restart("engine")),
            (memory, redis, Change::Restart("engine")),
            // The first one that is chosen.
            ("{}", redis, Change::Rebuild),
            ("{}", r#"{"engine": "redis", "prefix": "p"}"#, Change::Rebuild),
        ] {
            assert_eq!(planned(old, new), change, "{old} to {new}");
        }
    }
}
