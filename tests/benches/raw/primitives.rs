//! The primitives against the recipes of etcd's Go client, and what an option costs.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{LockMode, LockOptions, Note, Provider, Value, Wait, WriteOptions};
use coord_core::{Client as Core, Home};
use coord_etcd::{EtcdOptions, EtcdProvider, EtcdStore};
use coord_recipes::{
    CampaignOptions, ClaimOptions, Counter as Number, Election, Once, OnceOptions, PermitLimit,
    PermitOptions, ProviderOptions, Queue, Semaphore, StoreProvider,
};
use coord_servers::etcd::Cluster;
use coord_testkit::wrap::{Counter, Counting};
use etcd_client::Client;
use futures_util::future::{FutureExt, join_all};

use super::{
    Act, CALLERS, Kind, Pair, TTL, calls_a_second, median, of_ours, of_raw, ours, raw, recipes, took,
};

/// How long each side runs at a time.
const LENGTH: Duration = Duration::from_secs(2);

/// How often the sides take turns.
const ROUNDS: usize = 5;

/// A client for primitives, whose requests are counted.
async fn core(cluster: &Cluster) -> (Core, Counter) {
    let counter = Counter::default();
    let store = EtcdStore::connect(&EtcdOptions::new(cluster.endpoints())).await.unwrap();
    let store = Arc::new(Counting::new(store, counter.clone()));
    (Core::new(store, "bench", Home::new("bench")), counter)
}

/// Does the same again and again.
fn act<F: Future<Output = ()> + Send + 'static>(mut make: impl FnMut() -> F + Send + 'static) -> Act {
    Box::new(move || make().boxed())
}

/// Two sides in turns, and the control: the peer against itself.
async fn in_turns<P, O>(what: &str, peer: impl Fn() -> P, ours: impl Fn() -> O)
where
    P: Future<Output = f64>,
    O: Future<Output = f64>,
{
    let (mut control, mut ratios, mut rates) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        let (first, coord, second) = (peer().await, ours().await, peer().await);
        control.push(second / first);
        ratios.push(coord / ((first + second) / 2.0));
        rates[0].push(first);
        rates[1].push(coord);
    }
    let [peer, coord] = rates.map(median);
    println!(
        "{what}: peer {peer:.0}/s (again {:.3}), coord {coord:.0}/s, ratio {:.2}",
        median(control),
        median(ratios)
    );
}

pub(crate) async fn semaphore(cluster: &Cluster) {
    const WAITERS: usize = 32;
    println!("\n## A semaphore of 4 permits, {WAITERS} waiters");
    let (client, (core, counter)) = (raw(cluster).await, core(cluster).await);
    let semaphore = Semaphore::new(&core, "bench");
    let options = PermitOptions::new(PermitLimit::First(4)).with_ttl(TTL);
    semaphore.acquire(1, options).await.unwrap().release().await.unwrap();
    let (permit, counts) = counter.during(semaphore.acquire(1, options)).await;
    println!("warm: {} request to acquire", counts.requests());
    permit.unwrap().release().await.unwrap();
    let peer = || {
        let acts = (0..WAITERS).map(|_| {
            let client = client.clone();
            act(move || {
                let client = client.clone();
                async move {
                    recipes::change(&client, "/raw/permits", |held| (held < 4).then_some(held + 1)).await;
                    recipes::change(&client, "/raw/permits", |held| Some(held - 1)).await;
                }
            })
        });
        calls_a_second(acts.collect(), LENGTH)
    };
    let ours = || {
        let acts = (0..WAITERS).map(|_| {
            let semaphore = semaphore.clone();
            act(move || {
                let semaphore = semaphore.clone();
                async move { semaphore.acquire(1, options).await.unwrap().release().await.unwrap() }
            })
        });
        calls_a_second(acts.collect(), LENGTH)
    };
    in_turns("hand-overs", peer, ours).await;
}

