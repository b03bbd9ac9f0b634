#![doc = include_str!("../README.md")]

mod connection;
mod error;
mod health;
mod kv;
mod lease;
mod members;
mod options;
mod pace;
mod provider;
mod status;
mod store;
mod watch;

pub use options::{Credentials, EtcdOptions, Tls};
pub use provider::EtcdProvider;
pub use store::EtcdStore;
