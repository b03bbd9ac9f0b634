//! The test that the README shows, run.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use coord::memory::MemoryProvider;
use coord::prelude::*;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_crashed_worker_is_replaced() {
    let store = MemoryProvider::new();
    let (worker, successor) = (store.client(), store.client());

    let held = worker.lock().acquire("jobs/nightly", Duration::from_secs(30)).await.unwrap();
    worker.abandon();

    // The lock is free once the lease of the dead worker has run out: half a minute, which takes no
    // time at all.
    let begin = Instant::now();
    let taken = successor.lock().acquire("jobs/nightly", Duration::from_secs(30)).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(29));
    assert!(taken.fencing_token() > held.fencing_token());
    assert!(!held.is_held());
}

#[test]
fn the_readme_shows_the_test_above() {
    let shown = include_str!("virtual_time.rs").split("\n#[test]\n").next().unwrap();
    let (_, shown) = shown.split_once("\n\n").unwrap();
    assert!(
        include_str!("../../README.md").contains(shown.trim()),
        "README.md shows another test than:\n{shown}"
    );
}
