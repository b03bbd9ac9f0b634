#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backoff;
mod client;
mod error;
mod flight;
mod gather;
mod ground;
pub mod keys;
pub mod layers;
mod limit;
pub mod session;
mod sweep;
pub mod telemetry;
pub mod watch;

pub use backoff::backoff;
pub use client::Client;
pub use coord_home::Home;
pub use error::homeless;
pub use flight::SingleFlight;
pub use gather::gather;

pub use limit::Limit;
pub use sweep::SweptMap;
