#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "redis")]
mod address;
mod cache;
mod component;
mod config;
mod engine;
#[cfg(feature = "redis")]
mod exact;
mod flight;
mod load;
mod memory;
mod meter;
#[cfg(feature = "redis")]
mod remote;
mod tuning;

#[cfg(feature = "redis")]
pub use cache::NativeRedis;
pub use cache::{Cache, NativeMoka};
pub use component::CacheComponent;
pub use config::{CacheConfig, Engine, MAX_KEY_BYTES, MAX_TTL, MAX_VALUE_BYTES, MemoryConfig, RedisConfig};
pub use memory::{ENTRY_BYTES, MemoryEntry, NativeMemory};

pub use moka;
#[cfg(feature = "redis")]
pub use redis;
