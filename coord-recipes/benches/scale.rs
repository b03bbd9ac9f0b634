//! What a contract costs when there is much of it: store requests and time per unit, at 100 and at
//! 10,000 units (1,000 for waiters of one lock; 1,000 and 100,000 for handles that are dropped).
//!
//! Requests are counted and must be the same per unit at both sizes, or the benchmark fails. Times
//! are those that the one thread of the runtime was running, so that whatever else the machine does
//! counts less; the median of several runs. Background work has its home on that thread too, so
//! that it counts.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::panic, reason = "a benchmark")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ConfigEvent, LockGuard, ServiceInstance, WatchStart};
use coord_core::Client;
use coord_memory::MemoryStore;
use coord_recipes::layers::Observe;
use coord_recipes::{
    CampaignOptions, ClaimOptions, Election, Execution, Home, Once, OnceOptions, PermitLimit, PermitOptions,
    ProviderOptions, Queue, Semaphore, StoreProvider,
};
use coord_testkit::wrap::{Counter, Counting};
use cpu_time::ThreadTime;
use futures_util::future::join_all;

const TTL: Duration = Duration::from_secs(600);
const RUNS: usize = 5;

struct Bed {
    coord: Arc<dyn Provider>,
    /// What primitives are made over.
    core: Client,
    counter: Counter,
}

impl Bed {
    fn new() -> Self {
        let counter = Counter::default();
        let home = Home::callers();
        let store = Observe::new(Counting::new(MemoryStore::new_in(home.clone()), counter.clone()), "bench");
        let coord = StoreProvider::new(Arc::new(store), ProviderOptions::default().with_home(home));
        Bed { core: coord.core().clone(), coord, counter }
    }

    /// Runs `work` over `units` units: the requests and watches of all, and the time of one.
    async fn measure(&self, units: usize, work: impl Future<Output = ()>) -> Measured {
        let start = ThreadTime::now();
        let ((), counts) = self.counter.during(work).await;
        let time = start.elapsed() / u32::try_from(units).unwrap();
        Measured { units, requests: counts.requests(), watches: counts.watch, time }
    }
}

#[derive(Clone, Copy)]
struct Measured {
    units: usize,
    requests: usize,
    watches: usize,
    time: Duration,
}

fn config_key(n: usize) -> String {
    format!("dev/service-{:03}/component-{n:05}", n % 100)
}

async fn next_put(watch: &mut coord_api::Watch<ConfigEvent>) {
    loop {
        if let ConfigEvent::Put { .. } = watch.next().await.unwrap().unwrap() {
            return;
        }
    }
}

async fn watchers_of_one_key(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let config = bed.coord.config();
    let _first = config.watch_raw("one", WatchStart::Now).await.unwrap();
    let mut watches = Vec::with_capacity(n);
    let opened = bed.measure(n, async {
        for _ in 0..n {
            watches.push(config.watch_raw("one", WatchStart::Now).await.unwrap());
        }
    });
    let opened = opened.await;
    let told = bed.measure(n, async {
        // The set is one request, whatever the number of watchers; it is left out of what a watcher
        // costs.
        config.set_raw("one", "value".into()).await.unwrap();
        for watch in &mut watches {
            next_put(watch).await;
        }
    });
    let mut told = told.await;
    told.requests -= 1;
    vec![("one key: a watcher opened", opened), ("one key: a watcher told", told)]
}

async fn watchers_of_many_keys(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let config = bed.coord.config();
    config.watch_raw("warm", WatchStart::Now).await.unwrap();
    let mut watches = Vec::with_capacity(n);
    let opened = bed.measure(n, async {
        for unit in 0..n {
            watches.push(config.watch_raw(&config_key(unit), WatchStart::Now).await.unwrap());
        }
    });
    let opened = opened.await;
    let told = bed.measure(n, async {
        for unit in 0..n {
            config.set_raw(&config_key(unit), "value".into()).await.unwrap();
        }
        for watch in &mut watches {
            next_put(watch).await;
        }
    });
    let told = told.await;
    vec![("own keys: a watcher opened", opened), ("own keys: a set, and its watcher told", told)]
}

async fn keys_listed(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let config = bed.coord.config();
    for unit in 0..n {
        config.set_raw(&config_key(unit), "value".into()).await.unwrap();
    }
    let listed = bed.measure(n, async {
        assert_eq!(config.list_raw("").await.unwrap().items.len(), n);
    });
    let mut listed = listed.await;
    // One request a page of 1,000.
    listed.requests -= n.div_ceil(1_000);
    vec![("a key listed", listed)]
}

