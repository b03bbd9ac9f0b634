//! The contracts on etcd against the raw client, on the same server and in the same run.
//!
//! ```console
//! $ cargo bench -p coord-tests              # all of it, about fourteen minutes
//! $ cargo bench -p coord-tests -- latency   # or some of it:
//! #   latency throughput locks watches registry ids leader
//! #   readers semaphore election once queue counter writes batch
//! ```
//!
//! What is compared takes turns, in changing order, so that whatever else the machine does meets
//! both sides; a second raw client says how much two of one kind differ. A server of etcd 3.5 is
//! started for each part, and three for the last.
#![cfg(unix)]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::panic,
    reason = "a benchmark"
)]

mod baseline;
mod primitives;
mod recipes;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{Provider, RegisterOptions, ServiceInstance, Value, Version, WatchStart};
use coord_etcd::{EtcdOptions, EtcdProvider, EtcdStore};
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wrap::{Counter, Counting};
use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::stream;

const CALLERS: usize = 64;
const TTL: Duration = Duration::from_secs(30);

/// All of it runs in spawned tasks, as it would in a service: what `main` itself awaits is woken
/// through another thread.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    tokio::spawn(all()).await.unwrap();
}

async fn all() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let binary = Binary::find(Series::V3_5);
    println!("etcd {}", binary.version());
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if is_wanted("latency") {
        Box::pin(latency(&Cluster::single(&binary))).await;
    }
    if is_wanted("throughput") {
        throughput(&Cluster::single(&binary)).await;
    }
    if is_wanted("locks") {
        locks(&Cluster::single(&binary)).await;
    }
    if is_wanted("watches") {
        watches(&Cluster::single(&binary)).await;
    }
    if is_wanted("registry") {
        registry(&Cluster::single(&binary)).await;
    }
    if is_wanted("ids") {
        ids(&Cluster::single(&binary)).await;
    }
    if is_wanted("leader") {
        leader(&binary).await;
    }
    if is_wanted("readers") {
        Box::pin(primitives::readers(&Cluster::single(&binary))).await;
    }
    if is_wanted("semaphore") {
        Box::pin(primitives::semaphore(&Cluster::single(&binary))).await;
    }
    if is_wanted("election") {
        Box::pin(primitives::election(&Cluster::single(&binary))).await;
    }
    if is_wanted("once") {
        Box::pin(primitives::once(&Cluster::single(&binary))).await;
    }
    if is_wanted("queue") {
        Box::pin(primitives::queue(&Cluster::single(&binary))).await;
    }
    if is_wanted("counter") {
        Box::pin(primitives::counter(&Cluster::single(&binary))).await;
    }
    if is_wanted("writes") {
        Box::pin(primitives::writes(&Cluster::single(&binary))).await;
    }
    if is_wanted("batch") {
        Box::pin(primitives::batch(&Cluster::single(&binary))).await;
    }
}

async fn raw(cluster: &Cluster) -> Client {
    Client::connect(cluster.endpoints(), None).await.unwrap()
}

async fn ours(cluster: &Cluster) -> Arc<dyn Provider> {
    EtcdProvider::connect(EtcdOptions::new(cluster.endpoints())).await.unwrap()
}

/// As [`ours`], with requests near, or at home.
async fn ours_with(cluster: &Cluster, near: bool) -> Arc<dyn Provider> {
    EtcdProvider::connect(EtcdOptions::new(cluster.endpoints()).with_near(near)).await.unwrap()
}

/// A provider whose requests are counted, as [`EtcdProvider`] without what repeats them.
async fn counted(cluster: &Cluster) -> (Arc<dyn Provider>, Counter) {
    let counter = Counter::default();
    let store = EtcdStore::connect(&EtcdOptions::new(cluster.endpoints())).await.unwrap();
    (StoreProvider::new(Arc::new(Counting::new(store, counter.clone())), ProviderOptions::default()), counter)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn took<T>(work: impl Future<Output = T>) -> (T, f64) {
    let start = Instant::now();
    let output = work.await;
    (output, start.elapsed().as_secs_f64())
}

/// Something that is done again and again: a read, a write, or one write on top of the other.
type Act = Box<dyn FnMut() -> BoxFuture<'static, ()> + Send>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Get,
    Set,
    /// As the raw client's users write it: a conflict says no more than that it is one.
    CompareAndSet,
    /// A conflict tells the version that is there, as coord's does.
    CompareAndSetOrTell,
}

fn value(n: u64) -> Vec<u8> {
    format!("{n:0256}").into_bytes()
}

