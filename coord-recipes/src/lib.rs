#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod allocator;
mod backoff;
mod config;
pub mod config_manager;
mod core;
mod flight;
mod gather;
mod id_keeper;
mod keys;
pub mod layers;
mod limit;
mod lock;
mod provider;
mod registry;
mod session;
mod sweep;
mod telemetry;
mod watch;
pub mod when_lost;

pub use coord_home::Home;
pub use id_keeper::{InstanceIdKeeper, KeptId};
pub use provider::{ProviderOptions, StoreProvider};
