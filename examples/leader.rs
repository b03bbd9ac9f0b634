//! One of many leads, and the others take over: `cargo run --example leader`.
//!
//! Three candidates run for leader of one election. Each leads for a moment, says what it is at,
//! and resigns; an observer sees who leads. On a cluster the candidates are processes of their own.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows what it does, and ends where a task of its own panicked"
)]

use std::time::Duration;

use coord::{CampaignOptions, LeaderEvent, Source};

#[tokio::main]
async fn main() -> coord::Result<()> {
    let source = Source::open("memory://").await?;
    let observer = source.client().await?;
    let mut changes = observer.election("jobs").observe().await?;

    let mut candidates = Vec::new();
    for name in ["anna", "ben", "cleo"] {
        let coord = source.client().await?;
        candidates.push(tokio::spawn(async move {
            let work = async |leadership: &coord::Leadership| {
                leadership.proclaim(format!("{name}, at work")).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
                // What only the leader may touch is given the token, and refuses a smaller one.
                Ok::<_, coord::Error>(leadership.fencing_token())
            };
            // The work is dropped at once when the leadership is lost.
            coord.election("jobs").lead(name, CampaignOptions::default(), work).await?
        }));
    }

    let mut terms = 0;
    while terms < candidates.len() {
        let Some(event) = changes.next().await else { break };
        let event = event?;
        match event.leader() {
            Some(leader) => println!("leads: {} ({})", String::from_utf8_lossy(&leader.value), leader.token),
            None => println!("nobody leads"),
        }
        terms += usize::from(matches!(event, LeaderEvent::Proclaimed(_)));
    }
    for candidate in candidates {
        candidate.await.expect("a candidate panicked")?;
    }
    Ok(())
}