fn of_raw(client: &Client, kind: Kind, key: &str) -> Act {
    let (client, key) = (client.kv_client(), format!("/raw/{key}"));
    let (mut n, revision) = (0, Arc::new(AtomicU64::new(0)));
    Box::new(move || {
        let (mut client, key, revision) = (client.clone(), key.clone(), Arc::clone(&revision));
        n += 1;
        async move {
            match kind {
                Kind::Get => drop(client.get(key, None).await.unwrap()),
                Kind::Set => drop(client.put(key, value(n), None).await.unwrap()),
                Kind::CompareAndSet | Kind::CompareAndSetOrTell => {
                    let expected = Compare::mod_revision(
                        key.clone(),
                        CompareOp::Equal,
                        revision.load(Ordering::Relaxed) as i64,
                    );
                    let mut txn =
                        Txn::new().when([expected]).and_then([TxnOp::put(key.clone(), value(n), None)]);
                    if kind == Kind::CompareAndSetOrTell {
                        txn = txn.or_else([TxnOp::get(key, Some(GetOptions::new().with_keys_only()))]);
                    }
                    let answer = client.txn(txn).await.unwrap();
                    assert!(answer.succeeded());
                    revision.store(answer.header().unwrap().revision() as u64, Ordering::Relaxed);
                }
            }
        }
        .boxed()
    })
}

fn of_ours(provider: &Arc<dyn Provider>, kind: Kind, key: &str) -> Act {
    let (provider, key) = (Arc::clone(provider), format!("ours/{key}"));
    let (mut n, version) = (0, Arc::new(AtomicU64::new(0)));
    Box::new(move || {
        let (provider, key, version) = (Arc::clone(&provider), key.clone(), Arc::clone(&version));
        n += 1;
        async move {
            let config = provider.config();
            match kind {
                Kind::Get => drop(config.get_raw(&key).await.unwrap()),
                Kind::Set => drop(config.set_raw(&key, Value::from(value(n))).await.unwrap()),
                Kind::CompareAndSet | Kind::CompareAndSetOrTell => {
                    let expected = Version::new(version.load(Ordering::Relaxed));
                    let new =
                        config.compare_and_set_raw(&key, Value::from(value(n)), expected).await.unwrap();
                    version.store(new.get(), Ordering::Relaxed);
                }
            }
        }
        .boxed()
    })
}

/// One call at a time, in pairs of the raw client and another: coord, or, as a control, a second
/// raw client.
///
/// Not all three in turns: each side must find the caches as the other does, and two raw clients
/// would keep the raw client's code warm for each other.
async fn latency(cluster: &Cluster) {
    const BLOCKS: usize = 30;
    const PAIRS: usize = 100;
    println!("\n## Latency, one call at a time, {BLOCKS} times {PAIRS} pairs of each kind: medians");
    let (one, other, provider) = (raw(cluster).await, raw(cluster).await, ours(cluster).await);
    let near = ours_with(cluster, true).await;
    for kind in [Kind::Get, Kind::Set, Kind::CompareAndSet, Kind::CompareAndSetOrTell] {
        let key = |side: &str| format!("{kind:?}/{side}");
        let mut control = Pair::new(of_raw(&one, kind, &key("a")), of_raw(&other, kind, &key("b")));
        let mut pair = Pair::new(of_raw(&one, kind, &key("c")), of_ours(&provider, kind, &key("d")));
        let mut near = Pair::new(of_raw(&one, kind, &key("e")), of_ours(&near, kind, &key("f")));
        for _ in 0..BLOCKS {
            control.run(PAIRS).await;
            pair.run(PAIRS).await;
            near.run(PAIRS).await;
        }
        let ([raw, again], [beside, ours], [beside_near, near]) =
            (control.medians(), pair.medians(), near.medians());
        println!(
            "{kind:?}: raw {raw:.1} us, raw again {again:.1} us ({:.3}); raw {beside:.1} us, coord {ours:.1} us, ratio {:.3}; \
             raw {beside_near:.1} us, coord in the callers' runtime {near:.1} us, ratio {:.3}",
            again / raw,
            ours / beside,
            near / beside_near
        );
    }
}

/// Two sides that take turns, and their times in microseconds.
struct Pair {
    sides: [Act; 2],
    times: [Vec<f64>; 2],
}

impl Pair {
    fn new(one: Act, other: Act) -> Self {
        Pair { sides: [one, other], times: [const { Vec::new() }; 2] }
    }

