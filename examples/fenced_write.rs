//! Writes of a holder only: `cargo run --example fenced_write`.
//!
//! A worker that was suspended for too long goes on as if it still held its lock. What it writes
//! under the lock's fence is refused by the store itself, and the successor's document stays.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use coord::prelude::*;
use coord::{ErrorKind, Source, WriteOptions};

const TTL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> coord::Result<()> {
    let source = Source::open("memory://").await?;
    let (first, second) = (source.client().await?, source.client().await?);

    let guard = first.lock().acquire("report", TTL).await?;
    let fence = guard.fence();
    let fenced = || WriteOptions::default().with_fence(fence.clone());
    first.config().set_with("report/status", "begun by the first", fenced()).await?;

    // It loses the lock, and another one takes over.
    drop(guard);
    let successor = second.lock().acquire("report", TTL).await?;
    let fenced_by_successor = WriteOptions::default().with_fence(successor.fence());
    second.config().set_with("report/status", "begun by the second", fenced_by_successor).await?;

    let late = first.config().set_with("report/status", "done by the first", fenced()).await;
    println!("the first is too late: {}", late.is_err_and(|error| error.kind() == ErrorKind::LeaseLost));
    println!("it says: {:?}", first.config().get::<String>("report/status").await?);
    successor.unlock().await
}
