//! What a get through the cache costs beside one of the native client, in one program: moka, and,
//! where `REDIS_SERVER` or `scripts/redis.sh` has brought one, Redis.
//!
//!     cargo bench -p coord-cache --bench cache
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark"
)]
#![allow(clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coord::prelude::*;
use coord_cache::{Cache, MemoryEntry};
use coord_service::{App, Boot, OnUnreachable};

const KEYS: usize = 10_000;
const LONG: Duration = Duration::from_secs(3_600);

async fn service(document: serde_json::Value) -> (App, Cache) {
    let boot = Boot::bare("bench");
    let coord = boot.connect("memory://", OnUnreachable::Fail).await.unwrap();
    coord.provider().config().set("dev/bench/cache", &document).await.unwrap();
    let app = boot.upgrade(&coord).await.unwrap();
    let cache = app.add(Cache::open(app.config("cache"))).await.unwrap();
    (app, cache)
}

/// Measures both in turns, in batches so short that whatever else the machine does meets few of
/// them, and both alike. The medians of the times of a call in ns, and of the ratios of neighbours.
async fn compare(
    what: &str,
    rounds: usize,
    calls: usize,
    mut ours: impl AsyncFnMut(usize),
    mut raw: impl AsyncFnMut(usize),
) {
    let (mut times, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..rounds {
        let mut took = [0.0; 2];
        for turn in 0..2 {
            let is_ours = (round + turn) % 2 == 0;
            let begun = Instant::now();
            for call in 0..calls {
                if is_ours { ours(round * calls + call).await } else { raw(round * calls + call).await }
            }
            took[usize::from(!is_ours)] = begun.elapsed().as_nanos() as f64 / calls as f64;
        }
        times[0].push(took[0]);
        times[1].push(took[1]);
        ratios.push(took[0] / took[1]);
    }
    let median = |mut of: Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    };
    let [ours, raw] = times.map(median);
    println!("{what}: {ours:.0} ns, raw {raw:.0} ns, {:.3} x", median(ratios));
}

async fn memory(keys: &[String]) {
    let (app, cache) = service(serde_json::json!({"engine": "memory"})).await;
    let value = Bytes::from(vec![7; 100]);
    for key in keys {
        cache.set_bytes(key, value.clone(), LONG).await.unwrap();
    }
    // As a program would build it, with moka's own hasher, and with ours.
    let by_default = builder().build();
    let by_ours = builder().build_with_hasher(foldhash::quality::RandomState::default());
    fill(&by_default, keys, &value);
    fill(&by_ours, keys, &value);
    let ours = async |call: usize| {
        black_box(cache.get_bytes(&keys[call % KEYS]).await.unwrap());
    };
    let raw = async |call: usize| {
        black_box(by_default.get(keys[call % KEYS].as_str()));
    };
    compare("memory, get, beside moka as built by default", 6_000, 499, ours, raw).await;
    let raw = async |call: usize| {
        black_box(by_ours.get(keys[call % KEYS].as_str()));
    };
    compare("memory, get, beside moka with our hasher", 6_000, 499, ours, raw).await;
    app.end().await;
}

type Built<S> = moka::sync::Cache<String, MemoryEntry, S>;

fn builder() -> moka::sync::CacheBuilder<String, MemoryEntry, Built<std::hash::RandomState>> {
    struct ByEntry;
    impl moka::Expiry<String, MemoryEntry> for ByEntry {
        fn expire_after_create(&self, _: &String, entry: &MemoryEntry, now: Instant) -> Option<Duration> {
            Some(entry.expires() - now)
        }
    }
    moka::sync::Cache::<String, MemoryEntry>::builder()
        .max_capacity(64 * 1024 * 1024)
        .weigher(|key: &String, entry: &MemoryEntry| (key.len() + entry.value().len() + 128) as u32)
        .expire_after(ByEntry)
}

fn fill<S: std::hash::BuildHasher + Clone + Send + Sync + 'static>(
    cache: &Built<S>,
    keys: &[String],
    value: &Bytes,
) {
    for key in keys {
        cache.insert(key.clone(), MemoryEntry::new(value.clone(), LONG));
    }
}

#[cfg(feature = "redis")]
async fn redis(keys: &[String]) {
    use coord_cache::redis::{AsyncCommands, Client};

    let server = coord_servers::redis::Redis::start();
    let (app, cache) = service(serde_json::json!({
        "engine": "redis", "prefix": "", "timeout_ms": 5_000, "redis": {"url": server.url()},
    }))
    .await;
    for key in keys {
        cache.set_bytes(key, vec![7; 100], LONG).await.unwrap();
    }
    let client = Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let ours = async |call: usize| {
        black_box(cache.get_bytes(&keys[call % KEYS]).await.unwrap());
    };
    let raw = async |call: usize| {
        let value: Option<Vec<u8>> = connection.clone().get(keys[call % KEYS].as_str()).await.unwrap();
        black_box(value);
    };
    compare("redis, get, one caller", 3_000, 10, ours, raw).await;

    let (all_ours, all_raw) = (&ours, &raw);
    let ours = async |call: usize| {
        futures_util::future::join_all((0..64).map(|n| all_ours(call * 64 + n))).await;
    };
    let raw = async |call: usize| {
        futures_util::future::join_all((0..64).map(|n| all_raw(call * 64 + n))).await;
    };
    compare("redis, 64 gets at once", 2_000, 2, ours, raw).await;
    app.end().await;
}

fn main() {
    let keys: Vec<_> = (0..KEYS).map(|n| format!("user:{n}:profile")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        memory(&keys).await;
        #[cfg(feature = "redis")]
        redis(&keys).await;
    });
}
