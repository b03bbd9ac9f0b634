//! `coordctl bench` leaves nothing behind, however it ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coord::memory::{MemoryProvider, MemoryStore};
use coord::prelude::*;
use coord::store::{Entry, Range, Store as _};
use coord::{Coord, Source};
use coordctl::{Terminal, exit, run};
use serde_json::Value;
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(60);

/// Everything that lies in a store.
async fn everything(store: &MemoryStore) -> Vec<Entry> {
    store.range(Range::prefix("")).await.unwrap().entries
}

/// How a run ended, and what it wrote.
async fn bench(coord: &Coord, arguments: &str, answers: &[&str]) -> (u8, String, String) {
    let mut terminal = Terminal::in_memory(answers.iter().map(|answer| (*answer).to_owned()));
    let arguments = ["coordctl", "bench"].into_iter().chain(arguments.split_whitespace()).map(Into::into);
    let code = run(arguments, Some(coord.clone()), &mut terminal).await;
    let (out, complaints) = terminal.written();
    (code, out.to_owned(), complaints.to_owned())
}

/// A store with something in it that is not to be touched.
async fn store() -> (Arc<MemoryProvider>, Coord, MemoryStore) {
    let memory = MemoryProvider::new();
    let coord = Coord::new(memory.core().clone(), Arc::<MemoryProvider>::clone(&memory));
    coord.config().set("dev/a", &1).await.unwrap();
    let other = memory.client().store().clone();
    (memory, coord, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_is_measured_and_nothing_is_left() {
    let (_memory, coord, other) = store().await;
    let before = everything(&other).await;
    let (code, out, complaints) = bench(&coord, "--for 200ms --concurrency 3 -o json", &["y"]).await;
    assert_eq!(code, exit::OK, "{complaints}");
    assert!(complaints.contains("puts load on the store for 1s 200ms"), "{complaints}");
    let told: Value = serde_json::from_str(&out).unwrap();
    let measured = told["measured"].as_array().unwrap();
    assert_eq!(measured.len(), 6, "{told}");
    for measured in measured {
        assert!(measured["count"].as_u64().unwrap() > 0, "{measured}");
        let ms = |name: &str| measured[name].as_f64().unwrap();
        assert!(ms("p50_ms") <= ms("p99_ms") && ms("p99_ms") <= ms("max_ms"), "{measured}");
    }
    assert_eq!(everything(&other).await, before);
    assert!(!coord.core().is_closed(), "the store is that of whoever gave it");
}

#[tokio::test]
async fn who_says_no_is_left_alone() {
    let (_memory, coord, other) = store().await;
    let before = everything(&other).await;
    assert_eq!(bench(&coord, "", &["n"]).await.0, exit::FAILED);
    assert_eq!(bench(&coord, "", &[]).await.0, exit::USAGE, "nobody to ask");
    assert_eq!(bench(&coord, "--concurrency 0 --yes", &[]).await.0, exit::USAGE);
    assert_eq!(everything(&other).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_where_the_store_was_away() {
    let (memory, coord, other) = store().await;
    let before = everything(&other).await;
    let cut = tokio::spawn(async move {
        sleep(Duration::from_millis(300)).await;
        memory.disconnect();
        sleep(Duration::from_millis(300)).await;
        memory.reconnect();
        memory
    });
    let (code, out, complaints) = bench(&coord, "--for 60s --timeout 30s --yes", &[]).await;
    assert_eq!(code, exit::UNREACHABLE, "{out}{complaints}");
    assert!(out.contains("config set"), "what was measured is told: {out}");
    assert_eq!(everything(&other).await, before);
    cut.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_deleted_is_named() {
    let (memory, coord, _other) = store().await;
    let cut = tokio::spawn(async move {
        sleep(Duration::from_millis(300)).await;
        memory.disconnect();
        memory
    });
    let (code, _, complaints) = bench(&coord, "--for 60s --timeout 1s --yes", &[]).await;
    assert_eq!(code, exit::UNREACHABLE, "{complaints}");
    assert!(complaints.contains("below /coordctl-bench/"), "{complaints}");
    cut.await.unwrap();
}

/// Ends the process as Ctrl-C does.
#[cfg(unix)]
fn interrupt(process: &Child) {
    let sent = Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_in_a_directory_after_ctrl_c() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sled://{}", directory.path().join("store").display());
    let look = async || {
        let source = Source::open(&url).await.unwrap();
        let coord = source.client().await.unwrap();
        let found = coord.core().store().range(Range::prefix("")).await.unwrap().entries;
        coord.close().await.unwrap();
        found
    };
    let coord = coord::open(&url).await.unwrap();
    coord.config().set("dev/a", &1).await.unwrap();
    coord.close().await.unwrap();
    let before = look().await;
    assert_eq!(before.len(), 1);
    // While it writes, while a lock goes from hand to hand, and while instances come and go.
    for after in [300, 2_100, 3_300] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordctl"));
        command.env("COORD_URL", &url).args(["bench", "--for", "600ms", "--yes"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut complaints = BufReader::new(process.stderr.take().unwrap());
        let mut told = String::new();
        complaints.read_line(&mut told).unwrap();
        assert!(told.contains("puts load"), "{told}");
        sleep(Duration::from_millis(after)).await;
        interrupt(&process);
        let ended = tokio::task::spawn_blocking(move || {
            complaints.read_to_string(&mut told).unwrap();
            let output = process.wait_with_output().unwrap();
            (output.status, told + &String::from_utf8_lossy(&output.stdout))
        });
        let (status, told) = tokio::time::timeout(LIMIT, ended).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(i32::from(exit::FAILED)), "{told}");
        assert!(told.contains("before its time"), "{told}");
        assert_eq!(look().await, before, "after {after} ms: {told}");
    }
}
