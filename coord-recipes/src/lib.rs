#![doc = include_str!("../README.md")]

mod allocator;
mod backoff;
mod config;
pub mod config_manager;
mod core;
mod flight;
mod gather;
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

pub use coord_home::Home;
pub use provider::{ProviderOptions, StoreProvider};
