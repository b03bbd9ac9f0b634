//! What grows with the number of keys and watchers, at 100 and at 10,000. All times are per key,
//! watcher or set, so they should hardly differ.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use coord_api::Provider;
use coord_api::prelude::*;
use coord_api::store::{Op, Span, Store, StoreWatch, Txn};
use coord_memory::{MemoryProvider, MemoryStore};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const SIZES: [usize; 2] = [100, 10_000];

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn key(n: usize) -> String {
    format!("dev/service-{:03}/component-{n:05}", n % 100)
}

async fn set(store: &MemoryStore, key: String) {
    store.txn(Txn::new().then(Op::put(key, "value"))).await.unwrap();
}

/// A store with `size` keys, each of them watched.
async fn watched(size: usize) -> (MemoryStore, Vec<StoreWatch>) {
    let store = MemoryStore::new();
    let mut watches = Vec::with_capacity(size);
    for n in 0..size {
        set(&store, key(n)).await;
        watches.push(store.watch(Span::key(key(n)), None).await.unwrap());
    }
    (store, watches)
}

fn per_unit(total: Duration, units: usize) -> Duration {
    total / u32::try_from(units).unwrap()
}

fn scale(c: &mut Criterion) {
    let runtime = runtime();
    for size in SIZES {
        let (store, mut watches) = runtime.block_on(watched(size));
        c.bench_with_input(BenchmarkId::new("a set that nobody watches", size), &size, |b, _| {
            b.iter_custom(|rounds| {
                runtime.block_on(async {
                    let start = Instant::now();
                    for _ in 0..rounds {
                        set(&store, "nobody/watches/this".to_owned()).await;
                    }
                    start.elapsed()
                })
            });
        });
        // All keys are set first and all events read then: the watchers are behind by the whole
        // round.
        c.bench_with_input(BenchmarkId::new("a set and its one event", size), &size, |b, _| {
            b.iter_custom(|rounds| {
                runtime.block_on(async {
                    let start = Instant::now();
                    for _ in 0..rounds {
                        for n in 0..size {
                            set(&store, key(n)).await;
                        }
                        for watch in &mut watches {
                            black_box(watch.next().await.unwrap().unwrap());
                        }
                    }
                    per_unit(start.elapsed(), size)
                })
            });
        });
        c.bench_with_input(BenchmarkId::new("a watch opened and dropped", size), &size, |b, _| {
            b.iter_custom(|rounds| {
                runtime.block_on(async {
                    let start = Instant::now();
                    for round in 0..rounds {
                        let n = usize::try_from(round).unwrap() % size;
                        drop(black_box(store.watch(Span::key(key(n)), None).await.unwrap()));
                    }
                    start.elapsed()
                })
            });
        });
        drop(watches);

        let provider = MemoryProvider::new();
        runtime.block_on(async {
            for n in 0..size {
                provider.config().set_raw(&key(n), "value".into()).await.unwrap();
            }
        });
        c.bench_with_input(BenchmarkId::new("a key listed", size), &size, |b, _| {
            b.iter_custom(|rounds| {
                runtime.block_on(async {
                    let start = Instant::now();
                    for _ in 0..rounds {
                        assert_eq!(
                            black_box(provider.config().list_raw("").await.unwrap()).items.len(),
                            size
                        );
                    }
                    per_unit(start.elapsed(), size)
                })
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1)).sample_size(20).without_plots();
    targets = scale
}
criterion_main!(benches);
