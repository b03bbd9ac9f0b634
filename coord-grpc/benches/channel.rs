//! The channel against what one would use without it, and what faults cost. Servers are processes
//! of their own.
//!
//! ```console
//! $ cargo bench -p coord-grpc                       # all of it, about five minutes
//! $ cargo bench -p coord-grpc -- throughput         # or one of: throughput faults registry thousand
//! ```
//!
//! Ratios are taken from pairs of short runs, one right after the other and in changing order, so
//! that whatever else the machine does meets both. Where a fault row breaks a promise the benchmark
//! fails.
#![cfg(unix)]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    unreachable_pub,
    reason = "a benchmark"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use common::{Load, SERVED_BY, all_ready, options, order, phase};
use coord_api::prelude::*;
use coord_api::{Provider, ServiceInstance};
use coord_grpc::{CallOptions, Channel, ChannelOptions, Endpoint, Phase, RegistryChannelExt, RetryOptions};
use coord_memory::MemoryProvider;
use cpu_time::ProcessTime;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tonic::body::Body;
use tonic::codegen::http;
use tonic_health::pb::health_client::HealthClient;
use tower::Service;

const CALLERS: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [serve, address] = arguments.as_slice() {
        assert_eq!(serve, "serve");
        return server_process(address);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == name);
    runtime.block_on(async {
        if wanted("throughput") {
            throughput().await;
        }
        if wanted("faults") {
            dead_from_the_start().await;
            killed(false).await;
            killed(true).await;
            drained().await;
            paused().await;
        }
        if wanted("registry") {
            registry_change().await;
        }
        if wanted("thousand") {
            thousand().await;
        }
    });
}

// Server processes.

