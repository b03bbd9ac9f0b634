//! Work that is handed out, each item to one of many: `cargo run --example work_queue`.
//!
//! Three instances send mails. One of the mails cannot be sent at first and comes again a second
//! later; one can never be sent and is put aside.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows what it does, and ends where a task of its own panicked"
)]

use std::time::Duration;

use coord::{ClaimOptions, Source, Wait};

#[tokio::main]
async fn main() -> coord::Result<()> {
    let source = Source::open("memory://").await?;
    let mails = source.client().await?.queue("mails");
    for to in ["ann", "busy", "ben", "nobody", "cat"] {
        mails.push(to).await?;
    }
    // Who has had nothing for two seconds goes home; an item is tried three times.
    let options = ClaimOptions::default().with_wait(Wait::For(Duration::from_secs(2))).with_max_deliveries(3);
    let mut instances = Vec::new();
    for instance in 0..3 {
        let mails = source.client().await?.queue("mails");
        instances.push(tokio::spawn(async move {
            while let Some(claim) = mails.claim(options).await? {
                let to = String::from_utf8_lossy(claim.value()).into_owned();
                println!("instance {instance}: {to}, delivery {}", claim.deliveries());
                match (to.as_str(), claim.deliveries()) {
                    ("nobody", _) => claim.release().await?,
                    ("busy", 1) => claim.retry(Duration::from_secs(1)).await?,
                    _ => claim.ack().await?,
                }
            }
            Ok::<_, coord::Error>(())
        }));
    }
    for instance in instances {
        instance.await.expect("an instance panicked")?;
    }
    for dead in mails.dead(10).await? {
        println!("{} was put aside", String::from_utf8_lossy(&dead.value));
    }
    println!("{} left", mails.state().await?.items);
    Ok(())
}
