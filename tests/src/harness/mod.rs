//! The stores that the kit runs on: each case has a fresh one of its own.

pub mod etcd;
pub mod memory;
pub mod sled;
pub mod third_party;
