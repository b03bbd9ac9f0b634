//! `current()` of the config manager against the load of an `ArcSwap`: at most 1.2 times as long.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::Arc;

use arc_swap::ArcSwap;
use coord_api::Provider;
use coord_memory::MemoryStore;
use coord_recipes::config_manager::ConfigManager;
use coord_recipes::{ProviderOptions, StoreProvider};
use criterion::{Criterion, criterion_group, criterion_main};

fn current(criterion: &mut Criterion) {
    let raw = ArcSwap::new(Arc::new(7_u64));
    let provider = StoreProvider::new(Arc::new(MemoryStore::new()), ProviderOptions::default());
    let manager = ConfigManager::builder(Arc::clone(provider.config()), "bench", "number")
        .env("bench")
        .default_value(7_u64)
        .build()
        .unwrap();
    let reader = manager.reader();

    let mut group = criterion.benchmark_group("config_manager");
    group.bench_function("arc_swap_load", |bencher| bencher.iter(|| **black_box(&raw).load()));
    group.bench_function("manager_current", |bencher| bencher.iter(|| *black_box(&manager).current()));
    group.bench_function("reader_current", |bencher| bencher.iter(|| *black_box(&reader).current()));
    group.finish();
}

criterion_group!(benches, current);
criterion_main!(benches);
