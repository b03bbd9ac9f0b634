//! The volatile store, through `Arc<dyn Provider>` and all that lies between, against the raw
//! structure that it replaces: a `RwLock<BTreeMap>` with the same keys and values, in the same run.
//!
//! Times are those that the one thread was running: what else the machine does counts less, and
//! what the watchers' tasks do counts as well.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::collections::BTreeMap;
use std::future::ready;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Range, Store, Txn};
use coord_api::{Provider, WatchStart};
use coord_memory::MemoryProvider;
use cpu_time::ThreadTime;
use criterion::{Criterion, criterion_group, criterion_main};
use parking_lot::RwLock;
use tokio::runtime::Runtime;

const VALUE: usize = 256;
const KEYS: usize = 10_000;
const WATCHERS: usize = 100;

fn keys() -> Vec<String> {
    (0..KEYS).map(|n| format!("dev/service-{:03}/component-{n:05}", n % 100)).collect()
}

/// Steps through the keys in an order that no cache guesses.
fn steps(keys: &[String]) -> impl Iterator<Item = &str> {
    (0_usize..).map(|n| keys[n.wrapping_mul(7_919) % keys.len()].as_str())
}

/// Steps between two moments in which the background tasks may run.
const TURN: u64 = 64;

/// Times `rounds` steps of an asynchronous operation without the cost of entering the runtime for
/// each.
fn timed<'k, F: Future>(
    runtime: &Runtime,
    rounds: u64,
    keys: &'k [String],
    mut step: impl FnMut(&'k str) -> F,
) -> Duration {
    let mut steps = steps(keys);
    runtime.block_on(async {
        let start = ThreadTime::now();
        for round in 0..rounds {
            black_box(step(steps.next().unwrap()).await);
            if round % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        start.elapsed()
    })
}

fn get_and_set(c: &mut Criterion) {
    let keys = keys();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let raw: RwLock<BTreeMap<String, Vec<u8>>> =
        RwLock::new(keys.iter().map(|key| (key.clone(), vec![b'v'; VALUE])).collect());
    let memory = MemoryProvider::new();
    let provider: Arc<dyn Provider> = Arc::clone(&memory) as Arc<dyn Provider>;
    let _watches: Vec<_> = runtime.block_on(async {
        for key in &keys {
            provider.config().set_raw(key, vec![b'v'; VALUE].into()).await.unwrap();
        }
        let mut watches = Vec::new();
        for key in keys.iter().take(WATCHERS) {
            watches.push(provider.config().watch_raw(key, WatchStart::Now).await.unwrap());
        }
        watches
    });

    let mut group = c.benchmark_group("get");
    group.bench_function("raw", |b| {
        b.iter_custom(|rounds| timed(&runtime, rounds, &keys, |key| ready(raw.read().get(key).cloned())));
    });
    group.bench_function("store", |b| {
        b.iter_custom(|rounds| {
            timed(&runtime, rounds, &keys, |key| memory.store().range(Range::key(format!("/config/{key}"))))
        });
    });
    group.bench_function("provider", |b| {
        b.iter_custom(|rounds| timed(&runtime, rounds, &keys, |key| provider.config().get_raw(key)));
    });
    group.finish();

    let mut group = c.benchmark_group("set");
    group.bench_function("raw", |b| {
        b.iter_custom(|rounds| {
            timed(&runtime, rounds, &keys, |key| ready(raw.write().insert(key.to_owned(), vec![b'w'; VALUE])))
        });
    });
    group.bench_function("store", |b| {
        let put = |key| Txn::new().then(Op::put(format!("/config/{key}"), vec![b'w'; VALUE]));
        b.iter_custom(|rounds| timed(&runtime, rounds, &keys, |key| memory.store().txn(put(key))));
    });
    group.bench_function("provider", |b| {
        b.iter_custom(|rounds| {
            timed(&runtime, rounds, &keys, |key| provider.config().set_raw(key, vec![b'w'; VALUE].into()))
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1)).without_plots();
    targets = get_and_set
}
criterion_main!(benches);
