//! Configuration for some before it is for all: `cargo run --example config_gray`.
//!
//! Each instance reads the config centre as itself. A new value is released to one of them, then to
//! a part of all; what works is promoted, and what does not is withdrawn.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use coord::prelude::*;
use coord::{GrayConfig, GrayIdentity, GrayTargets, Note, WriteOptions};

#[tokio::main]
async fn main() -> coord::Result<()> {
    let coord = coord::open("memory://").await?;
    coord.config().set("limits", &10).await?;

    let mut instances = Vec::new();
    for n in 0..10 {
        let identity = GrayIdentity::new(format!("gateway-{n}")).with_label("zone", "north");
        instances.push(coord.gray_config(identity)?);
    }

    let (gray, first) = (coord.gray(), GrayTargets::default().with_id("gateway-3"));
    gray.release("limits", &first, &20, WriteOptions::default()).await?;
    show(&instances, "released to one").await?;
    gray.release("limits", &first.with_percent(50), &20, WriteOptions::default()).await?;
    show(&instances, "and to half of all").await?;
    let note = Note::new("ann", "it works");
    gray.promote("limits", WriteOptions::default().with_note(note)).await?;
    show(&instances, "promoted").await?;
    gray.release("limits", &GrayTargets::default().with_percent(100), &0, WriteOptions::default()).await?;
    gray.withdraw("limits").await?;
    show(&instances, "released to all, and withdrawn").await?;
    coord.close().await
}

/// What each instance has.
async fn show(instances: &[GrayConfig], what: &str) -> coord::Result<()> {
    let mut limits = Vec::new();
    for instance in instances {
        limits.push(instance.get::<u32>("limits").await?.unwrap_or_default());
    }
    println!("{what}: {limits:?}");
    Ok(())
}