    async fn run(&mut self, pairs: usize) {
        const WARM_UP: usize = 10;
        for round in 0..WARM_UP + pairs {
            let first = fastrand::usize(..2);
            for side in [first, 1 - first] {
                let ((), time) = took(self.sides[side]()).await;
                if round >= WARM_UP {
                    self.times[side].push(time * 1e6);
                }
            }
        }
    }

    fn medians(self) -> [f64; 2] {
        self.times.map(median)
    }
}

/// Calls a second of many callers, each with a key of its own.
async fn calls_a_second(sides: Vec<Act>, length: Duration) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = sides
        .into_iter()
        .map(|mut act| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut calls = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    act().await;
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let start = Instant::now();
    tokio::time::sleep(length).await;
    stop.store(true, Ordering::Relaxed);
    let mut calls = 0.0;
    for caller in callers {
        calls += f64::from(caller.await.unwrap());
    }
    calls / start.elapsed().as_secs_f64()
}

async fn throughput(cluster: &Cluster) {
    const PAIRS: usize = 20;
    const LENGTH: Duration = Duration::from_millis(500);
    println!("\n## Throughput, {CALLERS} callers, {PAIRS} rounds of {LENGTH:?} in turns: medians of ratios");
    let (one, other, provider) = (raw(cluster).await, raw(cluster).await, ours(cluster).await);
    for kind in [Kind::Get, Kind::Set] {
        let mut rates = Vec::new();
        for round in 0..PAIRS {
            let mut rate = [0.0; 3];
            for turn in 0..3 {
                let side = (round + turn) % 3;
                let acts = (0..CALLERS).map(|caller| match side {
                    0 => of_raw(&one, kind, &format!("a{caller}")),
                    1 => of_raw(&other, kind, &format!("b{caller}")),
                    _ => of_ours(&provider, kind, &format!("c{caller}")),
                });
                rate[side] = calls_a_second(acts.collect(), LENGTH).await;
            }
            rates.push(rate);
        }
        let of = |pick: fn(&[f64; 3]) -> f64| median(rates.iter().map(pick).collect());
        println!(
            "{kind:?}: raw {:.0}/s, coord {:.0}/s; raw again / raw {:.3}, coord / raw {:.3}",
            of(|rate| rate[0]),
            of(|rate| rate[2]),
            of(|rate| rate[1] / rate[0]),
            of(|rate| rate[2] / rate[0])
        );
    }
}

/// How often a lock with many waiters changes hands.
async fn locks(cluster: &Cluster) {
    const WAITERS: usize = 32;
    const LENGTH: Duration = Duration::from_secs(5);
    println!("\n## One lock, {WAITERS} waiters, {LENGTH:?}");
    let client = raw(cluster).await;
    let acts: Vec<Act> = (0..WAITERS)
        .map(|_| {
            let client = client.clone();
            Box::new(move || baseline::lock_and_unlock(client.clone(), "/raw/lock/").boxed()) as Act
        })
        .collect();
    let usual = calls_a_second(acts, LENGTH).await;
    let (provider, counter) = counted(cluster).await;
    let grants = Arc::new(AtomicU64::new(0));
    let acts: Vec<Act> = (0..WAITERS)
        .map(|_| {
            let (provider, grants) = (Arc::clone(&provider), Arc::clone(&grants));
            Box::new(move || {
                let (provider, grants) = (Arc::clone(&provider), Arc::clone(&grants));
                async move {
                    let guard = provider.lock().acquire("contended", TTL).await.unwrap();
                    grants.fetch_add(1, Ordering::Relaxed);
                    guard.unlock().await.unwrap();
                }
                .boxed()
            }) as Act
        })
        .collect();
    let (coord, counts) = counter.during(calls_a_second(acts, LENGTH)).await;
    let grants = grants.load(Ordering::Relaxed) as f64;
    println!("hand-overs: usual recipe {usual:.0}/s, coord {coord:.0}/s, ratio {:.2}", coord / usual);
    println!(
        "requests of coord: {:.2} a lock and unlock with its joining ({counts:?})",
        counts.requests() as f64 / grants
    );
}

