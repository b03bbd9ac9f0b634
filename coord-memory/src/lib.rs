#![doc = include_str!("../README.md")]

mod client;
mod engine;
mod expiry;
mod journal;
mod provider;
mod shared;
mod storage;
mod store;
mod watch;
mod watchers;

pub use provider::MemoryProvider;
pub use store::MemoryStore;
