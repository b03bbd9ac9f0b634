#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod connection;
mod credentials;
mod dial;
mod error;
mod flight;
mod health;
mod identity;
mod kv;
mod lease;
mod members;
mod options;
mod pace;
mod provider;
mod resolver;
mod status;
mod store;
mod survey;
mod tls;
mod watch;

pub use coord_recipes::Home;
pub use credentials::Credentials;
pub use options::{Discovery, EtcdOptions};
pub use provider::EtcdProvider;
pub use resolver::Resolver;
pub use store::EtcdStore;
pub use tls::Tls;
