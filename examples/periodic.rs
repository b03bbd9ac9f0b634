//! Once a period over all instances: `cargo run --example periodic`.
//!
//! Three instances trim the same table each second. One of them leads and does it; when that one
//! is closed, another one goes on, and no period has two runs.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows what it does, and ends where a task of its own panicked"
)]

use std::time::Duration;

use coord::prelude::*;
use coord::{PeriodicRun, Source};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> coord::Result<()> {
    let source = Source::open("memory://").await?;
    let (ran, mut runs) = mpsc::channel(1);
    let mut instances = Vec::new();
    for name in ["anna", "ben", "cleo"] {
        let (coord, ran) = (source.client().await?, ran.clone());
        let trim = coord.periodic("trim", Duration::from_secs(1));
        let job = move |run: PeriodicRun| {
            let ran = ran.clone();
            async move {
                // What is trimmed elsewhere is given the token, and refuses a smaller one.
                println!("{name} trims, in run {}", run.fencing_token());
                let _ = ran.send(name).await;
            }
        };
        instances.push((name, coord, tokio::spawn(async move { trim.run(job).await })));
    }
    for _ in 0..2 {
        runs.recv().await;
        let Some(leads) = runs.recv().await else { break };
        for (name, coord, _) in &instances {
            if *name == leads {
                coord.close().await?;
                println!("{name} is closed");
            }
        }
    }
    let _ = runs.recv().await;
    for (_, coord, instance) in instances {
        coord.close().await?;
        // It never ends by itself.
        println!("{}", instance.await.expect("an instance panicked").expect_err("it goes on"));
    }
    Ok(())
}