fn server_process(address: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(common::Server::start_at("child", address.parse().unwrap()));
    println!("serving at {}", server.address);
    // Ends with the pipe, that is with the parent.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

struct Process {
    child: Child,
    endpoint: Endpoint,
}

impl Process {
    fn start() -> Self {
        Process::start_at("127.0.0.1:0")
    }

    fn start_at(address: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["serve", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        // What listens on all addresses is reached at this one.
        let endpoint =
            line.trim().strip_prefix("serving at ").unwrap().replace("0.0.0.0", "127.0.0.1").parse().unwrap();
        Process { child, endpoint }
    }

    fn signal(&self, name: &str) {
        assert!(
            Command::new("sh")
                .args(["-c", &format!("kill -{name} {}", self.child.id())])
                .status()
                .unwrap()
                .success()
        );
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

async fn three(options: ChannelOptions) -> (Vec<Process>, Channel) {
    let processes: Vec<_> = (0..3).map(|_| Process::start()).collect();
    let channel = Channel::fixed(processes.iter().map(|process| process.endpoint.clone()), options).unwrap();
    all_ready(&channel).await;
    (processes, channel)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

// Throughput.

/// What one caller holds: a client, or several that all callers use one after the other, as one
/// writes it by hand.
#[derive(Clone)]
struct Clients<S> {
    clients: Vec<HealthClient<S>>,
    turn: Arc<AtomicUsize>,
}

impl<S> Clients<S>
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error: Into<tower::BoxError>,
            Future: Send,
        > + Clone,
{
    fn of(channels: impl IntoIterator<Item = S>) -> Self {
        Clients { clients: channels.into_iter().map(HealthClient::new).collect(), turn: Arc::default() }
    }

    async fn call(&mut self) {
        let next = if self.clients.len() == 1 {
            0
        } else {
            self.turn.fetch_add(1, Ordering::Relaxed) % self.clients.len()
        };
        self.clients[next].check(order("", CallOptions::default())).await.unwrap();
    }
}

/// What a run shows: calls a second, and this process's CPU time a call, in microseconds.
#[derive(Clone, Copy)]
struct Run {
    rate: f64,
    cost: f64,
}

async fn run_for<S>(span: Duration, clients: &Clients<S>) -> Run
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error: Into<tower::BoxError>,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    let made = Arc::new(AtomicU64::new(0));
    let (cpu, begun) = (ProcessTime::now(), Instant::now());
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (mut clients, made) = (clients.clone(), Arc::clone(&made));
            tokio::spawn(async move {
                while begun.elapsed() < span {
                    clients.call().await;
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let made = made.load(Ordering::Relaxed) as f64;
    Run { rate: made / begun.elapsed().as_secs_f64(), cost: cpu.elapsed().as_secs_f64() * 1e6 / made }
}

async fn static_channel(endpoint: &Endpoint) -> tonic::transport::Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
    endpoint.tcp_nodelay(true).connect().await.unwrap()
}

async fn throughput() {
    const PAIRS: usize = 30;
    let span = Duration::from_millis(500);
    println!("## {CALLERS} callers, pairs of {span:?}: coord / by hand");
    for count in [1, 3] {
        let processes: Vec<_> = (0..count).map(|_| Process::start()).collect();
        let channel = Channel::fixed(
            processes.iter().map(|process| process.endpoint.clone()),
            ChannelOptions::default(),
        )
        .unwrap();
        all_ready(&channel).await;
        let ours = Clients::of([channel]);
        let mut channels = Vec::new();
        for process in &processes {
            channels.push(static_channel(&process.endpoint).await);
        }
        let by_hand = Clients::of(channels);
        let mut pairs = Vec::new();
        for pair in 0..=PAIRS {
            let both = if pair % 2 == 0 {
                let ours = run_for(span, &ours).await;
                (ours, run_for(span, &by_hand).await)
            } else {
                let by_hand = run_for(span, &by_hand).await;
                (run_for(span, &ours).await, by_hand)
            };
            // The first pair warms up.
            if pair > 0 {
                pairs.push(both);
            }
        }
        let each = |pick: fn(&(Run, Run)) -> f64| pairs.iter().map(pick).collect::<Vec<_>>();
        let ratios = each(|(ours, by_hand)| ours.rate / by_hand.rate);
        println!(
            "{count} endpoint(s): {:.0} against {:.0} calls/s, ratio {:.3} (quartiles {:.3} to {:.3}); client CPU {:.1} against {:.1} us a call, ratio {:.3}",
            median(each(|(ours, _)| ours.rate)),
            median(each(|(_, by_hand)| by_hand.rate)),
            median(ratios.clone()),
            quantile(ratios.clone(), 0.25),
            quantile(ratios, 0.75),
            median(each(|(ours, _)| ours.cost)),
            median(each(|(_, by_hand)| by_hand.cost)),
            median(each(|(ours, by_hand)| ours.cost / by_hand.cost)),
        );
    }
}

// Faults.

async fn dead_from_the_start() {
    let (mut processes, _) = three(options()).await;
    processes[1].kill();
    let channel =
        Channel::fixed(processes.iter().map(|process| process.endpoint.clone()), options()).unwrap();
    let crowd = Load::start(&channel, CALLERS, 20_000, "", CallOptions::default()).finish().await;
    println!(
        "one of three dead from the start: {} of {} failed",
        crowd.failures(),
        crowd.answered + crowd.failures()
    );
    assert_eq!((crowd.answered, crowd.failures()), (20_000, 0));
}

/// Kills one of three under load, 20 times.
async fn killed(retry: bool) {
    let call = if retry { CallOptions::default().with_idempotent() } else { CallOptions::default() };
    let options = if retry { options().with_retry(RetryOptions::default()) } else { options() };
    let (mut processes, channel) = three(options).await;
    let (mut failures, mut calls, mut most, mut last) = (0, 0, 0, Vec::new());
    for _ in 0..20 {
        // A connection that nobody uses: it tells when the kernel closes the sockets of the
        // process.
        let mut witness =
            TcpStream::connect((processes[0].endpoint.host(), processes[0].endpoint.port())).await.unwrap();
        let end = tokio::spawn(async move {
            let mut bytes = [0; 1024];
            while matches!(witness.read(&mut bytes).await, Ok(1..)) {}
            Instant::now()
        });
        let load = Load::start(&channel, CALLERS, u64::MAX, "", call);
        load.more(2_000).await;
        processes[0].kill();
        let end = end.await.unwrap();
        load.more(2_000).await;
        let crowd = load.stop().await;
        calls += crowd.answered + crowd.failures();
        failures += crowd.failures();
        most = most.max(crowd.failed.iter().map(Vec::len).max().unwrap_or(0));
        let latest = crowd
            .failed
            .iter()
            .flatten()
            .map(|(at, _)| at.saturating_duration_since(end).as_secs_f64() * 1e3)
            .fold(0.0, f64::max);
        last.push(latest);
        let address = processes[0].endpoint.to_string();
        processes[0] = Process::start_at(&address);
        all_ready(&channel).await;
    }
    println!(
        "SIGKILL of one of three, {}: {failures} of {calls} failed in 20 rounds, at most {most} a caller and round; last failure after the socket's end: median {:.2} ms, longest {:.2} ms",
        if retry { "with retry" } else { "without retry" },
        median(last.clone()),
        last.iter().copied().fold(0.0, f64::max),
    );
    assert!(most <= usize::from(!retry), "only calls that were under way, and none with retry");
    assert!(median(last) <= 5.0, "the last failure within 5 ms of the socket's end");
}

async fn drained() {
    let mut processes: Vec<_> = (0..3).map(|_| Process::start()).collect();
    let (channel, set) = Channel::dynamic(options()).unwrap();
    set.replace(processes.iter().map(|process| process.endpoint.clone()));
    all_ready(&channel).await;
    let load = Load::start(&channel, CALLERS, u64::MAX, "", CallOptions::default());
    load.more(5_000).await;
    set.replace(processes[1..].iter().map(|process| process.endpoint.clone()));
    load.more(2_000).await;
    processes[0].kill();
    load.more(5_000).await;
    let crowd = load.stop().await;
    println!(
        "removed first, then killed: {} of {} failed",
        crowd.failures(),
        crowd.answered + crowd.failures()
    );
    assert_eq!(crowd.failures(), 0);
}

async fn paused() {
    let patience = Duration::from_secs(1);
    let (processes, channel) =
        three(options().with_attempt_timeout(patience).with_connect_timeout(patience)).await;
    let load = Load::start(&channel, CALLERS, u64::MAX, "", CallOptions::default());
    load.more(5_000).await;
    let stopped = Instant::now();
    processes[0].signal("STOP");
    common::eventually("it is ejected", || phase(&channel, &processes[0].endpoint) == Some(Phase::Ejected))
        .await;
    let ejected = stopped.elapsed();
    sleep(patience * 3).await;
    load.more(5_000).await;
    let crowd = load.stop().await;
    let most = crowd.failed.iter().map(Vec::len).max().unwrap_or(0);
    let last =
        crowd.failed.iter().flatten().map(|(at, _)| at.duration_since(stopped)).max().unwrap_or_default();
    println!(
        "SIGSTOP of one of three, attempt timeout {patience:?}: {} of {} failed, at most {most} a caller; ejected after {ejected:.2?}, last failure after {last:.2?}",
        crowd.failures(),
        crowd.answered + crowd.failures(),
    );
    assert!(most <= 1, "at most one attempt timeout a caller");
}

// Discovery.

async fn registry_change() {
    const CHANGES: usize = 300;
    let coord: Arc<dyn Provider> = MemoryProvider::new();
    let (stays, comes) = (common::Server::start("stays").await, common::Server::start("comes").await);
    let instance = |id: &str, server: &common::Server| {
        ServiceInstance::new("s", id, server.address.ip().to_string(), server.address.port())
    };
    let _stays = coord.registry().register(instance("stays", &stays)).await.unwrap();
    let channel = coord.registry().channel_with("s", options()).unwrap();
    all_ready(&channel).await;
    let mut client = HealthClient::new(channel.clone());
    let mut times = Vec::new();
    for _ in 0..CHANGES {
        let begun = Instant::now();
        let registration = coord.registry().register(instance("comes", &comes)).await.unwrap();
        loop {
            let response = client.check(order("", CallOptions::default())).await.unwrap();
            if response.metadata().get(SERVED_BY).unwrap() == "comes" {
                break;
            }
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        registration.unregister().await.unwrap();
        common::eventually("it is gone", || channel.state().endpoints.len() == 1).await;
    }
    let p99 = quantile(times.clone(), 0.99);
    println!(
        "registry change to the first call on the new endpoint, {CHANGES} times: median {:.2} ms, p99 {p99:.2} ms, longest {:.2} ms",
        median(times.clone()),
        quantile(times, 1.0),
    );
    assert!(p99 <= 100.0, "p99 at most 100 ms");
}

// Scale.

/// The resident memory of this process, in bytes.
fn resident() -> f64 {
    let pages: f64 =
        fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0
}

async fn at_rest(span: Duration) -> f64 {
    let cpu = ProcessTime::now();
    sleep(span).await;
    cpu.elapsed().as_secs_f64() / span.as_secs_f64() * 100.0
}

async fn thousand() {
    const MANY: usize = 1_000;
    // One server behind every address of loopback: to the channel they are a thousand endpoints.
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let process = Process::start_at(&format!("0.0.0.0:{port}"));
    let endpoint = |n: usize| {
        Endpoint::new(&format!("127.0.{}.{}", n / 250, n % 250 + 1), process.endpoint.port()).unwrap()
    };
    let few = Channel::fixed((0..3).map(endpoint), ChannelOptions::default()).unwrap();
    all_ready(&few).await;
    let (before, idle_before) = (resident(), at_rest(Duration::from_secs(5)).await);
    let begun = Instant::now();
    let many = Channel::fixed((0..MANY).map(endpoint), ChannelOptions::default().with_max_connections(MANY))
        .unwrap();
    all_ready(&many).await;
    let connected = begun.elapsed();
    let memory = (resident() - before) / MANY as f64 / 1024.0;
    let idle = at_rest(Duration::from_secs(10)).await;
    println!(
        "{MANY} endpoints: all ready after {connected:.2?}; {memory:.1} KiB of memory each; CPU at rest {idle:.3} % (without them {idle_before:.3} %)"
    );
    for (name, channel) in [("3", &few), ("1,000", &many)] {
        let picks = 2_000_000;
        let begun = cpu_time::ThreadTime::now();
        for _ in 0..picks {
            assert!(std::hint::black_box(channel).pick_for_benchmarks());
        }
        println!("a pick among {name}: {:.1} ns", begun.elapsed().as_secs_f64() * 1e9 / f64::from(picks));
    }
    let (many, few) = (Clients::of([many]), Clients::of([few]));
    let (mut rates, span) = (Vec::new(), Duration::from_millis(500));
    for _ in 0..10 {
        let a = run_for(span, &many).await;
        let b = run_for(span, &few).await;
        rates.push(a.rate / b.rate);
    }
    println!("calls/s with {MANY} endpoints / with 3, same server: {:.3}", median(rates));
}
