//! Servers of the real world for tests: found where the project's scripts unpacked them, started on
//! free ports of the loopback interface with directories of their own, gone when the test is.
//!
//! - [`chromium`]: a browser without a window.
//! - [`etcd`]: one server or three, with networks between them that can be cut.
//! - [`nats`]: nats-server with JetStream.
//! - [`postgres`]: a PostgreSQL server.
//! - [`process`]: one process that ends with its owner, can be killed, and stood still.
//! - [`program`]: where a program is.
//! - [`redis`]: a Redis.
//!
//! What goes wrong in here fails the test that asked for the server, so it panics, with the end of
//! the server's log.
#![allow(clippy::expect_used, clippy::panic, reason = "a test without its server has failed")]

pub mod chromium;
pub mod etcd;
pub mod nats;
pub mod postgres;
pub mod process;
pub mod program;
pub mod redis;

use std::net::TcpListener;

/// Ports of the loopback interface that nobody listens at. Somebody else may take one before it is
/// used, so that a server that finds it taken has to be started anew with another one.
///
/// # Errors
///
/// When there is none.
pub fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    // All are held until the last is found, or one would be found twice.
    let listeners: Result<Vec<_>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let listeners = listeners.map_err(|error| format!("there is no free port: {error}"))?;
    let ports: Result<Vec<_>, _> =
        listeners.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect();
    ports.map_err(|error| format!("a port has no number: {error}"))
}
