//! Several locks at once, all or none: `cargo run --example several_locks`.
//!
//! Money is moved between accounts, in both directions at once. Each transfer holds both accounts,
//! and nobody waits in a circle, in whatever order they are named.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows what it does, and ends where a task of its own panicked"
)]

use std::time::Duration;

use coord::{LockOptions, Source};

#[tokio::main]
async fn main() -> coord::Result<()> {
    let source = Source::open("memory://").await?;
    let mut transfers = Vec::new();
    for (from, to) in [("anna", "ben"), ("ben", "anna"), ("ben", "cleo"), ("cleo", "anna")] {
        let coord = source.client().await?;
        transfers.push(tokio::spawn(async move {
            let accounts = [format!("accounts/{from}"), format!("accounts/{to}")];
            let both = coord.acquire_all(accounts, LockOptions::default()).await?;
            // The work is dropped at once when one of them is lost.
            let moved = coord::run_while_held(&both, async {
                println!("{from} to {to}, with token {}", both.fencing_token());
                tokio::time::sleep(Duration::from_millis(20)).await;
            });
            moved.await?;
            both.release().await
        }));
    }
    for transfer in transfers {
        transfer.await.expect("a transfer panicked")?;
    }
    Ok(())
}
