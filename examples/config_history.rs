//! Configuration that can be gone back to: `cargo run --example config_history`.
//!
//! What is published with a note leaves a record of who wrote it, and why. A write without one
//! shows as a gap, and an old version is published anew only over the version that one has seen.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use coord::Note;
use coord::prelude::*;

#[tokio::main]
async fn main() -> coord::Result<()> {
    let coord = coord::open("memory://").await?;
    let (config, history) = (coord.config(), coord.history());

    let first = config.publish("limits", &10, Note::new("ann", "to begin with")).await?;
    let second = config.publish("limits", &1_000, Note::new("ben", "the fair is on")).await?;
    let third = config.set("limits", &9_999).await?;
    println!("changed from the first to the second: {:?}", history.diff("limits", first, second).await?);

    // Only over what one has seen: somebody has written in between.
    let late = history.rollback("limits", first, second, Note::new("ann", "back")).await;
    println!("refused: {}", late.is_err());
    history.rollback("limits", first, third, Note::new("ann", "the fair is over")).await?;

    for published in history.of("limits").await?.published {
        let gap = if published.after_gap { " (after a write that is in no record)" } else { "" };
        println!("version {}, {}: {}{gap}", published.version, published.author, published.note);
    }
    println!("now: {:?}", config.get::<u32>("limits").await?);
    coord.close().await
}
