#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod engine;
mod failure;
mod fake;
mod faults;
mod link;
mod options;
mod proto;
mod refusal;
mod server;

pub use failure::Failure;
pub use fake::FakeEtcd;
pub use faults::Faults;
pub use options::FakeEtcdOptions;
