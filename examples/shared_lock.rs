//! Many readers or one writer: `cargo run --example shared_lock`.
//!
//! A writer replaces a document in two steps and lets readers in once it is whole, without letting
//! another writer between: it downgrades its lock.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows what it does, and ends where a task of its own panicked"
)]

use std::time::Duration;

use coord::Source;
use coord::prelude::*;

const TTL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> coord::Result<()> {
    let source = Source::open("memory://").await?;
    let (writer, reader) = (source.client().await?, source.client().await?);

    let guard = writer.lock().acquire("document", TTL).await?;
    let reading = tokio::spawn(async move {
        // Waits for the writer, and for no other reader.
        let guard = reader.lock().acquire_shared("document", TTL).await?;
        let head = reader.config().get::<String>("document/head").await?;
        let body = reader.config().get::<String>("document/body").await?;
        guard.unlock().await?;
        Ok::<_, coord::Error>((head, body))
    });

    writer.config().set("document/head", "a new title").await?;
    writer.config().set("document/body", "a new text").await?;
    guard.downgrade().await?;
    println!("readers are let in, and the writer still holds: {}", guard.is_held());
    println!("read: {:?}", reading.await.expect("the reader panicked")?);
    guard.unlock().await
}