pub(crate) async fn election(cluster: &Cluster) {
    const CANDIDATES: usize = 32;
    println!("\n## An election, {CANDIDATES} candidates");
    let client = raw(cluster).await;
    let leases = join_all((0..CANDIDATES).map(|_| recipes::session(&client))).await;
    let (core, counter) = core(cluster).await;
    let election = Election::new(&core, "bench");
    let options = CampaignOptions::default().with_ttl(TTL);
    election.campaign("warm", options).await.unwrap().resign().await.unwrap();
    let (leadership, counts) = counter.during(election.campaign("me", options)).await;
    let (resigned, left) = counter.during(leadership.unwrap().resign()).await;
    resigned.unwrap();
    println!("warm: {} request to campaign, {} to resign", counts.requests(), left.requests());
    let peer = || {
        let acts = leases.iter().map(|lease| {
            let (client, lease, key) = (client.clone(), *lease, format!("/raw/election/{lease:x}"));
            act(move || {
                let (client, key) = (client.clone(), key.clone());
                async move {
                    let own = recipes::enter(&client, &key, lease).await;
                    recipes::wait_for_those_before(&client, "/raw/election/", own).await;
                    recipes::leave(&client, &key).await;
                }
            })
        });
        calls_a_second(acts.collect(), LENGTH)
    };
    let ours = || {
        let acts = (0..CANDIDATES).map(|_| {
            let election = election.clone();
            act(move || {
                let election = election.clone();
                async move { election.campaign("me", options).await.unwrap().resign().await.unwrap() }
            })
        });
        calls_a_second(acts.collect(), LENGTH)
    };
    in_turns("hand-overs", peer, ours).await;
    let (observers, counts) = counter.during(join_all((0..1_000).map(|_| election.observe()))).await;
    let observing = observers.into_iter().filter(Result::is_ok).count();
    println!("{observing} observers: {} watch, {} requests", counts.watch, counts.requests());
}

