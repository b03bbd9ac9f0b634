//! Nobody goes on before all are there: `cargo run --example barrier`.
//!
//! Four workers do two phases of a job. None begins the second one before all have done the first,
//! and one that dies is not waited for longer than its lease lasts.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows what it does, and ends where a task of its own panicked"
)]

use std::time::Duration;

use coord::{BarrierOptions, Source};

const WORKERS: u32 = 4;

#[tokio::main]
async fn main() -> coord::Result<()> {
    let source = Source::open("memory://").await?;
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let barrier = source.client().await?.barrier("job");
        workers.push(tokio::spawn(async move {
            for phase in 1..=2 {
                tokio::time::sleep(Duration::from_millis(20 * u64::from(worker))).await;
                println!("worker {worker} has done phase {phase}");
                let party = barrier.enter(WORKERS, BarrierOptions::default()).await?;
                println!("worker {worker} goes on, as one of meeting {}", party.generation());
                // Whoever comes back early is not taken for one of the next meeting.
                party.leave().await?;
            }
            Ok::<_, coord::Error>(())
        }));
    }
    for worker in workers {
        worker.await.expect("a worker panicked")?;
    }
    Ok(())
}
