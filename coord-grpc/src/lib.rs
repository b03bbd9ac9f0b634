#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod call;
mod channel;
mod connection;
mod dial;
mod discovery;
mod draft;
mod endpoint;
mod error;
mod files;
mod meter;
mod options;
mod pool;
mod pump;
mod recorded;
mod registry;
mod resolver;
mod shared;
mod state;
mod wire;
mod worker;

#[cfg(feature = "tls")]
pub mod tls;

pub use channel::{Channel, EndpointSet, ResponseFuture};
pub use endpoint::Endpoint;
pub use options::{CallOptions, ChannelOptions, KeepAlive, Policy, Readiness, RetryOptions};
pub use registry::RegistryChannelExt;
pub use resolver::Resolver;
pub use state::{ChannelState, DiscoveryState, EndpointState, Phase, Skipped};
#[cfg(feature = "tls")]
pub use tls::ChannelTls;