pub(crate) async fn readers(cluster: &Cluster) {
    const READERS: usize = 32;
    println!("\n## {READERS} readers behind a writer, each a client of its own, {ROUNDS} rounds: medians");
    let clients = join_all((0..READERS).map(|_| raw(cluster))).await;
    let writer = raw(cluster).await;
    let leases = join_all(clients.iter().chain([&writer]).map(recipes::session)).await;
    let providers = join_all((0..=READERS).map(|_| super::counted(cluster))).await;
    let (mut usual, mut coord, mut requests) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        let prefix = format!("/raw/rw/{round}");
        let held = format!("{prefix}/write");
        recipes::enter(&writer, &held, leases[READERS]).await;
        let waiting: Vec<_> = clients
            .iter()
            .zip(&leases)
            .map(|(client, lease)| {
                let (client, prefix, lease) = (client.clone(), prefix.clone(), *lease);
                tokio::spawn(async move {
                    let own = recipes::enter(&client, &format!("{prefix}/read/{lease:x}"), lease).await;
                    recipes::wait_for_those_before(&client, &format!("{prefix}/write"), own).await;
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        usual.push(until_all_read(recipes::leave(&writer, &held), waiting).await.1);

        let key = format!("rw/{round}");
        let options = LockOptions::default().with_ttl(TTL);
        let guard = providers[READERS].0.lock().acquire_with(&key, options).await.unwrap();
        let waiting: Vec<_> = providers[..READERS]
            .iter()
            .map(|(provider, _)| {
                let (provider, key) = (Arc::clone(provider), key.clone());
                tokio::spawn(async move {
                    provider.lock().acquire_with(&key, options.with_mode(LockMode::Shared)).await.unwrap()
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before: Vec<_> = providers.iter().map(|(_, counter)| counter.counts()).collect();
        let (held, time) = until_all_read(async { guard.unlock().await.unwrap() }, waiting).await;
        coord.push(time);
        for ((_, counter), before) in providers[..READERS].iter().zip(&before) {
            requests += counter.counts().since(before).requests();
        }
        // Given back only now.
        drop(held);
    }
    let (usual, coord) = (median(usual), median(coord));
    println!(
        "usual recipe {:.2} ms, coord {:.2} ms, ratio {:.2}; {requests} requests of the readers to confirm",
        usual * 1e3,
        coord * 1e3,
        coord / usual
    );
}

/// What all of them have, and how long it takes until they do, from when the writer begins to give
/// it up.
async fn until_all_read<T>(
    leave: impl Future<Output = ()>,
    waiting: Vec<tokio::task::JoinHandle<T>>,
) -> (Vec<Result<T, tokio::task::JoinError>>, f64) {
    took(async {
        let ((), held) = futures_util::future::join(leave, join_all(waiting)).await;
        held
    })
    .await
}

pub(crate) async fn once(cluster: &Cluster) {
    const ASKERS: usize = 50;
    println!("\n## {ASKERS} who ask for one thing to be done");
    let client = raw(cluster).await;
    let lease = recipes::session(&client).await;
    recipes::requests();
    join_all((0..ASKERS).map(|n| {
        let (client, key) = (client.clone(), format!("/raw/once/lock/{n}"));
        async move {
            let own = recipes::enter(&client, &key, lease).await;
            recipes::wait_for_those_before(&client, "/raw/once/lock/", own).await;
            recipes::read_or_write(&client, "/raw/once/result").await;
            recipes::leave(&client, &key).await;
        }
    }))
    .await;
    let usual = recipes::requests();
    let (core, counter) = core(cluster).await;
    let once = Once::new(&core);
    let work = async |_: &coord_recipes::Execution| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok("v".into())
    };
    once.run("warm", OnceOptions::default(), work).await.unwrap();
    let run = || once.run("k", OnceOptions::default(), work);
    let (ran, counts) = counter.during(join_all((0..ASKERS).map(|_| run()))).await;
    assert!(ran.iter().all(Result::is_ok));
    let coord = counts.requests() + counts.watch;
    println!(
        "one client: lock, read, write and unlock {usual} requests, coord {coord}, ratio {:.3}",
        coord as f64 / usual as f64
    );
    let clients = join_all((0..ASKERS).map(|_| self::core(cluster))).await;
    let mut all = Vec::new();
    for (core, counter) in &clients {
        Once::new(core).run(&format!("warm/{}", all.len()), OnceOptions::default(), work).await.unwrap();
        all.push((Once::new(core), counter.counts()));
    }
    join_all(all.iter().map(|(once, _)| once.run("l", OnceOptions::default(), work))).await;
    let most = clients.iter().zip(&all).map(|((_, counter), (_, before))| {
        let counts = counter.counts().since(before);
        counts.requests() + counts.watch
    });
    println!("{ASKERS} clients: at most {} requests each", most.max().unwrap_or_default());
}

pub(crate) async fn queue(cluster: &Cluster) {
    const CLAIMERS: usize = 32;
    println!("\n## A queue, {CLAIMERS} claimers that wait, 4 who push; items a second, {ROUNDS} rounds");
    let (client, (one, _)) = (raw(cluster).await, core(cluster).await);
    let cores = join_all((0..CLAIMERS).map(|_| core(cluster))).await;
    let peer = || usual_items(&client, CLAIMERS);
    let pusher = Queue::new(&one, "bench");
    in_turns("one client", peer, || {
        let claimers = vec![pusher.clone(); CLAIMERS];
        items(pusher.clone(), claimers)
    })
    .await;
    in_turns("a client each", peer, || {
        let claimers = cores.iter().map(|(core, _)| Queue::new(core, "bench")).collect();
        items(pusher.clone(), claimers)
    })
    .await;
}

async fn usual_items(client: &Client, claimers: usize) -> f64 {
    let number = Arc::new(AtomicU64::new(0));
    let pushing: Vec<_> = (0..4)
        .map(|_| {
            let (client, number) = (client.clone(), Arc::clone(&number));
            tokio::spawn(async move {
                loop {
                    let n = number.fetch_add(1, Ordering::Relaxed);
                    client.kv_client().put(format!("/raw/queue/{n:016}"), "v", None).await.unwrap();
                }
            })
        })
        .collect();
    let acts = (0..claimers).map(|_| {
        let client = client.clone();
        act(move || {
            let client = client.clone();
            async move { recipes::dequeue(&client, "/raw/queue/").await }
        })
    });
    let rate = calls_a_second(acts.collect(), LENGTH).await;
    pushing.iter().for_each(|pushing| pushing.abort());
    let all = etcd_client::DeleteOptions::new().with_prefix();
    client.kv_client().delete("/raw/queue/", Some(all)).await.unwrap();
    rate
}

async fn items(pusher: Queue, claimers: Vec<Queue>) -> f64 {
    let pushing: Vec<_> = (0..4)
        .map(|_| {
            let pusher = pusher.clone();
            tokio::spawn(async move {
                loop {
                    pusher.push("v").await.unwrap();
                }
            })
        })
        .collect();
    let acts = claimers.into_iter().map(|queue| {
        act(move || {
            let queue = queue.clone();
            async move {
                let claim = queue.claim(ClaimOptions::default()).await.unwrap().unwrap();
                claim.ack().await.unwrap();
            }
        })
    });
    let rate = calls_a_second(acts.collect(), LENGTH).await;
    pushing.iter().for_each(|pushing| pushing.abort());
    while let Some(claim) = pusher.claim(ClaimOptions::default().with_wait(Wait::Never)).await.unwrap() {
        claim.ack().await.unwrap();
    }
    rate
}

pub(crate) async fn counter(cluster: &Cluster) {
    println!("\n## A counter, {CALLERS} adders");
    let (client, (core, _)) = (raw(cluster).await, core(cluster).await);
    let number = Number::new(&core, "bench");
    let peer = || {
        let acts = (0..CALLERS).map(|_| {
            let client = client.clone();
            act(move || {
                let client = client.clone();
                async move {
                    recipes::change(&client, "/raw/counter", |now| Some(now + 1)).await;
                }
            })
        });
        calls_a_second(acts.collect(), LENGTH)
    };
    let ours = || {
        let acts = (0..CALLERS).map(|_| {
            let number = number.clone();
            act(move || {
                let number = number.clone();
                async move {
                    number.add(1).await.unwrap();
                }
            })
        });
        calls_a_second(acts.collect(), LENGTH)
    };
    in_turns("additions", peer, ours).await;
}

/// What fences and records cost a write.
pub(crate) async fn writes(cluster: &Cluster) {
    const BLOCKS: usize = 10;
    const PAIRS: usize = 100;
    println!("\n## Writes with something more, {BLOCKS} times {PAIRS} pairs: medians");
    let store = EtcdStore::connect(&EtcdOptions::new(cluster.endpoints())).await.unwrap();
    let provider: Arc<dyn Provider> = StoreProvider::new(Arc::new(store), ProviderOptions::default());
    let guard = provider.lock().acquire("bench", Duration::from_secs(600)).await.unwrap();
    let value = || Value::from(format!("\"{:0254}\"", 0));
    let set = |key: &'static str, options: Arc<dyn Fn() -> WriteOptions + Send + Sync>| {
        let provider = Arc::clone(&provider);
        act(move || {
            let (provider, options) = (Arc::clone(&provider), options());
            async move {
                provider.config().write_with(key, value(), options).await.unwrap();
            }
        })
    };
    let plain: Arc<dyn Fn() -> WriteOptions + Send + Sync> = Arc::new(WriteOptions::default);
    let fence = guard.fence();
    let fenced: Arc<dyn Fn() -> WriteOptions + Send + Sync> =
        Arc::new(move || WriteOptions::default().with_fence(fence.clone()));
    let noted: Arc<dyn Fn() -> WriteOptions + Send + Sync> =
        Arc::new(|| WriteOptions::default().with_note(Note::new("bench", "again")));
    for (what, other) in [("set again", &plain), ("fenced", &fenced), ("published", &noted)] {
        let mut pair = Pair::new(set("one", Arc::clone(&plain)), set("other", Arc::clone(other)));
        for _ in 0..BLOCKS {
            pair.run(PAIRS).await;
        }
        let [set, other] = pair.medians();
        println!("{what}: set {set:.1} us, {other:.1} us, ratio {:.3}", other / set);
    }
    guard.unlock().await.unwrap();
}

/// The batch layer: many callers, and one.
pub(crate) async fn batch(cluster: &Cluster) {
    const TURNS: usize = 7;
    println!("\n## The batch layer, {CALLERS} callers, {TURNS} rounds of {LENGTH:?} in turns: medians");
    let (client, other) = (raw(cluster).await, raw(cluster).await);
    let lanes = std::num::NonZeroUsize::MIN;
    let options = EtcdOptions::new(cluster.endpoints()).with_batching(lanes);
    let provider: Arc<dyn Provider> = EtcdProvider::connect(options).await.unwrap();
    for kind in [Kind::Get, Kind::Set] {
        let mut rounds = Vec::new();
        for round in 0..TURNS {
            let mut sides = [(0.0, 0.0); 3];
            for turn in 0..3 {
                let side = (round + turn) % 3;
                let times = Times::default();
                let acts = (0..CALLERS).map(|caller| {
                    times.of(match side {
                        0 => of_raw(&client, kind, &format!("a{caller}")),
                        1 => of_raw(&other, kind, &format!("b{caller}")),
                        _ => of_ours(&provider, kind, &format!("c{caller}")),
                    })
                });
                let rate = calls_a_second(acts.collect(), LENGTH).await;
                sides[side] = (rate, times.p99());
            }
            rounds.push(sides);
        }
        let of = |pick: fn(&[(f64, f64); 3]) -> f64| median(rounds.iter().map(pick).collect());
        println!(
            "{kind:?}: raw {:.0}/s (again {:.3}), batched {:.0}/s, ratio {:.2}; p99 {:.2} ms and {:.2} ms, ratio {:.2}",
            of(|sides| sides[0].0),
            of(|sides| sides[1].0 / sides[0].0),
            of(|sides| sides[2].0),
            of(|sides| sides[2].0 / sides[0].0),
            of(|sides| sides[0].1 * 1e3),
            of(|sides| sides[2].1 * 1e3),
            of(|sides| sides[2].1 / sides[0].1),
        );
        let plain = ours(cluster).await;
        let mut pair = Pair::new(of_ours(&plain, kind, "one"), of_ours(&provider, kind, "two"));
        for _ in 0..10 {
            pair.run(100).await;
        }
        let [plain, batched] = pair.medians();
        println!(
            "{kind:?}, one caller: {plain:.1} us without, {batched:.1} us, ratio {:.3}",
            batched / plain
        );
    }
}

/// How long calls took, of many callers.
#[derive(Clone, Default)]
struct Times(Arc<std::sync::Mutex<Vec<f64>>>);

impl Times {
    /// The same, timed.
    fn of(&self, mut act: Act) -> Act {
        let times = self.clone();
        Box::new(move || {
            let (began, call, times) = (Instant::now(), act(), times.clone());
            async move {
                call.await;
                times.0.lock().unwrap().push(began.elapsed().as_secs_f64());
            }
            .boxed()
        })
    }

    fn p99(&self) -> f64 {
        let mut times = self.0.lock().unwrap();
        times.sort_by(f64::total_cmp);
        times[times.len() * 99 / 100]
    }
}
