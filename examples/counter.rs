//! A number that all add to: `cargo run --example counter`.
//!
//! Four instances count what is unread in a room. Each message arrives at two of them, and its id
//! is the token under which it is counted, so that it counts once.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows what it does, and ends where a task of its own panicked"
)]

use std::time::Duration;

use coord::Source;

/// For longer than this no message is delivered again.
const DELIVERED_AGAIN: Duration = Duration::from_secs(3_600);

#[tokio::main]
async fn main() -> coord::Result<()> {
    let source = Source::open("memory://").await?;
    let mut instances = Vec::new();
    for instance in 0..4_u32 {
        let unread = source.client().await?.counter("room/7/unread");
        instances.push(tokio::spawn(async move {
            for message in 0..10 {
                if message % 4 == instance || message % 4 == (instance + 1) % 4 {
                    let message = format!("message-{message}");
                    let value = unread.add_once(&message, 1, DELIVERED_AGAIN).await?;
                    println!("instance {instance}: {message} makes {value}");
                }
            }
            Ok::<_, coord::Error>(())
        }));
    }
    for instance in instances {
        instance.await.expect("an instance panicked")?;
    }
    let unread = source.client().await?.counter("room/7/unread");
    println!("{} unread", unread.get().await?);
    // Whoever reads them takes away what he has seen.
    println!("{} once they were read", unread.add(-10).await?);
    Ok(())
}