/// Many watches: set up, and told.
async fn watches(cluster: &Cluster) {
    const WATCHES: usize = 1_000;
    const ROUNDS: usize = 15;
    println!("\n## {WATCHES} watches, each set up by a task of its own, {ROUNDS} rounds: medians");
    let (client, provider) = (raw(cluster).await, ours(cluster).await);
    let mut times: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
    for round in 0..ROUNDS {
        for (one_range, at_once) in [(true, 64), (true, WATCHES), (false, 64), (false, WATCHES)] {
            let directory = format!("w/{round}/{one_range}/{at_once}");
            let key = |n: usize| if one_range { directory.clone() } else { format!("{directory}/{n}") };
            let usual = stream::iter(0..WATCHES).map(|n| {
                let (mut client, key) = (client.watch_client(), format!("/raw/{}", key(n)));
                tokio::spawn(async move { client.watch(key, None).await.unwrap() })
            });
            let (usual, usual_time) =
                took(usual.buffer_unordered(at_once).map(Result::unwrap).collect::<Vec<_>>()).await;
            let coord = stream::iter(0..WATCHES).map(|n| {
                let (provider, key) = (Arc::clone(&provider), key(n));
                tokio::spawn(async move { provider.config().watch_raw(&key, WatchStart::Now).await.unwrap() })
            });
            let (coord, coord_time) =
                took(coord.buffer_unordered(at_once).map(Result::unwrap).collect::<Vec<_>>()).await;
            let mut note = |what: String, [usual, coord]: [f64; 2]| {
                let sides = times.entry(what).or_default();
                sides[0].push(usual);
                sides[1].push(coord);
            };
            let what = if one_range { "of one key" } else { "of a key each" };
            note(format!("{what}, set up, {at_once} at once"), [usual_time, coord_time]);
            if one_range && at_once == WATCHES {
                note(format!("{what}, told"), told(&client, &provider, &key(0), usual, coord).await);
            }
        }
    }
    for (what, sides) in times {
        let [usual, coord] = sides.map(median);
        println!(
            "{what}: own streams {:.1} ms, coord {:.1} ms, ratio {:.3}",
            usual * 1e3,
            coord * 1e3,
            coord / usual
        );
    }
}

async fn told(
    client: &Client,
    provider: &Arc<dyn Provider>,
    key: &str,
    usual: Vec<etcd_client::WatchStream>,
    coord: Vec<coord_api::Watch<coord_api::ConfigEvent>>,
) -> [f64; 2] {
    let until_told = |told: Vec<tokio::task::JoinHandle<()>>| async move {
        for told in told {
            told.await.unwrap();
        }
    };
    let waiting = usual.into_iter().map(|mut stream| {
        tokio::spawn(async move { while stream.message().await.unwrap().unwrap().events().is_empty() {} })
    });
    let waiting: Vec<_> = waiting.collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ((), usual) = took(async {
        client.kv_client().put(format!("/raw/{key}"), "new", None).await.unwrap();
        until_told(waiting).await;
    })
    .await;
    let waiting: Vec<_> = coord
        .into_iter()
        .map(|mut watch| tokio::spawn(async move { drop(watch.next().await.unwrap().unwrap()) }))
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ((), coord) = took(async {
        provider.config().set_raw(key, Value::from("new")).await.unwrap();
        until_told(waiting).await;
    })
    .await;
    [usual, coord]
}

/// Many registrations of one process.
async fn registry(cluster: &Cluster) {
    const INSTANCES: usize = 1_000;
    println!("\n## {INSTANCES} registrations");
    let client = raw(cluster).await;
    let (own_leases, usual) = took(async {
        let mut kept = Vec::new();
        for n in 0..INSTANCES {
            kept.push(baseline::register(&client, &format!("/raw/services/s/i{n}")).await);
        }
        kept
    })
    .await;
    let instance = |service: &str, n: usize| ServiceInstance::new(service, format!("i{n}"), "10.0.0.1", 80);
    let (provider, counter) = counted(cluster).await;
    let (held, coord) = took(async {
        let mut held = Vec::new();
        for n in 0..INSTANCES {
            held.push(provider.registry().register(instance("one-by-one", n)).await.unwrap());
        }
        held
    })
    .await;
    println!(
        "one by one: own leases {:.0} ms, coord {:.0} ms, ratio {:.3}",
        usual * 1e3,
        coord * 1e3,
        coord / usual
    );
    let all = (0..INSTANCES).map(|n| instance("together", n)).collect();
    let (together, coord) = took(provider.registry().register_all(all, RegisterOptions::default())).await;
    println!(
        "given together: coord {:.0} ms, ratio to own leases one by one {:.3}",
        coord * 1e3,
        coord / usual
    );
    let (closed, counts) = counter.during(provider.close()).await;
    closed.unwrap();
    println!("close: {} requests", counts.requests());
    drop((own_leases, held, together.unwrap()));
}

