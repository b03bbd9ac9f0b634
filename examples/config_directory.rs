//! Many documents of one kind, always at hand: `cargo run --example config_directory`.
//!
//! Each rule of a rate limiter is a document of its own. They come, change and go while the service
//! runs; one that is broken leaves the others, and what it said before, in use.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use coord::config_manager::ConfigDirectory;
use coord::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Rule {
    per_second: u32,
}

#[tokio::main]
async fn main() -> coord::Result<()> {
    let coord = coord::open("memory://").await?;
    let rules = ConfigDirectory::builder(Arc::clone(coord.config()), "gateway", "limits")
        .env("prod")
        .default_value(Rule { per_second: 100 })
        .validate(|_, rule: &Rule| if rule.per_second == 0 { Err("nothing would pass") } else { Ok(()) })
        .build()?;
    rules.start().await;
    println!("login, by default: {} per second", rules.current("login").per_second);

    coord.config().set("prod/gateway/limits/login", &Rule { per_second: 5 }).await?;
    coord.config().set("prod/gateway/limits/search", &Rule { per_second: 50 }).await?;
    let version = coord.config().set("prod/gateway/limits/login", &Rule { per_second: 0 }).await?;
    rules.wait_until(version).await?;

    println!("login: {}, search: {}", rules.current("login").per_second, rules.current("search").per_second);
    for (name, fault) in rules.status().faults {
        println!("{name} is refused: {fault}");
    }
    rules.stop().await;
    coord.close().await
}
