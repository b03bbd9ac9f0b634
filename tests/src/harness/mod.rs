//! The stores that the kit runs on: each case has a fresh one of its own.

pub mod batched;
pub mod etcd;
pub mod fake_etcd;
pub mod gray;
pub mod memory;
pub mod sabotaged;
pub mod sled;
pub mod sqlite;
pub mod third_party;