async fn services(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let registry = bed.coord.registry();
    let instance = |unit: usize| ServiceInstance::new(format!("service-{unit:05}"), "one", "127.0.0.1", 8080);
    let _warm = registry.register(ServiceInstance::new("warm", "one", "127.0.0.1", 8080)).await.unwrap();
    // The keeper's watch attaches on its own time; let it, so that it is not counted below.
    settle().await;
    let mut held = Vec::with_capacity(n);
    let registered = bed.measure(n, async {
        for unit in 0..n {
            held.push(registry.register(instance(unit)).await.unwrap());
        }
        settle().await;
    });
    let registered = registered.await;
    let discovered = bed.measure(n, async {
        for unit in 0..n {
            assert_eq!(registry.discover(&format!("service-{unit:05}")).await.unwrap().items.len(), 1);
        }
    });
    let discovered = discovered.await;
    let unregistered = bed.measure(n, async {
        for registration in &held {
            registration.unregister().await.unwrap();
        }
    });
    let unregistered = unregistered.await;
    vec![
        ("a service registered", registered),
        ("a service discovered", discovered),
        ("a service unregistered", unregistered),
    ]
}

async fn waiters(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let lock = bed.coord.lock();
    let holder = lock.acquire("job", TTL).await.unwrap();
    // The first waiter pays for the view of the queue that all others share.
    let mut queue = vec![queue_up(lock)];
    settle().await;
    let joined = bed.measure(n, async {
        for _ in 0..n {
            queue.push(queue_up(lock));
        }
        settle().await;
    });
    let joined = joined.await;
    let mut guard = holder;
    let handed_over = bed.measure(n + 1, async {
        for next in queue {
            guard.unlock().await.unwrap();
            guard = next.await.unwrap();
        }
    });
    let handed_over = handed_over.await;
    vec![("a waiter joined", joined), ("a lock handed over", handed_over)]
}

fn queue_up(lock: &Arc<dyn DistributedLock>) -> tokio::task::JoinHandle<LockGuard> {
    let lock = Arc::clone(lock);
    tokio::spawn(async move { lock.acquire("job", TTL).await.unwrap() })
}

async fn ids(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let allocator = bed.coord.allocator();
    let acquire = || allocator.acquire_id("service", 60_000);
    let _warm = acquire().await.unwrap();
    let mut held = Vec::with_capacity(n);
    let taken = bed.measure(n, async {
        for _ in 0..n / 100 {
            held.extend(join_all((0..100).map(|_| acquire())).await.into_iter().map(Result::unwrap));
        }
    });
    let taken = taken.await;
    vec![("an id taken, 100 at once", taken)]
}

async fn guards(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let mut held = Vec::with_capacity(n);
    for unit in 0..n {
        held.push(bed.coord.lock().acquire(&format!("job-{unit}"), TTL).await.unwrap());
    }
    // On the thread that drops them; what is sent for them is not waited for.
    let dropped = bed.measure(n, async { held.clear() });
    vec![("a guard dropped", dropped.await)]
}

/// Those who wait for one of four permits.
async fn permits(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let semaphore = Semaphore::new(&bed.core, "permits");
    let options = PermitOptions::new(PermitLimit::First(4)).with_ttl(TTL);
    let queue_up = || {
        let semaphore = semaphore.clone();
        tokio::spawn(async move { semaphore.acquire(1, options).await.unwrap() })
    };
    let mut held = VecDeque::new();
    for _ in 0..4 {
        held.push_back(semaphore.acquire(1, options).await.unwrap());
    }
    let mut queue = vec![queue_up()];
    settle().await;
    let joined = bed.measure(n, async {
        queue.extend((0..n).map(|_| queue_up()));
        settle().await;
    });
    let joined = joined.await;
    let handed_over = bed.measure(n + 1, async {
        for next in queue {
            held.pop_front().unwrap().release().await.unwrap();
            held.push_back(next.await.unwrap());
        }
    });
    vec![("a waiter for permits joined", joined), ("a permit handed over", handed_over.await)]
}

