//! Real etcd servers for tests: one node or three, of a version of your choice, on free ports of
//! the loopback interface, gone when the test is.
//!
//! - [`Binary`] finds the program, or says what to do: a test without a server fails, it never
//!   passes.
//! - [`Server`] is one process with a data directory of its own. It ends with its owner, also where
//!   that panics or is killed.
//! - [`Cluster`] is one server, or three that know each other and, if asked to, can be cut off from
//!   each other. In network namespaces ([`in_network_of_its_own`]) its members are unplugged like
//!   hosts.
//! - [`GrpcProxy`] is etcd's own proxy.
//! - [`Proxy`] is the way to a server, which can be disturbed.
mod binary;
mod cluster;
mod grpc_proxy;
mod network;
mod peers;
mod proxy;
mod server;

pub use binary::{Binary, Series, etcdctl};
pub use cluster::{Cluster, CutOff, Newcomer};
pub use grpc_proxy::GrpcProxy;
pub use network::in_network_of_its_own;
pub use proxy::{Proxy, Way};
pub use server::Server;

pub use crate::process::Signal;
