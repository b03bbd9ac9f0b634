//! Done once, however often it is asked for: `cargo run --example once`.
//!
//! An order arrives three times, at three instances, as messages do that are delivered at least
//! once. One of them charges for it, and all have the receipt.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows what it does, and ends where a task of its own panicked"
)]

use std::time::Duration;

use coord::{Execution, OnceOptions, Source};

#[tokio::main]
async fn main() -> coord::Result<()> {
    let source = Source::open("memory://").await?;
    let mut deliveries = Vec::new();
    for delivery in 1..=3 {
        let once = source.client().await?.once();
        deliveries.push(tokio::spawn(async move {
            // Whoever asks for another amount under this key is refused.
            let options = OnceOptions::default().with_fingerprint("42 EUR");
            let charge = async |execution: &Execution| {
                println!("delivery {delivery} charges, with token {}", execution.fencing_token());
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok("receipt 1".into())
            };
            once.run("charge/order-7", options, charge).await
        }));
    }
    for delivery in deliveries {
        match delivery.await.expect("a delivery panicked") {
            Ok(ran) if ran.first => println!("charged: {}", String::from_utf8_lossy(&ran.value)),
            Ok(ran) => println!("charged already: {}", String::from_utf8_lossy(&ran.value)),
            Err(error) => println!("not charged: {error}"),
        }
    }
    Ok(())
}
