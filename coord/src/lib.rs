#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(any(feature = "memory", feature = "etcd")))]
compile_error!("coordkit needs a store: switch on one of its features `memory`, `sled` and `etcd`");

#[cfg(feature = "etcd")]
mod etcd_url;
mod name;
pub mod operations;
mod source;
mod url;

pub use coord_api::*;
#[cfg(feature = "etcd")]
pub use coord_etcd as etcd;
#[cfg(feature = "grpc")]
pub use coord_grpc as grpc;
#[cfg(feature = "memory")]
pub use coord_memory as memory;
pub use coord_recipes as recipes;
pub use coord_recipes::config_manager::{self, ConfigManager};
pub use coord_recipes::{InstanceIdKeeper, when_lost};
pub use source::{Source, open, open_from_env};
