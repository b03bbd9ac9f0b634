#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

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
