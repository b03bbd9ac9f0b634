#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
mod backoff;
mod client;
mod error;
mod flight;
mod gather;
mod ground;
mod health;
pub mod keys;
pub mod layers;
mod limit;
mod losses;
mod owner;
mod retention;
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
pub use health::{ClientHealth, SessionHealth};
pub use limit::Limit;
pub use losses::LOSSES_KEPT;
pub use owner::{Owner, SessionOwner, time_of_day_ms};
pub use retention::check_retention;
pub use sweep::SweptMap;
pub use telemetry::LossRecord;