/// Those who wait for an item of one queue, and the items that come.
async fn claimers(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let items = Queue::new(&bed.core, "items");
    let options = ClaimOptions::default().with_ttl(TTL);
    let wait = || {
        let items = items.clone();
        tokio::spawn(async move { items.claim(options).await.unwrap().unwrap() })
    };
    items.push("warm").await.unwrap();
    wait().await.unwrap().ack().await.unwrap();
    let mut waiting = Vec::with_capacity(n);
    let joined = bed.measure(n, async {
        waiting.extend((0..n).map(|_| wait()));
        settle().await;
    });
    let joined = joined.await;
    let done = bed.measure(n, async {
        for claimer in waiting {
            items.push("item").await.unwrap();
            claimer.await.unwrap().ack().await.unwrap();
        }
    });
    vec![("a claimer joined", joined), ("an item pushed, claimed, acknowledged", done.await)]
}

/// Those who observe one election.
async fn observers(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let election = Election::new(&bed.core, "election");
    let _first = election.observe().await.unwrap();
    let mut observing = Vec::with_capacity(n);
    let opened = bed.measure(n, async {
        for _ in 0..n {
            observing.push(election.observe().await.unwrap());
        }
    });
    let opened = opened.await;
    let mut leadership = None;
    let told = bed.measure(n, async {
        let options = CampaignOptions::default().with_ttl(TTL);
        leadership = Some(election.campaign("me", options).await.unwrap());
        for observer in &mut observing {
            while observer.next().await.unwrap().unwrap().leader().is_none() {}
        }
    });
    let mut told = told.await;
    // The session and the campaign, whatever the number of observers.
    told.requests -= 3;
    vec![("an observer of an election opened", opened), ("an observer told", told)]
}

/// What is done once, and asked for again.
async fn done_once(n: usize) -> Vec<(&'static str, Measured)> {
    let bed = Bed::new();
    let once = Once::new(&bed.core);
    // One lease keeps a thousand of them.
    let run = async |name: &str| {
        let work = async |_: &Execution| Ok("result".into());
        once.run(name, OnceOptions::default().with_ttl(TTL), work).await.unwrap().first
    };
    run("warm").await;
    let first = bed.measure(n, async {
        for unit in 0..n {
            assert!(run(&format!("key-{unit:05}")).await);
        }
    });
    let mut first = first.await;
    first.requests -= n / 1_000;
    let again = bed.measure(n, async {
        for unit in 0..n {
            assert!(!run(&format!("key-{unit:05}")).await);
        }
    });
    vec![("something done once", first), ("its result again", again.await)]
}

/// Lets the background tasks do what they have at hand.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn median(mut runs: Vec<Measured>) -> Measured {
    runs.sort_by_key(|run| run.time);
    *runs.get(runs.len() / 2).unwrap()
}

fn report<F: Future<Output = Vec<(&'static str, Measured)>>>(
    sizes: [usize; 2],
    scenario: impl Fn(usize) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [small, large] = sizes.map(|size| {
        let runs: Vec<_> = (0..RUNS).map(|_| runtime.block_on(scenario(size))).collect();
        let names: Vec<_> = runs.first().unwrap().iter().map(|(name, _)| *name).collect();
        let of = |index: usize| median(runs.iter().map(|run| run.get(index).unwrap().1).collect());
        names.into_iter().enumerate().map(|(index, name)| (name, of(index))).collect::<Vec<_>>()
    });
    for ((name, few), (_, many)) in small.into_iter().zip(large) {
        let same = few.requests * many.units == many.requests * few.units
            && few.watches * many.units == many.watches * few.units;
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let per_unit = |count: usize, of: Measured| count as f64 / of.units as f64;
        println!(
            "| {name} | {} to {} | {} | {} | {:.0} ns | {:.0} ns | {:.2} |",
            few.units,
            many.units,
            per_unit(many.requests, many),
            per_unit(many.watches, many),
            few.time.as_nanos(),
            many.time.as_nanos(),
            many.time.as_secs_f64() / few.time.as_secs_f64(),
        );
        assert!(
            same,
            "{name}: requests per unit grow: {} of {} units, {} of {}",
            few.requests, few.units, many.requests, many.units
        );
    }
}

fn main() {
    println!("| what | units | requests a unit | watches a unit | time a unit, few | many | ratio |");
    println!("|---|---|---|---|---|---|---|");
    report([100, 10_000], watchers_of_one_key);
    report([100, 10_000], watchers_of_many_keys);
    report([100, 10_000], keys_listed);
    report([100, 10_000], services);
    report([100, 1_000], waiters);
    report([100, 10_000], permits);
    report([100, 10_000], claimers);
    report([100, 10_000], observers);
    report([100, 10_000], done_once);
    report([100, 1_000], ids);
    report([1_000, 100_000], guards);
}