/// Instance ids, many at once.
async fn ids(cluster: &Cluster) {
    const AT_ONCE: usize = 16;
    const ROUNDS: usize = 50;
    println!("\n## {AT_ONCE} instance ids at once, {ROUNDS} rounds: medians");
    let client = raw(cluster).await;
    let (provider, counter) = counted(cluster).await;
    let mut providers = Vec::new();
    for _ in 0..AT_ONCE {
        providers.push(ours(cluster).await);
    }
    let lease = client.lease_client().grant(600, None).await.unwrap().id();
    let (mut usual, mut one, mut many, mut requests) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        let prefix = format!("/raw/ids/{round}/");
        usual.push(
            took(join_all((0..AT_ONCE).map(|_| baseline::take_id(client.clone(), &prefix, lease)))).await.1,
        );
        let service = format!("one-{round}");
        let acquire = |provider: &Arc<dyn Provider>| {
            let (provider, service) = (Arc::clone(provider), service.clone());
            async move { provider.allocator().acquire_id(&service, 1_000).await.unwrap() }
        };
        let ((held, time), counts) =
            counter.during(took(join_all((0..AT_ONCE).map(|_| acquire(&provider))))).await;
        one.push(time);
        if round > 0 {
            // The first one pays the lease.
            requests = requests.max(counts.requests());
        }
        let service = format!("many-{round}");
        let acquire = |provider: &Arc<dyn Provider>| {
            let (provider, service) = (Arc::clone(provider), service.clone());
            async move { provider.allocator().acquire_id(&service, 1_000).await.unwrap() }
        };
        let (held_by_many, time) = took(join_all(providers.iter().map(acquire))).await;
        many.push(time);
        for id in held.iter().chain(&held_by_many) {
            id.release().await.unwrap();
        }
    }
    let [usual, one, many] = [usual, one, many].map(median);
    println!(
        "compare-and-set loop {:.1} ms, one provider {:.1} ms ({:.1} times as fast, at most {requests} requests), {AT_ONCE} providers {:.1} ms ({:.1} times)",
        usual * 1e3,
        one * 1e3,
        usual / one,
        many * 1e3,
        usual / many
    );
}

/// How long nothing can be written when the leader dies.
async fn leader(binary: &Binary) {
    const KILLS: usize = 30;
    const ATTEMPT: Duration = Duration::from_millis(500);
    println!(
        "\n## The leader of three killed, {KILLS} times: longest time without a write, attempts of {ATTEMPT:?}"
    );
    let mut cluster = Cluster::three(binary);
    let mut options = EtcdOptions::new(cluster.endpoints());
    options.retry.attempt_timeout = Some(ATTEMPT);
    let provider: Arc<dyn Provider> = EtcdProvider::connect(options).await.unwrap();
    let client = raw(&cluster).await;
    let (mut usual, mut coord) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        let victim = baseline::leader(&cluster).await;
        let stop = Arc::new(AtomicBool::new(false));
        let of_raw = tokio::spawn(gaps(Arc::clone(&stop), {
            let client = client.kv_client();
            move || {
                let mut client = client.clone();
                async move {
                    matches!(
                        tokio::time::timeout(ATTEMPT, client.put("/raw/gap", "x", None)).await,
                        Ok(Ok(_))
                    )
                }
            }
        }));
        let of_coord = tokio::spawn(gaps(Arc::clone(&stop), {
            let provider = Arc::clone(&provider);
            move || {
                let provider = Arc::clone(&provider);
                async move { provider.config().set_raw("gap", Value::from("x")).await.is_ok() }
            }
        }));
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.servers_mut()[victim].kill();
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster = tokio::task::spawn_blocking(move || {
            cluster.servers_mut()[victim].restart();
            cluster
        })
        .await
        .unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.store(true, Ordering::Relaxed);
        usual.push(of_raw.await.unwrap());
        coord.push(of_coord.await.unwrap());
        assert!(kill < KILLS);
    }
    let longest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    println!("raw: median {:.2} s, longest {:.2} s", median(usual.clone()), longest(&usual));
    println!("coord: median {:.2} s, longest {:.2} s", median(coord.clone()), longest(&coord));
}

/// Writes every 5 ms until it is stopped; the longest time in seconds in which nothing succeeded.
async fn gaps<F: Future<Output = bool>>(stop: Arc<AtomicBool>, write: impl Fn() -> F) -> f64 {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        if write().await {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    longest.max(last.elapsed()).as_secs_f64()
}
