#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod config;
pub mod config_manager;
mod ids;
mod lock;
mod provider;
mod registry;
pub mod when_lost;

pub use coord_core::{Home, layers};
pub use ids::{InstanceIdKeeper, KeptId};
pub use provider::{ProviderOptions, StoreProvider};
