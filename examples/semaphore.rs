//! So many at once and no more, over all processes: `cargo run --example semaphore`.
//!
//! Eight exports want one or two of three permits each. Nobody is overtaken, and the permits of one
//! that dies come back with its lease.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows what it does, and ends where a task of its own panicked"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coord::{PermitLimit, PermitOptions, Source};

#[tokio::main]
async fn main() -> coord::Result<()> {
    let source = Source::open("memory://").await?;
    let (busy, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut exports = Vec::new();
    for n in 0..8 {
        let exports_at_once = source.client().await?.semaphore("exports");
        let (busy, most) = (Arc::clone(&busy), Arc::clone(&most));
        exports.push(tokio::spawn(async move {
            let weight = 1 + n % 2;
            // Three in all, unless somebody has said another number before.
            let permit = exports_at_once.acquire(weight, PermitOptions::new(PermitLimit::First(3))).await?;
            most.fetch_max(busy.fetch_add(weight, Ordering::SeqCst) + weight, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            busy.fetch_sub(weight, Ordering::SeqCst);
            permit.release().await
        }));
    }
    for export in exports {
        export.await.expect("an export panicked")?;
    }
    println!("at most {} permits were held at once", most.load(Ordering::SeqCst));
    Ok(())
}
