//! Servers that are killed and paused while they serve: processes of their own, and real signals.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::*;
use coord_grpc::{CallOptions, Channel, Endpoint, Phase, RetryOptions};
use tokio::time::{Instant, sleep};
use tonic::Code;

/// Calls of this many callers are under way at once.
const CALLERS: usize = 64;

/// A server process. It dies with this handle, and when this process dies.
struct Process {
    child: Child,
    endpoint: Endpoint,
}

impl Process {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "server_process"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map(|line| line.unwrap())
            .find_map(|line| line.strip_prefix("serving at ").map(str::to_owned));
        Process { child, endpoint: address.expect("the server says its address").parse().unwrap() }
    }

    /// Sends a signal, by its name.
    fn signal(&self, name: &str) {
        let status =
            Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(status.success());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what [`Process`] runs.
#[test]
#[ignore = "the server process of the other tests; they start it"]
fn server_process() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start("child"));
    // The output of the test harness stands before it on the same line.
    println!("\nserving at {}", server.address);
    // Ends with the pipe, that is with the parent, whatever becomes of that.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

async fn three(options: coord_grpc::ChannelOptions) -> (Vec<Process>, Channel) {
    let processes: Vec<_> = (0..3).map(|_| Process::start()).collect();
    let channel = Channel::fixed(processes.iter().map(|process| process.endpoint.clone()), options).unwrap();
    all_ready(&channel).await;
    (processes, channel)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_fails_no_call_that_may_be_repeated() {
    let (mut processes, channel) = three(options().with_retry(RetryOptions::default())).await;
    let load = Load::start(&channel, CALLERS, u64::MAX, "", CallOptions::default().with_idempotent());
    load.more(2_000).await;
    processes[0].kill();
    load.more(3_000).await;
    let crowd = load.stop().await;
    assert_eq!(crowd.failures(), 0, "{:?}", crowd.failed.concat().first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_fails_only_the_calls_that_are_under_way_there() {
    let (mut processes, channel) = three(options()).await;
    let load = Load::start(&channel, CALLERS, u64::MAX, "", CallOptions::default());
    load.more(2_000).await;
    processes[0].kill();
    eventually("it is out", || phase(&channel, &processes[0].endpoint) != Some(Phase::Ready)).await;
    load.more(3_000).await;
    let crowd = load.stop().await;
    for failed in &crowd.failed {
        assert!(failed.len() <= 1, "a caller has one call under way: {failed:?}");
    }
    assert!(
        crowd.failed.concat().iter().all(|(_, status)| status.code() == Code::Unavailable),
        "{:?}",
        crowd.failed.concat()
    );
    // How soon after the socket's end the last one fails is measured in the benchmark; a busy
    // machine decides it here.
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_process_costs_each_caller_one_timeout_at_most() {
    let patience = Duration::from_secs(1);
    let (processes, channel) =
        three(options().with_attempt_timeout(patience).with_connect_timeout(patience)).await;
    let load = Load::start(&channel, CALLERS, u64::MAX, "", CallOptions::default());
    load.more(2_000).await;
    processes[0].signal("STOP");
    eventually("it is ejected", || phase(&channel, &processes[0].endpoint) == Some(Phase::Ejected)).await;
    load.more(2_000).await;
    let ejected = Instant::now();
    // Further than any call that was under way.
    sleep(patience * 2).await;
    load.more(2_000).await;
    processes[0].signal("CONT");
    all_ready(&channel).await;
    load.more(2_000).await;
    let crowd = load.stop().await;
    for failed in &crowd.failed {
        assert!(failed.len() <= 1, "at most one timeout: {failed:?}");
    }
    let all = crowd.failed.concat();
    assert!(!all.is_empty(), "with {CALLERS} callers some are under way there");
    assert!(
        all.iter().all(|(at, status)| status.code() == Code::DeadlineExceeded && *at < ejected + patience),
        "{all:?}"
    );
}
