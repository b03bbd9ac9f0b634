#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod classify;
mod client;
mod config;
mod db;
mod engine;
mod error;
mod held;
mod lent;
mod meter;
#[cfg(feature = "migrate")]
mod migrate;
mod transaction;

pub use config::DbConfig;
pub use db::{Connection, Db, LentConnection, LentTransaction, OpenDb, PoolRef};
pub use engine::Engine;
pub use error::DbError;
pub use lent::Lent;
pub use sqlx;
pub use transaction::Transaction;
